//! A file of `clusters.d`: first read on its own, as a draft; its servers' names are resolved, and it is compared with the
//! other files, before it becomes a `ClusterConfig`.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::ops::Range;
use std::time::Duration;

use shunt_core::ClusterName;
use shunt_core::config::{ClusterConfig, DataLoss, FailoverMode, ProbeConfig, Promoting, Promotion, Salvage};

use super::agent::{DEFAULT_CREDENTIALS, read_probe};
use super::diagnostic::{Diagnostic, quote};
use super::hooks::Hooks;
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
    pub(super) replication_credentials: String,
    salvage: Salvage,
    rejoin: bool,
    catch_up: Duration,
    fence_hook: bool,
    before_promote_hook: bool,
    hook_time: Duration,
    lease: Option<Duration>,
    near: Option<String>,
}

/// Which other section a key belongs to. Keys at the top that are written below a `[[listen]]` are TOML's own trap.
pub(super) const HOMES: [(&str, &str); 27] = [
    ("name", TOP),
    ("servers", TOP),
    ("failover", TOP),
    ("data_loss", TOP),
    ("cooldown", TOP),
    ("credentials", TOP),
    ("replication_credentials", TOP),
    ("salvage", TOP),
    ("rejoin", TOP),
    ("catch_up", TOP),
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
const CATCH_UP: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(86_400));

/// What a cluster's file is read against.
pub(super) struct AgentSays<'a> {
    pub(super) probe: ProbeConfig,
    pub(super) lease: Option<Duration>,
    pub(super) dc: Option<&'a str>,
    pub(super) hooks: &'a Hooks,
    /// `None`: the agent's file could not be read, so nobody knows.
    pub(super) credential_names: Option<&'a BTreeSet<String>>,
}

pub(super) fn read(page: &Page, text: &str, agent: &AgentSays<'_>) -> Draft {
    let document = page.parse(text);
    let mut top = Section::new(page, "the file", page.top(), &document);
    let name = top.require("name", "name = \"orders\"").and_then(|value| {
        let name = value.parsed(|text| {
            ClusterName::new(text).map_err(|why| {
                Complaint::new(format!("{} cannot be the name of a cluster", quote(text))).hint(why.to_string())
            })
        })?;
        Some((name, value.span))
    });
    let servers = top.require("servers", "servers = [\"10.0.0.11:3306\", \"10.0.0.12:3306\"]");
    let usual = Promoting::default();
    let failover = top.get("failover");
    let mode = failover.as_ref().and_then(|value| value.choice(&MODES));
    let credentials = read_credentials(&mut top, "credentials", agent).unwrap_or_else(|| DEFAULT_CREDENTIALS.into());
    let replication_credentials = read_credentials(&mut top, "replication_credentials", agent);
    let draft = Draft {
        name,
        failover: mode.unwrap_or(FailoverMode::Promote),
        servers: servers.as_ref().map_or(Vec::new(), servers::read),
        data_loss: top.choice_or_first("data_loss", &[("forbid", DataLoss::Forbid), ("allow", DataLoss::Allow)]),
        cooldown: top.duration("cooldown", COOLDOWN).unwrap_or(Duration::from_secs(600)),
        probe: match top.section("probe") {
            Some(section) => read_probe(section, agent.probe, &HOMES),
            None => agent.probe,
        },
        replication_credentials: replication_credentials.unwrap_or_else(|| replicates_as(&credentials, agent)),
        credentials,
        salvage: top.choice("salvage", &[("keep", Salvage::Keep), ("apply", Salvage::Apply)]).unwrap_or(usual.salvage),
        rejoin: top.boolean("rejoin").unwrap_or(usual.rejoin),
        catch_up: top.duration("catch_up", CATCH_UP).unwrap_or(usual.catch_up),
        fence_hook: agent.hooks.fence.is_some(),
        before_promote_hook: agent.hooks.before_promote.is_some(),
        hook_time: agent.hooks.longest_order().unwrap_or(usual.hook_time),
        listeners: read_listeners(&mut top),
        lease: agent.lease,
        near: agent.dc.map(str::to_owned),
    };
    top.finish(&HOMES);
    match (servers, failover) {
        (Some(_), Some(written)) if mode == Some(FailoverMode::Promote) => {
            draft.warn_if_nobody_can_be_promoted(page, &written.span, "");
        }
        (Some(servers), None) if !page.is_torn() => {
            draft.warn_if_nobody_can_be_promoted(page, &servers.span, ", the default,");
        }
        _ => {}
    }
    draft
}

const MODES: [(&str, FailoverMode); 3] =
    [("promote", FailoverMode::Promote), ("follow", FailoverMode::Follow), ("off", FailoverMode::Off)];

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
        Some(listen::read(Section::new(value.page, "`[[listen]]`", value.span.clone(), table)))
    };
    tables.into_iter().filter_map(read).collect()
}

/// The name of credentials that the agent's file has.
fn read_credentials(top: &mut Section<'_>, key: &'static str, agent: &AgentSays<'_>) -> Option<String> {
    let defined = |name: &str| {
        let Some(names) = agent.credential_names.filter(|names| !names.contains(name)) else { return Ok(()) };
        let meant = values::did_you_mean(name, names.iter().map(String::as_str));
        let hint = meant.unwrap_or_else(|| format!("add `[credentials.{name}]` to it"));
        Err(Complaint::new(format!("shunt.toml has no credentials {}", quote(name))).hint(hint))
    };
    top.get(key)?.parsed(|name| defined(name).map(|()| name.to_owned()))
}

/// The credentials of replicas whose cluster names none.
fn replicates_as(credentials: &str, agent: &AgentSays<'_>) -> String {
    let has_own = agent.credential_names.is_some_and(|names| names.contains(REPLICATION_CREDENTIALS));
    if has_own { REPLICATION_CREDENTIALS.into() } else { credentials.to_owned() }
}

const REPLICATION_CREDENTIALS: &str = "replication";

impl Draft {
    /// The names of servers that somebody has to resolve.
    pub(super) fn names_to_resolve(&self) -> impl Iterator<Item = &str> {
        self.servers.iter().filter_map(|server| match &server.location {
            Some(Location::Name { host, .. }) => Some(host.as_str()),
            _ => None,
        })
    }

    fn warn_if_nobody_can_be_promoted(&self, page: &Page, span: &Range<usize>, remark: &str) {
        let candidates = self.servers.iter().filter(|server| server.promotion != Promotion::MustNot).count();
        let why = match self.servers.len() {
            1 => "there is one server, and nobody to promote when it dies",
            2.. if candidates < 2 => {
                "all servers but one are `must_not`, and nobody can be promoted when that one dies"
            }
            _ => return,
        };
        let hint = "write `failover = \"follow\"`, or name the replicas as well".to_owned();
        page.warning(span, format!("`failover = \"promote\"`{remark} cannot be done: {why}"), Some(hint));
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
            promoting: Promoting {
                replication_credentials: self.replication_credentials,
                salvage: self.salvage,
                rejoin: self.rejoin,
                catch_up: self.catch_up,
                fence_hook: self.fence_hook,
                before_promote_hook: self.before_promote_hook,
                hook_time: self.hook_time,
            },
            near: self.near,
        })
    }
}
