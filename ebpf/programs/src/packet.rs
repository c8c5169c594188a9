//! Reading and writing headers. What is read lies in the packet's linear part, which the verifier wants to see compared
//! with its end before each use; helpers that change the packet make all of that void.

use core::mem::offset_of;

use aya_ebpf::programs::TcContext;
use shunt_ebpf_common::flow::{Address, Tuple};
use shunt_ebpf_common::tcp::Segment;

/// Ethernet's header; interfaces without one are not attached to.
#[repr(C)]
pub struct Ethernet {
    pub target: [u16; 3],
    pub source: [u16; 3],
    pub kind: u16,
}

#[repr(C)]
pub struct Ipv4 {
    pub version_length: u8,
    pub service: u8,
    pub length: u16,
    pub id: u16,
    pub fragment: u16,
    pub ttl: u8,
    pub protocol: u8,
    pub checksum: u16,
    // Halves, because the header begins at 14: in two steps of 16 bits nothing is unaligned in Rust's eyes.
    pub source: [u16; 2],
    pub target: [u16; 2],
}

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

/// An IPv4 packet without options, with TCP in it.
#[repr(C)]
pub struct Headers {
    pub ethernet: Ethernet,
    pub ip: Ipv4,
    pub tcp: Tcp,
}

const _: () = assert!(size_of::<Headers>() == 54 && align_of::<Headers>() == 2);

pub const IP: u32 = offset_of!(Headers, ip) as u32;
pub const IP_CHECKSUM: u32 = IP + offset_of!(Ipv4, checksum) as u32;
pub const TCP: u32 = offset_of!(Headers, tcp) as u32;
pub const TCP_CHECKSUM: u32 = TCP + offset_of!(Tcp, checksum) as u32;

/// The bits of [`Ipv4::fragment`] that make a fragment: more to come, or not the first.
pub const FRAGMENTED: u16 = 0x3fff_u16.to_be();
/// Of these, what says that it is not the first.
pub const LATER: u16 = 0x1fff_u16.to_be();
pub const DO_NOT_FRAGMENT: u16 = 0x4000_u16.to_be();

/// The headers, if they are all there and in one piece.
#[inline(always)]
pub fn headers(ctx: &TcContext) -> Option<*mut Headers> {
    let (start, end) = (ctx.data(), ctx.data_end());
    if start + size_of::<Headers>() > end { None } else { Some(start as *mut Headers) }
}

/// The same, gathering them first.
#[inline(always)]
pub fn gathered(ctx: &TcContext) -> Option<*mut Headers> {
    if let Some(headers) = headers(ctx) {
        return Some(headers);
    }
    ctx.pull_data(size_of::<Headers>() as u32).ok()?;
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

impl Headers {
    #[inline(always)]
    pub fn tuple(&self) -> Tuple {
        Tuple {
            source: Address::v4(joined(self.ip.source)),
            target: Address::v4(joined(self.ip.target)),
            source_port: self.tcp.source_port,
            target_port: self.tcp.target_port,
            zero: 0,
        }
    }

    /// `None` if the lengths contradict each other.
    #[inline(always)]
    pub fn segment(&self) -> Option<Segment> {
        let length = u32::from(u16::from_be(self.ip.length));
        let head = 20 + u32::from(self.tcp.offset >> 4) * 4;
        if head < 40 || length < head {
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
