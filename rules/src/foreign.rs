//! Who else rewrites the destinations of packets on this host, and whether that could take a listener's.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::{fmt, io};

use nftnl_sys as sys;
use shunt_core::datapath::DatapathError;

use crate::netlink::nftnl::{Chain, Expression, Rule};
use crate::netlink::read::dump;
use crate::netlink::socket::Netlink;
use crate::transaction::kernel;

/// Somebody else's chain that rewrites destinations where we do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ForeignNat {
    /// Which one, in words.
    pub place: String,
    /// The listeners' ports that a rule of its table could take.
    pub ports: Vec<u16>,
}

impl fmt::Display for ForeignNat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.place)?;
        if self.ports.is_empty() {
            return Ok(());
        }
        let ports: Vec<_> = self.ports.iter().map(u16::to_string).collect();
        write!(f, "; a rule of that table takes port {}", ports.join(", "))
    }
}

/// Other tables' chains that rewrite destinations where we do, and which of the listeners' ports their rules could take.
/// When in doubt they could: what is in a set or map is not looked up.
pub fn foreign_nat(table: &str, listeners: &[SocketAddr]) -> Result<Vec<ForeignNat>, DatapathError> {
    let mut netlink = Netlink::open().map_err(kernel("open a netlink socket to netfilter"))?;
    let chains = nat_chains(&mut netlink, table).map_err(kernel("list the NAT chains of other tables"))?;
    let takers = takers(&mut netlink, listeners).map_err(kernel("list the rules of other tables"))?;
    let mut found: Vec<ForeignNat> = chains
        .into_iter()
        .map(|(place, hook)| {
            let ports: BTreeSet<u16> = takers
                .iter()
                .filter(|taker| taker.place.family == place.family && taker.place.table == place.table)
                .filter(|taker| taker.is_specific || taker.place.chain == place.chain)
                .flat_map(|taker| taker.ports.iter().copied())
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

/// A rule that rewrites destinations, and what it could take.
struct Taker {
    place: Place,
    ports: BTreeSet<u16>,
    /// It says itself which address or port it is about. A rule that does not may be led to by one that does.
    is_specific: bool,
}

/// The rules that could take what is meant for one of the listeners.
fn takers(netlink: &mut Netlink, listeners: &[SocketAddr]) -> io::Result<Vec<Taker>> {
    let request = |seq| dump(libc::NFT_MSG_GETRULE, libc::NFPROTO_UNSPEC, seq, |_| {});
    netlink.dump(request, Vec::new, |found, message| {
        let Some(rule) = Rule::parse(message) else { return Ok(()) };
        let mut conditions = Conditions { left: listeners.iter().copied().collect(), ..Conditions::default() };
        rule.expressions(|expr| conditions.meet(expr));
        if conditions.rewrites && !conditions.left.is_empty() {
            found.push(Taker {
                place: Place { family: rule.family(), table: rule.table(), chain: rule.chain() },
                ports: conditions.left.iter().map(SocketAddr::port).collect(),
                is_specific: conditions.is_specific,
            });
        }
        Ok(())
    })
}

/// What a rule asks of a packet, as far as it can be told: which listeners' packets could meet it.
#[derive(Default)]
struct Conditions {
    left: BTreeSet<SocketAddr>,
    loaded: Loaded,
    is_specific: bool,
    rewrites: bool,
}

#[derive(Clone, Copy, Default, PartialEq, Eq)]
enum Loaded {
    /// The destination, behind so many bytes of something else: `nft` reads neighbours in one.
    Address(usize),
    Port(usize),
    #[default]
    Other,
}

impl Conditions {
    fn meet(&mut self, expr: Expression<'_>) {
        let number =
            |attribute: u32| expr.data(attribute).and_then(|data| data.try_into().ok()).map(u32::from_ne_bytes);
        match expr.name().as_str() {
            "payload" => {
                let place = [sys::NFTNL_EXPR_PAYLOAD_BASE, sys::NFTNL_EXPR_PAYLOAD_OFFSET, sys::NFTNL_EXPR_PAYLOAD_LEN];
                self.loaded = match place.map(number) {
                    // linux/netfilter/nf_tables.h: network header 1, transport header 2
                    [Some(1), Some(16), Some(4)] | [Some(1), Some(24), Some(16)] => Loaded::Address(0),
                    [Some(1), Some(12), Some(8)] => Loaded::Address(4),
                    [Some(1), Some(8), Some(32)] => Loaded::Address(16),
                    [Some(2), Some(2), Some(2)] => Loaded::Port(0),
                    [Some(2), Some(0), Some(4)] => Loaded::Port(2),
                    _ => Loaded::Other,
                };
            }
            "cmp" => {
                let op = number(sys::NFTNL_EXPR_CMP_OP).and_then(|op| i32::try_from(op).ok());
                if let (Some(op), Some(data)) = (op, expr.data(sys::NFTNL_EXPR_CMP_DATA)) {
                    self.compare(op, data);
                }
            }
            "range" => {
                let (from, to) = (expr.data(sys::NFTNL_EXPR_RANGE_FROM_DATA), expr.data(sys::NFTNL_EXPR_RANGE_TO_DATA));
                if let (Some(from), Some(to)) = (from, to) {
                    self.compare(libc::NFT_CMP_GTE, from);
                    self.compare(libc::NFT_CMP_LTE, to);
                }
            }
            // What is in a set or map is not looked up: it could be ours.
            "lookup" => self.is_specific |= self.loaded != Loaded::Other,
            // A mask: what follows compares a part.
            "bitwise" => self.loaded = Loaded::Other,
            // iptables: xt_tcp begins with the ranges of source and destination ports, in host order.
            "match" => {
                if let Some((low, high)) = expr.data(sys::NFTNL_EXPR_MT_INFO).and_then(destination_ports) {
                    self.is_specific |= (low, high) != (0, u16::MAX);
                    self.left.retain(|listener| (low..=high).contains(&listener.port()));
                }
            }
            "nat" => self.rewrites |= number(sys::NFTNL_EXPR_NAT_TYPE) == Some(libc::NFT_NAT_DNAT as u32),
            "redir" => self.rewrites = true,
            "target" => {
                let name = expr.data(sys::NFTNL_EXPR_TG_NAME).unwrap_or_default();
                self.rewrites |= name.starts_with(b"DNAT") || name.starts_with(b"REDIRECT");
            }
            _ => {}
        }
    }

    /// Both sides are in network order, so that bytes compare as numbers do.
    fn compare(&mut self, op: i32, data: &[u8]) {
        let (Loaded::Address(before) | Loaded::Port(before)) = self.loaded else { return };
        let Some(data) = data.get(before..) else { return };
        let holds = |field: &[u8]| match op {
            libc::NFT_CMP_EQ => field == data,
            // What differs may be what stands before.
            libc::NFT_CMP_NEQ => before > 0 || field != data,
            libc::NFT_CMP_LT => field < data,
            libc::NFT_CMP_LTE => field <= data,
            libc::NFT_CMP_GT => field > data,
            libc::NFT_CMP_GTE => field >= data,
            _ => true,
        };
        let is_port = matches!(self.loaded, Loaded::Port(_));
        self.left.retain(|listener| match listener.ip() {
            _ if is_port => holds(&listener.port().to_be_bytes()),
            IpAddr::V4(ip) => holds(&ip.octets()),
            IpAddr::V6(ip) => holds(&ip.octets()),
        });
        self.is_specific = true;
    }
}

fn destination_ports(xt_tcp: &[u8]) -> Option<(u16, u16)> {
    let bound = |at: usize| xt_tcp.get(at..at + 2)?.try_into().ok().map(u16::from_ne_bytes);
    Some((bound(4)?, bound(6)?)).filter(|(low, high)| low <= high)
}

fn family(number: u32) -> &'static str {
    match i32::try_from(number) {
        Ok(libc::NFPROTO_INET) => "inet",
        Ok(libc::NFPROTO_IPV4) => "ip",
        Ok(libc::NFPROTO_IPV6) => "ip6",
        _ => "other",
    }
}
