//! Reading and writing headers. What is read lies in the packet's linear part, which the verifier wants to see compared
//! with its end before each use; helpers that change the packet make all of that void.
//!
//! The programs are compiled once for each family of addresses: [`Ip`] is what they differ in.

pub mod v4;
pub mod v6;

use core::mem::offset_of;

use aya_ebpf::bindings::bpf_fib_lookup;
use aya_ebpf::programs::TcContext;
use shunt_ebpf_common::flow::{Address, Tuple};
use shunt_ebpf_common::tcp::Segment;

pub const TCP: u8 = 6;

/// Ethernet's header; interfaces without one are not attached to.
#[repr(C)]
pub struct Ethernet {
    pub target: [u16; 3],
    pub source: [u16; 3],
    pub kind: u16,
}

/// Numbers of 32 bits are halves here: the IP header begins at 14, so that Rust would find words unaligned.
#[repr(C)]
pub struct Tcp {
    pub source_port: u16,
    pub target_port: u16,
    pub sequence: [u16; 2],
    pub acknowledgement: [u16; 2],
    pub offset: u8,
    pub flags: u8,
    pub window: u16,
    pub checksum: u16,
    pub urgent: u16,
}

/// A packet with TCP right behind an IP header of the usual size.
#[repr(C)]
pub struct Headers<I> {
    pub ethernet: Ethernet,
    pub ip: I,
    pub tcp: Tcp,
}

/// What follows the IP header.
pub enum Content {
    Tcp,
    /// Something else, or the rest of a fragmented packet.
    Other,
    /// IP options or extension headers; where what they precede begins, counted from the IP header.
    Behind(u32),
    /// The first fragment of several.
    Fragment(u32),
}

/// An IP header.
pub trait Ip: Sized {
    /// Of the header's own checksum, if it has one.
    const CHECKSUM: Option<u32>;
    const LENGTH: u32 = size_of::<Self>() as u32;
    const TCP: u32 = IP + Self::LENGTH;
    const TCP_CHECKSUM: u32 = Self::TCP + offset_of!(Tcp, checksum) as u32;
    const FAMILY: u8;
    /// In `struct bpf_sock_tuple`.
    const SOCKET_TUPLE: u32;

    fn content(&self, ctx: &TcContext) -> Content;
    fn addresses(&self) -> (Address, Address);
    fn set_addresses(&mut self, source: &Address, target: &Address);
    fn ttl(&self) -> u8;
    fn set_ttl(&mut self, ttl: u8);
    /// With this header.
    fn length(&self) -> u32;
    /// Enters what routing may look at: class of service, flow label.
    fn classify(&self, fib: &mut bpf_fib_lookup);
    /// A header for a segment of `length` bytes.
    fn with(source: &Address, target: &Address, length: u16) -> Self;
    /// Of the pseudo-header of such a segment.
    fn pseudo(source: &Address, target: &Address, length: u16) -> u32;
    /// What a change of addresses adds to a sum.
    fn difference(from: &Tuple, to: &Tuple) -> u32;
    fn enter(fib: &mut bpf_fib_lookup, source: &Address, target: &Address);
    /// The source that routing has chosen.
    fn source(fib: &bpf_fib_lookup) -> Address;
}

pub const IP: u32 = size_of::<Ethernet>() as u32;

/// The headers, if they are all there and in one piece.
#[inline(always)]
pub fn headers<I: Ip>(ctx: &TcContext) -> Option<*mut Headers<I>> {
    const { assert!(align_of::<Headers<I>>() == 2) };
    let (start, end) = (ctx.data(), ctx.data_end());
    if start + size_of::<Headers<I>>() > end { None } else { Some(start as *mut Headers<I>) }
}

/// The same, gathering them first.
#[inline(always)]
pub fn gathered<I: Ip>(ctx: &TcContext) -> Option<*mut Headers<I>> {
    if let Some(headers) = headers(ctx) {
        return Some(headers);
    }
    ctx.pull_data(size_of::<Headers<I>>() as u32).ok()?;
    headers(ctx)
}

/// Two halves of a word that lie as they do in a packet.
#[inline(always)]
pub const fn joined(halves: [u16; 2]) -> u32 {
    halves[0] as u32 | (halves[1] as u32) << 16
}

#[inline(always)]
pub const fn halved(word: u32) -> [u16; 2] {
    [word as u16, (word >> 16) as u16]
}

impl<I: Ip> Headers<I> {
    #[inline(always)]
    pub fn tuple(&self) -> Tuple {
        let (source, target) = self.ip.addresses();
        Tuple { source, target, source_port: self.tcp.source_port, target_port: self.tcp.target_port, zero: 0 }
    }

    /// `None` if the lengths contradict each other.
    #[inline(always)]
    pub fn segment(&self) -> Option<Segment> {
        let length = self.ip.length();
        let tcp = u32::from(self.tcp.offset >> 4) * 4;
        let head = I::LENGTH + tcp;
        if tcp < size_of::<Tcp>() as u32 || length < head {
            return None;
        }
        Some(Segment {
            sequence: u32::from_be(joined(self.tcp.sequence)),
            acknowledgement: u32::from_be(joined(self.tcp.acknowledgement)),
            flags: self.tcp.flags,
            length: length - head,
        })
    }
}
