//! Packets that were neither answered nor passed on, kept to be played again: SYNs to a listener that holds, and what the
//! clients of blocked flows send.

use crate::abi;
use crate::flow::Tuple;

/// SYNs of all listeners, and of one: a flood on one of them shall not take the room of all.
pub const MAX_HELD: u32 = 16_384;
pub const MAX_WAITING: u64 = MAX_HELD as u64 / 4;
/// Packets of all blocked flows.
pub const MAX_KEPT: u32 = 8192;

/// A SYN with all of its options, and a packet of the usual size.
pub const SYN: usize = 128;
pub const PACKET: usize = 1536;

/// A packet as it came in.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frame<const N: usize> {
    /// Nanoseconds of boot time.
    pub came: u64,
    /// The slot of its mapping.
    pub mapping: u32,
    /// The number of the interface that it came in by.
    pub interface: u32,
    /// Of the frame, from the Ethernet header on.
    pub length: u32,
    /// Not 0: its TCP checksum was left to a device, and is to be computed before it is played again.
    pub unfinished: u32,
    pub bytes: [u8; N],
}

/// Of a blocked flow: whose packet, and which.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Piece {
    pub tuple: Tuple,
    pub sequence: u32,
    /// Bytes of the frame: a segment that was sent again may be longer.
    pub length: u32,
}

abi! {
    Frame<SYN>: 152 = u64 u32 u32 u32 u32 [u8; SYN];
    Frame<PACKET>: 1560 = u64 u32 u32 u32 u32 [u8; PACKET];
    Piece: 48 = Tuple u32 u32;
}
