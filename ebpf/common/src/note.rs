//! What the programs need not know, and the agent that comes after this one does: it is kept beside what they do, and
//! changes in the same transaction. No program reads it.

use crate::abi;
use crate::flow::Endpoint;
use crate::mapping::Versioned;

/// Bytes of a cluster's name.
pub const NAME: usize = 64;

/// Of a mapping, in the same slot.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Note {
    /// Without an end if it is as long as that.
    pub cluster: [u8; NAME],
    /// How long its pairs live unless they are renewed, and a hold holds; nanoseconds, 0: neither.
    pub lease: u64,
    pub hold: u64,
    /// The backend that a fence spares; of port 0: none.
    pub spared: Endpoint,
    /// It was removed, and is there for the flows that it still has.
    pub removed: u32,
}

pub type Noted = Versioned<Note>;

/// Of a pair, in the same slot: whose it is. Written with the backend.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Owner {
    pub listener: Endpoint,
    pub zero: u32,
}

impl Default for Note {
    fn default() -> Self {
        Self { cluster: [0; NAME], lease: 0, hold: 0, spared: Endpoint::default(), removed: 0 }
    }
}

abi! {
    Note: 104 = [u8; NAME] u64 u64 Endpoint u32;
    Noted: 216 = u64 Note Note;
    Owner: 24 = Endpoint u32;
}
