//! Which servers a cluster's task observes, and how: what a reload does not change goes on.

use std::collections::BTreeSet;
use std::net::SocketAddr;

use shunt_core::config::{ClusterConfig, FailoverMode};

use super::cluster::ClusterTask;
use crate::probe::{self, ProbeSpec};

impl ClusterTask {
    pub(super) fn probe_as_configured(&mut self) {
        let config = self.machine.config().clone();
        self.set_probes(&config, config.failover);
    }

    /// Observes the servers of that configuration. Whoever is observed already, and in the same way, goes on to be: the lock
    /// `shunt.promoter` is a connection's, and another agent may take it while there is none. Returns whose connection is new.
    pub(super) fn set_probes(&mut self, config: &ClusterConfig, mode: FailoverMode) -> BTreeSet<SocketAddr> {
        self.probing = mode;
        let mut before = std::mem::take(&mut self.probes);
        let mut reconnected = BTreeSet::new();
        for server in &config.servers {
            let spec = ProbeSpec {
                server: server.address,
                user: self.login.agent.user.clone(),
                password: self.login.agent.password.clone(),
                interval: config.probe.interval,
                timeout: config.probe.timeout,
                promotes: mode == FailoverMode::Promote,
            };
            let kept = before.remove(&server.address).filter(|probe| probe.serves(&spec));
            let probe = kept.unwrap_or_else(|| {
                reconnected.insert(server.address);
                probe::spawn(spec, self.cadence.subscribe(), self.observer.clone(), self.shared.clock)
            });
            self.probes.insert(server.address, probe);
        }
        reconnected
    }
}
