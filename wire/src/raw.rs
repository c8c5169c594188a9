//! Raw sockets: packets with headers of our own making, from addresses that need not be this host's.

use std::io;
use std::net::SocketAddr;

use shunt_core::datapath::DatapathError;
use socket2::{Domain, Protocol, Socket, Type};

use crate::kernel;
use crate::packet::Segment;

/// A raw socket of each family. The kernel routes what they send by its destination and leaves its source alone, so a
/// packet takes the way of the host's own: the output chains see it, NAT included.
pub struct Raw {
    v4: Socket,
    /// `None`: this kernel has no IPv6.
    v6: Option<Socket>,
}

impl Raw {
    /// `mark` is on every packet (socket(7), SO_MARK). Needs CAP_NET_RAW and, for a mark, CAP_NET_ADMIN.
    pub fn open(mark: Option<u32>) -> Result<Self, DatapathError> {
        let tried = || kernel("open a raw socket, which ending flows and holding connections needs (CAP_NET_RAW)");
        let v6 = match open(Domain::IPV6, mark) {
            Ok(socket) => Some(socket),
            Err(error) if error.raw_os_error() == Some(libc::EAFNOSUPPORT) => None,
            Err(error) => return Err(tried()(error)),
        };
        Ok(Self { v4: open(Domain::IPV4, mark).map_err(tried())?, v6 })
    }

    /// Hands a packet to the kernel.
    pub fn send(&self, segment: Segment) -> io::Result<()> {
        let to = segment.destination();
        let malformed = || io::Error::new(io::ErrorKind::InvalidInput, "the packet cannot be written");
        let bytes = segment.bytes().ok_or_else(malformed)?;
        self.send_bytes(&bytes, to)
    }

    /// The same for a packet that is already bytes.
    pub fn send_bytes(&self, bytes: &[u8], to: SocketAddr) -> io::Result<()> {
        // The port would name a protocol; the packet's own header says where it goes.
        let (socket, to) = match to {
            SocketAddr::V4(to) => (&self.v4, SocketAddr::from((*to.ip(), 0))),
            SocketAddr::V6(to) => {
                let socket = self.v6.as_ref().ok_or_else(|| io::Error::from_raw_os_error(libc::EAFNOSUPPORT))?;
                (socket, SocketAddr::from((*to.ip(), 0)))
            }
        };
        socket.send_to(bytes, &to.into()).map(drop)
    }
}

fn open(domain: Domain, mark: Option<u32>) -> io::Result<Socket> {
    // IPPROTO_RAW: headers are ours, and nothing is ever received (raw(7)).
    let socket = Socket::new(domain, Type::RAW, Some(Protocol::from(libc::IPPROTO_RAW)))?;
    match domain {
        Domain::IPV6 => socket.set_header_included_v6(true)?,
        _ => socket.set_header_included_v4(true)?,
    }
    if let Some(mark) = mark {
        socket.set_mark(mark)?;
    }
    socket.set_nonblocking(true)?;
    Ok(socket)
}
