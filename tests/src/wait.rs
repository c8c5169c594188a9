//! Waiting for something to become true. Polls, with a deadline, and says what it waited for when that passes.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};

/// How long the lab waits for anything that is not itself a measurement. Generous: machines in CI are slow.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Calls `probe` every few milliseconds until it returns something; its last error, if any, is in ours.
pub fn eventually<T>(what: &str, deadline: Duration, mut probe: impl FnMut() -> Result<Option<T>>) -> Result<T> {
    let end = Instant::now() + deadline;
    loop {
        let last = match probe() {
            Ok(Some(found)) => return Ok(found),
            Ok(None) => None,
            Err(error) => Some(error),
        };
        if Instant::now() >= end {
            match last {
                Some(error) => return Err(error.context(format!("waited {deadline:?} for {what}"))),
                None => bail!("waited {deadline:?} for {what}"),
            }
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}
