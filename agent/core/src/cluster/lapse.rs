//! Leases that ran out. The kernel stopped these listeners by itself while the agent was frozen, starved or dead, so what
//! the agent knew then is worth nothing now: a listener opens again on news that is younger than its lapse.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

use super::event::{Action, Entry};
use super::health::Evidence;
use super::readers::spread;
use super::verdict::{Alarm, AlarmKind, Direction};
use super::{Cluster, ListenerSince};
use crate::Mono;
use crate::config::{Fallback, ListenerRole};
use crate::mapping::Route;
use crate::observation::ServerState;

/// The lapses of a cluster's leases.
#[derive(Clone, Debug, Default)]
pub(super) struct Lapses {
    /// Stopped by the kernel, and not opened since.
    fenced: BTreeSet<SocketAddr>,
    /// When each listener's last lapse was noticed. It happened before that.
    noticed: BTreeMap<SocketAddr, Mono>,
}

impl Lapses {
    pub(super) fn fence(&self, listener: SocketAddr) -> bool {
        self.fenced.contains(&listener)
    }

    /// Answers to questions from before this count no more for that listener.
    pub(super) fn noticed(&self, listener: SocketAddr) -> Option<Mono> {
        self.noticed.get(&listener).copied()
    }

    /// When the last of those that still fence was noticed.
    pub(super) fn since(&self) -> Option<Mono> {
        self.fenced.iter().filter_map(|&listener| self.noticed(listener)).max()
    }

    pub(super) fn retain(&mut self, is_configured: impl Fn(SocketAddr) -> bool) {
        self.fenced.retain(|&listener| is_configured(listener));
        self.noticed.retain(|&listener, _| is_configured(listener));
    }

    pub(super) fn alarm(&self) -> Option<Alarm> {
        let message = format!(
            "the lease of {} ran out; it stays closed until its servers have been seen anew",
            words(self.fenced.iter())
        );
        (!self.fenced.is_empty()).then_some(Alarm { kind: AlarmKind::LeaseLapsed, message })
    }
}

impl Cluster {
    /// Takes note that the kernel has stopped these listeners.
    pub(super) fn lapse(&mut self, listeners: &[SocketAddr], now: Mono, actions: &mut Vec<Action>) {
        let ours: Vec<_> = self.config.listeners.iter().map(|l| l.address).filter(|l| listeners.contains(l)).collect();
        if ours.is_empty() {
            return;
        }
        self.in_flight = None;
        // Connections that were stopped are not let go on.
        self.spared = None;
        for &listener in &ours {
            self.lapses.fenced.insert(listener);
            self.lapses.noticed.insert(listener, now);
            self.fit.remove(&listener);
            if let Some(seen) = self.listeners.get_mut(&listener) {
                *seen = ListenerSince { route: Route::Refuse, since: now };
            }
        }
        if let Some(committed) = &mut self.committed {
            committed.mappings.retain(|mapping| !ours.contains(&mapping.listener));
        }
        let names = words(ours.iter());
        actions.push(Action::Record(Entry {
            kind: "lease_lapsed",
            message: format!(
                "the lease of {names} was not renewed in time: the kernel ended its connections, and it opens again once its \
                 servers have been seen anew"
            ),
            data: vec![("listeners", names)],
        }));
    }

    /// Ends the fence of listeners for which there is news since their lapse. An operator's pin needs none.
    pub(super) fn end_lapses(&mut self, direction: Direction) {
        let Some(lapsed) = self.lapses.since() else { return };
        // A server that has not been asked anew may be a replica of somebody else by now.
        let all_asked = self
            .servers
            .values()
            .filter(|health| health.evidence(&self.config.probe) == Evidence::Answers)
            .all(|health| health.asked_at() > Some(lapsed));
        let primary = self.primary.filter(|&primary| {
            all_asked
                && direction == Direction::Lead(primary)
                && self.servers.get(&primary).is_some_and(|health| {
                    health.evidence(&self.config.probe) == Evidence::Answers
                        && health.state().is_some_and(ServerState::is_writable)
                })
        });
        for listener in &self.config.listeners {
            let is_pinned = self.pins.contains_key(&None) || self.pins.contains_key(&Some(listener.address));
            let is_over = match listener.role {
                ListenerRole::Primary => primary.is_some(),
                ListenerRole::Replica => {
                    let fit = self.fit.get(&listener.address).map_or(&[][..], Vec::as_slice);
                    let has_readers = !spread(&self.config, fit).is_empty();
                    all_asked && (has_readers || primary.is_some() || listener.fallback == Fallback::None)
                }
            };
            if is_pinned || is_over {
                self.lapses.fenced.remove(&listener.address);
            }
        }
    }

    /// Whether a primary listener leads to the primary.
    pub(super) fn is_open(&self) -> bool {
        let mut primaries = self.config.listeners.iter().filter(|l| l.role == ListenerRole::Primary).peekable();
        self.open && (primaries.peek().is_none() || primaries.any(|l| !self.lapses.fence(l.address)))
    }
}

fn words<'a>(listeners: impl Iterator<Item = &'a SocketAddr>) -> String {
    listeners.map(ToString::to_string).collect::<Vec<_>>().join(", ")
}
