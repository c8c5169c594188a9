//! Who may connect.
//!
//! A list is a number, and its networks are entries of one trie that begin with that number. A list is never changed: a
//! mapping that is to have another one is given another number in the same transaction as everything else, and the old
//! list is taken out afterwards.

use crate::abi;
use crate::flow::Address;

/// What the trie is asked for: the list, then the address. The number's bits are always compared whole.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Listed {
    pub list: u32,
    pub address: Address,
}

impl Listed {
    /// The length of a single address's prefix.
    pub const WHOLE: u32 = 8 * size_of::<Self>() as u32;

    /// Of a network's prefix in the trie, from its own length in bits.
    pub const fn prefix(network: u8, v4: bool) -> u32 {
        32 + network as u32 + if v4 { 96 } else { 0 }
    }
}

/// One client's address and the mapping that it connects to.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Source {
    pub mapping: u32,
    pub address: Address,
}

/// How many connections a [`Source`] has. An entry stays when there are none any more: it is for the agent to have those
/// forgotten that have been empty for long.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Places {
    pub taken: u64,
    /// When the last one went, in nanoseconds of boot time.
    pub emptied: u64,
}

impl Places {
    /// In `taken`, of an entry that is being forgotten: whoever takes a place of it finds another entry.
    pub const GONE: u64 = 1 << 63;
}

abi! {
    Listed: 20 = u32 Address;
    Source: 20 = u32 Address;
    Places: 16 = u64 u64;
}
