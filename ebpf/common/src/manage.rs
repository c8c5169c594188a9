//! What the agent asks of the programs. Only they change entries of the flow table: whoever replaced an entry from outside
//! would undo what packets write into it meanwhile, and a flow that goes must give back the places that it takes. Likewise
//! they forget clients, who could take a place meanwhile.
//!
//! `shunt_manage` is attached to nothing. The agent runs it by BPF_PROG_TEST_RUN on a packet of commands, behind an Ethernet
//! header of zeros. It returns how many of them it has carried out.

use crate::abi;
use crate::flow::Tuple;

/// Where the commands begin, and how many one packet takes at most.
pub const OFFSET: usize = 14;
pub const MAX_COMMANDS: usize = 32;

#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Command {
    /// Either direction's key of the flow; of [`what::BLOCK`] and [`what::UNBLOCK`] the client's.
    pub flow: Tuple,
    /// To forget a flow: only if no packet of it was seen since, in nanoseconds of boot time.
    pub unseen_since: u64,
    /// One of [`what`].
    pub what: u32,
    /// Of [`what::FORGET_SOURCE`]: the slot of its mapping.
    pub mapping: u32,
}

pub mod what {
    /// Forget the flow, whatever it is.
    pub const FORGET_IDLE: u32 = 1;
    /// Forget it if both ends have closed, or one has reset it.
    pub const FORGET_CLOSED: u32 = 2;
    /// Forget it if it may not pass: its pair is not live, or it was ended.
    pub const FORGET_DEAD: u32 = 3;
    /// Stop what its client sends.
    pub const BLOCK: u32 = 4;
    /// Let it go on.
    pub const UNBLOCK: u32 = 5;
    /// Let nothing of it pass any more, whether its pair is live or not.
    pub const END: u32 = 6;
    /// Forget a client that has no connections, and had none since `unseen_since`. Its address is the flow's source.
    pub const FORGET_SOURCE: u32 = 7;
}

impl Command {
    /// As it lies in a packet of commands.
    pub fn bytes(&self) -> [u8; size_of::<Self>()] {
        let mut bytes = [0; size_of::<Self>()];
        let Tuple { source, target, source_port, target_port, .. } = self.flow;
        bytes[..16].copy_from_slice(&source.bytes());
        bytes[16..32].copy_from_slice(&target.bytes());
        bytes[32..34].copy_from_slice(&source_port.to_ne_bytes());
        bytes[34..36].copy_from_slice(&target_port.to_ne_bytes());
        bytes[40..48].copy_from_slice(&self.unseen_since.to_ne_bytes());
        bytes[48..52].copy_from_slice(&self.what.to_ne_bytes());
        bytes[52..56].copy_from_slice(&self.mapping.to_ne_bytes());
        bytes
    }
}

abi! {
    Command: 56 = Tuple u64 u32 u32;
}
