//! The chains and rules of shunt's table, as data.
//!
//! ```text
//! nat prerouting, nat output      dnat by map, which decides for a connection's first packet
//! nat postrouting                 masquerade what we have mapped
//! filter input, forward, output   @live → accept;  other TCP → chain guard
//! chain guard                     of our listeners? → chain fence
//! chain fence                     not live: RST or silence
//! ```
//!
//! The guard rests on the flow's own conntrack tuples: a packet of one of our listeners passes if, and only if, its pair
//! (original destination, reply source) is in @live. `accept` only ends the evaluation of our own chain; it overrides
//! nobody's firewall.

use crate::schema::{Family, Field, Kind, SLOTS, SetId};

/// A chain: its name, what it hooks into, and its rules.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chain {
    pub name: &'static str,
    pub hook: Option<Hook>,
    pub rules: Vec<Rule>,
}

/// A base chain's place. Its policy is always accept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hook {
    pub kind: &'static str,
    pub number: u32,
    pub priority: i32,
}

/// A rule, with the comment under which `nft list` shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    pub comment: &'static str,
    pub exprs: Vec<Expr>,
}

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
    /// With a random source port, so that ports that are still in use are found fast.
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
const STATE_INVALID: u32 = 1 << 0;
const STATE_ESTABLISHED: u32 = 1 << 1;
const STATE_NEW: u32 = 1 << 3;
const STATUS_CONFIRMED: u32 = 1 << 3;
const STATUS_DNAT: u32 = 1 << 5;

// linux/netfilter_ipv4.h
const PRIORITY_DSTNAT: i32 = -100;
const PRIORITY_FILTER: i32 = 0;
const PRIORITY_SRCNAT: i32 = 100;

pub const GUARD: &str = "guard";
pub const FENCE: &str = "fence";

/// All chains, those first that others lead to.
pub fn chains() -> Vec<Chain> {
    use libc::{NF_INET_FORWARD, NF_INET_LOCAL_IN, NF_INET_LOCAL_OUT, NF_INET_POST_ROUTING, NF_INET_PRE_ROUTING};
    let base = |name, kind, number: i32, priority, rules| {
        Chain { name, hook: Some(Hook { kind, number: number as u32, priority }), rules }
    };
    vec![
        Chain { name: FENCE, hook: None, rules: fence() },
        Chain { name: GUARD, hook: None, rules: guard() },
        base("prerouting", "nat", NF_INET_PRE_ROUTING, PRIORITY_DSTNAT, route()),
        base("route-output", "nat", NF_INET_LOCAL_OUT, PRIORITY_DSTNAT, route()),
        base("postrouting", "nat", NF_INET_POST_ROUTING, PRIORITY_SRCNAT, source()),
        base("input", "filter", NF_INET_LOCAL_IN, PRIORITY_FILTER, entrance(true)),
        base("forward", "filter", NF_INET_FORWARD, PRIORITY_FILTER, entrance(false)),
        base("output", "filter", NF_INET_LOCAL_OUT, PRIORITY_FILTER, entrance(false)),
    ]
}

/// Where a connection goes, decided by its first packet.
fn route() -> Vec<Rule> {
    let mut rules = Vec::new();
    for family in Family::BOTH {
        let value = [0, family.address_len() as u32 / 4];
        for (kind, comment) in [(Kind::Primary, "to the primary"), (Kind::Spread, "to one of several")] {
            let set = SetId { kind, family };
            let mut exprs = packet(family, Side::Destination);
            if kind == Kind::Spread {
                exprs.push(Expr::Random { modulus: SLOTS, reg: registers(set, set.key())[2] });
            }
            exprs.push(Expr::Lookup { set, reg: 0, value: Some(0) });
            exprs.push(Expr::Dnat { family, address: value[0], port: value[1] });
            rules.push(Rule { comment, exprs });
        }
    }
    rules
}

/// The source address that backends see.
fn source() -> Vec<Rule> {
    let rule = |family| {
        let mut exprs = tcp();
        exprs.extend(status(STATUS_DNAT, true));
        exprs.extend(original(family));
        exprs.push(Expr::Lookup { set: SetId { kind: Kind::Masquerade, family }, reg: 0, value: None });
        exprs.push(Expr::Masquerade);
        Rule { comment: "only what we have mapped", exprs }
    };
    Family::BOTH.map(rule).into()
}

/// A base chain of the guard. The packets of live flows leave by the first or second rule; nothing else is on their way.
fn entrance(input: bool) -> Vec<Rule> {
    let mut rules: Vec<Rule> = Family::BOTH
        .map(|family| {
            let mut exprs = state(STATE_ESTABLISHED);
            exprs.extend(live(family));
            exprs.push(Expr::Accept);
            Rule { comment: "live", exprs }
        })
        .into();
    if input {
        // The host would answer a segment out of the window with a RST and so end a flow that it should only ignore.
        rules.extend(invalid(Kind::Backends, Side::Source, "out of a backend's window"));
    }
    let mut exprs = tcp();
    exprs.push(Expr::Jump(GUARD));
    rules.push(Rule { comment: "not live", exprs });
    rules
}

fn invalid(kind: Kind, side: Side, comment: &'static str) -> [Rule; 2] {
    Family::BOTH.map(|family| {
        let mut exprs = state(STATE_INVALID);
        exprs.extend(packet(family, side));
        exprs.push(Expr::Lookup { set: SetId { kind, family }, reg: 0, value: None });
        exprs.extend([Expr::Counter, Expr::Drop]);
        Rule { comment, exprs }
    })
}

/// Is the flow one of our listeners'? Invalid packets have no flow, so their own addresses must tell.
fn guard() -> Vec<Rule> {
    let ours = |family| {
        let mut exprs = original(family);
        exprs.push(Expr::Lookup { set: SetId { kind: Kind::Listeners, family }, reg: 0, value: None });
        exprs.push(Expr::Goto(FENCE));
        Rule { comment: "ours", exprs }
    };
    let mut rules: Vec<Rule> = Family::BOTH.map(ours).into();
    rules.extend(invalid(Kind::Listeners, Side::Destination, "out of a client's window"));
    rules
}

/// The flow is one of our listeners' and is either not live or not established.
fn fence() -> Vec<Rule> {
    let mut rules = Vec::new();
    let mut rule = |comment, conditions: Vec<Expr>, verdict: Vec<Expr>| {
        rules.push(Rule { comment, exprs: [conditions, verdict].concat() });
    };
    let reset = || vec![Expr::Counter, Expr::Reset];
    let drop = || vec![Expr::Counter, Expr::Drop];

    rule("its backend left", state(STATE_ESTABLISHED), reset());
    // What remains beside new flows are the resets of these very rules, which the kernel relates to their flows.
    let not_new = any_of(libc::NFT_CT_STATE, STATE_NEW, false);
    rule("our own reset", not_new, vec![Expr::Return]);
    // With tcp_loose a segment without a flow makes a new one, to a backend that knows nothing of it.
    rule("mid-stream, without a flow", not_a_pure_syn(), reset());
    for family in Family::BOTH {
        rule("live", live(family), vec![Expr::Accept]);
    }
    // Mapped, then the swap, then here. The client sends its SYN again and finds the new way.
    let raced = [status(STATUS_DNAT, true), status(STATUS_CONFIRMED, false)].concat();
    rule("overtaken by a swap", raced, drop());
    rule("its backend left before it answered", status(STATUS_CONFIRMED, true), reset());
    for (kind, comment, verdict) in [(Kind::Hold, "held", drop()), (Kind::Fenced, "refused", reset())] {
        for family in Family::BOTH {
            let mut listener = original(family);
            listener.push(Expr::Lookup { set: SetId { kind, family }, reg: 0, value: None });
            rule(comment, listener, verdict.clone());
        }
    }
    // Fenced, then opened, then here: refused it would be an error that the client need not see.
    rule("overtaken by an opening", Vec::new(), drop());
    rules
}

#[derive(Clone, Copy)]
enum Side {
    Source,
    Destination,
}

/// Loads the packet's address and TCP port of one side into registers, as a set's key.
fn packet(family: Family, side: Side) -> Vec<Expr> {
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
    let mut exprs = vec![
        Expr::Meta { key: libc::NFT_META_NFPROTO, reg: 0 },
        Expr::Equal { reg: 0, data: vec![nfproto as u8] },
    ];
    exprs.extend(tcp());
    exprs.extend([
        Expr::Payload { base: libc::NFT_PAYLOAD_NETWORK_HEADER, offset, len, reg: 0 },
        Expr::Payload { base: libc::NFT_PAYLOAD_TRANSPORT_HEADER, offset: port, len: 2, reg: len / 4 },
    ]);
    exprs
}

/// Loads the address and port that the client dialled. Flows of the other family, and packets without one, end the rule.
fn original(family: Family) -> Vec<Expr> {
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
fn live(family: Family) -> Vec<Expr> {
    let set = SetId { kind: Kind::Live, family };
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

fn tcp() -> Vec<Expr> {
    vec![
        Expr::Meta { key: libc::NFT_META_L4PROTO, reg: 0 },
        Expr::Equal { reg: 0, data: vec![libc::IPPROTO_TCP as u8] },
    ]
}

fn state(bits: u32) -> Vec<Expr> {
    any_of(libc::NFT_CT_STATE, bits, true)
}

fn status(bits: u32, set: bool) -> Vec<Expr> {
    any_of(libc::NFT_CT_STATUS, bits, set)
}

fn any_of(key: i32, bits: u32, set: bool) -> Vec<Expr> {
    let zero = 0u32.to_ne_bytes().to_vec();
    vec![
        Expr::Ct { key, direction: None, reg: 0 },
        Expr::And { reg: 0, mask: bits.to_ne_bytes().into() },
        if set { Expr::Differ { reg: 0, data: zero } } else { Expr::Equal { reg: 0, data: zero } },
    ]
}

/// SYN without ACK, RST and FIN begins a connection (RFC 9293, 3.5).
fn not_a_pure_syn() -> Vec<Expr> {
    const FIN_SYN_RST_ACK: u8 = 0x01 | 0x02 | 0x04 | 0x10;
    vec![
        Expr::Payload { base: libc::NFT_PAYLOAD_TRANSPORT_HEADER, offset: 13, len: 1, reg: 0 },
        Expr::And { reg: 0, mask: vec![FIN_SYN_RST_ACK] },
        Expr::Differ { reg: 0, data: vec![0x02] },
    ]
}

/// The first register of each field of a key.
fn registers(set: SetId, fields: &[Field]) -> Vec<u32> {
    (0..fields.len()).map(|field| set.len(&fields[..field]) as u32 / 4).collect()
}
