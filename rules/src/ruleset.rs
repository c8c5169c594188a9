//! The chains and rules of shunt's table, as data.
//!
//! ```text
//! nat prerouting, nat output      dnat by map, which decides for a connection's first packet
//! nat postrouting                 masquerade what we have mapped, or take an address of the listener's pool
//! filter input, forward, output   @live → accept;  other TCP, and ICMP that is related to a flow → chain guard
//! chain guard                     of our listeners? → chain fence
//! chain fence                     new and live → chain admit;  spared → accept, unless blocked;  not live: RST or silence
//! chain admit                     too many connections? RST
//! filter output, early            our own questions to the ends of severed flows: leave them to no flow
//! ```
//!
//! The guard rests on the flow's own conntrack tuples: a packet of one of our listeners passes if, and only if, its pair
//! (original destination, reply source) is in @live. `accept` only ends the evaluation of our own chain; it overrides
//! nobody's firewall.

pub mod expr;

use std::collections::BTreeSet;

use crate::schema::{Family, Groups, Kind, Reason, SLOTS, SetId, TICKLE_MARK};
pub use expr::Expr;
use expr::{
    STATE_INVALID, STATE_NEW, STATE_RELATED, STATUS_CONFIRMED, STATUS_DNAT, Side, any_of, blocked, client, established,
    live, not_a_pure_syn, not_tcp, of_tcp, original, packet, protocol, pure_syn, registers, reset_bit, spared, state,
    status, tcp,
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

/// What the rules depend on, beside this version.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layout {
    pub groups: Groups,
    /// The different limits of connections per source: the kernel knows no other way than a rule for each.
    pub source_limits: BTreeSet<u32>,
}

impl Layout {
    pub fn of(table: &str) -> Self {
        Self { groups: Groups::of(table), source_limits: BTreeSet::new() }
    }
}

/// Copies of SYNs per second and table: a flood of them must not keep the agent from its work.
const COPIES_PER_SECOND: u32 = 20_000;

// linux/netfilter_ipv4.h
const PRIORITY_RAW: i32 = -300;
const PRIORITY_DSTNAT: i32 = -100;
const PRIORITY_FILTER: i32 = 0;
const PRIORITY_SRCNAT: i32 = 100;

pub const GUARD: &str = "guard";
pub const FENCE: &str = "fence";
pub const ADMIT: &str = "admit";

/// All chains, those first that others lead to.
pub fn chains(layout: &Layout) -> Vec<Chain> {
    use libc::{NF_INET_FORWARD, NF_INET_LOCAL_IN, NF_INET_LOCAL_OUT, NF_INET_POST_ROUTING, NF_INET_PRE_ROUTING};
    let base = |name, kind, number: i32, priority, rules| Chain {
        name,
        hook: Some(Hook { kind, number: number as u32, priority }),
        rules,
    };
    vec![
        Chain { name: ADMIT, hook: None, rules: admit(layout) },
        Chain { name: FENCE, hook: None, rules: fence(layout.groups) },
        Chain { name: GUARD, hook: None, rules: guard(layout.groups) },
        base("early", "filter", NF_INET_LOCAL_OUT, PRIORITY_RAW, untracked()),
        base("prerouting", "nat", NF_INET_PRE_ROUTING, PRIORITY_DSTNAT, route()),
        base("route-output", "nat", NF_INET_LOCAL_OUT, PRIORITY_DSTNAT, route()),
        base("postrouting", "nat", NF_INET_POST_ROUTING, PRIORITY_SRCNAT, source()),
        base("input", "filter", NF_INET_LOCAL_IN, PRIORITY_FILTER, entrance(layout.groups, true)),
        base("forward", "filter", NF_INET_FORWARD, PRIORITY_FILTER, entrance(layout.groups, false)),
        base("output", "filter", NF_INET_LOCAL_OUT, PRIORITY_FILTER, entrance(layout.groups, false)),
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
    let mapped = |family| {
        let mut exprs = tcp();
        exprs.extend(status(STATUS_DNAT, true));
        exprs.extend(original(family));
        exprs
    };
    let masquerade = |family| {
        let mut exprs = mapped(family);
        exprs.push(Expr::Lookup { set: SetId { kind: Kind::Masquerade, family }, reg: 0, value: None });
        exprs.push(Expr::Masquerade);
        Rule { comment: "only what we have mapped", exprs }
    };
    // A slot is drawn for each connection. The kernel's own choice from a range depends on the client alone, and one
    // busy client would use up one address.
    let pool = |family| {
        let set = SetId { kind: Kind::Pool, family };
        let mut exprs = mapped(family);
        exprs.push(Expr::Random { modulus: SLOTS, reg: registers(set, set.key())[2] });
        exprs.push(Expr::Lookup { set, reg: 0, value: Some(0) });
        exprs.push(Expr::Snat { family, address: 0 });
        Rule { comment: "from a pool", exprs }
    };
    [Family::BOTH.map(masquerade), Family::BOTH.map(pool)].concat()
}

/// The questions of the severing thread: a flow of theirs would shadow the one that they ask about.
fn untracked() -> Vec<Rule> {
    let exprs = vec![
        Expr::Meta { key: libc::NFT_META_MARK, reg: 0 },
        Expr::Equal { reg: 0, data: TICKLE_MARK.to_ne_bytes().into() },
        Expr::Untracked,
    ];
    vec![Rule { comment: "our own questions", exprs }]
}

/// A base chain of the guard. The packets of live flows leave by the first or second rule; nothing else is on their way.
fn entrance(groups: Groups, input: bool) -> Vec<Rule> {
    let mut rules: Vec<Rule> = Family::BOTH
        .map(|family| {
            let mut exprs = established();
            exprs.extend(live(family));
            exprs.push(Expr::Accept);
            Rule { comment: "live", exprs }
        })
        .into();
    if input {
        // The host would answer a segment out of the window with a RST and so end a flow that it should only ignore.
        // Forwarded ones may be of connections that pass through here to the same server and are none of our business.
        rules.extend(invalid(groups, Kind::Backends, Side::Source, "out of a backend's window"));
    }
    let mut exprs = tcp();
    exprs.push(Expr::Jump(GUARD));
    rules.push(Rule { comment: "not live", exprs });
    for icmp in [libc::IPPROTO_ICMP, libc::IPPROTO_ICMPV6] {
        let mut exprs = protocol(icmp);
        exprs.extend(state(STATE_RELATED));
        exprs.extend(of_tcp());
        exprs.push(Expr::Jump(GUARD));
        rules.push(Rule { comment: "an error about a flow", exprs });
    }
    rules
}

/// Packets that conntrack counts to no flow. A RST among them may be the last word of a severed end.
fn invalid(groups: Groups, kind: Kind, side: Side, comment: &'static str) -> Vec<Rule> {
    let ours = |family| {
        let mut exprs = state(STATE_INVALID);
        exprs.extend(packet(family, side));
        exprs.push(Expr::Lookup { set: SetId { kind, family }, reg: 0, value: None });
        exprs
    };
    let mut rules = Vec::new();
    for family in Family::BOTH {
        let copy = vec![Expr::Copy { group: groups.resets }];
        rules.push(Rule { comment: "says that it is closed", exprs: [ours(family), reset_bit(), copy].concat() });
        rules.push(Rule { comment, exprs: [ours(family), vec![Expr::Counter, Expr::Drop]].concat() });
    }
    rules
}

/// Is the flow one of our listeners'? Invalid packets have no flow, so their own addresses must tell.
fn guard(groups: Groups) -> Vec<Rule> {
    let ours = |family| {
        let mut exprs = original(family);
        exprs.push(Expr::Lookup { set: SetId { kind: Kind::Listeners, family }, reg: 0, value: None });
        exprs.push(Expr::Goto(FENCE));
        Rule { comment: "ours", exprs }
    };
    let mut rules: Vec<Rule> = Family::BOTH.map(ours).into();
    rules.extend(invalid(groups, Kind::Listeners, Side::Destination, "out of a client's window"));
    rules
}

/// The flow is one of our listeners' and is either not live or not established.
fn fence(groups: Groups) -> Vec<Rule> {
    let mut rules = Vec::new();
    let mut rule = |comment, parts: &[Vec<Expr>]| rules.push(Rule { comment, exprs: parts.concat() });
    let reset = || vec![Expr::Counter, Expr::Reset];
    let drop = || vec![Expr::Counter, Expr::Drop];
    let told = || vec![Expr::Copy { group: groups.resets }, Expr::Counter, Expr::Reset];
    let replayed = || vec![Expr::Copy { group: groups.syns }, Expr::Counter, Expr::Drop];
    let listed = |kind, family| {
        let lookup = Expr::Lookup { set: SetId { kind, family }, reg: 0, value: None };
        [original(family), vec![lookup]].concat()
    };

    // First, for what begins well has nothing more to be asked.
    for family in Family::BOTH {
        rule("new and live", &[state(STATE_NEW), pure_syn(), live(family), vec![Expr::Goto(ADMIT)]]);
    }
    // A spared pair is not live: new connections cannot reach it, and its flows come this way. What a blocked client sends
    // is dropped without an answer; what the server sends still reaches it.
    for family in Family::BOTH {
        let copied = vec![Expr::CopyWhole { group: groups.blocked }];
        rule("of a blocked client", &[tcp(), established(), blocked(family), spared(family), copied, drop()]);
    }
    for family in Family::BOTH {
        rule("spared", &[tcp(), established(), spared(family), vec![Expr::Accept]]);
    }
    // Its client has closed that flow and uses the port again. The SYN is put back and finds the new way once the old
    // entry is gone; the severing thread learns from it that the client's end is closed.
    let told_and_replayed = [vec![Expr::Copy { group: groups.resets }], replayed()].concat();
    rule("from the port of a flow whose backend left", &[tcp(), established(), pure_syn(), told_and_replayed]);
    rule("its backend left", &[tcp(), established(), told()]);
    for family in Family::BOTH {
        rule("an error about a live flow", &[not_tcp(), live(family), vec![Expr::Accept]]);
    }
    for family in Family::BOTH {
        rule("an error about a spared flow", &[not_tcp(), spared(family), vec![Expr::Accept]]);
    }
    rule("an error about a flow whose backend left", &[not_tcp(), drop()]);
    // What remains beside new flows are the resets of these very rules, which the kernel relates to their flows.
    rule("our own reset", &[any_of(libc::NFT_CT_STATE, STATE_NEW, false), vec![Expr::Return]]);
    // With tcp_loose a segment without a flow makes a new one, to a backend that knows nothing of it.
    rule("mid-stream, without a flow", &[not_a_pure_syn(), told()]);
    for family in Family::BOTH {
        rule("from a source that is not allowed", &[not_allowed(family), refused(family, Reason::NotAllowed), reset()]);
    }
    // The SYN is put back, and finds the new way.
    rule(
        "its backend left on the way to it",
        &[status(STATUS_DNAT, true), status(STATUS_CONFIRMED, false), replayed()],
    );
    rule("its backend left before it answered", &[status(STATUS_CONFIRMED, true), replayed()]);
    for family in Family::BOTH {
        let copy = vec![Expr::Rate { per_second: COPIES_PER_SECOND }, Expr::Copy { group: groups.syns }];
        rule("held: a copy to put back", &[listed(Kind::Hold, family), copy]);
    }
    for family in Family::BOTH {
        rule("held", &[listed(Kind::Hold, family), drop()]);
    }
    for family in Family::BOTH {
        rule("refused", &[listed(Kind::Fenced, family), reset()]);
    }
    // Fenced, then opened, then here: refused it would be an error that the client need not see.
    rule("overtaken by an opening", &[replayed()]);
    rules
}

/// A new connection to a live backend: may its source connect, and are there too many already?
fn admit(layout: &Layout) -> Vec<Rule> {
    let mut rules = Vec::new();
    let reset = || vec![Expr::Counter, Expr::Reset];
    for family in Family::BOTH {
        let exprs = [not_allowed(family), refused(family, Reason::NotAllowed), reset()].concat();
        rules.push(Rule { comment: "from a source that is not allowed", exprs });
    }
    for family in Family::BOTH {
        let mut exprs = original(family);
        // The element counts, and matches when there are more than it allows.
        exprs.push(Expr::Lookup { set: SetId { kind: Kind::Limited, family }, reg: 0, value: None });
        exprs.extend([refused(family, Reason::OverLimit), reset()].concat());
        rules.push(Rule { comment: "over the listener's limit", exprs });
    }
    for (limit, family) in layout.source_limits.iter().flat_map(|limit| Family::BOTH.map(|family| (*limit, family))) {
        let set = SetId { kind: Kind::PerSource, family };
        let mut exprs = original(family);
        exprs.push(Expr::Number { reg: registers(set, set.key())[2], value: limit });
        exprs.push(Expr::Lookup { set, reg: 0, value: None });
        let set = SetId { kind: Kind::Sources, family };
        let fields = registers(set, set.key());
        exprs.push(client(family, fields[2]));
        exprs.push(Expr::Number { reg: fields[3], value: limit });
        exprs.push(Expr::CountOver { set, reg: 0, limit });
        exprs.extend([refused(family, Reason::OverSourceLimit), reset()].concat());
        rules.push(Rule { comment: "over the limit of its source", exprs });
    }
    rules
}

fn not_allowed(family: Family) -> Vec<Expr> {
    let restricted = SetId { kind: Kind::Restricted, family };
    let allow = SetId { kind: Kind::Allow, family };
    let mut exprs = original(family);
    exprs.push(Expr::Lookup { set: restricted, reg: 0, value: None });
    exprs.push(client(family, registers(allow, allow.key())[2]));
    exprs.push(Expr::Missing { set: allow, reg: 0 });
    exprs
}

/// Counts a refusal for the listener; goes on in any case, since every listener that can refuse has an element for it.
fn refused(family: Family, reason: Reason) -> Vec<Expr> {
    let set = SetId { kind: Kind::Refused, family };
    let mut exprs = original(family);
    exprs.push(Expr::Number { reg: registers(set, set.key())[2], value: reason.number() });
    exprs.push(Expr::Lookup { set, reg: 0, value: None });
    exprs
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_packet_of_a_live_flow_is_asked_whether_it_is_spared_or_blocked() {
        let asks = |expr: &Expr| {
            let Expr::Lookup { set, .. } = expr else { return false };
            matches!(set.kind, Kind::Sparing | Kind::Blocked)
        };
        for chain in chains(&Layout::of("shunt")) {
            let asking = chain.rules.iter().filter(|rule| rule.exprs.iter().any(asks)).count();
            assert_eq!(asking > 0, chain.name == FENCE, "chain {}", chain.name);
            if chain.hook.is_some() && chain.rules.iter().any(|rule| rule.exprs.contains(&Expr::Jump(GUARD))) {
                assert!(chain.rules[..2].iter().all(|rule| rule.exprs.last() == Some(&Expr::Accept)), "{}", chain.name);
            }
        }
    }
}
