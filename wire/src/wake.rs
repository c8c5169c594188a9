//! What a thread that listens to packets waits for: a packet, a deadline, or to be woken.

use std::io;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::eventfd::EventFd;
use shunt_core::datapath::DatapathError;

use crate::kernel;

/// poll(2) counts whole milliseconds.
const TICK: Duration = Duration::from_millis(1);

/// What can only fail if something is very wrong is tried again after this.
const RETRY: Duration = Duration::from_millis(100);

pub struct Wake {
    event: EventFd,
}

impl Wake {
    pub fn new() -> Result<Self, DatapathError> {
        let event = EventFd::new().map_err(|error| kernel("make an eventfd")(error.into()))?;
        Ok(Self { event })
    }

    /// Ends the wait, or the next one.
    pub fn wake(&self) {
        if let Err(error) = self.event.write(1) {
            tracing::error!(error = %io::Error::from(error), "a thread of the datapath could not be woken");
        }
    }

    /// Returns when there is something to read from `packets`, when the deadline is over, or when woken.
    pub fn wait(&self, packets: Option<&impl AsFd>, deadline: Option<Instant>) {
        let timeout = deadline.map_or(PollTimeout::NONE, |deadline| {
            let left = deadline.saturating_duration_since(Instant::now()) + TICK;
            PollTimeout::try_from(left.min(Duration::from_secs(60))).unwrap_or(PollTimeout::MAX)
        });
        let mut ready = vec![PollFd::new(self.event.as_fd(), PollFlags::POLLIN)];
        ready.extend(packets.map(|packets| PollFd::new(packets.as_fd(), PollFlags::POLLIN)));
        if let Err(error) = poll(&mut ready, timeout)
            && error != Errno::EINTR
        {
            tracing::error!(error = %io::Error::from(error), "a thread of the datapath cannot wait");
            std::thread::sleep(RETRY);
        }
        if ready[0].any() == Some(true)
            && let Err(error) = self.event.read()
        {
            tracing::debug!(error = %io::Error::from(error), "nothing to read from an eventfd");
        }
    }
}
