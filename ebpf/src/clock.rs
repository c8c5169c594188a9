//! The clock that programs read (`bpf_ktime_get_boot_ns`): nanoseconds since the host started, sleep included.

use std::time::Duration;

use nix::time::{ClockId, clock_gettime};
use shunt_ebpf_common::mapping::FOR_EVER;

/// Boot time.
pub fn now() -> u64 {
    // The clock is there on every kernel that has eBPF; the end of time is what a deadline is compared with otherwise.
    clock_gettime(ClockId::CLOCK_BOOTTIME).map_or(FOR_EVER - 1, |time| nanoseconds(time.into()))
}

/// A span as it is added to boot time. A year is as good as any longer one, and cannot overflow.
pub fn nanoseconds(span: Duration) -> u64 {
    const YEAR: Duration = Duration::from_secs(365 * 86_400);
    span.min(YEAR * 100).as_nanos() as u64
}
