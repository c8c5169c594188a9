//! Replica listeners: which replicas are fit to take connections, and which of them do.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use super::Cluster;
use super::council::Council;
use super::health::{Evidence, Health};
use super::view::View;
use crate::Mono;
use crate::config::{ClusterConfig, ListenerConfig, ListenerRole};
use crate::mapping::Weighted;
use crate::observation::{Channel, IoThread};

/// By replica listener the replicas that are fit for it.
pub type Fit = BTreeMap<SocketAddr, Vec<SocketAddr>>;

impl Cluster {
    pub(super) fn fit_now(&self, now: Mono) -> Fit {
        let listeners = self.config.listeners.iter().filter(|l| l.role == ListenerRole::Replica);
        listeners
            .map(|listener| {
                let before = self.fit.get(&listener.address).map_or(&[][..], Vec::as_slice);
                let since = self.lapses.noticed(listener.address);
                (listener.address, fit_replicas(self.view(now), listener, before, since))
            })
            .collect()
    }
}

/// The replicas that may take connections of one listener now.
///
/// One is out when it lags more than the listener allows, and in again at half of that. While its source is gone a replica
/// cannot tell its lag: it stays as it was, for a failover should not cost the readers too. Only what servers were asked
/// after `since` counts.
fn fit_replicas(
    view: View<'_>,
    listener: &ListenerConfig,
    before: &[SocketAddr],
    since: Option<Mono>,
) -> Vec<SocketAddr> {
    let council = Council::of(view);
    let is_fit = |server: SocketAddr| {
        let was = before.contains(&server);
        let Some(health) = view.servers.get(&server) else { return false };
        if Some(server) == view.primary || (since.is_some() && health.asked_at() <= since) {
            return false;
        }
        match health.evidence(&view.config.probe) {
            Evidence::Gone => false,
            Evidence::Unknown | Evidence::Suspect | Evidence::Failing(_) => was,
            Evidence::Answers => health.state().is_some_and(|state| {
                let has_data = match &council {
                    // Before there is a primary, any of them may become it.
                    Some(council) if state.running_group().is_some() => {
                        view.primary.is_some()
                            && council.has_voice(server)
                            && keeps_up_with_group(health, listener.max_lag, was)
                    }
                    _ => view.replicates(server),
                };
                has_data && state.channels.iter().all(|channel| keeps_up(channel, listener.max_lag, was))
            }),
        }
    };
    view.config.servers.iter().map(|s| s.address).filter(|&s| is_fit(s)).collect()
}

fn keeps_up(channel: &Channel, max_lag: Duration, was: bool) -> bool {
    channel.sql_running
        && match channel.lag {
            Some(lag) => lag <= if was { max_lag } else { max_lag / 2 },
            None => was && channel.io == IoThread::Connecting,
        }
}

/// A member of a group replicates without a channel that could tell its lag. One whose backlog is not known is trusted
/// to keep up: the group's flow control holds the writers back for it.
fn keeps_up_with_group(health: &Health, max_lag: Duration, was: bool) -> bool {
    let tells = health.state().and_then(|state| state.group.as_ref()).is_some_and(|group| group.backlog().is_some());
    match health.group_lag() {
        Some(lag) => lag <= if was { max_lag } else { max_lag / 2 },
        None => was || !tells,
    }
}

/// Who takes a replica listener's connections: of the fit ones those in the agent's own data centre, as long as there is
/// one, else all. A replica of weight 0 takes none.
pub fn spread(config: &ClusterConfig, fit: &[SocketAddr]) -> Vec<Weighted> {
    let all = || config.servers.iter().filter(|s| s.weight > 0 && fit.contains(&s.address));
    let is_near = |dc: &Option<String>| config.near.is_some() && *dc == config.near;
    let any_near = all().any(|s| is_near(&s.dc));
    all().filter(|s| !any_near || is_near(&s.dc)).map(|s| Weighted { address: s.address, weight: s.weight }).collect()
}

/// Where the kernel's mappings of the replica listeners lead.
pub fn held_replicas(config: &ClusterConfig, held: &BTreeMap<SocketAddr, Vec<SocketAddr>>) -> Fit {
    let listeners = config.listeners.iter().filter(|l| l.role == ListenerRole::Replica);
    listeners
        .filter_map(|l| held.get(&l.address).map(|backends| (l.address, backends)))
        .map(|(listener, backends)| {
            (listener, config.servers.iter().map(|s| s.address).filter(|s| backends.contains(s)).collect())
        })
        .collect()
}
