//! Hears RSTs as they come in, before any program or rule has a say: the answers of ends that are closed.
//!
//! Open only while flows are being ended. The filter is the kernel's, so that nothing else is copied.

use std::io::{self, Read as _};
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd};

use nix::sys::socket::{setsockopt, sockopt};
use shunt_wire::packet::Segment;
use socket2::{Domain, Protocol, SockFilter, Socket, Type};

pub struct Ears(Socket);

/// As many answers wait as come to a burst of what is sent, and to some more.
const BUFFER: usize = 4 << 20;

/// linux/filter.h, `struct sock_filter`: the accumulator is loaded, compared, and the packet taken or not.
const LOAD_BYTE: u16 = 0x30;
const LOAD_HALF: u16 = 0x28;
/// From the start of the packet and the index.
const LOAD_BYTE_BEHIND: u16 = 0x50;
/// Four times the lower half of a byte, into the index: the length of an IPv4 header.
const LOAD_HEADER: u16 = 0xb1;
const SHIFT_RIGHT: u16 = 0x74;
const IF_EQUAL: u16 = 0x15;
const IF_BITS: u16 = 0x45;
const GO_ON: u16 = 0x05;
const RETURN: u16 = 0x06;

/// Headers of IP and TCP with all their options.
const TAKEN: u32 = 120;
const TCP: u32 = 6;
const RST: u32 = 4;

/// The packet begins with its IP header. Jumps count the instructions that are left out.
const FILTER: [SockFilter; 17] = [
    SockFilter::new(LOAD_BYTE, 0, 0, 0),
    SockFilter::new(SHIFT_RIGHT, 0, 0, 4),
    SockFilter::new(IF_EQUAL, 1, 0, 4),
    SockFilter::new(IF_EQUAL, 7, 12, 6),
    // IPv4: the protocol, no later fragment, the flags behind the header.
    SockFilter::new(LOAD_BYTE, 0, 0, 9),
    SockFilter::new(IF_EQUAL, 0, 10, TCP),
    SockFilter::new(LOAD_HALF, 0, 0, 6),
    SockFilter::new(IF_BITS, 8, 0, 0x1fff),
    SockFilter::new(LOAD_HEADER, 0, 0, 0),
    SockFilter::new(LOAD_BYTE_BEHIND, 0, 0, 13),
    SockFilter::new(GO_ON, 0, 0, 3),
    // IPv6, without extension headers.
    SockFilter::new(LOAD_BYTE, 0, 0, 6),
    SockFilter::new(IF_EQUAL, 0, 3, TCP),
    SockFilter::new(LOAD_BYTE, 0, 0, 53),
    SockFilter::new(IF_BITS, 0, 1, RST),
    SockFilter::new(RETURN, 0, 0, TAKEN),
    SockFilter::new(RETURN, 0, 0, 0),
];

impl Ears {
    /// On every interface of the calling thread's network namespace.
    pub fn open() -> io::Result<Self> {
        let all = Protocol::from(i32::from((libc::ETH_P_ALL as u16).to_be()));
        // Without the link's header. What comes in before the filter is there is no answer to anything.
        let socket = Socket::new(Domain::PACKET, Type::DGRAM, Some(all))?;
        socket.attach_filter(&FILTER)?;
        ignore_what_goes_out(&socket)?;
        setsockopt(&socket, sockopt::RcvBufForce, &BUFFER)?;
        socket.set_nonblocking(true)?;
        Ok(Self(socket))
    }

    /// Calls `each` with whom every RST that has come in is from and to.
    pub fn hear(&mut self, mut each: impl FnMut(SocketAddr, SocketAddr)) -> io::Result<()> {
        let mut packet = [0; TAKEN as usize];
        loop {
            match (&self.0).read(&mut packet) {
                Ok(length) => {
                    if let Some(segment) = Segment::parse(&packet[..length]).filter(Segment::is_reset) {
                        each(segment.source(), segment.destination());
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                // An interface went down, or more came than fits: the next question is answered again.
                Err(error) if matches!(error.raw_os_error(), Some(libc::ENETDOWN | libc::ENOBUFS | libc::EINTR)) => {}
                Err(error) => return Err(error),
            }
        }
    }
}

impl AsFd for Ears {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// packet(7), PACKET_IGNORE_OUTGOING: nothing that is sent is copied for us.
fn ignore_what_goes_out(socket: &Socket) -> io::Result<()> {
    const PACKET_IGNORE_OUTGOING: libc::c_int = 23;
    let on: libc::c_int = 1;
    // SAFETY: the pointer and length are those of `on`, which outlives the call.
    let done = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_PACKET,
            PACKET_IGNORE_OUTGOING,
            (&raw const on).cast(),
            size_of::<libc::c_int>() as libc::socklen_t,
        )
    };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
