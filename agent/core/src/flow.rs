//! Flows: the connections that a datapath carries, and who is who in them.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::Duration;

/// A connection as its client sees it. It names the flow: no two have the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Tuple {
    pub client: SocketAddr,
    pub listener: SocketAddr,
}

/// A connection through a listener.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flow {
    pub tuple: Tuple,
    pub backend: SocketAddr,
    /// The client's address as the backend sees it: what stands in its process list.
    pub seen_as: SocketAddr,
    pub phase: Phase,
    /// Bytes of IP packets; `None`: the kernel does not count them.
    pub traffic: Option<Traffic>,
    /// Since its first packet; `None`: the kernel does not keep it.
    pub age: Option<Duration>,
    /// Since its last packet in either direction; `None`: it cannot be told.
    pub idle: Option<Duration>,
}

/// How far a TCP connection has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Phase {
    /// The handshake is not over.
    Opening,
    Established,
    /// One end has closed it, or both.
    Closing,
}

/// Bytes that a flow has carried.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    pub to_backend: u64,
    pub to_client: u64,
}

/// Which flows are wanted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FlowFilter {
    pub listeners: BTreeSet<SocketAddr>,
    /// The client's port as the backend sees it.
    pub source_port: Option<u16>,
}

impl FlowFilter {
    pub fn lets_through(&self, flow: &Flow) -> bool {
        self.listeners.contains(&flow.tuple.listener) && self.source_port.is_none_or(|port| port == flow.seen_as.port())
    }
}
