//! The network namespace that a datapath belongs to, whichever thread drives it.

use std::fs::File;
use std::io;
use std::os::fd::AsFd as _;
use std::os::unix::fs::MetadataExt as _;
use std::thread;

use nix::sched::{CloneFlags, setns};

const OURS: &str = "/proc/thread-self/ns/net";

pub struct Namespace(File);

impl Namespace {
    /// That of the calling thread.
    pub fn current() -> io::Result<Self> {
        File::open(OURS).map(Self)
    }

    /// A number that no other namespace has before the host starts anew.
    pub fn cookie(&self) -> io::Result<u64> {
        self.inside(shunt_wire::namespace::cookie)?
    }

    /// Does `work` in it: on a thread of its own if this one is elsewhere.
    pub fn inside<T: Send>(&self, work: impl FnOnce() -> T + Send) -> io::Result<T> {
        let (there, here) = (self.0.metadata()?, std::fs::metadata(OURS)?);
        if (there.dev(), there.ino()) == (here.dev(), here.ino()) {
            return Ok(work());
        }
        thread::scope(|scope| {
            let entered = scope.spawn(|| -> io::Result<T> {
                setns(self.0.as_fd(), CloneFlags::CLONE_NEWNET)?;
                Ok(work())
            });
            entered.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }
}
