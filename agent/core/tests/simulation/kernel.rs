//! The kernel's part of a proxy: it holds what was committed to it, and goes on without the agent.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::Duration;

use shunt_core::cluster::Plan;
use shunt_core::mapping::{Leaving, Mapping, Route};
use shunt_core::{Epoch, Mono};

#[derive(Clone, Debug, Default)]
pub struct Kernel {
    pub epoch: Epoch,
    pub primary: Option<SocketAddr>,
    pub mappings: BTreeMap<SocketAddr, Mapping>,
    /// Pairs that end by themselves: listener, backend, and until when.
    draining: Vec<(SocketAddr, SocketAddr, Mono)>,
    /// Listeners whose lease ran out.
    pub lapsed: BTreeSet<SocketAddr>,
    pub lease_until: Option<Mono>,
}

impl Kernel {
    /// Takes a plan into force in one step.
    pub fn apply(&mut self, plan: &Plan, now: Mono) {
        for mapping in &plan.mappings {
            let before = self.mappings.insert(mapping.listener, mapping.clone());
            let left = before.map(|b| backends(&b)).unwrap_or_default();
            for backend in left.into_iter().filter(|b| !backends(mapping).contains(b)) {
                let until = match mapping.leaving {
                    Leaving::Sever => continue,
                    Leaving::Drain(time) => now + time,
                    Leaving::Keep => Mono(Duration::MAX),
                };
                self.draining.push((mapping.listener, backend, until));
            }
            // What is live again drains no more.
            self.draining.retain(|(l, b, _)| *l != mapping.listener || !backends(mapping).contains(b));
        }
        self.mappings.retain(|listener, _| plan.mappings.iter().any(|m| m.listener == *listener));
        self.lapsed.clear();
        self.epoch = plan.epoch;
        self.primary = plan.primary;
    }

    /// Whether an established connection's packets pass: its pair is live.
    pub fn lets_pass(&self, listener: SocketAddr, backend: SocketAddr, now: Mono) -> bool {
        !self.lapsed.contains(&listener)
            && (self.mappings.get(&listener).is_some_and(|m| backends(m).contains(&backend))
                || self.draining.iter().any(|&(l, b, until)| l == listener && b == backend && now < until))
    }

    /// Where a new connection goes.
    pub fn leads(&self, listener: SocketAddr) -> Option<SocketAddr> {
        if self.lapsed.contains(&listener) {
            return None;
        }
        self.mappings.get(&listener).and_then(|m| m.route.backends().first().copied())
    }

    /// Whether established connections to it are spared, though new ones are held.
    pub fn spares(&self, listener: SocketAddr, backend: SocketAddr) -> bool {
        self.mappings.get(&listener).is_some_and(|m| m.route.is_fenced() && m.spared == Some(backend))
    }

    /// What an agent that starts finds.
    pub fn held(&self) -> BTreeMap<SocketAddr, Vec<SocketAddr>> {
        let backends = |m: &Mapping| if self.lapsed.contains(&m.listener) { Vec::new() } else { m.route.backends() };
        self.mappings.iter().map(|(&listener, m)| (listener, backends(m))).collect()
    }

    /// The kernel stops what was not renewed.
    pub fn lapse(&mut self, now: Mono) -> bool {
        if self.lease_until.is_none_or(|until| now < until) {
            return false;
        }
        let before = self.lapsed.len();
        let open = |m: &&Mapping| !matches!(m.route, Route::Hold(_) | Route::Refuse) || m.spared.is_some();
        self.lapsed.extend(self.mappings.values().filter(open).map(|m| m.listener));
        self.lapsed.len() > before
    }
}

/// Whom established connections may reach.
fn backends(mapping: &Mapping) -> Vec<SocketAddr> {
    let mut backends = mapping.route.backends();
    if mapping.route.is_fenced() {
        backends.extend(mapping.spared);
    }
    backends
}
