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

/// An ICMP message's header (RFC 792, RFC 4443).
#[repr(C)]
pub struct Icmp {
    pub kind: u8,
    pub code: u8,
    pub checksum: u16,
    pub rest: [u16; 2],
}

/// An ICMP error about a segment, up to where every router quotes it.
#[repr(C)]
pub struct Complaint<I> {
    pub ethernet: Ethernet,
    pub ip: I,
    pub icmp: Icmp,
    /// The header of the packet that is complained of.
    pub about: I,
    pub source_port: u16,
    pub target_port: u16,
    pub sequence: [u16; 2],
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
    /// ICMP, in one piece and right behind the IP header.
    Icmp,
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
    /// The number of its ICMP.
    const ICMP: u8;
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
    /// Corrects the header's checksum, if it has one.
    fn correct(&mut self, difference: u32);
    /// Whether TCP is right behind, from its beginning on.
    fn precedes_tcp(&self) -> bool;
    /// A header for `length` bytes of that protocol.
    fn with(source: &Address, target: &Address, protocol: u8, length: u16) -> Self;
    /// Of the pseudo-header of such a segment.
    fn pseudo(source: &Address, target: &Address, length: u16) -> u32;
    /// Of what ICMP's checksum covers besides the message.
    fn icmp_pseudo(source: &Address, target: &Address, length: u16) -> u32;
    /// Whether an ICMP message of that type is an error and quotes the packet that it is about.
    fn is_error(kind: u8) -> bool;
    /// The header of the error that names the way's MTU, without its checksum.
    fn too_big(mtu: u16) -> Icmp;
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
    start(ctx)
}

/// The packet's beginning: [`Headers`] or a [`Complaint`], if it is as long and in one piece.
#[inline(always)]
fn start<T>(ctx: &TcContext) -> Option<*mut T> {
    const { assert!(align_of::<T>() == 2) };
    let (start, end) = (ctx.data(), ctx.data_end());
    if start + size_of::<T>() > end { None } else { Some(start as *mut T) }
}

/// The same, gathering it first.
#[inline(always)]
pub fn gathered<T>(ctx: &TcContext) -> Option<*mut T> {
    if let Some(found) = start(ctx) {
        return Some(found);
    }
    ctx.pull_data(size_of::<T>() as u32).ok()?;
    start(ctx)
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
