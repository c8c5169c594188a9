//! One cluster's state machine: events in, actions out, no clock and no socket.
//!
//! ```text
//!                       pinned: the operator's server, whatever is observed
//!                                          │
//!   Observed ──► Health per server ──► assess() ──► Direction ──► Plan ──► Commit ──► the driver
//!                                      verdict      Keep│Lead│Fence │                    │
//!                                      reasons                      └── (epoch, primary, ◄─ Committed / CommitFailed
//!                                                                        mappings)
//! ```
//!
//! A plan is what the kernel should hold for this cluster, under an epoch. The driver writes the epoch down first and
//! takes the mappings into the kernel second; what it reports back is an event like any other. At most one plan is in
//! flight, and the newest wins.

mod acknowledged;
mod assess;
mod commit;
mod council;
mod decide;
mod event;
mod freshness;
mod group;
mod health;
mod lapse;
mod operate;
mod plan;
mod readers;
mod status;
mod suspect;
mod verdict;
mod view;

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::Duration;

pub use acknowledged::{AtRisk, Proof, acknowledged_by, at_risk};
pub use assess::assess;
pub use event::{Action, Entry, Event, Pace, Pause, Remembered, Stage};
pub use health::{Evidence, Health};
pub use operate::Refusal;
pub use plan::{Plan, on_removal};
pub use status::{ClusterStatus, ListenerState, ListenerStatus, OperationStatus, ServerStatus};
pub use verdict::{Alarm, AlarmKind, Assessment, Direction, Verdict};
pub use view::View;

use lapse::Lapses;
use operate::{LeftStopped, Lingering, Readiness, Restoring, Returning, Run};
use readers::Fit;
use suspect::Suspected;

use crate::config::{ClusterConfig, FailoverMode};
use crate::observation::Outcome;
use crate::operation::{OpId, OrderId, Outcast};
use crate::{Epoch, Mono};

/// A decision that could not be carried out is tried again after this.
const RETRY: Duration = Duration::from_secs(1);
/// Servers are asked urgently for no longer than this after the verdict last changed.
const URGENT_FOR: Duration = Duration::from_secs(600);

/// One cluster.
#[derive(Debug)]
pub struct Cluster {
    config: ClusterConfig,
    servers: BTreeMap<SocketAddr, Health>,
    epoch: Epoch,
    /// The primary of this epoch, whether or not the listeners lead to it now.
    primary: Option<SocketAddr>,
    /// Whether the primary listeners lead to it.
    open: bool,
    /// Replicas that take connections; remembered for the hysteresis of `max_lag` and for times without a primary.
    fit: Fit,
    lapses: Lapses,
    pins: BTreeMap<Option<SocketAddr>, SocketAddr>,
    pause: Option<Pause>,
    assessment: Assessment,
    verdict_since: Mono,
    /// When the primary was last healthy; `None` while it is.
    trouble_since: Option<Mono>,
    pace: Pace,
    committed: Option<Plan>,
    in_flight: Option<Plan>,
    /// What failed last, until a commit succeeds, and when to try again.
    failed: Option<(Stage, String, Mono)>,
    listeners: BTreeMap<SocketAddr, ListenerSince>,
    /// The operation under way. While there is one, nothing else moves the primary listeners.
    run: Option<Run>,
    /// Whose established connections a fence spares.
    spared: Option<SocketAddr>,
    last_operation: OpId,
    last_order: OrderId,
    cooldown_until: Option<Mono>,
    /// The rule that keeps a dead primary from being replaced.
    barred: Option<String>,
    outcasts: BTreeMap<SocketAddr, Outcast>,
    returning: BTreeMap<SocketAddr, Returning>,
    asked_to_rejoin: BTreeSet<SocketAddr>,
    /// What was last told about servers that were cast out and could not be taken in.
    told: BTreeMap<SocketAddr, String>,
    readiness: Readiness,
    restoring: Restoring,
    lingering: Lingering,
    left_stopped: LeftStopped,
    /// What semi-sync proved when the listeners were fenced because the primary is dead: from there on it could
    /// acknowledge nothing to a client any more.
    proof: Option<Proof>,
    suspected: BTreeMap<SocketAddr, Suspected>,
    /// The moment of the last event.
    clock: Mono,
    /// The mode to be in when the operation is over.
    mode_after: Option<FailoverMode>,
    /// Why nothing may be opened until an operator says who the primary is.
    sealed: Option<String>,
}

/// What a listener has been doing since when, for the status.
#[derive(Clone, Debug, PartialEq, Eq)]
struct ListenerSince {
    route: crate::mapping::Route,
    since: Mono,
}

impl Cluster {
    /// A cluster as remembered. What the kernel holds stays until there is evidence, with one exception: a listener that
    /// does not lead to the primary of the epoch written down is fenced at once, for the agent died between writing the
    /// epoch and telling the kernel.
    pub fn new(config: ClusterConfig, remembered: Remembered, now: Mono) -> (Self, Vec<Action>) {
        let mut primary = remembered.primary;
        let mut epoch = remembered.epoch;
        let held_primary = plan::held_primary(&config, &remembered.held);
        let mut actions = Vec::new();
        if primary.is_none()
            && let Some(held) = held_primary
            && config.servers.iter().any(|s| s.address == held)
        {
            // The state folder is new, and the kernel still forwards: what it holds is the best there is to know.
            primary = Some(held);
            epoch = epoch.next();
        }
        if primary.is_some_and(|p| !config.servers.iter().any(|s| s.address == p)) {
            primary = None;
        }
        let servers = config.servers.iter().map(|s| (s.address, Health::default())).collect();
        let mut cluster = Self {
            servers,
            epoch,
            primary,
            open: primary.is_some() && held_primary == primary,
            fit: readers::held_replicas(&config, &remembered.held),
            lapses: Lapses::default(),
            pins: remembered.pins.into_iter().filter(|(_, s)| config.servers.iter().any(|c| c.address == *s)).collect(),
            pause: remembered.pause,
            assessment: Assessment {
                verdict: Verdict::None,
                reasons: vec!["the servers have not been asked yet".to_owned()],
                direction: Direction::Keep,
                alarms: Vec::new(),
            },
            verdict_since: now,
            trouble_since: None,
            pace: Pace::Normal,
            committed: None,
            in_flight: None,
            failed: None,
            listeners: BTreeMap::new(),
            run: None,
            spared: None,
            last_operation: remembered.last_operation,
            last_order: OrderId(0),
            cooldown_until: remembered.cooldown_until,
            barred: None,
            outcasts: remembered.outcasts.into_iter().map(|outcast| (outcast.server, outcast)).collect(),
            returning: BTreeMap::new(),
            asked_to_rejoin: BTreeSet::new(),
            told: BTreeMap::new(),
            readiness: Readiness::default(),
            restoring: Restoring::default(),
            lingering: Lingering::default(),
            left_stopped: LeftStopped::default(),
            proof: None,
            suspected: BTreeMap::new(),
            clock: now,
            mode_after: None,
            sealed: remembered.unreadable,
            config,
        };
        if remembered.operation.is_none()
            && let Some(&pinned) = cluster.pins.get(&None)
        {
            cluster.lead(pinned, "pinned", &mut actions);
        }
        if cluster.sealed.is_some() && !cluster.pins.contains_key(&None) {
            cluster.open = false;
        }
        if let Some(operation) = remembered.operation {
            cluster.resume_operation(operation, now, &mut actions);
        }
        cluster.lapse(&remembered.lapsed, now, &mut actions);
        cluster.end_lapses(Direction::Keep);
        cluster.commit_if_changed(now, &mut actions);
        (cluster, actions)
    }

    /// The mode in which a new configuration is taken: an operation ends under the rules, and with the lock, that it began
    /// with.
    pub fn mode_for_now(&self, config: &ClusterConfig) -> FailoverMode {
        if self.run.is_some() { self.config.failover } else { config.failover }
    }

    /// Takes a new configuration of the same cluster. What is known of servers that stay is kept, but not that the lock is
    /// ours where the connection that held it was given up: on the `reconnected`.
    pub fn reconfigure(
        &mut self,
        mut config: ClusterConfig,
        reconnected: &BTreeSet<SocketAddr>,
        now: Mono,
    ) -> Vec<Action> {
        let mut actions = Vec::new();
        self.clock = now;
        let mode = self.mode_for_now(&config);
        if self.run.is_some() {
            self.mode_after = Some(config.failover);
        }
        config.failover = mode;
        self.servers.iter_mut().filter(|(s, _)| reconnected.contains(s)).for_each(|(_, health)| health.forget_lock());
        let mut known = std::mem::take(&mut self.servers);
        self.servers =
            config.servers.iter().map(|s| (s.address, known.remove(&s.address).unwrap_or_default())).collect();
        self.config = config;
        self.suspected.retain(|server, _| self.servers.contains_key(server));
        if self.primary.is_some_and(|p| !self.servers.contains_key(&p)) {
            self.primary = None;
            self.open = false;
        }
        let (kept, dropped) =
            std::mem::take(&mut self.pins).into_iter().partition(|(_, server)| self.servers.contains_key(server));
        self.pins = kept;
        let dropped: BTreeMap<_, _> = dropped;
        for (listener, server) in dropped {
            let what =
                format!("{} unpinned from {server}, which is not in the configuration any more", pin_words(listener));
            actions.push(record("unpinned", what));
        }
        for fit in self.fit.values_mut() {
            fit.retain(|server| self.servers.contains_key(server));
        }
        self.lapses.retain(|listener| self.config.listeners.iter().any(|l| l.address == listener));
        self.decide(now, &mut actions);
        actions
    }

    /// The one way in.
    pub fn handle(&mut self, event: Event, now: Mono) -> Vec<Action> {
        let mut actions = Vec::new();
        self.clock = now;
        match event {
            Event::Suspected(suspicion) => {
                self.suspect(suspicion, now, &mut actions);
                return actions;
            }
            Event::Observed(seen) => self.observed(&seen),
            Event::Pin { listener, server } => self.pin(listener, server, &mut actions),
            Event::Unpin { listener } => {
                if let Some(server) = self.pins.remove(&listener) {
                    actions.push(record(
                        "unpinned",
                        format!("{} unpinned from {}", pin_words(listener), self.label(server)),
                    ));
                }
            }
            Event::Pause { until, reason } => {
                actions.push(record("paused", format!("no automatic change any more: {reason}")));
                self.pause = Some(Pause { until, reason });
            }
            Event::Resume => {
                if self.pause.take().is_some() {
                    actions.push(record("resumed", "automatic changes are back".to_owned()));
                }
            }
            Event::Committed { commit } => self.carried_out(commit, now, &mut actions),
            Event::CommitFailed { stage, error } => self.not_carried_out(stage, error, now, &mut actions),
            Event::LeaseLapsed { listeners } => self.lapse(&listeners, now, &mut actions),
            Event::Operate(intent) => self.operate(intent, now, &mut actions),
            Event::Abort { by } => self.abort(&by, now, &mut actions),
            Event::Rejoin { server, by } => self.rejoin(server, &by, &mut actions),
            Event::Clear { server, by } => self.clear(server, &by, &mut actions),
            Event::Begun { serial } => self.begun(serial, now, &mut actions),
            Event::NotBegun { serial, error } => self.not_begun(serial, &error, now, &mut actions),
            Event::TaskDone { order, result } => self.task_done(order, result, now, &mut actions),
            Event::Deadline => {
                if self.pause.as_ref().is_some_and(|p| p.until.is_some_and(|until| until <= now)) {
                    self.pause = None;
                    actions.push(record("resumed", "the pause is over, automatic changes are back".to_owned()));
                }
            }
        }
        self.decide(now, &mut actions);
        actions
    }

    /// When to call [`Self::handle`] with [`Event::Deadline`], if nothing else happens before.
    pub fn next_deadline(&self) -> Option<Mono> {
        let pause = self.pause.as_ref().and_then(|p| p.until);
        let retry = self.failed.as_ref().filter(|_| self.in_flight.is_none()).map(|&(_, _, at)| at);
        let calm = self.urgent_until().filter(|_| self.pace == Pace::Urgent);
        let barred = self.cooldown_until.filter(|_| self.barred.is_some());
        let operation = self.operation_deadline();
        let (returning, readiness) = (self.returning_deadline(), self.readiness_deadline());
        let restoring = self.restoring_deadline();
        [pause, retry, calm, barred, operation, returning, readiness, restoring].into_iter().flatten().min()
    }

    pub const fn config(&self) -> &ClusterConfig {
        &self.config
    }

    pub const fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// The primary of this epoch.
    pub const fn primary(&self) -> Option<SocketAddr> {
        self.primary
    }

    /// Since when the primary has not been healthy; `None` while it is.
    pub const fn trouble_since(&self) -> Option<Mono> {
        self.trouble_since
    }

    /// The last operation that was ever begun.
    pub const fn last_operation(&self) -> OpId {
        self.last_operation
    }

    /// Who is pinned where; `None` is the whole cluster.
    pub const fn pins(&self) -> &BTreeMap<Option<SocketAddr>, SocketAddr> {
        &self.pins
    }

    /// What keeps the last decision from being carried out, if anything does.
    pub fn trouble(&self) -> Option<&str> {
        self.failed.as_ref().map(|(_, error, _)| error.as_str())
    }

    pub const fn assessment(&self) -> &Assessment {
        &self.assessment
    }

    /// The plan that the kernel is known to hold.
    pub const fn committed(&self) -> Option<&Plan> {
        self.committed.as_ref()
    }

    /// Why an operator should think twice before pinning to that server; empty: go ahead.
    pub fn pin_doubts(&self, server: SocketAddr) -> Vec<String> {
        let Some(health) = self.servers.get(&server) else { return Vec::new() };
        let label = self.label(server);
        let mut doubts = Vec::new();
        match health.evidence(&self.config.probe) {
            Evidence::Answers => {}
            Evidence::Unknown => doubts.push(format!("{label} has not been asked yet")),
            _ => doubts.push(format!(
                "{label} does not answer: {}",
                health.failure().map(|f| f.detail.clone()).unwrap_or_default()
            )),
        }
        if health.state().is_some_and(|s| !s.is_writable()) {
            doubts.push(format!("{label} is read-only"));
        }
        doubts
    }

    fn observed(&mut self, seen: &crate::observation::Observation) {
        let Some(health) = self.servers.get_mut(&seen.server) else { return };
        health.observe(seen);
        let Outcome::Answered(state) = &seen.outcome else { return };
        let asked_at = seen.at - seen.took;
        let view = self.view(seen.at);
        if !state.is_writable() && view.replicates(seen.server) {
            if let Some(health) = self.servers.get_mut(&seen.server) {
                health.note_replica();
            }
        } else if state.is_writable() && self.primary == Some(seen.server) {
            // The primary took writes at a time when somebody else was already seen taking them: that one was not
            // promoted in its place, it is a second writer, and stays one when the primary dies.
            let rivals: Vec<_> = view
                .writable()
                .filter(|&s| s != seen.server)
                .filter(|s| self.servers[s].answered_at().is_some_and(|at| at < asked_at))
                .collect();
            for rival in rivals.into_iter().chain([seen.server]) {
                if let Some(health) = self.servers.get_mut(&rival) {
                    health.note_primary();
                }
            }
        }
    }

    fn pin(&mut self, listener: Option<SocketAddr>, server: SocketAddr, actions: &mut Vec<Action>) {
        if !self.servers.contains_key(&server) {
            return;
        }
        self.pins.insert(listener, server);
        if listener.is_none() {
            self.sealed = None;
        }
        actions.push(record("pinned", format!("{} pinned to {}", pin_words(listener), self.label(server))));
    }

    fn view(&self, now: Mono) -> View<'_> {
        View {
            config: &self.config,
            servers: &self.servers,
            primary: self.primary,
            open: self.is_open(),
            outcasts: &self.outcasts,
            now,
        }
    }

    fn label(&self, server: SocketAddr) -> String {
        self.view(Mono::ZERO).label(server)
    }
}

fn pin_words(listener: Option<SocketAddr>) -> String {
    listener.map_or_else(|| "the cluster is".to_owned(), |l| format!("listener {l} is"))
}

fn record(kind: &'static str, message: String) -> Action {
    Action::Record(Entry { kind, message, data: Vec::new() })
}
