//! The network namespace that a datapath belongs to, whichever thread drives it.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _};
use std::os::unix::fs::MetadataExt as _;
use std::thread;

use nix::sched::{CloneFlags, setns};
use socket2::{Domain, Socket, Type};

const OURS: &str = "/proc/thread-self/ns/net";

pub struct Namespace(File);

impl Namespace {
    /// That of the calling thread.
    pub fn current() -> io::Result<Self> {
        File::open(OURS).map(Self)
    }

    /// A number that no other namespace has before the host starts anew (socket(7), SO_NETNS_COOKIE).
    pub fn cookie(&self) -> io::Result<u64> {
        self.inside(|| {
            let socket = Socket::new(Domain::UNIX, Type::DGRAM, None)?;
            let mut cookie = 0_u64;
            let mut length = size_of::<u64>() as libc::socklen_t;
            // SAFETY: the pointers are those of `cookie` and its length, which outlive the call.
            let done = unsafe {
                libc::getsockopt(
                    socket.as_raw_fd(),
                    libc::SOL_SOCKET,
                    libc::SO_NETNS_COOKIE,
                    (&raw mut cookie).cast(),
                    &raw mut length,
                )
            };
            if done == 0 { Ok(cookie) } else { Err(io::Error::last_os_error()) }
        })?
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
