//! What is counted for each mapping. One record for all processors, changed atomically: it is written when connections come
//! and go, not by every packet, and the agent reads it without a system call.

use crate::abi;

#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Connections that are open now, as the limit counts them: from the SYN to the end of both directions.
    pub open: u64,
    /// SYNs that wait in `HELD`, at most [`MAX_WAITING`](crate::kept::MAX_WAITING). The agent sets it back when it has
    /// taken them out.
    pub waiting: u64,
    /// By [`Event`], since the mapping's slot was made.
    pub counts: [u64; Event::NUMBER],
}

#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// A connection was opened.
    Opened,
    /// A SYN was not answered, because the mapping holds.
    Held,
    /// A SYN was refused, because the mapping leads nowhere or its hold is over.
    Fenced,
    /// One was refused because there was no place, no port or no way, or the backend's pair was not live.
    Unavailable,
    /// Its source is not on the list.
    NotAllowed,
    OverLimit,
    OverSourceLimit,
    /// A packet was answered with RST, of those refused SYNs too.
    Reset,
}

impl Event {
    pub const NUMBER: usize = Self::Reset as usize + 1;
}

impl Tally {
    pub const fn count(&self, event: Event) -> u64 {
        self.counts[event as usize]
    }
}

abi! {
    Tally: 80 = u64 u64 [u64; Event::NUMBER];
}
