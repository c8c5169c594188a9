//! Listeners that a reload took away and whose connections still have time to end. They are shown until then; an agent that
//! restarts meanwhile does not know of them any more, and the kernel ends them all the same.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

use shunt_core::cluster::{ClusterStatus, ListenerStatus, Verdict};
use shunt_core::config::ListenerRole;
use shunt_core::mapping::Leaving;
use shunt_core::{ClusterName, Epoch, Mono};

use super::agent::{Agent, read, write};
use super::cluster::ClusterHandle;

/// A listener that is no more, as it was when it was removed.
#[derive(Clone, Debug)]
pub struct Departed {
    pub cluster: ClusterName,
    pub role: ListenerRole,
    pub listener: SocketAddr,
    pub epoch: Epoch,
    pub verdict: Verdict,
    /// When it was removed.
    pub since: Mono,
    /// When the kernel ends what is left; `None`: it does not.
    until: Option<Mono>,
}

impl Departed {
    fn new(status: &ClusterStatus, listener: &ListenerStatus, leaving: Leaving, now: Mono) -> Option<Self> {
        let until = match leaving {
            Leaving::Sever => return None,
            Leaving::Drain(time) => Some(now + time),
            Leaving::Keep => None,
        };
        Some(Self {
            cluster: status.name.clone(),
            role: listener.role,
            listener: listener.address,
            epoch: status.epoch,
            verdict: status.verdict,
            since: now,
            until,
        })
    }
}

impl Agent {
    /// Remembers listeners that are about to be removed.
    pub(super) fn note_departures(&self, gone: &BTreeMap<SocketAddr, Leaving>) {
        let now = self.shared.clock.now();
        let statuses: Vec<_> = read(&self.clusters).values().map(ClusterHandle::last_status).collect();
        let departing = statuses.iter().flat_map(|status| {
            let leaving = status.listeners.iter().filter_map(|l| gone.get(&l.address).map(|leaving| (l, *leaving)));
            leaving.filter_map(|(listener, leaving)| Departed::new(status, listener, leaving, now))
        });
        let mut departed = write(&self.departed);
        departed.retain(|d| !gone.contains_key(&d.listener));
        departed.extend(departing);
    }

    /// The listeners that are no more and still have connections, by `connections`.
    pub fn departed(&self, connections: &BTreeMap<SocketAddr, u64>) -> Vec<Departed> {
        let (now, served) = (self.shared.clock.now(), self.served());
        let mut departed = write(&self.departed);
        departed.retain(|d| {
            d.until.is_none_or(|until| now < until) && connections.get(&d.listener).is_some_and(|&n| n > 0)
        });
        // One that is back is a listener like any other.
        departed.iter().filter(|d| !served.contains(&d.listener)).cloned().collect()
    }

    /// Every listener that connections may go through.
    pub(super) fn counted_listeners(&self) -> Vec<SocketAddr> {
        let mut listeners = self.served();
        listeners.extend(read(&self.departed).iter().map(|d| d.listener));
        listeners.into_iter().collect()
    }

    fn served(&self) -> BTreeSet<SocketAddr> {
        read(&self.clusters).values().flat_map(|c| c.config.listeners.iter().map(|l| l.address)).collect()
    }
}
