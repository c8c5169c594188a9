//! Replicas that are on their way back to their primary, since an operation was taken back or came to nothing. They are not
//! left half-way for its end;
//! but the orders die with the reason for them: when anything else is to become of the server, of its source or of the cluster.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

use crate::cluster::Cluster;
use crate::cluster::event::Action;
use crate::config::FailoverMode;
use crate::operation::{OrderId, Task};

/// Orders that outlive their operation: who is to follow whom.
#[derive(Debug, Default)]
pub(in crate::cluster) struct Lingering(BTreeMap<OrderId, Way>);

#[derive(Clone, Copy, Debug)]
struct Way {
    server: SocketAddr,
    source: SocketAddr,
}

impl Cluster {
    /// The operation ends as taken back: whoever is on the way to its primary may get there.
    pub(super) fn let_linger(&mut self) {
        let Some(run) = &mut self.run else { return };
        let lingering = &mut self.lingering.0;
        run.pending.retain(|&id, pending| {
            let Task::Follow { server, source, .. } = pending.task else { return true };
            lingering.insert(id, Way { server, source });
            false
        });
    }

    /// An order outside of any operation, under the same conditions.
    pub(super) fn linger(&mut self, order: OrderId, server: SocketAddr, source: SocketAddr) {
        self.lingering.0.insert(order, Way { server, source });
    }

    /// Nothing that lingers may meet an operation, another primary or another agent.
    pub(in crate::cluster) fn forget_lingering_if_void(&mut self, actions: &mut Vec<Action>) {
        if self.lingering.0.is_empty() {
            return;
        }
        let none_may = self.run.is_some()
            || !self.open
            || self.config.failover == FailoverMode::Follow
            || self.lock_bar(None).is_some();
        let primary = self.primary;
        let ours: BTreeSet<_> = self.servers.keys().copied().collect();
        self.forget_lingering(|way| none_may || Some(way.source) != primary || !ours.contains(&way.server), actions);
    }

    pub(super) fn forget_all_lingering(&mut self, actions: &mut Vec<Action>) {
        self.forget_lingering(|_| true, actions);
    }

    /// Something else is done about that server from now on.
    pub(super) fn forget_lingering_of(&mut self, server: SocketAddr, actions: &mut Vec<Action>) {
        self.forget_lingering(|way| way.server == server, actions);
    }

    fn forget_lingering(&mut self, is_void: impl Fn(&Way) -> bool, actions: &mut Vec<Action>) {
        let void: Vec<_> = self.lingering.0.iter().filter(|(_, way)| is_void(way)).map(|(&id, _)| id).collect();
        if !void.is_empty() {
            self.lingering.0.retain(|id, _| !void.contains(id));
            actions.push(Action::Forget(void));
        }
    }

    #[cfg(test)]
    pub(in crate::cluster) fn lingering_count(&self) -> usize {
        self.lingering.0.len()
    }

    /// Whether that was the answer to one of them; nobody waits for it.
    pub(super) fn note_lingering(&mut self, order: OrderId) -> bool {
        self.lingering.0.remove(&order).is_some()
    }
}
