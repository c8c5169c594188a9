//! The question that every packet is asked: may its flow pass, now?

use aya_ebpf::helpers::bpf_ktime_get_boot_ns;
use shunt_ebpf_common::flow::{Flow, mark};
use shunt_ebpf_common::mapping::{FOR_EVER, Pair};

use crate::maps::{PAIRS, committed};

/// Whether nobody has ended it, and its pair is still the one that it was opened with, and live.
#[inline(always)]
pub fn is_live(flow: &Flow, now: u64) -> bool {
    let Some(pair) = PAIRS.get_ptr(flow.pair) else { return false };
    // The generation last: a slot gets it before its new owner lives, so whoever has seen that one live sees it.
    // SAFETY: an element of an array lives as long as the map.
    flow.marks & mark::ENDED == 0 && unsafe { now < until(pair) && generation_of(pair) == flow.generation }
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
