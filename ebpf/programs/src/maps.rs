//! The maps. Sizes are what the agent makes of them when it loads the programs.

use aya_ebpf::bindings::{BPF_F_MMAPABLE, BPF_F_NO_PREALLOC, bpf_fib_lookup, bpf_sock_tuple};
use aya_ebpf::macros::map;
use aya_ebpf::maps::{Array, HashMap, LpmTrie, PerCpuArray};
use shunt_ebpf_common::admission::{Listed, Places, Source};
use shunt_ebpf_common::control::Control;
use shunt_ebpf_common::counter::Counter;
use shunt_ebpf_common::flow::{Endpoint, Flow, Tuple};
use shunt_ebpf_common::kept::{Frame, MAX_HELD, MAX_KEPT, PACKET, Piece, SYN};
use shunt_ebpf_common::mapping::{Mapping, Pair};
use shunt_ebpf_common::pool::{MAX_POOLS, Pool};
use shunt_ebpf_common::signal::Signals;
use shunt_ebpf_common::tally::{Event, Tally};

use crate::atomic;

/// Both directions of every flow. Preallocated: no packet waits for memory, and no flow is evicted for another.
#[map]
pub static FLOWS: HashMap<Tuple, Flow> = HashMap::with_max_entries(1, 0);

/// The mapping's slot of each listener.
#[map]
pub static LISTENERS: HashMap<Endpoint, u32> = HashMap::with_max_entries(1, 0);

/// Mapped into the agent's memory: a change of mappings is a few stores.
#[map]
pub static MAPPINGS: Array<Mapping> = Array::with_max_entries(1, BPF_F_MMAPABLE);

#[map]
pub static PAIRS: Array<Pair> = Array::with_max_entries(1, BPF_F_MMAPABLE);

#[map]
pub static CONTROL: Array<Control> = Array::with_max_entries(1, BPF_F_MMAPABLE);

#[map]
pub static COUNTERS: PerCpuArray<u64> = PerCpuArray::with_max_entries(Counter::ALL.len() as u32, 0);

/// What is counted for each mapping, in the mapping's slot. Mapped into the agent's memory.
#[map]
pub static TALLIES: Array<Tally> = Array::with_max_entries(1, BPF_F_MMAPABLE);

/// What traffic tells of each pair's backend, in the pair's slot. Mapped into the agent's memory.
#[map]
pub static SIGNALS: Array<Signals> = Array::with_max_entries(1, BPF_F_MMAPABLE);

/// Mapped into the agent's memory.
#[map]
pub static POOLS: Array<Pool> = Array::with_max_entries(MAX_POOLS, BPF_F_MMAPABLE);

/// The networks of all lists of those who may connect. Like what follows, it takes memory for what is in it only.
#[map]
pub static ALLOWED: LpmTrie<Listed, u32> = LpmTrie::with_max_entries(1 << 20, BPF_F_NO_PREALLOC);

/// Connections of each client to each mapping that limits them.
#[map]
pub static SOURCES: HashMap<Source, Places> = HashMap::with_max_entries(1 << 18, BPF_F_NO_PREALLOC);

/// SYNs of held connections, by what they say whom they are from and to.
#[map]
pub static HELD: HashMap<Tuple, Frame<SYN>> = HashMap::with_max_entries(MAX_HELD, BPF_F_NO_PREALLOC);

/// What clients of blocked flows have sent.
#[map]
pub static KEPT: HashMap<Piece, Frame<PACKET>> = HashMap::with_max_entries(MAX_KEPT, BPF_F_NO_PREALLOC);

/// Where a flow is put together, and a packet that is kept: the stack's 512 bytes do not take it.
#[map]
pub static SCRATCH: PerCpuArray<Scratch> = PerCpuArray::with_max_entries(1, 0);

pub struct Scratch {
    pub flow: Flow,
    /// Its packets as they will leave.
    pub rewritten: Tuple,
    /// What routing is asked, and what the host's sockets are.
    pub fib: bpf_fib_lookup,
    pub socket: bpf_sock_tuple,
}

/// Why the packet that this processor is at was refused, as `log` says it.
#[map]
pub static SAID: PerCpuArray<u32> = PerCpuArray::with_max_entries(1, 0);

#[map]
pub static SYN_SCRATCH: PerCpuArray<Frame<SYN>> = PerCpuArray::with_max_entries(1, 0);

#[map]
pub static PACKET_SCRATCH: PerCpuArray<Frame<PACKET>> = PerCpuArray::with_max_entries(1, 0);

#[inline(always)]
pub fn count(counter: Counter) {
    if let Some(number) = COUNTERS.get_ptr_mut(counter as u32) {
        // SAFETY: an element of this processor, whose programs do not interrupt each other at ingress.
        unsafe { *number += 1 };
    }
}

/// Counts for one mapping.
#[inline(always)]
pub fn tell(mapping: u32, event: Event) {
    if let Some(tally) = TALLIES.get_ptr_mut(mapping) {
        // SAFETY: an element of an array lives as long as the map; the agent reads only.
        unsafe { atomic::add(&raw mut (*tally).counts[event as usize], 1) };
    }
}

/// The last transaction in force.
#[inline(always)]
pub fn committed() -> u64 {
    // SAFETY: the only element; volatile, because the agent writes it meanwhile.
    CONTROL.get_ptr(0).map_or(0, |control| unsafe { (&raw const (*control).committed).read_volatile() })
}
