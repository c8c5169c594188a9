//! The question that every packet is asked: is its pair live, now?

use aya_ebpf::helpers::bpf_ktime_get_boot_ns;
use shunt_ebpf_common::mapping::{FOR_EVER, Pair};

use crate::maps::{PAIRS, committed};

/// The pair in that slot, if it is still the one that the flow was opened with, and live.
#[inline(always)]
pub fn is_live(slot: u32, generation: u32, now: u64) -> bool {
    let Some(pair) = PAIRS.get_ptr(slot) else { return false };
    // SAFETY: an element of an array lives as long as the map.
    unsafe { generation_of(pair) == generation && now < until(pair) }
}

/// # Safety
/// `pair` is an element of [`PAIRS`].
#[inline(always)]
pub unsafe fn generation_of(pair: *const Pair) -> u32 {
    unsafe { (&raw const (*pair).generation).read_volatile() }
}

/// Until when it is live. The agent may be writing: what was read counts only if no transaction began meanwhile, and a
/// second one within these few instructions would take the agent less than it can.
///
/// # Safety
/// `pair` is an element of [`PAIRS`].
#[inline(always)]
pub unsafe fn until(pair: *const Pair) -> u64 {
    let committed = committed();
    let transaction = unsafe { (&raw const (*pair).live_until.transaction).read_volatile() };
    if transaction <= committed {
        let new = unsafe { (&raw const (*pair).live_until.new).read_volatile() };
        if unsafe { (&raw const (*pair).live_until.transaction).read_volatile() } == transaction {
            return new;
        }
    }
    unsafe { (&raw const (*pair).live_until.old).read_volatile() }
}

/// Nanoseconds of boot time. Always short of [`FOR_EVER`].
#[inline(always)]
pub fn now() -> u64 {
    // SAFETY: no arguments.
    let now = unsafe { bpf_ktime_get_boot_ns() };
    if now == FOR_EVER { FOR_EVER - 1 } else { now }
}
