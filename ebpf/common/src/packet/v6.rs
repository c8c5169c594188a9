//! IPv6 (RFC 8200).

use super::{Content, Halves, Header, IP, Icmp, TCP, halved, joined};
use crate::checksum::{add, difference, pseudo_v6};
use crate::flow::{Address, Tuple};

#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct V6 {
    /// Version, traffic class, flow label.
    label: [u16; 2],
    length: u16,
    next: u8,
    hops: u8,
    source: [[u16; 2]; 4],
    target: [[u16; 2]; 4],
}

pub const KIND: u16 = 0x86dd;
const HOPS: u8 = 64;

const PACKET_TOO_BIG: u8 = 2;

/// Extension headers that are looked behind. Linux itself puts no limit; nobody needs more (RFC 8504, 5.3).
const EXTENSIONS: u32 = 4;
const HOP_BY_HOP: u8 = 0;
const ROUTING: u8 = 43;
const FRAGMENT: u8 = 44;
const DESTINATION: u8 = 60;

// SAFETY: `u16`, and bytes in pairs: the size is the fields' and even.
unsafe impl Halves for V6 {}

const _: () = assert!(size_of::<V6>() == 40 && align_of::<V6>() == 2);

impl V6 {
    /// Class and flow label as they stand in the packet, which routing may look at.
    #[inline(always)]
    pub const fn label(&self) -> u32 {
        joined(self.label) & 0x0fff_ffff_u32.to_be()
    }
}

impl Header for V6 {
    const SUMMED: bool = false;
    const ICMP: u8 = 58;

    #[inline(always)]
    fn content(&self, load: impl Fn(usize) -> Result<[u8; 4], i64>) -> Content {
        if self.next == TCP {
            return Content::Tcp;
        }
        if self.next == Self::ICMP {
            return Content::Icmp;
        }
        behind_extensions(load, self.next)
    }

    #[inline(always)]
    fn addresses(&self) -> (Address, Address) {
        let address = |halves: [[u16; 2]; 4]| {
            Address([joined(halves[0]), joined(halves[1]), joined(halves[2]), joined(halves[3])])
        };
        (address(self.source), address(self.target))
    }

    #[inline(always)]
    fn set_addresses(&mut self, source: &Address, target: &Address) {
        self.source = halves(source);
        self.target = halves(target);
    }

    #[inline(always)]
    fn ttl(&self) -> u8 {
        self.hops
    }

    #[inline(always)]
    fn set_ttl(&mut self, ttl: u8) {
        self.hops = ttl;
    }

    #[inline(always)]
    fn length(&self) -> u32 {
        u32::from(u16::from_be(self.length)) + Self::LENGTH
    }

    #[inline(always)]
    fn correct(&mut self, _difference: u32) {}

    #[inline(always)]
    fn precedes_tcp(&self) -> bool {
        self.next == TCP
    }

    #[inline(always)]
    fn with(source: &Address, target: &Address, protocol: u8, length: u16) -> Self {
        Self {
            label: halved(0x6000_0000_u32.to_be()),
            length: length.to_be(),
            next: protocol,
            hops: HOPS,
            source: halves(source),
            target: halves(target),
        }
    }

    #[inline(always)]
    fn pseudo(source: &Address, target: &Address, length: u16) -> u32 {
        pseudo_v6(&source.0, &target.0, length)
    }

    #[inline(always)]
    fn icmp_pseudo(source: &Address, target: &Address, length: u16) -> u32 {
        // The same as TCP's but for the protocol.
        add(Self::pseudo(source, target, length), u32::from(u16::from(Self::ICMP - TCP).to_be()))
    }

    /// The upper half are no errors (RFC 4443, 2.1).
    #[inline(always)]
    fn is_error(kind: u8) -> bool {
        kind < 128
    }

    /// RFC 4443, 3.2.
    #[inline(always)]
    fn too_big(mtu: u16) -> Icmp {
        Icmp { kind: PACKET_TOO_BIG, code: 0, checksum: 0, rest: [0, mtu.to_be()] }
    }

    #[inline(always)]
    fn difference(from: &Tuple, to: &Tuple) -> u32 {
        add(difference(&from.source.0, &to.source.0), difference(&from.target.0, &to.target.0))
    }
}

#[inline(always)]
const fn halves(address: &Address) -> [[u16; 2]; 4] {
    [halved(address.0[0]), halved(address.0[1]), halved(address.0[2]), halved(address.0[3])]
}

/// What comes behind extension headers, of which only a fragment's says more than its own length.
#[inline(never)]
fn behind_extensions(load: impl Fn(usize) -> Result<[u8; 4], i64>, next: u8) -> Content {
    let (mut next, mut at) = (next, V6::LENGTH);
    let mut fragmented = false;
    for _ in 0..EXTENSIONS {
        // Next header, length, and of a fragment its offset and whether more come.
        let Ok([kind, length, high, low]) = load((IP + at) as usize) else { return Content::Other };
        match next {
            FRAGMENT => {
                if u16::from_be_bytes([high, low]) & 0xfff8 != 0 {
                    return Content::Other;
                }
                fragmented = true;
                at += 8;
            }
            HOP_BY_HOP | ROUTING | DESTINATION => at += (u32::from(length) + 1) * 8,
            _ => return Content::Other,
        }
        next = kind;
        if next == TCP {
            return if fragmented { Content::Fragment(at) } else { Content::Behind(at) };
        }
    }
    Content::Other
}
