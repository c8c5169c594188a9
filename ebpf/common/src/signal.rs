//! What traffic tells of a backend's health before any probe does: one record for each pair, in the pair's slot, written by
//! the programs and read by the agent without a system call. It is a reason to ask, never an answer.
//!
//! What every packet may write are two moments, and those only when they say something new; everything else is counted
//! when it happens, which is seldom. Both are in one line of the cache.

use crate::abi;

#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Signals {
    /// When a packet of a client that wants an answer was passed on, the first one since the backend was last heard.
    /// Nanoseconds of boot time, as `heard`. An answer is awaited as long as this is later than `heard`.
    pub asked: u64,
    /// When a packet of the backend was passed on; later than this by [`COARSE`] at most, if nothing was awaited.
    pub heard: u64,
    /// By [`Sign`], since the slot was given to this pair.
    pub counts: [u64; Sign::NUMBER],
    /// From the SYN to its SYN-ACK: of all connections together, in nanoseconds …
    pub connecting: u64,
    /// … and by [`bucket`].
    pub connects: [u64; BUCKETS],
}

/// How old the last word of a backend may look though it has said more: it need not be written down by every packet.
pub const COARSE: u64 = 1_000_000;

/// The last one holds what took two seconds and longer.
pub const BUCKETS: usize = 23;

#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sign {
    /// A client's SYN was passed on, for the first time.
    Syn,
    /// The first SYN-ACK to it.
    SynAck,
    /// The SYN was sent again, unanswered.
    SynAgain,
    /// A client has sent data, or its FIN, once more.
    DataAgain,
    /// The backend has answered a SYN with an RST.
    Refused,
    /// It has sent one on a connection that it had.
    Reset,
}

impl Sign {
    pub const NUMBER: usize = Self::Reset as usize + 1;
}

impl Signals {
    pub const fn count(&self, sign: Sign) -> u64 {
        self.counts[sign as usize]
    }

    /// Since when an answer is awaited.
    pub const fn awaited_since(&self) -> Option<u64> {
        awaited_since(self.asked, self.heard)
    }
}

/// Since when an answer is awaited.
pub const fn awaited_since(asked: u64, heard: u64) -> Option<u64> {
    if asked > heard { Some(asked) } else { None }
}

/// Whether a packet that wants an answer is the first since the backend was last heard.
#[inline(always)]
pub const fn is_first_to_ask(asked: u64, heard: u64) -> bool {
    asked <= heard
}

/// Whether it is to be written down that the backend is heard now. What answers a question always is: nothing may follow it
/// for long.
#[inline(always)]
pub const fn is_news(asked: u64, heard: u64, now: u64) -> bool {
    asked > heard || now > heard.saturating_add(COARSE)
}

/// Where a time from SYN to SYN-ACK is counted: bucket `n` holds those of less than 2ⁿ microseconds.
#[inline(always)]
pub const fn bucket(nanoseconds: u64) -> usize {
    let bits = u64::BITS - (nanoseconds / 1000).leading_zeros();
    if bits as usize >= BUCKETS { BUCKETS - 1 } else { bits as usize }
}

abi! {
    Signals: 256 = u64 u64 [u64; Sign::NUMBER] u64 [u64; BUCKETS];
}

/// What packets write lies in the record's first line of the cache.
const _: () = assert!(core::mem::offset_of!(Signals, connecting) == 64);
