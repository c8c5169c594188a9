//! The socket of a client connection, which the client library keeps to itself. It is found among this process's own
//! file descriptors, by its peer and by a mark that was set when connecting: its keepalive time. A duplicate of it tells
//! when the server closes the connection while nobody is asking anything, without reading a byte.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::socket::{self, MsgFlags, Shutdown, SockaddrStorage, sockopt};
use tokio::net::TcpStream;

/// A mark of one connection of this process, worn as its keepalive time. Connections are never idle for that long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mark(u32);

impl Mark {
    /// `TCP_KEEPIDLE` takes 1 to 32767 seconds (tcp(7)); the marks begin at ten minutes and come again when they run out.
    pub fn next() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        Self(600 + NEXT.fetch_add(1, Ordering::Relaxed) % 32_000)
    }

    pub fn keepalive(self) -> Duration {
        Duration::from_secs(self.0.into())
    }
}

/// What happened on a connection that nobody was using.
#[derive(Debug)]
pub enum News {
    /// The server closed it, or the kernel gave up on it.
    Broken(io::Error),
    /// The server said something that it was not asked, which is as a rule its last words: read them with a question.
    Spoke,
}

/// A second handle on a connection's socket.
#[derive(Debug)]
pub struct Socket(TcpStream);

impl Socket {
    /// The socket connected to `peer` that wears the mark.
    pub fn find(peer: SocketAddr, mark: Mark) -> io::Result<Option<Self>> {
        for entry in std::fs::read_dir("/proc/self/fd")? {
            let Some(fd) = entry?.file_name().to_str().and_then(|name| name.parse::<RawFd>().ok()) else { continue };
            if peer_of(fd) != Some(peer) {
                continue;
            }
            let Ok(fd) = duplicate(fd) else { continue };
            if socket::getsockopt(&fd, sockopt::TcpKeepIdle) == Ok(mark.0) {
                return Ok(Some(Self(TcpStream::from_std(fd.into())?)));
            }
        }
        Ok(None)
    }

    /// Waits until something happens that nobody asked for. Call it only while no answer is outstanding.
    pub async fn news(&self) -> News {
        match self.0.peek(&mut [0]).await {
            Ok(0) => News::Broken(io::Error::new(io::ErrorKind::UnexpectedEof, "the server closed the connection")),
            Ok(_) => News::Spoke,
            Err(error) => News::Broken(error),
        }
    }

    /// Whether something has happened already. Call it only while no answer is outstanding.
    pub fn has_news(&self) -> bool {
        let peeked = socket::recv(self.0.as_raw_fd(), &mut [0], MsgFlags::MSG_PEEK | MsgFlags::MSG_DONTWAIT);
        peeked != Err(Errno::EAGAIN)
    }

    /// Ends the connection for every handle on it: whoever still reads from it gets an end of file.
    pub fn shut_down(&self) {
        // It may be gone already.
        let _ = socket::shutdown(self.0.as_raw_fd(), Shutdown::Both);
    }
}

fn peer_of(fd: RawFd) -> Option<SocketAddr> {
    let peer: SockaddrStorage = socket::getpeername(fd).ok()?;
    match (peer.as_sockaddr_in(), peer.as_sockaddr_in6()) {
        (Some(v4), _) => Some(SocketAddr::V4((*v4).into())),
        (_, Some(v6)) => Some(SocketAddr::V6((*v6).into())),
        _ => None,
    }
}

fn duplicate(fd: RawFd) -> io::Result<OwnedFd> {
    // SAFETY: the call takes a number and touches no memory; a number that is no longer a descriptor is an error, and
    // one that has become another descriptor is noticed by the mark.
    let copy = Errno::result(unsafe { libc::fcntl(fd, libc::F_DUPFD_CLOEXEC, 0) })?;
    // SAFETY: the kernel has just made this descriptor for us and nobody else knows its number.
    Ok(unsafe { OwnedFd::from_raw_fd(copy) })
}
