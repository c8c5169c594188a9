//! The maps. Sizes are what the agent makes of them when it loads the programs.

use aya_ebpf::bindings::BPF_F_MMAPABLE;
use aya_ebpf::macros::map;
use aya_ebpf::maps::{Array, HashMap, PerCpuArray};
use shunt_ebpf_common::control::Control;
use shunt_ebpf_common::counter::Counter;
use shunt_ebpf_common::flow::{Endpoint, Flow, Tuple};
use shunt_ebpf_common::mapping::{Mapping, Pair};

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

/// Where a flow is put together: the stack's 512 bytes do not take two.
#[map]
pub static SCRATCH: PerCpuArray<Flow> = PerCpuArray::with_max_entries(1, 0);

#[inline(always)]
pub fn count(counter: Counter) {
    if let Some(number) = COUNTERS.get_ptr_mut(counter as u32) {
        // SAFETY: an element of this processor, whose programs do not interrupt each other at ingress.
        unsafe { *number += 1 };
    }
}

/// The last transaction in force.
#[inline(always)]
pub fn committed() -> u64 {
    // SAFETY: the only element; volatile, because the agent writes it meanwhile.
    CONTROL.get_ptr(0).map_or(0, |control| unsafe { (&raw const (*control).committed).read_volatile() })
}
