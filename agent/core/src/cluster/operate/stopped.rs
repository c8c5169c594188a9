//! Replicas that an operation told to stop receiving, before it came to nothing. If nobody was promoted and their source is
//! the primary again, they are to receive again: otherwise its next death would lose everything since. After a restart of
//! the agent nobody remembers them; then the alarm *not ready* names them.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use super::Run;
use super::steps::FOLLOW;
use crate::Mono;
use crate::cluster::Cluster;
use crate::cluster::event::Action;
use crate::cluster::health::{Evidence, Health};
use crate::cluster::verdict::Verdict;
use crate::config::FailoverMode;
use crate::observation::{Channel, IoThread};
use crate::operation::{Order, Task};

/// By replica.
#[derive(Debug, Default)]
pub(in crate::cluster) struct LeftStopped(BTreeMap<SocketAddr, Left>);

#[derive(Clone, Copy, Debug)]
struct Left {
    source: SocketAddr,
    semi_sync: bool,
    /// What it said before tells nothing.
    since: Mono,
    /// It is sent back no sooner than that.
    next: Mono,
}

impl Cluster {
    /// The operation ends, and nobody was promoted.
    pub(super) fn note_left_stopped(&mut self, run: &Run, now: Mono) {
        if run.op.promotion_began {
            self.left_stopped.0.clear();
        }
        if run.op.promotion_began || !run.revoked {
            return;
        }
        let left = Left { source: run.op.old, semi_sync: run.op.semi_sync, since: now, next: now };
        let others = self.servers.keys().copied().filter(|server| *server != run.op.old);
        self.left_stopped.0 = others.map(|server| (server, left)).collect();
    }

    /// Sends them back to their source, once that is the primary again.
    pub(in crate::cluster) fn start_receiving_again(&mut self, now: Mono, actions: &mut Vec<Action>) {
        if self.left_stopped.0.is_empty() || self.run.is_some() {
            return;
        }
        let Some(primary) = self.primary else { return };
        let mut left = std::mem::take(&mut self.left_stopped.0);
        left.retain(|&server, left| self.may_be_left_stopped(server, left));
        let may = self.config.failover == FailoverMode::Promote
            && self.open
            && self.assessment.verdict == Verdict::Healthy
            && self.pause.is_none()
            && self.sealed.is_none()
            && self.lock_bar(None).is_none();
        let answering = |server, left: &Left| {
            self.evidence(server) == Evidence::Answers
                && !self.outcasts.contains_key(&server)
                && self.was_asked_after(server, left.since)
        };
        let due: Vec<_> = left
            .iter_mut()
            .filter(|(server, left)| may && left.source == primary && left.next <= now && answering(**server, left))
            .map(|(&server, left)| {
                left.next = now + FOLLOW;
                (server, *left)
            })
            .collect();
        self.left_stopped.0 = left;
        for (server, Left { source, semi_sync, .. }) in due {
            let id = self.next_order();
            self.linger(id, server, source);
            let task = Task::Follow { server, source, semi_sync };
            actions.push(Action::Start(vec![Order { id, task, within: FOLLOW }]));
        }
    }

    /// As far as anybody knows.
    fn may_be_left_stopped(&self, server: SocketAddr, left: &Left) -> bool {
        let Some(health) = self.servers.get(&server) else { return false };
        let Some(state) = health.state().filter(|_| self.was_asked_after(server, left.since)) else { return true };
        let view = self.view(Mono::ZERO);
        let from_it = |channel: &Channel| view.is_source(channel, left.source);
        state.channels.iter().any(|channel| from_it(channel) && channel.io == IoThread::Stopped)
    }

    fn was_asked_after(&self, server: SocketAddr, moment: Mono) -> bool {
        self.servers.get(&server).and_then(Health::asked_at).is_some_and(|asked| asked > moment)
    }
}
