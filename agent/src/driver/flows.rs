//! Lists of flows: each is read by a thread and a netlink socket of its own, so that neither a swap nor the metrics wait
//! for a long list or for somebody who is slow to take it.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::ops::ControlFlow;

use shunt_core::ClusterName;
use shunt_core::datapath::{DatapathError, Meter};
use shunt_core::flow::{Flow, FlowFilter};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::agent::Agent;
use super::worker::Gone;

/// So many lists at a time: each costs a core while it is read, and a thread while nobody takes it.
const READERS: usize = 4;

/// Lets a few lists at a time be read.
#[derive(Clone, Debug)]
pub struct Readers(std::sync::Arc<Semaphore>);

impl Default for Readers {
    fn default() -> Self {
        Self(std::sync::Arc::new(Semaphore::new(READERS)))
    }
}

/// Why a list of flows cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum FlowsError {
    #[error("{READERS} lists of flows are being read already")]
    Busy,
    #[error(transparent)]
    Datapath(#[from] DatapathError),
    #[error(transparent)]
    Gone(#[from] Gone),
}

/// A list of flows that is yet to be read.
pub struct FlowList {
    meter: Box<dyn Meter>,
    filter: FlowFilter,
    clusters: BTreeMap<SocketAddr, ClusterName>,
    _permit: OwnedSemaphorePermit,
}

impl Agent {
    /// The flows through a cluster's listeners, or through everybody's.
    pub async fn flows(&self, cluster: Option<&ClusterName>, source_port: Option<u16>) -> Result<FlowList, FlowsError> {
        let permit = self.readers.0.clone().try_acquire_owned().map_err(|_| FlowsError::Busy)?;
        let meter = self.shared.datapath.run(|datapath| datapath.meter()).await??;
        let mut clusters = self.listeners();
        clusters.retain(|_, name| cluster.is_none_or(|wanted| name == wanted));
        let filter = FlowFilter { listeners: clusters.keys().copied().collect(), source_port };
        Ok(FlowList { meter, filter, clusters, _permit: permit })
    }
}

impl FlowList {
    /// A list that a meter of the test's own tells.
    #[cfg(test)]
    pub fn of(meter: Box<dyn Meter>, clusters: BTreeMap<SocketAddr, ClusterName>) -> Self {
        let permit = Readers::default().0.try_acquire_owned().expect("these readers are nobody else's");
        let filter = FlowFilter { listeners: clusters.keys().copied().collect(), source_port: None };
        Self { meter, filter, clusters, _permit: permit }
    }

    /// Calls `each` with every flow and its cluster until it breaks off. Blocks; IPv4 comes before IPv6.
    pub fn read(mut self, mut each: impl FnMut(&ClusterName, &Flow) -> ControlFlow<()>) -> Result<(), DatapathError> {
        let clusters = &self.clusters;
        self.meter.flows(&self.filter, &mut |flow| match clusters.get(&flow.tuple.listener) {
            Some(cluster) => each(cluster, &flow),
            None => ControlFlow::Continue(()),
        })
    }
}
