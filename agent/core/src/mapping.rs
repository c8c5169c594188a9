//! Desired mappings: what a datapath is asked to hold.

use std::net::SocketAddr;
use std::time::Duration;

use crate::ClusterName;
use crate::config::Snat;

/// A listener and where it leads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mapping {
    pub listener: SocketAddr,
    /// For whoever reads the kernel's tables; carries no meaning there.
    pub cluster: ClusterName,
    pub route: Route,
    pub snat: Snat,
    /// What becomes of the established flows of backends that this mapping had and has no more.
    pub leaving: Leaving,
}

/// Where a listener's new connections go. A fenced listener has no backend that could leak.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Route {
    /// To one server.
    Single(SocketAddr),
    /// To several, in proportion to their weights. Never empty; addresses are unique; weights are at least 1.
    Spread(Vec<Weighted>),
    /// Nowhere yet: SYNs stay unanswered. The datapath itself refuses them once this much time has gone by.
    Hold(Duration),
    /// Nowhere: RST.
    Refuse,
}

impl Route {
    /// The backends that new connections may reach.
    pub fn backends(&self) -> Vec<SocketAddr> {
        match self {
            Self::Single(backend) => vec![*backend],
            Self::Spread(backends) => backends.iter().map(|b| b.address).collect(),
            Self::Hold(_) | Self::Refuse => Vec::new(),
        }
    }

    pub const fn is_fenced(&self) -> bool {
        matches!(self, Self::Hold(_) | Self::Refuse)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Weighted {
    pub address: SocketAddr,
    pub weight: u32,
}

/// What becomes of established flows whose backend leaves the mapping.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Leaving {
    /// They end.
    Sever,
    /// They go on until the kernel's own deadline, this long after the change.
    Drain(Duration),
    /// They go on until they end by themselves.
    Keep,
}
