//! Desired mappings: what a datapath is asked to hold.

use std::net::SocketAddr;
use std::time::Duration;

use ipnet::IpNet;

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
    pub admission: Admission,
    /// The kernel stops passing packets this long after the last renewal; `None`: it never does by itself.
    pub lease: Option<Duration>,
    /// A backend that gets no new connections, while those that it has go on: a switchover ends them one by one. They are
    /// found on the datapath's slow way, so that nobody else pays for it. When a change names it no more, and does not lead
    /// to it, what is left of them becomes what `leaving` says; when it leads to it again, they are its own as before.
    /// Only beside a fence.
    pub spared: Option<SocketAddr>,
}

/// Who may open connections, and how many. Established flows are never asked.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Admission {
    /// Sources that may connect; empty: anyone.
    pub allow: Vec<IpNet>,
    /// Connections at a time.
    pub limit: Option<u32>,
    /// Connections at a time from one address.
    pub limit_per_source: Option<u32>,
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
