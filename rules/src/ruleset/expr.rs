//! The expressions that rules are made of, and the conditions that ours have in common.

use crate::schema::{Family, Field, Kind, SetId};

/// The expressions of the nf_tables machine that we use. A `u32` named `reg` is the number of a 32-bit register, from 0.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Expr {
    Meta {
        key: i32,
        reg: u32,
    },
    Payload {
        base: i32,
        offset: u32,
        len: u32,
        reg: u32,
    },
    Ct {
        key: i32,
        direction: Option<Direction>,
        reg: u32,
    },
    And {
        reg: u32,
        mask: Vec<u8>,
    },
    Equal {
        reg: u32,
        data: Vec<u8>,
    },
    Differ {
        reg: u32,
        data: Vec<u8>,
    },
    /// Goes on if the key that begins in register `reg` is in the set; a map's value comes into register `value`.
    Lookup {
        set: SetId,
        reg: u32,
        value: Option<u32>,
    },
    /// Goes on if the key that begins in register `reg` is not in the set.
    Missing {
        set: SetId,
        reg: u32,
    },
    Number {
        reg: u32,
        value: u32,
    },
    /// Counts the flow for the key that begins in register `reg`, and goes on if it has more than `limit` now.
    CountOver {
        set: SetId,
        reg: u32,
        limit: u32,
    },
    /// Goes on for so many packets a second.
    Rate {
        per_second: u32,
    },
    /// Hands a copy of the packet's first bytes to whoever listens to the group.
    Copy {
        group: u16,
    },
    /// Hands a copy of the packet with all that it carries to whoever listens to the group.
    CopyWhole {
        group: u16,
    },
    Untracked,
    /// A random number below `modulus`.
    Random {
        modulus: u32,
        reg: u32,
    },
    Dnat {
        family: Family,
        address: u32,
        port: u32,
    },
    /// To an address and a random source port, so that ports that are still in use are found fast.
    Snat {
        family: Family,
        address: u32,
    },
    /// To the outgoing interface's address, likewise.
    Masquerade,
    Reset,
    Counter,
    Accept,
    Drop,
    Return,
    Jump(&'static str),
    Goto(&'static str),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    Original,
    Reply,
}

// linux/netfilter/nf_conntrack_common.h and nf_tables.h: 1 << (ctinfo + 1), and invalid apart.
pub const STATE_INVALID: u32 = 1 << 0;
pub const STATE_ESTABLISHED: u32 = 1 << 1;
pub const STATE_RELATED: u32 = 1 << 2;
pub const STATE_NEW: u32 = 1 << 3;
pub const STATUS_CONFIRMED: u32 = 1 << 3;
pub const STATUS_DNAT: u32 = 1 << 5;

#[derive(Clone, Copy)]
pub enum Side {
    Source,
    Destination,
}

/// Loads the packet's address and TCP port of one side into registers, as a set's key.
pub fn packet(family: Family, side: Side) -> Vec<Expr> {
    // Where RFC 791, 8200 and 9293 have them.
    let (offset, port) = match (family, side) {
        (Family::V4, Side::Source) => (12, 0),
        (Family::V4, Side::Destination) => (16, 2),
        (Family::V6, Side::Source) => (8, 0),
        (Family::V6, Side::Destination) => (24, 2),
    };
    let nfproto = match family {
        Family::V4 => libc::NFPROTO_IPV4,
        Family::V6 => libc::NFPROTO_IPV6,
    };
    let len = family.address_len() as u32;
    let mut exprs =
        vec![Expr::Meta { key: libc::NFT_META_NFPROTO, reg: 0 }, Expr::Equal { reg: 0, data: vec![nfproto as u8] }];
    exprs.extend(tcp());
    exprs.extend([
        Expr::Payload { base: libc::NFT_PAYLOAD_NETWORK_HEADER, offset, len, reg: 0 },
        Expr::Payload { base: libc::NFT_PAYLOAD_TRANSPORT_HEADER, offset: port, len: 2, reg: len / 4 },
    ]);
    exprs
}

/// Loads the address and port that the client dialled. Flows of the other family, and packets without one, end the rule.
pub fn original(family: Family) -> Vec<Expr> {
    let (key, port) = match family {
        Family::V4 => (libc::NFT_CT_DST_IP, 1),
        Family::V6 => (libc::NFT_CT_DST_IP6, 4),
    };
    vec![
        Expr::Ct { key, direction: Some(Direction::Original), reg: 0 },
        Expr::Ct { key: libc::NFT_CT_PROTO_DST, direction: Some(Direction::Original), reg: port },
    ]
}

/// Goes on if the flow's pair is live.
pub fn live(family: Family) -> Vec<Expr> {
    pair_in(Kind::Live, family)
}

/// Goes on if the flow's pair is spared.
pub fn spared(family: Family) -> Vec<Expr> {
    pair_in(Kind::Sparing, family)
}

/// Goes on if the flow's client is not to be heard, and it is the client that speaks.
pub fn blocked(family: Family) -> Vec<Expr> {
    let set = SetId { kind: Kind::Blocked, family };
    let [address, port, listener, listener_port] = registers(set, set.key())[..] else { return Vec::new() };
    let (source, destination) = match family {
        Family::V4 => (libc::NFT_CT_SRC_IP, libc::NFT_CT_DST_IP),
        Family::V6 => (libc::NFT_CT_SRC_IP6, libc::NFT_CT_DST_IP6),
    };
    let original = |key, reg| Expr::Ct { key, direction: Some(Direction::Original), reg };
    vec![
        Expr::Ct { key: libc::NFT_CT_DIRECTION, direction: None, reg: 0 },
        Expr::Equal { reg: 0, data: vec![Direction::Original as u8] },
        original(source, address),
        original(libc::NFT_CT_PROTO_SRC, port),
        original(destination, listener),
        original(libc::NFT_CT_PROTO_DST, listener_port),
        Expr::Lookup { set, reg: 0, value: None },
    ]
}

fn pair_in(kind: Kind, family: Family) -> Vec<Expr> {
    let set = SetId { kind, family };
    let key = match family {
        Family::V4 => libc::NFT_CT_SRC_IP,
        Family::V6 => libc::NFT_CT_SRC_IP6,
    };
    let [_, _, address, port] = registers(set, set.key())[..] else { return Vec::new() };
    let mut exprs = original(family);
    exprs.extend([
        Expr::Ct { key, direction: Some(Direction::Reply), reg: address },
        Expr::Ct { key: libc::NFT_CT_PROTO_SRC, direction: Some(Direction::Reply), reg: port },
        Expr::Lookup { set, reg: 0, value: None },
    ]);
    exprs
}

pub fn tcp() -> Vec<Expr> {
    protocol(libc::IPPROTO_TCP)
}

pub fn protocol(number: i32) -> Vec<Expr> {
    vec![Expr::Meta { key: libc::NFT_META_L4PROTO, reg: 0 }, Expr::Equal { reg: 0, data: vec![number as u8] }]
}

/// Goes on if the flow is TCP's, whatever the packet is.
pub fn of_tcp() -> Vec<Expr> {
    vec![
        Expr::Ct { key: libc::NFT_CT_PROTOCOL, direction: None, reg: 0 },
        Expr::Equal { reg: 0, data: vec![libc::IPPROTO_TCP as u8] },
    ]
}

pub fn not_tcp() -> Vec<Expr> {
    vec![
        Expr::Meta { key: libc::NFT_META_L4PROTO, reg: 0 },
        Expr::Differ { reg: 0, data: vec![libc::IPPROTO_TCP as u8] },
    ]
}

/// Loads the client's address behind what is loaded already, into register `reg`.
pub fn client(family: Family, reg: u32) -> Expr {
    let key = match family {
        Family::V4 => libc::NFT_CT_SRC_IP,
        Family::V6 => libc::NFT_CT_SRC_IP6,
    };
    Expr::Ct { key, direction: Some(Direction::Original), reg }
}

pub fn reset_bit() -> Vec<Expr> {
    const RST: u8 = 0x04;
    vec![
        Expr::Payload { base: libc::NFT_PAYLOAD_TRANSPORT_HEADER, offset: 13, len: 1, reg: 0 },
        Expr::And { reg: 0, mask: vec![RST] },
        Expr::Differ { reg: 0, data: vec![0] },
    ]
}

pub fn state(bits: u32) -> Vec<Expr> {
    any_of(libc::NFT_CT_STATE, bits, true)
}

pub fn status(bits: u32, set: bool) -> Vec<Expr> {
    any_of(libc::NFT_CT_STATUS, bits, set)
}

pub fn any_of(key: i32, bits: u32, set: bool) -> Vec<Expr> {
    let zero = 0u32.to_ne_bytes().to_vec();
    vec![
        Expr::Ct { key, direction: None, reg: 0 },
        Expr::And { reg: 0, mask: bits.to_ne_bytes().into() },
        if set { Expr::Differ { reg: 0, data: zero } } else { Expr::Equal { reg: 0, data: zero } },
    ]
}

/// A packet has one state, so that no mask is needed. On the way of every packet each expression counts.
pub fn established() -> Vec<Expr> {
    vec![
        Expr::Ct { key: libc::NFT_CT_STATE, direction: None, reg: 0 },
        Expr::Equal { reg: 0, data: STATE_ESTABLISHED.to_ne_bytes().into() },
    ]
}

pub fn pure_syn() -> Vec<Expr> {
    [beginning_flags(), vec![Expr::Equal { reg: 0, data: vec![SYN] }]].concat()
}

pub fn not_a_pure_syn() -> Vec<Expr> {
    [beginning_flags(), vec![Expr::Differ { reg: 0, data: vec![SYN] }]].concat()
}

const SYN: u8 = 0x02;

/// Loads what tells the beginning of a connection: SYN without ACK, RST and FIN (RFC 9293, 3.5).
fn beginning_flags() -> Vec<Expr> {
    const FIN_SYN_RST_ACK: u8 = 0x01 | 0x02 | 0x04 | 0x10;
    vec![
        Expr::Payload { base: libc::NFT_PAYLOAD_TRANSPORT_HEADER, offset: 13, len: 1, reg: 0 },
        Expr::And { reg: 0, mask: vec![FIN_SYN_RST_ACK] },
    ]
}

/// The first register of each field of a key.
pub fn registers(set: SetId, fields: &[Field]) -> Vec<u32> {
    (0..fields.len()).map(|field| set.len(&fields[..field]) as u32 / 4).collect()
}
