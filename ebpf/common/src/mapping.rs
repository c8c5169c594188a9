//! Mappings and pairs, each in two versions: a transaction writes the second version of whatever it changes, then raises
//! one number ([`Control::committed`](crate::control::Control)), and from that moment every packet sees all of it. That
//! makes a change of any number of mappings one store, and a packet needs no lock.
//!
//! Writing transaction `t` into a record (the agent is the only writer):
//! `old = new`, then `transaction = t`, then `new = …`; in this order. As long as `committed < t`, readers take `old`.

use crate::abi;
use crate::flow::Endpoint;

/// A record of which a transaction changes the contents.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Versioned<T> {
    /// The transaction from which on `new` counts.
    pub transaction: u64,
    pub new: T,
    pub old: T,
}

/// A listener and a backend. Packets pass while it is live.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pair {
    /// Until when, in nanoseconds of boot time: 0 is dead, [`FOR_EVER`] needs no clock. A lease and a drain are deadlines.
    pub live_until: Versioned<u64>,
    /// Counts how often this slot was given to another pair: flows of the former one are dead.
    pub generation: u32,
    pub backend: Endpoint,
}

pub const FOR_EVER: u64 = u64::MAX;

/// Backends that one listener can have.
pub const MAX_CHOICES: usize = 16;

/// One of a listener's backends.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Choice {
    /// The pair's slot.
    pub pair: u32,
    /// The sum of the weights up to and including this one.
    pub upto: u32,
}

/// Where new connections go.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Way {
    /// One of [`kind`].
    pub kind: u32,
    /// One of [`source`].
    pub source: u32,
    /// How many of `choices` count; at least one of a way that is [`kind::LEADS`].
    pub backends: u32,
    /// Of all of them.
    pub weight: u32,
    /// The number of the list of those who may connect, see [`admission`](crate::admission); 0: anyone.
    pub allow: u32,
    /// Connections at a time, and from one address; 0: any number.
    pub limit: u32,
    pub limit_per_source: u32,
    /// The slot of its pool, of a way with [`source::POOL`].
    pub pool: u32,
    /// Of a way that [`kind::HOLDS`]: until when, in nanoseconds of boot time. After that it refuses.
    pub until: u64,
    pub choices: [Choice; MAX_CHOICES],
}

/// What a mapping does with a SYN.
pub mod kind {
    /// There is no such listener (yet, or any more): nothing is touched.
    pub const ABSENT: u32 = 0;
    pub const LEADS: u32 = 1;
    /// It stays unanswered until [`Way::until`](super::Way::until), and is kept to be played again.
    pub const HOLDS: u32 = 2;
    /// It is answered with RST.
    pub const REFUSES: u32 = 3;
}

/// The source address that a backend sees.
pub mod source {
    /// The client's.
    pub const CLIENT: u32 = 0;
    /// The one that the proxy would itself choose for the way to the backend.
    pub const MASQUERADE: u32 = 1;
    /// One of the way's [`Pool`](crate::pool::Pool).
    pub const POOL: u32 = 2;
}

pub type Mapping = Versioned<Way>;

abi! {
    Versioned<u64>: 24 = u64 u64 u64;
    Pair: 48 = Versioned<u64> u32 Endpoint;
    Choice: 8 = u32 u32;
    Way: 168 = u32 u32 u32 u32 u32 u32 u32 u32 u64 [Choice; MAX_CHOICES];
    Versioned<Way>: 344 = u64 Way Way;
}
