//! IPv4 (RFC 791).

use super::{Content, Halves, Header, Icmp, TCP, halved, joined, sum};
use crate::checksum::{difference, fold, pseudo, replaced};
use crate::flow::{Address, Tuple};

#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct V4 {
    version_length: u8,
    service: u8,
    length: u16,
    id: u16,
    fragment: u16,
    ttl: u8,
    protocol: u8,
    checksum: u16,
    source: [u16; 2],
    target: [u16; 2],
}

pub const KIND: u16 = 0x0800;
const TTL: u8 = 64;

const UNREACHABLE: u8 = 3;
const FRAGMENTATION_NEEDED: u8 = 4;
const TIME_EXCEEDED: u8 = 11;
const PARAMETER_PROBLEM: u8 = 12;

const MORE_FRAGMENTS: u16 = 0x2000_u16.to_be();
const DO_NOT_FRAGMENT: u16 = 0x4000_u16.to_be();
const FRAGMENT_OFFSET: u16 = 0x1fff_u16.to_be();

// SAFETY: `u16`, and bytes in pairs: the size is the fields' and even.
unsafe impl Halves for V4 {}

const _: () = assert!(size_of::<V4>() == 20 && align_of::<V4>() == 2);

impl V4 {
    /// The class of service, which routing may look at.
    #[inline(always)]
    pub const fn service(&self) -> u8 {
        self.service
    }
}

impl Header for V4 {
    const SUMMED: bool = true;
    const ICMP: u8 = 1;

    #[inline(always)]
    fn content(&self, _load: impl Fn(usize) -> Result<[u8; 4], i64>) -> Content {
        let length = u32::from(self.version_length & 15) * 4;
        if self.protocol == Self::ICMP {
            let whole = self.version_length == 0x45 && self.fragment & (FRAGMENT_OFFSET | MORE_FRAGMENTS) == 0;
            return if whole { Content::Icmp } else { Content::Other };
        }
        if self.protocol != TCP
            || self.version_length >> 4 != 4
            || length < Self::LENGTH
            || self.fragment & FRAGMENT_OFFSET != 0
        {
            Content::Other
        } else if self.fragment & MORE_FRAGMENTS != 0 {
            Content::Fragment(length)
        } else if length != Self::LENGTH {
            Content::Behind(length)
        } else {
            Content::Tcp
        }
    }

    #[inline(always)]
    fn addresses(&self) -> (Address, Address) {
        (Address::v4(joined(self.source)), Address::v4(joined(self.target)))
    }

    #[inline(always)]
    fn set_addresses(&mut self, source: &Address, target: &Address) {
        self.source = halved(source.raw_v4());
        self.target = halved(target.raw_v4());
    }

    #[inline(always)]
    fn ttl(&self) -> u8 {
        self.ttl
    }

    #[inline(always)]
    fn set_ttl(&mut self, ttl: u8) {
        self.ttl = ttl;
    }

    #[inline(always)]
    fn length(&self) -> u32 {
        u32::from(u16::from_be(self.length))
    }

    #[inline(always)]
    fn correct(&mut self, difference: u32) {
        self.checksum = replaced(self.checksum, difference);
    }

    #[inline(always)]
    fn precedes_tcp(&self) -> bool {
        self.version_length == 0x45 && self.protocol == TCP && self.fragment & FRAGMENT_OFFSET == 0
    }

    #[inline(always)]
    fn with(source: &Address, target: &Address, protocol: u8, length: u16) -> Self {
        let mut header = Self {
            version_length: 0x45,
            service: 0,
            length: (Self::LENGTH as u16 + length).to_be(),
            id: 0,
            fragment: DO_NOT_FRAGMENT,
            ttl: TTL,
            protocol,
            checksum: 0,
            source: halved(source.raw_v4()),
            target: halved(target.raw_v4()),
        };
        header.checksum = !fold(sum(&header));
        header
    }

    #[inline(always)]
    fn pseudo(source: &Address, target: &Address, length: u16) -> u32 {
        pseudo(source.raw_v4(), target.raw_v4(), length)
    }

    #[inline(always)]
    fn icmp_pseudo(_source: &Address, _target: &Address, _length: u16) -> u32 {
        0
    }

    #[inline(always)]
    fn is_error(kind: u8) -> bool {
        matches!(kind, UNREACHABLE | TIME_EXCEEDED | PARAMETER_PROBLEM)
    }

    /// RFC 1191, 4.
    #[inline(always)]
    fn too_big(mtu: u16) -> Icmp {
        Icmp { kind: UNREACHABLE, code: FRAGMENTATION_NEEDED, checksum: 0, rest: [0, mtu.to_be()] }
    }

    #[inline(always)]
    fn difference(from: &Tuple, to: &Tuple) -> u32 {
        let addresses = |tuple: &Tuple| [tuple.source.raw_v4(), tuple.target.raw_v4()];
        difference(&addresses(from), &addresses(to))
    }
}
