//! One direction of a connection. A connection has two entries in the flow table, one for the packets of either end, and
//! each of them is written by that end's packets only.

use crate::abi;

/// An IPv6 address, or an IPv4 address as `::ffff:a.b.c.d`, as in a packet.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Address(pub [u32; 4]);

impl Address {
    /// The third word of a mapped address.
    const MAPPED: u32 = 0x0000_ffff_u32.to_be();

    /// From an IPv4 address as it stands in a packet.
    #[inline(always)]
    pub const fn v4(raw: u32) -> Self {
        Self([0, 0, Self::MAPPED, raw])
    }

    /// The IPv4 address as it stands in a packet, whatever the address really is.
    #[inline(always)]
    pub const fn raw_v4(&self) -> u32 {
        self.0[3]
    }

    pub const fn is_v4(&self) -> bool {
        self.0[0] == 0 && self.0[1] == 0 && self.0[2] == Self::MAPPED
    }

    pub fn from_bytes(bytes: [u8; 16]) -> Self {
        let word = |at: usize| u32::from_ne_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
        Self([word(0), word(4), word(8), word(12)])
    }

    pub fn bytes(&self) -> [u8; 16] {
        let mut bytes = [0; 16];
        for (place, word) in bytes.chunks_exact_mut(4).zip(self.0) {
            place.copy_from_slice(&word.to_ne_bytes());
        }
        bytes
    }
}

/// Address and port, as in a packet.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Endpoint {
    pub address: Address,
    pub port: u16,
    pub zero: u16,
}

/// What a packet says whom it is from and to: the key of the flow table.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Tuple {
    pub source: Address,
    pub target: Address,
    pub source_port: u16,
    pub target_port: u16,
    pub zero: u32,
}

impl Tuple {
    /// As the other end's packets say it.
    #[inline(always)]
    #[must_use]
    pub const fn reversed(&self) -> Self {
        Self {
            source: self.target,
            target: self.source,
            source_port: self.target_port,
            target_port: self.source_port,
            zero: 0,
        }
    }
}

/// What becomes of the packets of one direction, and what they have said so far.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Flow {
    /// As the packet leaves. Reversed, it is the other direction's key.
    pub rewritten: Tuple,
    /// What the rewriting adds to a checksum: of the addresses, and of the ports.
    pub address_sum: u32,
    pub port_sum: u32,
    /// The slot of the pair that must be live, and the generation that it must be of.
    pub pair: u32,
    pub generation: u32,
    /// The slot of the mapping that it came in by.
    pub mapping: u32,
    /// Bits of [`state`].
    pub state: u32,
    /// The sequence number that follows what this end has sent.
    pub next: u32,
    /// The last acknowledgement that this end sent: an RST with this number is exactly in its window (RFC 5961, 3.2).
    pub acknowledged: u32,
    /// Bits of [`mark`]. Changed by atomic operations only, and only in the client's entry.
    pub marks: u64,
    /// Nanoseconds of boot time.
    pub opened: u64,
    pub seen: u64,
    /// IP bytes and packets that were passed on.
    pub bytes: u64,
    pub packets: u64,
    pub hop: Hop,
}

/// The next hop that routing has named, as it stands on the frame. Routing is asked anew after [`Hop::LASTS`], so that a
/// change of routes or of a neighbour's address is followed without anybody's help.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Hop {
    /// The number of the interface that the packets leave by; 0: none was named yet.
    pub interface: u32,
    /// When it was named, in units of [`Hop::TICK`] nanoseconds of boot time, around the end.
    pub named: u32,
    /// IP bytes that one packet may have.
    pub mtu: u16,
    pub source: [u16; 3],
    pub target: [u16; 3],
    pub zero: u16,
}

impl Hop {
    /// About a millisecond.
    pub const TICK: u64 = 1 << 20;
    /// In ticks, about a quarter of a second: a flow with a thousand packets a second asks for four of them.
    pub const LASTS: u32 = 256;

    #[inline(always)]
    pub const fn tick(now: u64) -> u32 {
        (now / Self::TICK) as u32
    }

    /// Whether a packet of that many IP bytes can take it.
    #[inline(always)]
    pub const fn takes(&self, length: u32, now: u64) -> bool {
        self.interface != 0 && Self::tick(now).wrapping_sub(self.named) < Self::LASTS && length <= self.mtu as u32
    }
}

/// Bits of [`Flow::state`].
pub mod state {
    /// These are the client's packets.
    pub const FROM_CLIENT: u32 = 1;
    /// A segment with ACK was seen, so that `acknowledged` means something.
    pub const ACKNOWLEDGED: u32 = 2;
    /// This end has sent its FIN.
    pub const FINISHED: u32 = 4;
    /// Both have, or one has sent an RST: the tuple may be used again.
    pub const CLOSED: u32 = 8;
    /// What this end sends goes to the host's own stack: the other end is a client on the proxy itself.
    pub const TO_HOST: u32 = 16;
    /// This end has spoken when its pair was dead, and was answered with an RST.
    pub const RESET: u32 = 32;
}

/// Bits of [`Flow::marks`].
pub mod mark {
    /// It takes one of its mapping's places.
    pub const LISTENER: u64 = 1;
    /// It takes one of its source's places at that mapping.
    pub const SOURCE: u64 = 2;
    /// Whoever clears these gives the places back: once.
    pub const PLACES: u64 = LISTENER | SOURCE;
    /// What the client sends is stopped.
    pub const BLOCKED: u64 = 4;
}

abi! {
    Address: 16 = [u32; 4];
    Endpoint: 20 = Address u16 u16;
    Tuple: 40 = Address Address u16 u16 u32;
    Hop: 24 = u32 u32 u16 [u16; 3] [u16; 3] u16;
    Flow: 136 = Tuple u32 u32 u32 u32 u32 u32 u32 u32 u64 u64 u64 u64 u64 Hop;
}

/// What the kernel takes for one entry of a preallocated hash: `struct htab_elem`, key and value each rounded up to eight
/// bytes, and at most two buckets.
pub const ENTRY_BYTES: usize = 48 + size_of::<Tuple>() + size_of::<Flow>() + 2 * 16;

/// A million flows are two million entries, and fit in 512 MB.
const _: () = assert!(2 * 1_000_000 * ENTRY_BYTES <= 512 * 1024 * 1024);
