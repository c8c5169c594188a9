//! A netlink socket to netfilter: transactions, dumps, single requests.
//!
//! The kernel handles a request within `sendmsg`, so all answers to it wait in the queue when sending returns. Only a
//! dump is produced while it is read.

use std::io;
use std::ops::ControlFlow;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::time::{Duration, Instant};

use mnl::Bus;

use super::batch::Batch;
use crate::tlv;

/// Enough for the skb of any dump (the kernel makes them 32 KiB at most) and for many acknowledgements.
const RECEIVE: usize = 64 * 1024;

/// How often an interrupted dump is begun anew before the table is called too busy.
const ATTEMPTS: usize = 16;

pub struct Netlink {
    socket: mnl::Socket,
    seq: u32,
    buffer: Vec<u32>,
    /// The rest of a dump that was broken off is still to come, and the kernel makes no other meanwhile.
    unread: bool,
}

// SAFETY: libmnl's socket is a file descriptor and its address on the heap; nothing in it belongs to a thread.
unsafe impl Send for Netlink {}

/// A transaction that the kernel did not take.
#[derive(Debug)]
pub struct Rejection {
    /// Index of the message in the batch; `None`: the transaction as a whole.
    pub message: Option<usize>,
    /// Where in that message, when the kernel says so.
    pub offset: Option<usize>,
    pub error: io::Error,
}

impl Netlink {
    pub fn open() -> io::Result<Self> {
        Self::subscribed(0)
    }

    /// `groups`: bits of the multicast groups to join.
    pub fn subscribed(groups: u32) -> io::Result<Self> {
        let socket = mnl::Socket::open(Bus::Netfilter)?;
        socket.bind(groups, 0)?;
        let netlink = Self { socket, seq: 0, buffer: vec![0; RECEIVE / 4], unread: false };
        // Errors without a copy of the request, and with the offset of what was wrong in it. Both are comfort.
        for option in [libc::NETLINK_CAP_ACK, libc::NETLINK_EXT_ACK] {
            let _ = netlink.set_option(libc::SOL_NETLINK, option, 1);
        }
        netlink.grow(libc::SO_RCVBUFFORCE, libc::SO_RCVBUF, 8 << 20);
        Ok(netlink)
    }

    pub fn port_id(&self) -> u32 {
        self.socket.portid()
    }

    pub fn next_seq(&mut self) -> u32 {
        self.seq = self.seq.wrapping_add(1).max(1);
        self.seq
    }

    /// Leaves out the sequence numbers of a batch that began with the last one.
    pub fn skip_seqs(&mut self, count: u32) {
        self.seq = self.seq.wrapping_add(count);
    }

    /// Commits a batch. Returns the time from sending it to its acknowledgement.
    pub fn commit(&mut self, batch: &Batch) -> Result<Duration, Rejection> {
        let whole = |error| Rejection { message: None, offset: None, error };
        let bytes = batch.bytes();
        // The kernel wants a transaction in one piece.
        if bytes.len() > 100_000 {
            self.grow(libc::SO_SNDBUFFORCE, libc::SO_SNDBUF, bytes.len() * 2);
        }
        let begin = Instant::now();
        let sent = self.send(bytes).map_err(whole)?;
        if sent != bytes.len() {
            return Err(whole(io::Error::other("the transaction was cut short on its way")));
        }
        let mut rejection: Option<Rejection> = None;
        let mut acknowledged = None;
        self.answers(true, |message| {
            // Nothing else can be in the queue, but an answer to something older must not decide about this.
            if !batch.spans(message.seq) {
                return Ok(false);
            }
            let index = batch.index_of(message.seq);
            if let Some(error) = message.error() {
                rejection.get_or_insert(Rejection { message: index, offset: message.bad_offset(), error });
            } else if message.is_ack() && index == batch.last() {
                acknowledged = Some(begin.elapsed());
            }
            Ok(false)
        })
        .map_err(whole)?;
        match (rejection, acknowledged) {
            (Some(rejection), _) => Err(rejection),
            (None, Some(commit)) => Ok(commit),
            (None, None) => Err(whole(io::Error::other("the kernel did not acknowledge the transaction"))),
        }
    }

    /// Sends requests that each want an acknowledgement; hands each answer's sequence number and outcome over.
    pub fn request(&mut self, bytes: &[u8], mut each: impl FnMut(u32, io::Result<()>)) -> io::Result<()> {
        self.send(bytes)?;
        self.answers(true, |message| {
            if message.kind == libc::NLMSG_ERROR as u16 {
                each(message.seq, message.error().map_or(Ok(()), Err));
            }
            Ok(false)
        })
    }

    /// Sends one request and returns its one answer (without the acknowledgement, which it must not ask for).
    pub fn ask(&mut self, bytes: &[u8]) -> io::Result<Vec<u8>> {
        self.send(bytes)?;
        let mut answer = Vec::new();
        self.answers(true, |message| {
            if let Some(error) = message.error() {
                return Err(error);
            }
            answer = message.bytes.to_vec();
            Ok(false)
        })?;
        Ok(answer)
    }

    /// Reads a dump: folds `each` of its messages into what `start` makes. A dump that the kernel calls inconsistent is
    /// read again from the start.
    pub fn dump<T>(
        &mut self,
        request: impl Fn(u32) -> Vec<u8>,
        start: impl Fn() -> T,
        mut each: impl FnMut(&mut T, &[u8]) -> io::Result<()>,
    ) -> io::Result<T> {
        for _ in 0..ATTEMPTS {
            let seq = self.next_seq();
            self.send(&request(seq))?;
            let mut all = start();
            let mut interrupted = false;
            let read = self.answers(false, |message| {
                if message.seq != seq {
                    return Ok(false);
                }
                interrupted |= message.flags & libc::NLM_F_DUMP_INTR as u16 != 0;
                if let Some(error) = message.error() {
                    return Err(error);
                }
                if message.kind == libc::NLMSG_DONE as u16 || message.kind == libc::NLMSG_ERROR as u16 {
                    return Ok(true);
                }
                if !interrupted {
                    each(&mut all, message.bytes)?;
                }
                Ok(false)
            });
            match read {
                Ok(()) if !interrupted => return Ok(all),
                Ok(()) => {}
                // The list changed under the dump, or we read too slowly.
                Err(error) if matches!(error.raw_os_error(), Some(libc::EINTR | libc::ENOBUFS)) => self.drain(),
                Err(error) => {
                    self.drain();
                    return Err(error);
                }
            }
        }
        Err(io::Error::new(io::ErrorKind::ResourceBusy, "it changes faster than it can be read"))
    }

    /// Reads a dump message by message until `each` breaks off, and only once: what is told cannot be taken back.
    pub fn stream(
        &mut self,
        request: impl FnOnce(u32) -> Vec<u8>,
        mut each: impl FnMut(&[u8]) -> ControlFlow<()>,
    ) -> io::Result<ControlFlow<()>> {
        let seq = self.next_seq();
        self.send(&request(seq))?;
        let mut flow = ControlFlow::Continue(());
        let read = self.answers(false, |message| {
            if message.seq != seq || flow.is_break() {
                return Ok(flow.is_break());
            }
            if let Some(error) = message.error() {
                return Err(error);
            }
            if message.kind == libc::NLMSG_DONE as u16 || message.kind == libc::NLMSG_ERROR as u16 {
                return Ok(true);
            }
            flow = each(message.bytes);
            Ok(flow.is_break())
        });
        self.unread = flow.is_break() || read.is_err();
        read.map(|()| flow)
    }

    /// Messages that wait in the queue, without waiting for any. `Ok(false)` once it is empty.
    pub fn pending(&mut self, mut each: impl FnMut(&Message<'_>)) -> io::Result<()> {
        self.answers(true, |message| {
            each(message);
            Ok(false)
        })
    }

    /// A dump that was broken off is read to its end first, which costs the kernel as much as if it were wanted.
    fn send(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if std::mem::take(&mut self.unread) {
            self.drain();
        }
        self.socket.send(bytes)
    }

    /// Throws away what is left of an abandoned answer.
    fn drain(&mut self) {
        let _ = self.pending(|_| {});
    }

    /// Calls `each` until it says that it is done or, with `queued`, until nothing is in the queue.
    fn answers(&mut self, queued: bool, mut each: impl FnMut(&Message<'_>) -> io::Result<bool>) -> io::Result<()> {
        loop {
            let received = receive(self.socket.as_raw_fd(), &mut self.buffer, queued);
            let bytes = match received {
                Ok(bytes) => bytes,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            };
            let mut done = false;
            for message in mnl::NlMessages::new(bytes) {
                let message = message?;
                done |= each(&Message::new(message))?;
            }
            if done {
                return Ok(());
            }
        }
    }

    /// Makes a socket buffer larger, beyond the host's limit where we may.
    fn grow(&self, force: i32, plain: i32, size: usize) {
        let size = i32::try_from(size).unwrap_or(i32::MAX);
        if self.set_option(libc::SOL_SOCKET, force, size).is_err() {
            let _ = self.set_option(libc::SOL_SOCKET, plain, size);
        }
    }

    fn set_option(&self, level: i32, option: i32, value: i32) -> io::Result<()> {
        // SAFETY: the pointer and length are those of `value`, which outlives the call.
        let done = unsafe {
            libc::setsockopt(
                self.socket.as_raw_fd(),
                level,
                option,
                (&raw const value).cast(),
                size_of::<i32>() as libc::socklen_t,
            )
        };
        if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    }
}

impl AsFd for Netlink {
    fn as_fd(&self) -> BorrowedFd<'_> {
        // SAFETY: the socket is open for as long as `self` is borrowed.
        unsafe { BorrowedFd::borrow_raw(self.socket.as_raw_fd()) }
    }
}

impl AsRawFd for Netlink {
    fn as_raw_fd(&self) -> RawFd {
        self.socket.as_raw_fd()
    }
}

/// One datagram, into memory that is aligned as netlink's headers are.
fn receive(fd: RawFd, buffer: &mut [u32], queued: bool) -> io::Result<&[u8]> {
    let flags = if queued { libc::MSG_DONTWAIT } else { 0 };
    let size = size_of_val(buffer);
    // SAFETY: `buffer` is valid for writes of `size` bytes for the whole call.
    let received = unsafe { libc::recv(fd, buffer.as_mut_ptr().cast(), size, flags) };
    let len = usize::try_from(received).map_err(|_| io::Error::last_os_error())?;
    // SAFETY: `len` is at most `size`, all of which was initialised when the buffer was made; any byte is a `u8`.
    Ok(unsafe { std::slice::from_raw_parts(buffer.as_ptr().cast(), len.min(size)) })
}

/// A received message.
pub struct Message<'a> {
    pub kind: u16,
    pub flags: u16,
    pub seq: u32,
    /// Port id of the socket that caused it.
    pub port: u32,
    /// With its header.
    pub bytes: &'a [u8],
}

impl<'a> Message<'a> {
    /// `bytes` is at least a header long: [`mnl::NlMessages`] sees to that.
    fn new(bytes: &'a [u8]) -> Self {
        let u16_at = |at: usize| u16::from_ne_bytes([bytes[at], bytes[at + 1]]);
        let u32_at = |at: usize| u32::from_ne_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
        Self { kind: u16_at(4), flags: u16_at(6), seq: u32_at(8), port: u32_at(12), bytes }
    }

    /// The error number that ends an error message or a failed dump.
    fn error(&self) -> Option<io::Error> {
        if self.kind != libc::NLMSG_ERROR as u16 && self.kind != libc::NLMSG_DONE as u16 {
            return None;
        }
        let number = self.bytes.get(16..20)?.try_into().ok().map(i32::from_ne_bytes)?;
        (number < 0).then(|| io::Error::from_raw_os_error(-number))
    }

    fn is_ack(&self) -> bool {
        self.kind == libc::NLMSG_ERROR as u16 && self.error().is_none()
    }

    /// `NLMSGERR_ATTR_OFFS`: where in the request the mistake is.
    fn bad_offset(&self) -> Option<usize> {
        const NLMSGERR_ATTR_OFFS: u16 = 2;
        if self.flags & libc::NLM_F_ACK_TLVS as u16 == 0 || self.flags & libc::NLM_F_CAPPED as u16 == 0 {
            return None;
        }
        // The error number and the header of the request, of which nothing more is there when it is capped.
        let offset = tlv::find(self.bytes.get(16 + 4 + 16..)?, NLMSGERR_ATTR_OFFS)?;
        offset.ne_u32().map(|offset| offset as usize)
    }
}
