//! A primary that was restarted and came back read-only, as a careful `my.cnf` has it. Nobody was promoted meanwhile, so it
//! is still the primary, and it may take writes again.

use std::net::SocketAddr;
use std::time::Duration;

use super::telling;
use crate::Mono;
use crate::cluster::Cluster;
use crate::cluster::event::Action;
use crate::cluster::health::{Evidence, Health};
use crate::config::FailoverMode;
use crate::gtid::GtidPosition;
use crate::operation::{Order, OrderId, Report, Task, TaskError};

const WITHIN: Duration = Duration::from_secs(5);
const AGAIN: Duration = Duration::from_secs(5);

/// The order that makes it writable, and when to try again.
#[derive(Debug, Default)]
pub(in crate::cluster) struct Restoring {
    order: Option<(OrderId, SocketAddr)>,
    rest_until: Option<Mono>,
}

impl Cluster {
    /// Makes the primary writable again if a restart made it read-only, and if everybody is there and says that nobody has
    /// taken its place.
    pub(in crate::cluster) fn restore_primary(&mut self, now: Mono, actions: &mut Vec<Action>) {
        self.restoring.rest_until = self.restoring.rest_until.filter(|until| now < *until);
        if self.restoring.order.is_some() || self.restoring.rest_until.is_some() {
            return;
        }
        let Some(primary) = self.primary.filter(|&primary| self.may_be_restored(primary)) else { return };
        let id = self.next_order();
        self.restoring.order = Some((id, primary));
        let order = Order { id, task: Task::MakeWritable { server: primary }, within: WITHIN };
        actions.push(Action::Start(vec![order]));
    }

    fn may_be_restored(&self, primary: SocketAddr) -> bool {
        let allowed = self.config.failover == FailoverMode::Promote
            && self.run.is_none()
            && self.pause.is_none()
            && self.pins.is_empty()
            && self.sealed.is_none()
            && self.group_bar().is_none()
            && self.lock_bar(None).is_none()
            && !self.outcasts.contains_key(&primary);
        let Some(health) = self.servers.get(&primary).filter(|health| allowed && health.restarted_read_only()) else {
            return false;
        };
        let view = self.view(Mono::ZERO);
        let Some(has) = position(health) else { return false };
        self.servers.iter().filter(|(server, _)| **server != primary).all(|(&server, other)| {
            let follows = other.state().is_some_and(|s| s.channels.iter().any(|c| view.is_source(c, primary)));
            self.evidence(server) == Evidence::Answers
                && other.state().is_some_and(|state| !state.is_writable())
                && follows
                && position(other).is_some_and(|theirs| theirs.is_subset(&has) == Some(true))
        })
    }

    /// What an operation does comes first.
    pub(super) fn forget_restoring(&mut self, actions: &mut Vec<Action>) {
        if let Some((order, _)) = self.restoring.order.take() {
            actions.push(Action::Forget(vec![order]));
        }
    }

    pub(super) fn note_restored(
        &mut self,
        order: OrderId,
        result: &Result<Report, TaskError>,
        now: Mono,
        actions: &mut Vec<Action>,
    ) -> bool {
        let Some((_, server)) = self.restoring.order.take_if(|(id, _)| *id == order) else { return false };
        match result {
            Ok(Report::Standing(standing)) if !standing.read_only => {
                if let Some(health) = self.servers.get_mut(&server) {
                    health.note_writable(now);
                }
                let message = format!("{} was restarted read-only, and takes writes again", self.label(server));
                telling::restored(server, message, actions);
            }
            Ok(_) | Err(_) => self.restoring.rest_until = Some(now + AGAIN),
        }
        true
    }

    pub(in crate::cluster) const fn restoring_deadline(&self) -> Option<Mono> {
        self.restoring.rest_until
    }
}

fn position(health: &Health) -> Option<GtidPosition> {
    let state = health.state()?;
    GtidPosition::parse(state.identity.flavour, &state.gtid_executed).ok()
}
