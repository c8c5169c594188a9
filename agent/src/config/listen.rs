//! One `[[listen]]` of a cluster's file.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::ops::Range;
use std::time::Duration;

use ipnet::IpNet;
use shunt_core::config::{Established, Fallback, Fenced, ListenerConfig, ListenerRole, Snat};

use super::cluster::HOMES;
use super::diagnostic::Diagnostic;
use super::page::Page;
use super::section::{Section, Value};
use super::values::{self, Complaint};

/// A listener as far as it could be read. What is left out or wrong has its default: a file with an error is not used.
pub(super) struct ListenerDraft {
    /// The address and where it is written; `None`: it could not be read.
    pub(super) address: Option<(SocketAddr, Range<usize>)>,
    role: Option<ListenerRole>,
    allow: Vec<IpNet>,
    snat: Snat,
    /// Where each range of the pool in `snat` is written.
    pool: Vec<(Range<usize>, AddressRange)>,
    established: Established,
    drain: Duration,
    fenced: Fenced,
    hold: Duration,
    max_connections: Option<u32>,
    max_connections_per_source: Option<u32>,
    max_lag: Duration,
    fallback: Fallback,
}

/// First and last.
type AddressRange = (IpAddr, IpAddr);

/// The kernel keeps both deadlines in its own timers. None is zero, which would mean "for ever" there.
const DRAIN: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(86_400));
const HOLD: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(3600));
const MAX_LAG: (Duration, Duration) = (Duration::ZERO, Duration::from_secs(30 * 86_400));
const CONNECTIONS: (u32, u32) = (1, u32::MAX);
/// The datapath draws an address from as many places as it has for backends: 120, divided by most small numbers.
const LARGEST_POOL: u128 = 120;

pub(super) fn read(mut section: Section<'_>) -> ListenerDraft {
    let role = section
        .require("role", "role = \"primary\"")
        .and_then(|value| value.choice(&[("primary", ListenerRole::Primary), ("replica", ListenerRole::Replica)]));
    let address = section.require("address", "address = \"10.0.0.2:3306\"").and_then(|value| {
        let address = value.parsed(|text| {
            let address = values::socket_address(text, "10.0.0.2:3306")?;
            values::reachable(address.ip()).map(|_| address)
        })?;
        Some((address, value.span))
    });
    let ip_v6 = address.as_ref().map(|(address, _)| address.is_ipv6());
    let (snat, pool) = section.get("snat").map(|value| read_snat(&value, ip_v6)).unwrap_or_default();
    let draft = ListenerDraft {
        role,
        allow: section.get("allow").map_or(Vec::new(), |value| read_allow(&value, ip_v6)),
        snat,
        pool,
        established: read_established(&mut section, role),
        drain: section.duration("drain", DRAIN).unwrap_or(Duration::from_secs(30)),
        fenced: section.choice_or_first("fenced", &[("hold", Fenced::Hold), ("refuse", Fenced::Refuse)]),
        hold: section.duration("hold", HOLD).unwrap_or(Duration::from_secs(30)),
        max_connections: section.integer("max_connections", CONNECTIONS),
        max_connections_per_source: section.integer("max_connections_per_source", CONNECTIONS),
        max_lag: section.duration("max_lag", MAX_LAG).unwrap_or(Duration::from_secs(5)),
        fallback: section.choice_or_first("fallback", &[("primary", Fallback::Primary), ("none", Fallback::None)]),
        address,
    };
    if role == Some(ListenerRole::Primary) {
        for key in ["max_lag", "fallback"] {
            section.warn_if_written(key, "means nothing on a primary listener", "it is for `role = \"replica\"`");
        }
    }
    section.finish(&HOMES);
    draft
}

fn read_allow(value: &Value<'_>, ip_v6: Option<bool>) -> Vec<IpNet> {
    let Some(list) = value.list() else { return Vec::new() };
    if list.is_empty() {
        let complaint = Complaint::new("`allow` lets nobody in");
        value.complain(complaint.hint("leave it out to let anyone in"));
    }
    let network = |value: &Value<'_>| {
        value.parsed(|text| {
            let net = values::network(text)?;
            same_family(ip_v6, net.addr().is_ipv6(), text).map(|()| net)
        })
    };
    list.iter().filter_map(network).collect()
}

fn read_snat(value: &Value<'_>, ip_v6: Option<bool>) -> (Snat, Vec<(Range<usize>, AddressRange)>) {
    if value.is_text() {
        let word = value.parsed(|text| {
            if text.starts_with(|c: char| c.is_ascii_digit()) {
                let complaint = Complaint::new("`snat` must be a list of addresses");
                return Err(complaint.hint(format!("in brackets: [\"{text}\"]")));
            }
            values::choice("snat", text, &[("masquerade", Word::Masquerade), ("none", Word::None)])
        });
        return match word {
            Some(Word::None) => (Snat::None, Vec::new()),
            Some(Word::Masquerade) | None => (Snat::Masquerade, Vec::new()),
        };
    }
    let list = value.list().unwrap_or_default();
    if list.is_empty() && value.is_list() {
        let complaint = Complaint::new("`snat` has no address");
        value.complain(complaint.hint("\"masquerade\" takes the address of the interface that the packet leaves by"));
    }
    let mut pool: Vec<(Range<usize>, AddressRange)> = Vec::new();
    for value in &list {
        let range = value.parsed(|text| {
            let range = values::address_range(text)?;
            same_family(ip_v6, range.0.is_ipv6(), text)?;
            match pool.iter().find(|(_, (first, last))| range.0 <= *last && *first <= range.1) {
                Some((_, (first, last))) => {
                    Err(Complaint::new(format!("`{text}` and `{first}-{last}` have addresses in common"))
                        .hint("every address once: an address that is there twice would not take more connections"))
                }
                None => Ok(range),
            }
        });
        pool.extend(range.map(|range| (value.span.clone(), range)));
    }
    let size = pool.iter().fold(0, |sum: u128, (_, range)| sum.saturating_add(addresses_in(*range)));
    if size > LARGEST_POOL {
        let complaint =
            Complaint::new(format!("the pool in `snat` has {size} addresses, at most {LARGEST_POOL} are possible"));
        value.complain(complaint.hint("each address takes some 64,000 connections to each server: few are enough"));
    }
    (Snat::Pool(pool.iter().map(|(_, range)| *range).collect()), pool)
}

/// How many there are; of all IPv6, as many as can be counted.
fn addresses_in((first, last): AddressRange) -> u128 {
    let number = |address| match address {
        IpAddr::V4(v4) => u128::from(u32::from(v4)),
        IpAddr::V6(v6) => u128::from(v6),
    };
    (number(last) - number(first)).saturating_add(1)
}

#[derive(Clone, Copy)]
enum Word {
    Masquerade,
    None,
}

fn read_established(section: &mut Section<'_>, role: Option<ListenerRole>) -> Established {
    let choices = [("reset", Established::Reset), ("drain", Established::Drain), ("keep", Established::Keep)];
    let Some(value) = section.get("established") else { return Established::Reset };
    let established = value.choice(&choices).unwrap_or(Established::Reset);
    if established == Established::Keep && role == Some(ListenerRole::Primary) {
        value.complain(
            Complaint::new(
                "`established = \"keep\"` on a primary listener: a primary that was replaced could still be written to",
            )
            .hint("\"reset\" ends its connections at once, \"drain\" after `drain`"),
        );
    }
    established
}

fn same_family(listener_is_v6: Option<bool>, is_v6: bool, text: &str) -> Result<(), Complaint> {
    let family = |v6| if v6 { "IPv6" } else { "IPv4" };
    match listener_is_v6 {
        Some(listener) if listener != is_v6 => {
            let message = format!("`{text}` is {}, its listener {}", family(is_v6), family(listener));
            Err(Complaint::new(message).hint("NAT does not cross address families"))
        }
        _ => Ok(()),
    }
}

impl ListenerDraft {
    /// Refuses a pool with one of the cluster's servers in it: its answers would never come back to us.
    pub(super) fn check_pool(&self, page: &Page, servers: &BTreeMap<SocketAddr, Range<usize>>) {
        for (span, (first, last)) in &self.pool {
            for (server, written) in servers.iter().filter(|(server, _)| (*first..=*last).contains(&server.ip())) {
                let message = format!("the server {server} is in the pool of source addresses");
                let error = Diagnostic::error(page.place(span), message);
                let other = Some((page.place(written), "the server".to_owned()));
                page.report(Diagnostic { other, ..error.hint("a pool is made of addresses of this host") });
            }
        }
    }

    /// The listener, if nothing of it is missing.
    pub(super) fn finish(self) -> Option<ListenerConfig> {
        Some(ListenerConfig {
            role: self.role?,
            address: self.address?.0,
            allow: self.allow,
            snat: self.snat,
            established: self.established,
            drain: self.drain,
            fenced: self.fenced,
            hold: self.hold,
            max_connections: self.max_connections,
            max_connections_per_source: self.max_connections_per_source,
            max_lag: self.max_lag,
            fallback: self.fallback,
        })
    }
}
