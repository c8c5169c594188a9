//! A file of `clusters.d`: first read on its own, as a draft; its servers' names are resolved, and it is compared with the
//! other files, before it becomes a `ClusterConfig`.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::ops::Range;
use std::time::Duration;

use shunt_core::ClusterName;
use shunt_core::config::{ClusterConfig, DataLoss, FailoverMode, ProbeConfig, Promoting};

use super::agent::{DEFAULT_CREDENTIALS, read_probe};
use super::diagnostic::{Diagnostic, quote};
use super::listen::{self, ListenerDraft};
use super::page::Page;
use super::resolve::Resolved;
use super::section::{Section, Value};
use super::servers::{self, ServerDraft};
use super::values::{self, Complaint, Location};

/// A cluster's file as far as it could be read.
pub(super) struct Draft {
    pub(super) name: Option<(ClusterName, Range<usize>)>,
    pub(super) listeners: Vec<ListenerDraft>,
    pub(super) servers: Vec<ServerDraft>,
    failover: FailoverMode,
    data_loss: DataLoss,
    cooldown: Duration,
    probe: ProbeConfig,
    pub(super) credentials: String,
    lease: Option<Duration>,
    near: Option<String>,
}

/// Which other section a key belongs to. Keys at the top that are written below a `[[listen]]` are TOML's own trap.
pub(super) const HOMES: [(&str, &str); 23] = [
    ("name", TOP),
    ("servers", TOP),
    ("failover", TOP),
    ("data_loss", TOP),
    ("cooldown", TOP),
    ("credentials", TOP),
    ("role", LISTEN),
    ("allow", LISTEN),
    ("snat", LISTEN),
    ("established", LISTEN),
    ("drain", LISTEN),
    ("fenced", LISTEN),
    ("hold", LISTEN),
    ("max_connections", LISTEN),
    ("max_connections_per_source", LISTEN),
    ("max_lag", LISTEN),
    ("fallback", LISTEN),
    ("interval", PROBE),
    ("timeout", PROBE),
    ("failures", PROBE),
    ("promotion", "to a server: `{ address = \"10.0.0.13:3306\", promotion = \"prefer\" }`"),
    ("dc", "to a server: `{ address = \"10.0.0.13:3306\", dc = \"east\" }`"),
    ("lease", "in `[agent]` of shunt.toml"),
];
const TOP: &str = "to the whole file: write it before the first `[[listen]]`";
const LISTEN: &str = "in a `[[listen]]`";
const PROBE: &str = "in `[probe]`";

const COOLDOWN: (Duration, Duration) = (Duration::ZERO, Duration::from_secs(30 * 86_400));

/// What a cluster's file is read against.
pub(super) struct AgentSays<'a> {
    pub(super) probe: ProbeConfig,
    pub(super) lease: Option<Duration>,
    pub(super) dc: Option<&'a str>,
    /// `None`: the agent's file could not be read, so nobody knows.
    pub(super) credential_names: Option<&'a BTreeSet<String>>,
}

pub(super) fn read(page: &Page, text: &str, agent: &AgentSays<'_>) -> Draft {
    let document = page.parse(text);
    let mut top = Section::new(page, "cluster", "the file", page.top(), &document);
    let name = top.require("name", "name = \"orders\"").and_then(|value| {
        let name = value.parsed(|text| {
            ClusterName::new(text).map_err(|why| {
                Complaint::new(format!("{} cannot be the name of a cluster", quote(text))).hint(why.to_string())
            })
        })?;
        Some((name, value.span))
    });
    let servers = top.require("servers", "servers = [\"10.0.0.11:3306\", \"10.0.0.12:3306\"]");
    let draft = Draft {
        name,
        servers: servers.map_or(Vec::new(), |value| servers::read(&value)),
        failover: top.choice_or_first(
            "failover",
            &[("promote", FailoverMode::Promote), ("follow", FailoverMode::Follow), ("off", FailoverMode::Off)],
        ),
        data_loss: top.choice_or_first("data_loss", &[("forbid", DataLoss::Forbid), ("allow", DataLoss::Allow)]),
        cooldown: top.duration("cooldown", COOLDOWN).unwrap_or(Duration::from_secs(600)),
        probe: match top.section("probe", "probe") {
            Some(section) => read_probe(section, agent.probe, &HOMES),
            None => agent.probe,
        },
        credentials: read_credentials(&mut top, agent),
        listeners: read_listeners(&mut top),
        lease: agent.lease,
        near: agent.dc.map(str::to_owned),
    };
    top.finish(&HOMES);
    draft
}

fn read_listeners(top: &mut Section<'_>) -> Vec<ListenerDraft> {
    let example = "[[listen]]` with `role = \"primary\"` and `address = \"10.0.0.2:3306\"";
    let Some(value) = top.require("listen", example) else { return Vec::new() };
    let tables = if value.is_table() {
        value.wrong_type::<()>("a list of tables", Some("with two brackets: `[[listen]]`".into()));
        vec![value]
    } else {
        let list = value.list().unwrap_or_default();
        if list.is_empty() {
            value.page.missing(&value.span, "`listen` has no listener", Some(format!("add `{example}`")));
        }
        list
    };
    let read = |value: Value<'_>| {
        let table = value.table()?;
        Some(listen::read(Section::new(value.page, "listen", "`[[listen]]`", value.span.clone(), table)))
    };
    tables.into_iter().filter_map(read).collect()
}

fn read_credentials(top: &mut Section<'_>, agent: &AgentSays<'_>) -> String {
    let Some(value) = top.get("credentials") else { return DEFAULT_CREDENTIALS.into() };
    let defined = |name: &str| {
        let Some(names) = agent.credential_names.filter(|names| !names.contains(name)) else { return Ok(()) };
        let meant = values::did_you_mean(name, names.iter().map(String::as_str));
        let hint = meant.unwrap_or_else(|| format!("add `[credentials.{name}]` to it"));
        Err(Complaint::new(format!("shunt.toml has no credentials {}", quote(name))).hint(hint))
    };
    value.parsed(|name| defined(name).map(|()| name.to_owned())).unwrap_or_else(|| DEFAULT_CREDENTIALS.into())
}

impl Draft {
    /// The names of servers that somebody has to resolve.
    pub(super) fn names_to_resolve(&self) -> impl Iterator<Item = &str> {
        self.servers.iter().filter_map(|server| match &server.location {
            Some(Location::Name { host, .. }) => Some(host.as_str()),
            _ => None,
        })
    }

    /// Gives every server its address, once names are resolved, and checks what needs addresses within the file.
    pub(super) fn settle(&mut self, page: &Page, resolved: &Resolved) {
        let first = self.listeners.iter().find_map(|listener| listener.address.clone());
        let ip_v6 = first.as_ref().map(|(address, _)| address.is_ipv6());
        if let Some((_, first_span)) = &first {
            for (address, span) in self.listeners.iter().filter_map(|listener| listener.address.as_ref()) {
                if Some(address.is_ipv6()) != ip_v6 {
                    let message = "the cluster's listeners are of two address families";
                    let error = Diagnostic::error(page.place(span), message);
                    let other = Some((page.place(first_span), "the first one".into()));
                    page.report(Diagnostic { other, ..error.hint("NAT does not cross them: one file for each") });
                }
            }
        }
        let mut seen: BTreeMap<SocketAddr, Range<usize>> = BTreeMap::new();
        for server in &mut self.servers {
            let Some(address) = server.settle(page, ip_v6, resolved) else { continue };
            if let Some(span) = seen.get(&address) {
                let error = Diagnostic::error(page.place(&server.span), format!("the server {address} is twice here"));
                let other = Some((page.place(span), "the first time".into()));
                page.report(Diagnostic { other, ..error });
                continue;
            }
            seen.insert(address, server.span.clone());
            server.address = Some(address);
        }
        for listener in &self.listeners {
            listener.check_pool(page, &seen);
        }
    }

    /// The cluster, if nothing of it is missing.
    pub(super) fn finish(self) -> Option<ClusterConfig> {
        let servers = self.servers.into_iter().map(ServerDraft::finish).collect::<Option<Vec<_>>>();
        let listeners = self.listeners.into_iter().map(ListenerDraft::finish).collect::<Option<Vec<_>>>();
        Some(ClusterConfig {
            name: self.name?.0,
            servers: servers?,
            failover: self.failover,
            data_loss: self.data_loss,
            cooldown: self.cooldown,
            probe: self.probe,
            credentials: self.credentials,
            listeners: listeners?,
            lease: self.lease,
            promoting: Promoting::default(),
            near: self.near,
        })
    }
}
