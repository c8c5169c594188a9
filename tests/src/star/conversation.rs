//! A client's connection, and how it ends.

use std::io::{self, BufRead as _, BufReader, ErrorKind, Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::os::fd::AsFd as _;
use std::time::Duration;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use socket2::{Domain, Protocol, Socket, Type};

use super::PATIENCE;

/// A connection that a [`super::Server`] has greeted.
#[derive(Debug)]
pub struct Conversation {
    pub stream: TcpStream,
    /// Name of the server that answered.
    pub server: String,
    /// The client's address as the server sees it.
    pub seen_as: SocketAddr,
}

impl Conversation {
    /// Connects within `limit`, and waits as long for the greeting. The connection is made in the namespace of the calling thread.
    pub fn open(listener: SocketAddr, limit: Duration) -> io::Result<Self> {
        Self::greeted(TcpStream::connect_timeout(&listener, limit)?, limit)
    }

    pub fn open_from(source: IpAddr, listener: SocketAddr, limit: Duration) -> io::Result<Self> {
        Self::open_at(SocketAddr::new(source, 0), listener, limit)
    }

    /// From an address and port of the client's choice.
    pub fn open_at(source: SocketAddr, listener: SocketAddr, limit: Duration) -> io::Result<Self> {
        let socket = Socket::new(Domain::for_address(listener), Type::STREAM, Some(Protocol::TCP))?;
        socket.set_reuse_address(true)?;
        socket.bind(&source.into())?;
        socket.connect_timeout(&listener.into(), limit)?;
        Self::greeted(socket.into(), limit)
    }

    /// Reads the greeting, by which the server says who it is and whom it sees.
    pub fn greeted(stream: TcpStream, limit: Duration) -> io::Result<Self> {
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(limit))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        let mut greeting = String::new();
        // The server says no more until it is spoken to, so nothing is lost with the buffer.
        BufReader::with_capacity(128, &stream).read_line(&mut greeting)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        let (server, seen_as) = greeting.split_once(' ').ok_or(ErrorKind::UnexpectedEof)?;
        let seen_as = seen_as.trim().parse().map_err(|error| io::Error::new(ErrorKind::InvalidData, error))?;
        Ok(Self { server: server.to_owned(), seen_as, stream })
    }

    /// The client's own address.
    pub fn local(&self) -> io::Result<SocketAddr> {
        self.stream.local_addr()
    }

    /// Sends a line and waits for its echo.
    pub fn echo(&self) -> io::Result<()> {
        (&self.stream).write_all(b"ping\n")?;
        (&self.stream).read_exact(&mut [0; 5])
    }

    /// Sends a line that is not echoed, see [`super::Server`].
    pub fn order(&self, order: &str) -> io::Result<()> {
        (&self.stream).write_all(format!("{order}\n").as_bytes())
    }

    /// Closes the connection with a reset, so that neither end keeps its port for a minute.
    pub fn abort(self) -> io::Result<()> {
        Socket::from(self.stream).set_linger(Some(Duration::ZERO))
    }

    /// Whether the client's next packet, or the wait for the server's, ends with the error that a reset brings.
    pub fn is_reset(&self) -> bool {
        let reset = |kind| matches!(kind, ErrorKind::ConnectionReset | ErrorKind::BrokenPipe);
        if let Err(error) = (&self.stream).write_all(b"ping\n") {
            return reset(error.kind());
        }
        // Echoes that were on their way may come before the end.
        loop {
            match (&self.stream).read(&mut [0; 64]) {
                Ok(0) => return false,
                Ok(_) => {}
                Err(error) => return reset(error.kind()),
            }
        }
    }

    /// Whether the socket has been told of its connection's end, without sending or reading anything.
    pub fn has_ended(&self) -> bool {
        has_ended(&self.stream)
    }
}

/// Whether a socket has been told that its connection is no more: by a reset, as long as its own side does not close.
pub fn has_ended(stream: &TcpStream) -> bool {
    ended_within(stream, PollTimeout::ZERO)
}

/// A hang-up is reported for a closed connection, and not for one that only the peer has closed.
pub(super) fn ended_within(stream: &TcpStream, limit: PollTimeout) -> bool {
    let mut fds = [PollFd::new(stream.as_fd(), PollFlags::empty())];
    loop {
        match poll(&mut fds, limit) {
            Ok(_) => return fds[0].revents().is_some_and(|found| found.contains(PollFlags::POLLHUP)),
            Err(nix::errno::Errno::EINTR) => {}
            Err(error) => panic!("cannot ask for the state of a socket: {error}"),
        }
    }
}
