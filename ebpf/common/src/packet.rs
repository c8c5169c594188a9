//! Headers as they lie in a packet, read and written the same way by the programs and by tests on the host. Nothing here knows
//! how a packet is had: whoever calls has found it long enough, or lends a way to load its bytes.
//!
//! The programs are compiled once for each family of addresses: [`Header`] is what they differ in.

pub mod v4;
pub mod v6;

use core::mem::offset_of;

use crate::flow::{Address, Tuple};
use crate::tcp::Segment;

pub const TCP: u8 = 6;

/// Where the IP header begins.
pub const IP: u32 = size_of::<Ethernet>() as u32;

/// Ethernet's header; interfaces without one are not attached to.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ethernet {
    pub target: [u16; 3],
    pub source: [u16; 3],
    pub kind: u16,
}

/// Numbers of 32 bits are halves here: the IP header begins at 14, so that Rust would find words unaligned.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
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
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Icmp {
    pub kind: u8,
    pub code: u8,
    pub checksum: u16,
    pub rest: [u16; 2],
}

/// A packet with TCP right behind an IP header of the usual size.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Headers<I> {
    pub ethernet: Ethernet,
    pub ip: I,
    pub tcp: Tcp,
}

/// An ICMP error about a segment, up to where every router quotes it.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
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

/// What may be looked for at any even place of a packet.
///
/// # Safety
/// `repr(C)`, aligned like a `u16`, without padding, and every pattern of bits is a value.
pub unsafe trait Halves: Copy {}

// SAFETY: of `u16`, of pairs of bytes, and of one another; sizes are asserted below.
unsafe impl Halves for Ethernet {}
// SAFETY: likewise.
unsafe impl Halves for Tcp {}
// SAFETY: likewise.
unsafe impl Halves for Icmp {}
// SAFETY: likewise.
unsafe impl<I: Header> Halves for Headers<I> {}
// SAFETY: likewise.
unsafe impl<I: Header> Halves for Complaint<I> {}

const _: () = {
    assert!(size_of::<Ethernet>() == 14 && size_of::<Tcp>() == 20 && size_of::<Icmp>() == 8);
    assert!(size_of::<Headers<v4::V4>>() == 54 && size_of::<Headers<v6::V6>>() == 74);
    assert!(size_of::<Complaint<v4::V4>>() == 70 && size_of::<Complaint<v6::V6>>() == 110);
    assert!(align_of::<Complaint<v4::V4>>() == 2 && align_of::<Complaint<v6::V6>>() == 2);
};

/// What follows the IP header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
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
pub trait Header: Halves {
    /// Whether it has a checksum of its own.
    const SUMMED: bool;
    const LENGTH: u32 = size_of::<Self>() as u32;
    const TCP: u32 = IP + Self::LENGTH;
    const TCP_CHECKSUM: u32 = Self::TCP + offset_of!(Tcp, checksum) as u32;
    /// The number of its ICMP.
    const ICMP: u8;

    /// `load` gives the four bytes at a place of the packet, or the error of whoever reads it.
    fn content(&self, load: impl Fn(usize) -> Result<[u8; 4], i64>) -> Content;
    fn addresses(&self) -> (Address, Address);
    fn set_addresses(&mut self, source: &Address, target: &Address);
    fn ttl(&self) -> u8;
    fn set_ttl(&mut self, ttl: u8);
    /// With this header.
    fn length(&self) -> u32;
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
}

impl<I: Header> Headers<I> {
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

impl<I: Header> Complaint<I> {
    /// Whether it is an error, and quotes a segment from its beginning on.
    #[inline(always)]
    pub fn is_about_tcp(&self) -> bool {
        I::is_error(self.icmp.kind) && self.about.precedes_tcp()
    }

    /// What the end's packets say that is to be told: the packet that is complained of left as the other one's.
    #[inline(always)]
    pub fn answer(&self) -> Tuple {
        let (source, target) = self.about.addresses();
        let (source_port, target_port) = (self.source_port, self.target_port);
        Tuple { source: target, target: source, source_port: target_port, target_port: source_port, zero: 0 }
    }
}

/// The sum of a header.
#[inline(always)]
pub fn sum<T: Halves>(header: &T) -> u32 {
    const { assert!(align_of::<T>() == 2 && size_of::<T>().is_multiple_of(2)) };
    let words = core::ptr::from_ref(header).cast::<u16>();
    let mut total = 0;
    let mut at = 0;
    while at < size_of::<T>() / 2 {
        // SAFETY: within the header, and aligned: headers are made of halves.
        total += u32::from(unsafe { *words.add(at) });
        at += 1;
    }
    total
}

/// A copy of what a packet begins with, if it is as long.
pub fn beginning<T: Halves>(packet: &[u8]) -> Option<T> {
    if packet.len() < size_of::<T>() {
        return None;
    }
    // SAFETY: as long as just asked, and any bits are a value.
    Some(unsafe { packet.as_ptr().cast::<T>().read_unaligned() })
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
