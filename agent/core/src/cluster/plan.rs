//! From a decision to mappings: where each listener of a cluster leads.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use super::Entry;
use super::health::Evidence;
use super::lapse::Lapses;
use super::readers::{Fit, spread};
use super::view::View;
use crate::config::{ClusterConfig, Established, Fallback, Fenced, ListenerConfig, ListenerRole};
use crate::mapping::{Admission, Leaving, Mapping, Route};
use crate::{ClusterName, Epoch};

/// What the kernel should hold for one cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    pub cluster: ClusterName,
    pub epoch: Epoch,
    /// The primary of that epoch, whether or not the listeners lead to it.
    pub primary: Option<SocketAddr>,
    /// One a listener.
    pub mappings: Vec<Mapping>,
}

impl Plan {
    /// Whether both ask the same of the kernel. What becomes of leaving flows matters only when something leaves.
    pub fn asks_the_same_as(&self, other: &Self) -> bool {
        self.epoch == other.epoch
            && self.primary == other.primary
            && self.mappings.len() == other.mappings.len()
            && self.mappings.iter().zip(&other.mappings).all(|(a, b)| Mapping { leaving: b.leaving, ..a.clone() } == *b)
    }
}

/// What stands above observation, and what of it the plan starts from.
#[derive(Clone, Copy, Debug)]
pub struct Basis<'a> {
    pub epoch: Epoch,
    /// By replica listener, who may take its connections.
    pub fit: &'a Fit,
    pub pins: &'a BTreeMap<Option<SocketAddr>, SocketAddr>,
    /// Listeners that the kernel has stopped, and that may not open yet.
    pub lapses: &'a Lapses,
    /// The backend that the primary listeners may be leaving.
    pub leaving: Option<SocketAddr>,
    /// The backend whose established connections a fence spares.
    pub spared: Option<SocketAddr>,
}

/// The mappings of a cluster: its primary listeners lead to the view's primary if the view is open.
pub fn plan(view: View<'_>, basis: Basis<'_>) -> Plan {
    let mappings = view
        .config
        .listeners
        .iter()
        .map(|listener| (listener, route(view, basis, listener)))
        .map(|(listener, route)| Mapping {
            listener: listener.address,
            cluster: view.config.name.clone(),
            snat: listener.snat.clone(),
            leaving: leaving(view, basis, listener),
            admission: Admission {
                allow: listener.allow.clone(),
                limit: listener.max_connections,
                limit_per_source: listener.max_connections_per_source,
            },
            lease: view.config.lease,
            spared: basis.spared.filter(|_| route.is_fenced()),
            route,
        })
        .collect();
    Plan { cluster: view.config.name.clone(), epoch: basis.epoch, primary: view.primary, mappings }
}

fn route(view: View<'_>, basis: Basis<'_>, listener: &ListenerConfig) -> Route {
    if let Some(&pinned) = basis.pins.get(&Some(listener.address)) {
        return Route::Single(pinned);
    }
    let lead = view.primary.filter(|_| view.open);
    let led = match listener.role {
        _ if basis.lapses.fence(listener.address) => None,
        ListenerRole::Primary => lead.map(Route::Single),
        ListenerRole::Replica => {
            let replicas = basis.fit.get(&listener.address).map_or(Vec::new(), |fit| spread(view.config, fit));
            match (replicas.is_empty(), listener.fallback) {
                (false, _) => Some(Route::Spread(replicas)),
                (true, Fallback::Primary) => lead.map(Route::Single),
                (true, Fallback::None) => None,
            }
        }
    };
    led.unwrap_or(match listener.fenced {
        Fenced::Hold => Route::Hold(listener.hold),
        Fenced::Refuse => Route::Refuse,
    })
}

/// A primary that leaves may drain only if it is known to take no writes any more.
fn leaving(view: View<'_>, basis: Basis<'_>, listener: &ListenerConfig) -> Leaving {
    let harmless = match listener.role {
        ListenerRole::Replica => true,
        ListenerRole::Primary => basis.leaving.and_then(|old| view.servers.get(&old)).is_some_and(|health| {
            health.evidence(&view.config.probe) == Evidence::Answers
                && health.state().is_some_and(|state| !state.is_writable())
        }),
    };
    match listener.established {
        Established::Drain if harmless => Leaving::Drain(listener.drain),
        Established::Keep if harmless => Leaving::Keep,
        Established::Drain | Established::Keep | Established::Reset => Leaving::Sever,
    }
}

/// What becomes of the flows of a listener that an operator took out of the configuration: they get their time to end.
pub fn on_removal(listener: &ListenerConfig) -> Leaving {
    match listener.established {
        Established::Keep => Leaving::Keep,
        Established::Drain | Established::Reset => Leaving::Drain(listener.drain),
    }
}

/// Where the kernel's mapping of the first primary listener leads.
pub fn held_primary(config: &ClusterConfig, held: &BTreeMap<SocketAddr, Vec<SocketAddr>>) -> Option<SocketAddr> {
    let mut listeners = config.listeners.iter().filter(|l| l.role == ListenerRole::Primary);
    listeners.find_map(|l| held.get(&l.address)).and_then(|backends| backends.first().copied())
}

/// The line of history for a mapping that changed.
pub fn mapping_entry(config: &ClusterConfig, mapping: &Mapping, epoch: Epoch, commit: Duration) -> Entry {
    let label = |address: SocketAddr| {
        config.servers.iter().find(|s| s.address == address).map_or_else(|| address.to_string(), |s| s.label.clone())
    };
    let backends = mapping.route.backends();
    let (kind, message) = match &mapping.route {
        Route::Single(to) => ("mapped", format!("{} → {}, epoch {epoch}", mapping.listener, label(*to))),
        Route::Spread(to) => {
            let names: Vec<_> = to.iter().map(|w| label(w.address)).collect();
            ("mapped", format!("{} → {}, epoch {epoch}", mapping.listener, names.join(", ")))
        }
        Route::Hold(time) => (
            "fenced",
            format!("{} leads to nobody: new connections are held for {time:?}, then refused", mapping.listener),
        ),
        Route::Refuse => ("fenced", format!("{} leads to nobody: new connections are refused", mapping.listener)),
    };
    let joined = backends.iter().map(ToString::to_string).collect::<Vec<_>>().join(",");
    Entry {
        kind,
        message,
        data: vec![
            ("listener", mapping.listener.to_string()),
            ("backends", joined),
            ("epoch", epoch.to_string()),
            ("commit_us", commit.as_micros().to_string()),
        ],
    }
}
