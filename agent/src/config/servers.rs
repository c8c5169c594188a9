//! The servers of a cluster: from `"db1.example:3306"` or `{ address = …, weight = 2 }` to addresses.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::ops::Range;

use shunt_core::config::{Promotion, ServerConfig};

use super::cluster::HOMES;
use super::diagnostic::quote;
use super::page::Page;
use super::resolve::Resolved;
use super::section::{Section, Value};
use super::values::{self, Location};

/// A server as far as it could be read.
pub(super) struct ServerDraft {
    pub(super) location: Option<Location>,
    /// Known once it has been resolved.
    pub(super) address: Option<SocketAddr>,
    pub(super) span: Range<usize>,
    label: String,
    dc: Option<String>,
    pub(super) promotion: Promotion,
    weight: u32,
}

const WEIGHT: (u32, u32) = (0, 1000);

pub(super) fn read(value: &Value<'_>) -> Vec<ServerDraft> {
    if value.is_text() {
        value.wrong_type::<()>("a list", Some("in brackets: [\"10.0.0.11:3306\"]".into()));
        return Vec::new();
    }
    let list = value.list().unwrap_or_default();
    if list.is_empty() {
        value.page.missing(&value.span, "`servers` has no server", Some("such as [\"10.0.0.11:3306\"]".into()));
    }
    list.iter().filter_map(read_server).collect()
}

fn read_server(value: &Value<'_>) -> Option<ServerDraft> {
    let bare = ServerDraft {
        location: None,
        address: None,
        span: value.span.clone(),
        label: String::new(),
        dc: None,
        promotion: Promotion::default(),
        weight: 1,
    };
    if value.is_text() {
        return Some(ServerDraft { location: value.parsed(values::location), label: value.text()?.to_owned(), ..bare });
    }
    if !value.is_table() {
        let hint = "a string such as \"10.0.0.11:3306\", or { address = \"10.0.0.11:3306\", weight = 2 }";
        return value.wrong_type("a server", Some(hint.into()));
    }
    let mut section = Section::new(value.page, "the server", value.span.clone(), value.table()?);
    let address = section.require("address", "address = \"10.0.0.11:3306\"");
    let dc = section.get("dc").and_then(|value| value.parsed(values::data_centre));
    let server = ServerDraft {
        location: address.as_ref().and_then(|value| value.parsed(values::location)),
        span: address.as_ref().map_or(value.span.clone(), |value| value.span.clone()),
        label: address.and_then(|value| value.is_text().then(|| value.text()).flatten()).unwrap_or_default().to_owned(),
        dc: dc.map(str::to_owned),
        promotion: section.choice("promotion", &PROMOTIONS).unwrap_or_default(),
        weight: section.integer("weight", WEIGHT).unwrap_or(bare.weight),
        ..bare
    };
    section.finish(&HOMES);
    Some(server)
}

const PROMOTIONS: [(&str, Promotion); 5] = [
    ("must", Promotion::Must),
    ("prefer", Promotion::Prefer),
    ("neutral", Promotion::Neutral),
    ("prefer_not", Promotion::PreferNot),
    ("must_not", Promotion::MustNot),
];

impl ServerDraft {
    /// The server's address in the family of the cluster's listeners; what stands against it is noted.
    pub(super) fn settle(&self, page: &Page, ip_v6: Option<bool>, resolved: &Resolved) -> Option<SocketAddr> {
        let family = |v6| if v6 { "IPv6" } else { "IPv4" };
        let crosses = || Some("NAT does not cross address families".to_owned());
        match self.location.as_ref()? {
            Location::Address(address) => {
                if let Some(v6) = ip_v6.filter(|v6| *v6 != address.is_ipv6()) {
                    let is = family(address.is_ipv6());
                    let message = format!("{address} is {is}, the cluster's listeners are {}", family(v6));
                    page.error(&self.span, message, crosses());
                    return None;
                }
                Some(*address)
            }
            Location::Name { host, port } => {
                let all = match resolved.get(host) {
                    Some(Ok(all)) => all,
                    Some(Err(why)) => {
                        page.error(&self.span, format!("{} does not resolve: {why}", quote(host)), None);
                        return None;
                    }
                    None => return None,
                };
                // The listeners' own error says enough when their family is unknown.
                let fit: BTreeSet<IpAddr> =
                    all.iter().copied().filter(|ip| ip.is_ipv6() == ip_v6.unwrap_or(ip.is_ipv6())).collect();
                let Some(first) = fit.first() else {
                    let wanted = ip_v6.map_or("", family);
                    let message =
                        format!("{} has no {wanted} address, which the cluster's listeners need", quote(host));
                    page.error(&self.span, message, crosses());
                    return None;
                };
                if let Err(complaint) = values::reachable(*first) {
                    let message = format!("{} resolves to {first}: {}", quote(host), complaint.message);
                    page.error(&self.span, message, None);
                    return None;
                }
                if fit.len() > 1 && ip_v6.is_some() {
                    let message =
                        format!("{} has {} addresses; shunt takes {first}, the lowest", quote(host), fit.len());
                    page.warning(&self.span, message, Some("a server is one address: write it".into()));
                }
                Some(SocketAddr::new(*first, *port))
            }
        }
    }

    pub(super) fn finish(self) -> Option<ServerConfig> {
        Some(ServerConfig {
            address: self.address?,
            label: self.label,
            dc: self.dc,
            promotion: self.promotion,
            weight: self.weight,
        })
    }
}
