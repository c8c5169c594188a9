//! The layouts of ABI 2, frozen, and what each record is by today's. Whoever adds a field to one of today's must say here
//! what it is of an older record. Keys (tuples, endpoints, sources, networks, pieces) are today's: who changes one of them
//! freezes it here before.

use aya::Pod;
use shunt_ebpf_common as now;
use shunt_ebpf_common::control::Ports;
use shunt_ebpf_common::flow::{Endpoint, Tuple};
use shunt_ebpf_common::kept::{PACKET, SYN};
use shunt_ebpf_common::mapping::{Choice, MAX_CHOICES};
use shunt_ebpf_common::note::NAME;
use shunt_ebpf_common::pool::{MAX_RANGES, Range};

pub const ABI: u32 = 2;

/// A record, its size, and what today's is made of; fields that were not there yet come last.
macro_rules! frozen {
    ($($name:ident: $size:literal => $now:ty { $($field:ident: $type:ty,)* } $({ $($new:ident: $value:expr,)* })?)*) => {$(
        #[repr(C)]
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub struct $name { $(pub $field: $type,)* }

        const _: () = {
            assert!(size_of::<$name>() == $size);
            assert!($size == 0 $(+ size_of::<$type>())*, "there is padding");
        };

        // SAFETY: repr(C), without padding, and every pattern of bits is a value.
        unsafe impl Pod for $name {}

        impl From<$name> for $now {
            fn from(old: $name) -> Self {
                Self { $($field: old.$field,)* $($($new: $value,)*)? }
            }
        }
    )*};
}

frozen! {
    Control: 24 => now::control::Control {
        abi: u32,
        log: u32,
        committed: u64,
        ports: [Ports; 2],
    } { copied: 0, }

    Flow: 112 => now::flow::Flow {
        rewritten: Tuple,
        address_sum: u32,
        port_sum: u32,
        pair: u32,
        generation: u32,
        mapping: u32,
        state: u32,
        next: u32,
        acknowledged: u32,
        marks: u64,
        opened: u64,
        seen: u64,
        bytes: u64,
        packets: u64,
    } { hop: now::flow::Hop::default(), }

    Way: 168 => now::mapping::Way {
        kind: u32,
        source: u32,
        backends: u32,
        weight: u32,
        allow: u32,
        limit: u32,
        limit_per_source: u32,
        pool: u32,
        until: u64,
        choices: [Choice; MAX_CHOICES],
    }

    Note: 104 => now::note::Note {
        cluster: [u8; NAME],
        lease: u64,
        hold: u64,
        spared: Endpoint,
        removed: u32,
    }

    Owner: 24 => now::note::Owner {
        listener: Endpoint,
        zero: u32,
    }

    Tally: 80 => now::tally::Tally {
        open: u64,
        waiting: u64,
        counts: [u64; 8],
    }

    Pool: 168 => now::pool::Pool {
        addresses: u32,
        ranges: u32,
        list: [Range; MAX_RANGES],
    }

    Syn: 152 => now::kept::Frame<SYN> {
        came: u64,
        mapping: u32,
        interface: u32,
        length: u32,
        unfinished: u32,
        bytes: [u8; SYN],
    }

    Packet: 1560 => now::kept::Frame<PACKET> {
        came: u64,
        mapping: u32,
        interface: u32,
        length: u32,
        unfinished: u32,
        bytes: [u8; PACKET],
    }
}

/// A record in two versions; see `shunt_ebpf_common::mapping`.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Versioned<T> {
    pub transaction: u64,
    pub new: T,
    pub old: T,
}

#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pair {
    pub live_until: Versioned<u64>,
    pub generation: u32,
    pub backend: Endpoint,
}

const _: () = assert!(size_of::<Versioned<Way>>() == 344 && size_of::<Versioned<Note>>() == 216);
const _: () = assert!(size_of::<Pair>() == 48);

// SAFETY: as above; the sizes are those of the parts.
unsafe impl Pod for Versioned<Way> {}
// SAFETY: likewise.
unsafe impl Pod for Versioned<Note> {}
// SAFETY: likewise.
unsafe impl Pod for Pair {}

impl<T> Versioned<T> {
    /// What counts after that transaction.
    pub fn in_force(self, committed: u64) -> T {
        if self.transaction <= committed { self.new } else { self.old }
    }
}
