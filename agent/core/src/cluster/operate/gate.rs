//! Whether a failover may begin, and with what it begins.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

use super::{Run, want};
use crate::Mono;
use crate::cluster::acknowledged::{Proof, acknowledged_by};
use crate::cluster::event::Action;
use crate::cluster::health::{Evidence, Health};
use crate::cluster::verdict::{Direction, Verdict};
use crate::cluster::{Cluster, record};
use crate::config::{DataLoss, FailoverMode};
use crate::gtid::History;
use crate::observation::{Flavour, PromoterLock};
use crate::operation::{Intent, Kind, Operation, Origin, Step, Task, Trigger};

impl Cluster {
    /// Begins a failover by itself, if the primary is dead and every rule allows it; says which one does not.
    pub(in crate::cluster) fn fail_over_if_due(&mut self, now: Mono, actions: &mut Vec<Action>) {
        let due = self.run.is_none()
            && self.config.failover == FailoverMode::Promote
            && self.assessment.verdict == Verdict::Dead
            && self.assessment.direction == Direction::Fence
            && self.servers.len() > 1;
        let Some(old) = self.primary.filter(|_| due) else {
            self.barred = None;
            return;
        };
        if let Some(why) = self.bar(old, now) {
            if self.barred.as_ref() != Some(&why) {
                actions.push(record("barred", format!("no automatic failover: {why}")));
                self.barred = Some(why);
            }
        } else {
            self.barred = None;
            let reason = self.assessment.reasons.join("; ");
            let op = self.operation(Kind::Failover, Trigger::Verdict, reason, old, now);
            self.begin(op, Step::Fence, now, actions);
        }
    }

    /// The rule that would keep shunt from failing over if the primary died now.
    pub(in crate::cluster) fn would_be_barred(&self) -> Option<String> {
        let old = self.primary?;
        let now = self.servers.values().filter_map(Health::observed_at).max().unwrap_or(Mono::ZERO);
        self.bar(old, now)
    }

    /// The rule that keeps shunt from failing over by itself, if one does.
    fn bar(&self, old: SocketAddr, now: Mono) -> Option<String> {
        if !self.pins.is_empty() {
            return Some("something of the cluster is pinned".to_owned());
        }
        if let Some(pause) = &self.pause {
            return Some(format!("the cluster is paused ({})", pause.reason));
        }
        if self.sealed.is_some() {
            return Some("an earlier operation cannot be read".to_owned());
        }
        if let Some(why) = self.group_bar().or_else(|| self.lock_bar(Some(old))) {
            return Some(why);
        }
        if self.cooldown_until.is_some_and(|until| now < until) {
            return Some(format!(
                "the last one was less than a cooldown of {} s ago; `shunt failover {}` does not wait for it",
                self.config.cooldown.as_secs(),
                self.config.name
            ));
        }
        if let Some(other) = self.stranger(old) {
            return Some(format!("{} is writable already: somebody else may be at work", self.label(other)));
        }
        if self.config.data_loss == DataLoss::Forbid && self.proof_of(old, now).is_none() {
            return Some(format!(
                "data_loss is \"forbid\" and nothing proves that every acknowledged transaction is on a replica: semi-sync was \
                 not active; `shunt failover {} --allow-data-loss` does it all the same",
                self.config.name
            ));
        }
        None
    }

    /// Groups decide by themselves.
    pub(in crate::cluster) fn group_bar(&self) -> Option<String> {
        let in_group = |health: &Health| health.state().is_some_and(|state| state.group.is_some());
        self.servers
            .values()
            .any(in_group)
            .then(|| "the servers are a group, which chooses its primary by itself; shunt follows".to_owned())
    }

    /// Two agents must not both act: the one that may holds the named lock on a majority of the servers. Of two servers
    /// the one that is left decides, for nobody else can hold it.
    pub(in crate::cluster) fn lock_bar(&self, without: Option<SocketAddr>) -> Option<String> {
        if self.config.failover != FailoverMode::Promote {
            return None;
        }
        // A server gives the lock to somebody else some seconds after it has last heard from us.
        let fresh = self.config.probe.interval + self.config.probe.timeout * 2;
        let ours = |server: &SocketAddr, health: &Health| {
            self.evidence(*server) == Evidence::Answers
                && health.asked_at().is_some_and(|at| self.clock.since(at) <= fresh)
                && health.state().is_some_and(|state| state.promoter == PromoterLock::Ours)
        };
        let held: Vec<_> = self.servers.iter().filter(|(s, h)| ours(s, h)).map(|(&s, _)| s).collect();
        let total = self.servers.len();
        let the_other_of_two = total == 2 && held.iter().any(|&s| Some(s) != without) && without.is_some();
        (held.len() * 2 <= total && !the_other_of_two).then(|| {
            format!(
                "another agent may be in charge: the lock `shunt.promoter` is ours on {} of {total} servers only",
                held.len()
            )
        })
    }

    /// A server that takes writes though it is neither the primary nor anybody that an operation made writable. A replica
    /// that came up without `read_only` is none: it still has its source configured.
    pub(super) fn stranger(&self, old: SocketAddr) -> Option<SocketAddr> {
        let op = self.run.as_ref().map(|run| &run.op);
        let known = |server: SocketAddr| {
            server == old
                || self.outcasts.contains_key(&server)
                || op.is_some_and(|op| {
                    (op.promotion_began && op.chosen == Some(server)) || op.suspects.contains(&server)
                })
        };
        let view = self.view(Mono::ZERO);
        view.writable().find(|&server| !known(server) && !view.is_attached(server))
    }

    /// What semi-sync proves of a primary that cannot be asked any more.
    pub(super) fn proof_of(&self, old: SocketAddr, now: Mono) -> Option<Proof> {
        if self.assessment.verdict == Verdict::Dead { self.proof.clone() } else { acknowledged_by(self.view(now), old) }
    }

    /// Another agent, not only nobody, holds it on a majority.
    pub(super) fn another_agent_has_the_lock(&self) -> bool {
        let theirs = |health: &&Health| {
            health.evidence(&self.config.probe) == Evidence::Answers
                && health.state().is_some_and(|state| state.promoter == PromoterLock::Theirs)
        };
        let (theirs, total) = (self.servers.values().filter(theirs).count(), self.servers.len());
        theirs * 2 > total || (total == 2 && theirs == 1)
    }

    /// An operation as it begins, with what is known now.
    pub(super) fn operation(
        &mut self,
        kind: Kind,
        trigger: Trigger,
        reason: String,
        old: SocketAddr,
        now: Mono,
    ) -> Operation {
        self.last_operation.0 += 1;
        // That of a fence that is to come is taken when it is in force: until then clients commit on.
        let proof = matches!(trigger, Trigger::Verdict).then(|| self.proof_of(old, now)).flatten();
        let state = self.servers.get(&old).and_then(Health::state);
        // A primary that was never heard is judged by its replicas: to wait for acknowledgements in vain is the lesser evil.
        let semi_sync = match state {
            Some(state) => state.semi_sync.is_some_and(|semi| semi.source_enabled),
            None => self
                .servers
                .values()
                .filter_map(Health::state)
                .any(|s| s.semi_sync.is_some_and(|semi| semi.replica_enabled || semi.source_enabled)),
        };
        Operation {
            id: self.last_operation,
            kind,
            trigger,
            reason,
            epoch: self.epoch,
            old,
            asked: None,
            allow_loss: self.config.data_loss == DataLoss::Allow,
            dry_run: false,
            grace_ms: 0,
            step: Step::Precheck,
            serial: 0,
            standings: BTreeMap::new(),
            old_executed: self.last_known_history(old),
            old_origin: self.origin(old),
            acknowledged_by: proof.as_ref().map(|proof| proof.wait_count),
            acknowledgers: proof.map(|proof| proof.acknowledgers).unwrap_or_default(),
            semi_sync,
            chosen: None,
            goal: None,
            suspects: BTreeSet::new(),
            seen: None,
            disarmed: None,
            left_behind: None,
            promotion_began: false,
            salvaged: None,
            followers: BTreeSet::new(),
            left_out: BTreeMap::new(),
        }
    }

    /// What a server was last known to have: of MySQL as it was last asked, of MariaDB, whose probes read a position and no
    /// history, as it was last examined.
    fn last_known_history(&self, server: SocketAddr) -> Option<History> {
        let examined = self.readiness.standing(server).map(|standing| standing.executed.clone());
        let state = self.servers.get(&server).and_then(Health::state)?;
        match state.identity.flavour {
            Flavour::Mysql => History::parse(Flavour::Mysql, &state.gtid_executed).ok(),
            Flavour::Mariadb => examined,
        }
    }

    /// By its own word, or by what its replicas say of their source.
    fn origin(&self, server: SocketAddr) -> Origin {
        if let Some(state) = self.servers.get(&server).and_then(Health::state) {
            return Origin { uuid: state.identity.uuid.clone(), server_id: state.identity.server_id };
        }
        let channels = self.servers.values().filter_map(Health::state).flat_map(|state| &state.channels);
        let named = channels.filter(|c| c.source_port == server.port() && c.source_host == server.ip().to_string());
        named.map(|c| Origin { uuid: c.source_uuid.clone(), server_id: c.source_server_id }).next().unwrap_or_default()
    }

    pub(super) fn begin(&mut self, op: Operation, step: Step, now: Mono, actions: &mut Vec<Action>) {
        self.forget_restoring(actions);
        self.forget_all_lingering(actions);
        super::telling::began(&self.config.name, &op, actions);
        let tasks = if step == Step::Precheck { self.examine_everybody() } else { Vec::new() };
        if step == Step::Fence {
            // A fence needs no journal: it is taken at once.
            self.open = false;
            self.commit_if_changed(now, actions);
        }
        let mut run = Run::new(op, now);
        run.op.step = step;
        self.run = Some(run);
        self.write_step(tasks, now, actions);
    }

    fn examine_everybody(&self) -> Vec<super::Wanted> {
        let within = self.config.probe.timeout * 2;
        self.servers.keys().map(|&server| want(Task::Examine { server }, within)).collect()
    }

    /// Begins what an operator asks for. What stands against it was told before; what has come up since ends it here.
    pub(in crate::cluster) fn operate(&mut self, intent: Intent, now: Mono, actions: &mut Vec<Action>) {
        if let Some(refusal) = self.refusal(&intent, now) {
            actions.push(record("refused", format!("{} refused: {}", intent.kind.word(), refusal.error)));
            return;
        }
        let Some(old) = self.primary else { return };
        let what = if intent.dry_run { ", dry run" } else { "" };
        let reason = format!("asked for by {}{what}", intent.by);
        let mut op = self.operation(intent.kind, Trigger::Operator(intent.by), reason, old, now);
        op.asked = intent.to;
        op.allow_loss |= intent.allow_loss;
        op.dry_run = intent.dry_run;
        op.grace_ms = u64::try_from(intent.grace.as_millis()).unwrap_or(u64::MAX);
        self.begin(op, Step::Precheck, now, actions);
    }
}
