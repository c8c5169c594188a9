//! What holds for all mappings: one record, which the agent writes and every packet reads.

use crate::abi;

/// A range of ports.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ports {
    /// In the machine's byte order.
    pub first: u16,
    pub number: u16,
}

#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Control {
    /// [`ABI`](crate::ABI). Stays the first word for ever, so that any agent can read it.
    pub abi: u32,
    /// How much the programs say: one of [`level`](crate::log::level).
    pub log: u32,
    /// The last transaction that is in force.
    pub committed: u64,
    /// Ports that flows may take at the proxy's own addresses: those that the host does not itself give to its clients,
    /// below and above.
    pub ports: [Ports; 2],
    /// While the maps of an older version are converted: when the flows were copied, in nanoseconds of boot time, or
    /// [`BEGUN`]. Otherwise 0. No program reads it.
    pub copied: u64,
}

/// Of [`Control::copied`]: the flows are still to be copied.
pub const BEGUN: u64 = u64::MAX;

abi! {
    Ports: 4 = u16 u16;
    Control: 32 = u32 u32 u64 [Ports; 2] u64;
}

impl Control {
    /// The port that is `number` steps from the first, around the end.
    #[inline(always)]
    pub const fn port(&self, number: u32) -> Option<u16> {
        let [low, high] = [self.ports[0].number as u32, self.ports[1].number as u32];
        if low + high == 0 {
            return None;
        }
        let number = number % (low + high);
        Some(if number < low {
            self.ports[0].first.wrapping_add(number as u16)
        } else {
            self.ports[1].first.wrapping_add((number - low) as u16)
        })
    }
}

/// The ports outside of the host's own (`net.ipv4.ip_local_port_range`), from 1024 on.
pub const fn ports_beside(local_first: u16, local_last: u16) -> [Ports; 2] {
    const LOWEST: u16 = 1024;
    let above = if local_last < LOWEST { LOWEST } else { local_last.saturating_add(1) };
    let number = if local_last == u16::MAX { 0 } else { u16::MAX - above + 1 };
    [Ports { first: LOWEST, number: local_first.saturating_sub(LOWEST) }, Ports { first: above, number }]
}
