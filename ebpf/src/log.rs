//! What the programs say, put into words for `tracing`. A thread of its own waits for it, and only while something is wanted.

use std::fmt;
use std::io;
use std::os::fd::AsFd as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};

use aya::Ebpf;
use aya_log::EbpfLogger;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use shunt_ebpf_common::counter::Counter;
use shunt_ebpf_common::log::{because_of, deed, level, words};

use crate::Error;

/// Of what is said in `tracing`, whoever says it.
const TARGET: &str = "shunt::ebpf";

/// How often the thread looks whether it is to end, in milliseconds.
const PATIENCE: u16 = 200;

/// How much the programs say.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    #[default]
    Off,
    /// What should not be.
    Error,
    /// Also connections that are refused, and packets that are dropped.
    Info,
    /// Also connections that are opened or held.
    Debug,
}

impl Level {
    pub(crate) const fn number(self) -> u32 {
        match self {
            Self::Off => level::OFF,
            Self::Error => level::ERROR,
            Self::Info => level::INFO,
            Self::Debug => level::DEBUG,
        }
    }
}

/// The thread that hears them.
pub struct Listener {
    over: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Listener {
    /// Of these programs; can be had once.
    pub(crate) fn start(ebpf: &mut Ebpf) -> Result<Self, Error> {
        let failed = |error| Error::kernel("read what the programs say", error);
        let mut logger = EbpfLogger::init_with_logger(ebpf, Words).map_err(|error| failed(io::Error::other(error)))?;
        let over = Arc::new(AtomicBool::new(false));
        let ends = Arc::clone(&over);
        let hear = move || {
            while !ends.load(Ordering::Relaxed) {
                let mut fds = [PollFd::new(logger.as_fd(), PollFlags::POLLIN)];
                match poll(&mut fds, PollTimeout::from(PATIENCE)) {
                    Ok(_) | Err(nix::errno::Errno::EINTR) => logger.flush(),
                    Err(error) => {
                        tracing::warn!(target: TARGET, %error, "cannot hear what the programs say any more");
                        return;
                    }
                }
            }
        };
        let thread = thread::Builder::new().name("ebpf-log".to_owned()).spawn(hear).map_err(failed)?;
        Ok(Self { over, thread: Some(thread) })
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // It has nothing to tell.
            let _ = thread.join();
        }
    }
}

/// Takes numbers and says words.
struct Words;

impl ::log::Log for Words {
    fn enabled(&self, _: &::log::Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &::log::Record<'_>) {
        let text = record.args().to_string();
        if let Some(said) = Said::parse(&text) {
            said.tell();
        } else {
            tracing::warn!(target: TARGET, text, "the programs said something that is not understood");
        }
    }

    fn flush(&self) {}
}

#[derive(Debug, PartialEq, Eq)]
struct Said {
    deed: u32,
    why: u32,
    source: String,
    target: String,
}

impl Said {
    /// In the order in which the programs say it: deed, reason, and of both ends address and port.
    fn parse(text: &str) -> Option<Self> {
        let mut parts = text.split(' ');
        let mut number = || parts.next()?.parse().ok();
        let (deed, why) = (number()?, number()?);
        let mut end = || {
            let address: std::net::Ipv6Addr = parts.next()?.parse().ok()?;
            let port = parts.next()?.parse().ok()?;
            Some(std::net::SocketAddr::new(address.to_canonical(), port).to_string())
        };
        Some(Self { deed, why, source: end()?, target: end()? })
    }

    fn tell(&self) {
        let Self { source, target, why, .. } = self;
        let (deed, why) = (deed::word(self.deed), Why(words(*why)));
        match self.deed {
            _ if self.why == because_of(Counter::Failed) => {
                tracing::error!(target: TARGET, %source, target = %target, %why, "a packet was {deed}");
            }
            deed::RESET | deed::DROPPED => {
                tracing::info!(target: TARGET, %source, target = %target, %why, "a packet was {deed}");
            }
            _ => tracing::debug!(target: TARGET, %source, target = %target, %why, "a connection was {deed}"),
        }
    }
}

struct Why(&'static str);

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_empty() { "none" } else { self.0 })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_become_words() {
        let said = Said::parse("1 260 ::ffff:10.0.0.1 40000 fd77::1 3306").unwrap();
        assert_eq!((said.source.as_str(), said.target.as_str()), ("10.0.0.1:40000", "[fd77::1]:3306"));
        assert_eq!((deed::word(said.deed), words(said.why)), ("answered with RST", "not_allowed"));
        assert_eq!(words(because_of(Counter::Fragment)), "fragments");
        for bad in ["", "1", "1 2 3 4 5 6", "1 2 ::1 99999 ::1 1"] {
            assert_eq!(Said::parse(bad), None, "{bad}");
        }
    }
}
