//! Whether everybody could be promoted, asked in quiet times: a missing grant is found before it is needed.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use crate::Mono;
use crate::cluster::event::Action;
use crate::cluster::health::Evidence;
use crate::cluster::{Alarm, AlarmKind, Cluster};
use crate::config::{FailoverMode, Promotion, Salvage, ServerConfig};
use crate::operation::{Order, OrderId, Report, Standing, Task, TaskError};

/// Everybody is examined this often.
const EVERY: Duration = Duration::from_secs(60);

/// How servers stood when they were last examined.
#[derive(Debug, Default)]
pub(in crate::cluster) struct Readiness {
    standings: BTreeMap<SocketAddr, Standing>,
    pending: BTreeMap<OrderId, SocketAddr>,
    /// Each server's next examination.
    next: BTreeMap<SocketAddr, Mono>,
}

impl Readiness {
    pub(super) fn standing(&self, server: SocketAddr) -> Option<&Standing> {
        self.standings.get(&server)
    }

    /// Everything may be different now.
    pub(super) fn forget(&mut self) {
        *self = Self::default();
    }
}

impl Cluster {
    /// Examines who is due, while nothing else goes on.
    pub(in crate::cluster) fn examine_when_due(&mut self, now: Mono, actions: &mut Vec<Action>) {
        if self.run.is_some() || self.config.failover != FailoverMode::Promote || self.group_bar().is_some() {
            return;
        }
        let answering: Vec<_> =
            self.servers.keys().copied().filter(|&s| self.evidence(s) == Evidence::Answers).collect();
        self.readiness.next.retain(|server, _| answering.contains(server));
        let next = &self.readiness.next;
        let due: Vec<_> = answering.into_iter().filter(|server| next.get(server).is_none_or(|at| *at <= now)).collect();
        let mut orders = Vec::with_capacity(due.len());
        for server in due {
            let id = self.next_order();
            self.readiness.next.insert(server, now + EVERY);
            self.readiness.pending.insert(id, server);
            orders.push(Order { id, task: Task::Examine { server }, within: self.config.probe.timeout * 2 });
        }
        if !orders.is_empty() {
            actions.push(Action::Start(orders));
        }
    }

    pub(super) fn note_readiness(&mut self, order: OrderId, result: &Result<Report, TaskError>) -> bool {
        let Some(server) = self.readiness.pending.remove(&order) else { return false };
        match result {
            Ok(Report::Standing(standing)) => drop(self.readiness.standings.insert(server, (**standing).clone())),
            Ok(_) | Err(_) => drop(self.readiness.standings.remove(&server)),
        }
        true
    }

    pub(in crate::cluster) fn readiness_deadline(&self) -> Option<Mono> {
        (self.config.failover == FailoverMode::Promote && self.run.is_none() && self.group_bar().is_none())
            .then(|| self.readiness.next.values().copied().min())
            .flatten()
    }

    /// Who could not be promoted, though a failover may need it.
    pub(super) fn readiness_alarms(&self) -> Vec<Alarm> {
        let candidates = self.config.servers.iter().filter(|s| s.promotion != Promotion::MustNot);
        let unready = candidates.filter_map(|server| self.unreadiness(server));
        unready.map(|message| Alarm { kind: AlarmKind::NotReady, message }).collect()
    }

    fn unreadiness(&self, server: &ServerConfig) -> Option<String> {
        let standing = self.readiness.standing(server.address)?;
        if !standing.obstacles.is_empty() {
            let obstacles = standing.obstacles.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ");
            return Some(format!("{} could not be made primary: {obstacles}", server.label));
        }
        let is_replica = self.primary != Some(server.address) && !self.outcasts.contains_key(&server.address);
        if is_replica && standing.replication.channels > 0 && !standing.replication.receiving {
            let (name, label) = (&self.config.name, &server.label);
            return Some(format!(
                "{label} falls behind: its I/O thread is stopped; START REPLICA there, or `shunt rejoin {name} {label}`"
            ));
        }
        let lacks = self.config.promoting.salvage == Salvage::Apply && !standing.cannot_apply.is_empty();
        lacks.then(|| {
            let grants = standing.cannot_apply.join("; ");
            format!("{} could be made primary, but nothing salvaged applied to it (run: {grants})", server.label)
        })
    }
}
