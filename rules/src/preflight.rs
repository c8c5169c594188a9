//! What can be said about this host before anything is installed on it: does nf_tables do all we need, and who else
//! rewrites addresses here?

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::{Duration, Instant};
use std::{fmt, io};

use ipnet::IpNet;
use nftnl_sys as sys;
use shunt_core::datapath::DatapathError;

use crate::element::{Key, Pair, Value};
use crate::netlink::batch::Batch;
use crate::netlink::nftnl::{Chain, Rule};
use crate::netlink::read::dump;
use crate::netlink::socket::Netlink;
use crate::netlink::write;
use crate::ruleset::Layout;
use crate::schema::Reason;
use crate::state::plan::Op;
use crate::transaction::{Rejected, kernel};

/// Installs our whole table under another name and takes it away again, in one transaction: the kernel checks all of it
/// and no packet ever meets it. The error names the object that this kernel, or this user, cannot have. A table that
/// has this name already stays as it is, and is an error.
pub fn scratch_transaction(table: &str) -> Result<(), DatapathError> {
    let mut netlink = Netlink::open().map_err(kernel("open a netlink socket to netfilter"))?;
    let mut batch = Batch::new(netlink.next_seq());
    let layout = Layout { source_limits: [100].into(), ..Layout::of(table) };
    write::create(&mut batch, table, &layout);
    let now = Instant::now();
    write::ops(&mut batch, table, &samples(now), now);
    write::delete_table(&mut batch, table);
    Rejected::commit(&mut netlink, batch).map(drop).map_err(|rejected| rejected.name(table))
}

/// An element for every set.
fn samples(now: Instant) -> Vec<Op> {
    let mut ops = Vec::new();
    // Of RFC 5737 and RFC 3849: addresses for examples.
    for (listener, backend) in [("192.0.2.1:3306", "192.0.2.2:3306"), ("[2001:db8::1]:3306", "[2001:db8::2]:3306")] {
        let (Ok(listener), Ok(backend)) = (listener.parse(), backend.parse()) else { continue };
        let plain = Value::default;
        let mapped = || Value { backend: Some(backend), ..Value::default() };
        let timed = || Value { deadline: Some(now + Duration::from_secs(1)), ..Value::default() };
        let elements = [
            (Key::Primary(listener), mapped()),
            (Key::Spread(listener, 0), mapped()),
            (Key::Live(Pair { listener, backend }), timed()),
            (Key::Listener(listener), plain()),
            (Key::Fenced(listener), plain()),
            (Key::Hold(listener), timed()),
            (Key::Masquerade(listener), plain()),
            (Key::Backend(backend), plain()),
            (Key::Restricted(listener), plain()),
            (Key::Allow(listener, IpNet::from(backend.ip())), plain()),
            (Key::Limited(listener), Value { limit: Some(100), ..plain() }),
            (Key::PerSource(listener, 100), plain()),
            (Key::Refused(listener, Reason::OverLimit), plain()),
            (Key::Pool(listener, 0), Value { backend: Some(SocketAddr::new(backend.ip(), 0)), ..plain() }),
        ];
        ops.extend(elements.map(|(key, value)| Op::Add(key, value)));
    }
    ops
}

/// Somebody else's chain that rewrites destinations where we do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ForeignNat {
    /// Which one, in words.
    pub place: String,
    /// The listeners' ports that a rule of its table names.
    pub ports: Vec<u16>,
}

impl fmt::Display for ForeignNat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.place)?;
        if self.ports.is_empty() {
            return Ok(());
        }
        let ports: Vec<_> = self.ports.iter().map(u16::to_string).collect();
        write!(f, "; a rule of that table mentions port {}", ports.join(", "))
    }
}

/// Other tables' chains that rewrite destinations where we do, and which of the listeners' ports their rules name.
/// Best effort: a port hidden in a set or range is not seen.
pub fn foreign_nat(table: &str, listeners: &[SocketAddr]) -> Result<Vec<ForeignNat>, DatapathError> {
    let mut netlink = Netlink::open().map_err(kernel("open a netlink socket to netfilter"))?;
    let chains = nat_chains(&mut netlink, table).map_err(kernel("list the NAT chains of other tables"))?;
    let mentions = mentions(&mut netlink, listeners).map_err(kernel("list the rules of other tables"))?;
    let mut found: Vec<ForeignNat> = chains
        .into_iter()
        .map(|(place, hook)| {
            let ports: BTreeSet<u16> = mentions
                .iter()
                .filter(|(other, _)| other.family == place.family && other.table == place.table)
                .flat_map(|(_, ports)| ports.iter().copied())
                .collect();
            let place = format!("table {} {} chain {}: {hook}", family(place.family), place.table, place.chain);
            ForeignNat { place, ports: ports.into_iter().collect() }
        })
        .collect();
    // The old iptables keeps its tables elsewhere; its NAT comes before ours.
    if std::fs::read_to_string("/proc/net/ip_tables_names").is_ok_and(|names| names.lines().any(|name| name == "nat")) {
        let place = "iptables-legacy has a nat table; its rules are not shown by nft".to_owned();
        found.push(ForeignNat { place, ports: Vec::new() });
    }
    Ok(found)
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Place {
    family: u32,
    table: String,
    chain: String,
}

/// The base chains of type nat at prerouting and output, with their hooks in words.
fn nat_chains(netlink: &mut Netlink, ours: &str) -> io::Result<Vec<(Place, String)>> {
    let request = |seq| dump(libc::NFT_MSG_GETCHAIN, libc::NFPROTO_UNSPEC, seq, |_| {});
    netlink.dump(request, Vec::new, |found, message| {
        let Some(chain) = Chain::parse(message) else { return Ok(()) };
        let Some(hook) = chain.hook().filter(|hook| hook.kind == "nat") else { return Ok(()) };
        let place = Place { family: chain.family(), table: chain.table(), chain: chain.name() };
        let name = match i32::try_from(hook.number) {
            Ok(libc::NF_INET_PRE_ROUTING) => "prerouting",
            Ok(libc::NF_INET_LOCAL_OUT) => "output",
            _ => return Ok(()),
        };
        if place.family != libc::NFPROTO_INET as u32 || place.table != ours {
            let order = match hook.priority {
                ..-100 => "before ours",
                -100 => "beside ours, in the order of their creation",
                _ => "after ours",
            };
            found.push((place, format!("nat at {name}, priority {}, {order}", hook.priority)));
        }
        Ok(())
    })
}

/// For each chain with rules the listeners' ports that they mention.
fn mentions(netlink: &mut Netlink, listeners: &[SocketAddr]) -> io::Result<BTreeMap<Place, Vec<u16>>> {
    let request = |seq| dump(libc::NFT_MSG_GETRULE, libc::NFPROTO_UNSPEC, seq, |_| {});
    let mut ports: Vec<u16> = listeners.iter().map(SocketAddr::port).collect();
    ports.sort_unstable();
    ports.dedup();
    netlink.dump(request, BTreeMap::<Place, Vec<u16>>::new, |found, message| {
        let Some(rule) = Rule::parse(message) else { return Ok(()) };
        let mut mentioned = Vec::new();
        rule.expressions(|expr| {
            let name = expr.name();
            let matches = |port: &u16| match name.as_str() {
                "cmp" => expr.data(sys::NFTNL_EXPR_CMP_DATA).is_some_and(|data| data == port.to_be_bytes()),
                // iptables: xt_tcp begins with the ranges of source and destination ports, in host order.
                "match" => expr.data(sys::NFTNL_EXPR_MT_INFO).is_some_and(|info| in_range(info, *port)),
                _ => false,
            };
            mentioned.extend(ports.iter().copied().filter(matches));
        });
        if !mentioned.is_empty() {
            let place = Place { family: rule.family(), table: rule.table(), chain: rule.chain() };
            let all = found.entry(place).or_default();
            all.extend(mentioned);
            all.sort_unstable();
            all.dedup();
        }
        Ok(())
    })
}

fn in_range(xt_tcp: &[u8], port: u16) -> bool {
    let bound = |at: usize| xt_tcp.get(at..at + 2).and_then(|b| b.try_into().ok()).map(u16::from_ne_bytes);
    // Everything is the default, and says nothing.
    matches!((bound(4), bound(6)), (Some(low), Some(high)) if (low, high) != (0, u16::MAX) && (low..=high).contains(&port))
}

fn family(number: u32) -> &'static str {
    match i32::try_from(number) {
        Ok(libc::NFPROTO_INET) => "inet",
        Ok(libc::NFPROTO_IPV4) => "ip",
        Ok(libc::NFPROTO_IPV6) => "ip6",
        _ => "other",
    }
}
