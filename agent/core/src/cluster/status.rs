//! A cluster as it is told to people and programs. Times are still the agent's own; the edge turns them into dates.

use std::net::SocketAddr;
use std::time::Duration;

use super::acknowledged::at_risk;
use super::council::Council;
use super::group;
use super::health::{Evidence, Health};
use super::verdict::{Alarm, AlarmKind, Verdict};
use super::{Cluster, Pause, Stage, View};
use crate::config::{FailoverMode, ListenerRole, Promotion};
use crate::mapping::Route;
use crate::observation::{Flavour, IoThread};
use crate::operation::{Kind, OpId, Outcast, Step};
use crate::{ClusterName, Epoch, Mono};

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClusterStatus {
    pub name: ClusterName,
    pub mode: FailoverMode,
    pub epoch: Epoch,
    pub primary: Option<SocketAddr>,
    pub verdict: Verdict,
    pub verdict_since: Mono,
    pub reasons: Vec<String>,
    pub alarms: Vec<Alarm>,
    pub pause: Option<Pause>,
    /// The server that the whole cluster is pinned to.
    pub pinned: Option<SocketAddr>,
    /// Listeners that are pinned on their own, and where to.
    pub pinned_listeners: Vec<(SocketAddr, SocketAddr)>,
    pub listeners: Vec<ListenerStatus>,
    pub servers: Vec<ServerStatus>,
    /// What would happen if the primary died now, in words.
    pub outlook: String,
    /// What a failover would lose now, in words; `None` where there is nobody to fail over from or to.
    pub at_risk: Option<String>,
    pub operation: Option<OperationStatus>,
    /// Servers that must not take writes until they have been compared with the primary.
    pub outcasts: Vec<Outcast>,
}

/// An operation under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OperationStatus {
    pub id: OpId,
    pub kind: Kind,
    pub step: Step,
    /// When the operation began.
    pub since: Mono,
    /// The next primary, once it is known.
    pub chosen: Option<SocketAddr>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListenerStatus {
    pub address: SocketAddr,
    pub role: ListenerRole,
    pub backends: Vec<SocketAddr>,
    pub state: ListenerState,
    pub pinned: bool,
    pub since: Mono,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum ListenerState {
    Open,
    Held,
    Refused,
}

impl ListenerState {
    pub const fn word(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::Held => "held",
            Self::Refused => "refused",
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerStatus {
    pub address: SocketAddr,
    pub label: String,
    /// `primary`, `replica`, `none` for a server that replicates from nobody in the cluster, `unknown` if it never answered.
    pub role: &'static str,
    /// Whether it answered when it was last asked.
    pub answers: bool,
    /// `up`, `suspect`, `down`, `unknown`, or the kind of failure of one that lives.
    pub state: String,
    /// The last failure in the server's or the kernel's words, if it has not answered since.
    pub failure: Option<String>,
    /// What traffic makes it suspect of, until it has answered a question that was asked for that reason.
    pub suspected: Option<String>,
    pub read_only: Option<bool>,
    pub gtid_executed: Option<String>,
    pub lag: Option<Duration>,
    /// The threads of its channels in words; empty for none.
    pub replication: String,
    pub semi_sync: String,
    pub observed_at: Option<Mono>,
    pub took: Option<Duration>,
    pub flavour: Option<Flavour>,
    pub version: Option<String>,
    pub dc: Option<String>,
    pub promotion: Promotion,
}

impl Cluster {
    pub fn status(&self, now: Mono) -> ClusterStatus {
        let mut alarms = self.assessment.alarms.clone();
        if let Some((stage, error, _)) = &self.failed {
            let kind = match stage {
                Stage::State => AlarmKind::StateFailed,
                Stage::Datapath => AlarmKind::DatapathFailed,
            };
            alarms.push(Alarm { kind, message: error.clone() });
        }
        alarms.extend(self.lapses.alarm());
        alarms.extend(self.operation_alarms());
        ClusterStatus {
            name: self.config.name.clone(),
            mode: self.config.failover,
            epoch: self.epoch,
            primary: self.primary,
            verdict: self.assessment.verdict,
            verdict_since: self.verdict_since,
            reasons: self.assessment.reasons.clone(),
            alarms,
            pause: self.pause.clone(),
            pinned: self.pins.get(&None).copied(),
            pinned_listeners: self.pins.iter().filter_map(|(l, s)| l.map(|l| (l, *s))).collect(),
            listeners: self.listener_statuses(now),
            servers: self.server_statuses(now),
            outlook: self.outlook(),
            at_risk: at_risk(self.view(now)).map(|risk| risk.words(self.view(now))),
            operation: self.run.as_ref().map(|run| OperationStatus {
                id: run.op.id,
                kind: run.op.kind,
                step: run.op.step,
                since: run.began_at,
                chosen: run.op.chosen,
            }),
            outcasts: self.outcasts.values().cloned().collect(),
        }
    }

    fn listener_statuses(&self, now: Mono) -> Vec<ListenerStatus> {
        self.config
            .listeners
            .iter()
            .map(|listener| {
                let seen = self.listeners.get(&listener.address);
                let since = seen.map_or(now, |s| s.since);
                let route = seen.map_or(&Route::Refuse, |s| &s.route);
                ListenerStatus {
                    address: listener.address,
                    role: listener.role,
                    backends: route.backends(),
                    state: match route {
                        Route::Single(_) | Route::Spread(_) => ListenerState::Open,
                        Route::Hold(time) if now.since(since) < *time => ListenerState::Held,
                        Route::Hold(_) | Route::Refuse => ListenerState::Refused,
                    },
                    pinned: self.pins.contains_key(&None) || self.pins.contains_key(&Some(listener.address)),
                    since,
                }
            })
            .collect()
    }

    fn server_statuses(&self, now: Mono) -> Vec<ServerStatus> {
        let view = self.view(now);
        let council = Council::of(view);
        self.config
            .servers
            .iter()
            .filter_map(|config| self.servers.get(&config.address).map(|health| (config, health)))
            .map(|(config, health)| {
                let state = health.state();
                ServerStatus {
                    address: config.address,
                    label: config.label.clone(),
                    role: match state {
                        _ if Some(config.address) == self.primary => "primary",
                        Some(_) if view.replicates(config.address) => "replica",
                        Some(_) if council.as_ref().is_some_and(|c| c.has_voice(config.address)) => "replica",
                        Some(_) => "none",
                        None => "unknown",
                    },
                    answers: health.evidence(&self.config.probe) == Evidence::Answers,
                    state: match health.evidence(&self.config.probe) {
                        Evidence::Unknown => "unknown".to_owned(),
                        Evidence::Answers => "up".to_owned(),
                        Evidence::Failing(kind) => kind.to_string(),
                        Evidence::Suspect => "suspect".to_owned(),
                        Evidence::Gone => "down".to_owned(),
                    },
                    failure: health.failure().map(|f| f.detail.clone()),
                    suspected: self.suspicion(config.address),
                    read_only: state.map(|s| !s.is_writable()),
                    gtid_executed: state.map(|s| s.gtid_executed.clone()),
                    lag: state.and_then(|s| s.channels.iter().filter_map(|c| c.lag).chain(health.group_lag()).max()),
                    replication: replication_words(view, config.address, health),
                    semi_sync: semi_sync_words(health),
                    observed_at: health.observed_at(),
                    took: health.took(),
                    flavour: state.map(|s| s.identity.flavour),
                    version: state.map(|s| s.identity.version.clone()),
                    dc: config.dc.clone(),
                    promotion: config.promotion,
                }
            })
            .collect()
    }

    fn outlook(&self) -> String {
        if self.pins.contains_key(&None) {
            return "pinned: nothing changes by itself until it is unpinned".to_owned();
        }
        if let Some(pause) = &self.pause {
            return format!("paused ({}): nothing changes by itself until it is resumed", pause.reason);
        }
        if self.primary.is_none() {
            return "as soon as a server is known to be the primary, the listeners lead to it".to_owned();
        }
        match self.config.failover {
            FailoverMode::Off => "failover is off: nothing changes unless an operator pins".to_owned(),
            FailoverMode::Follow | FailoverMode::Promote => {
                let fenced = if self.config.listeners.iter().any(|l| l.fenced == crate::config::Fenced::Hold) {
                    "holds new connections"
                } else {
                    "refuses new connections"
                };
                match Council::of(self.view(Mono::ZERO)) {
                    Some(council) if council.is_multi_primary() => {
                        "if the primary dies or leaves its group, the listeners lead to another member that takes writes"
                            .to_owned()
                    }
                    Some(_) => format!("if the primary dies, shunt {fenced} until its group has elected another, then follows"),
                    None if self.config.failover == FailoverMode::Promote => match self.would_be_barred() {
                        None => format!("if the primary dies, shunt {fenced}, promotes the best replica and leads to it"),
                        Some(why) => format!("if the primary dies, shunt {fenced} and promotes nobody: {why}"),
                    },
                    None => {
                        format!("if the primary dies, shunt {fenced} until somebody else promotes a server, then follows")
                    }
                }
            }
        }
    }
}

fn replication_words(view: View<'_>, server: SocketAddr, health: &Health) -> String {
    let Some(state) = health.state() else { return String::new() };
    let standing = group::standing(view, server).map(|words| words.trim_start_matches("is ").to_owned());
    let words = state.channels.iter().map(|c| {
        let io = match c.io {
            IoThread::Connected => "receiving",
            IoThread::Connecting => "connecting",
            IoThread::Stopped => "stopped",
        };
        let sql = if c.sql_running { "applying" } else { "not applying" };
        format!("{io}, {sql} from {}:{}", c.source_host, c.source_port)
    });
    standing.into_iter().chain(words).collect::<Vec<_>>().join("; ")
}

fn semi_sync_words(health: &Health) -> String {
    let Some(semi) = health.state().and_then(|s| s.semi_sync) else { return String::new() };
    match (semi.source_enabled, semi.source_active, semi.replica_enabled) {
        (true, true, _) => format!("source, {} replicas acknowledge", semi.clients),
        (true, false, _) => "source, degraded to asynchronous".to_owned(),
        (false, _, true) => "replica".to_owned(),
        (false, _, false) => "off".to_owned(),
    }
}
