//! Moments that every process and the kernel agree on: nanoseconds of CLOCK_MONOTONIC.

use anyhow::Result;
use nix::time::{ClockId, clock_gettime};

pub fn now() -> Result<i64> {
    read(ClockId::CLOCK_MONOTONIC)
}

/// What is to be taken off a moment of the wall clock, which the kernel stamps packets with.
pub fn wall_offset() -> Result<i64> {
    // The two are read one after the other; the nearest of some tries is off by less than a microsecond.
    let mut best = (i64::MAX, 0);
    for _ in 0..10 {
        let (before, wall, after) = (now()?, read(ClockId::CLOCK_REALTIME)?, now()?);
        best = best.min((after - before, wall - i64::midpoint(before, after)));
    }
    Ok(best.1)
}

/// Milliseconds between two moments; negative if the second came first.
pub fn ms(from: i64, to: i64) -> f64 {
    (to - from) as f64 / 1e6
}

fn read(clock: ClockId) -> Result<i64> {
    let time = clock_gettime(clock)?;
    Ok(time.tv_sec() * 1_000_000_000 + time.tv_nsec())
}
