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

pub mod expr;

use crate::schema::{Family, Kind, SLOTS, SetId};
pub use expr::Expr;
use expr::{
    STATE_ESTABLISHED, STATE_INVALID, STATE_NEW, STATUS_CONFIRMED, STATUS_DNAT, Side, any_of, live, not_a_pure_syn,
    original, packet, registers, state, status, tcp,
};

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

// linux/netfilter_ipv4.h
const PRIORITY_DSTNAT: i32 = -100;
const PRIORITY_FILTER: i32 = 0;
const PRIORITY_SRCNAT: i32 = 100;

pub const GUARD: &str = "guard";
pub const FENCE: &str = "fence";

/// All chains, those first that others lead to.
pub fn chains() -> Vec<Chain> {
    use libc::{NF_INET_FORWARD, NF_INET_LOCAL_IN, NF_INET_LOCAL_OUT, NF_INET_POST_ROUTING, NF_INET_PRE_ROUTING};
    let base = |name, kind, number: i32, priority, rules| Chain {
        name,
        hook: Some(Hook { kind, number: number as u32, priority }),
        rules,
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
        // Forwarded ones may be of connections that pass through here to the same server and are none of our business.
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
