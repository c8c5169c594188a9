//! The seam between deciding and the kernel: what every datapath can do.

pub mod memory;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::ops::ControlFlow;
use std::time::Duration;

use crate::flow::{Flow, FlowFilter, Tuple};
use crate::mapping::{Leaving, Mapping};
use crate::signal::{ConnectTimes, Signals};

/// A datapath: it holds mappings in the kernel, outlives the agent, and touches nothing that is not its own.
///
/// Calls block for as long as the kernel takes (well under a millisecond for a change of one mapping).
pub trait Datapath: Send {
    /// Takes the mappings in `change` into force in one kernel transaction: all of it or, on an error, none.
    /// Mappings that `change` does not name, or that are already as it says, are not touched.
    fn apply(&mut self, change: &Change) -> Result<Applied, DatapathError>;

    /// Reads the kernel back, compares it with what was committed, and repairs it in one transaction.
    /// Returns what was amiss; empty when all was well.
    fn reconcile(&mut self) -> Result<Vec<Drift>, DatapathError>;

    /// Ends the flows of drains whose time is over. The kernel has stopped them by then; this tells those that say nothing.
    /// Costs next to nothing when there are none.
    fn upkeep(&mut self) -> Result<(), DatapathError>;

    /// Renews the leases of all listeners that have one. A lease that has run out is not renewed: its listener is fenced
    /// from then on and is returned, once, for somebody to decide about it anew.
    fn renew(&mut self) -> Result<Vec<SocketAddr>, DatapathError>;

    /// Begins to end these flows at both of their ends, though their pair stays live.
    fn sever(&mut self, flows: &[Tuple]) -> Result<(), DatapathError>;

    /// Stops what the clients of these flows send, and answers none of it: TCP sends it again. Only flows of a backend that
    /// their mapping spares; they stay stopped until they are unblocked, severed, or no longer spared.
    fn block(&mut self, flows: &[Tuple]) -> Result<(), DatapathError>;

    /// Lets blocked flows go on, with what was stopped meanwhile, as far as it was kept.
    fn unblock(&mut self, flows: &[Tuple]) -> Result<(), DatapathError>;

    /// The severings that were finished since this was last asked.
    fn severed(&mut self) -> Vec<Severed>;

    /// Something that reads what the datapath carries, on its own, so that reading much never makes a commit wait.
    fn meter(&self) -> Result<Box<dyn Meter>, DatapathError>;

    /// What the kernel holds for each listener, as committed.
    fn committed(&self) -> Vec<Held>;

    /// Takes everything of ours out of the kernel and leaves the host as it was.
    fn purge(&mut self) -> Result<(), DatapathError>;
}

/// Reads what a datapath carries by asking the kernel.
pub trait Meter: Send {
    /// The established connections through each of these listeners.
    fn connections(&mut self, listeners: &[SocketAddr]) -> Result<BTreeMap<SocketAddr, u64>, DatapathError>;

    /// Calls `each` with every flow that the filter lets through, as the kernel tells of it, until it breaks off.
    /// Memory does not grow with the number of flows.
    fn flows(
        &mut self,
        filter: &FlowFilter,
        each: &mut dyn FnMut(Flow) -> ControlFlow<()>,
    ) -> Result<(), DatapathError>;

    /// Of the flows through these listeners to this backend those whose clients it sees as one of `clients`. A datapath that
    /// can look flows up does so, for the way through all of them takes milliseconds.
    fn flows_seen_as(
        &mut self,
        listeners: &[SocketAddr],
        backend: SocketAddr,
        clients: &[SocketAddr],
    ) -> Result<Vec<Flow>, DatapathError> {
        let clients: BTreeSet<_> = clients.iter().copied().collect();
        let filter = FlowFilter { listeners: listeners.iter().copied().collect(), source_port: None };
        let mut found = Vec::new();
        self.flows(&filter, &mut |flow| {
            if flow.backend == backend && clients.contains(&flow.seen_as) {
                found.push(flow);
            }
            ControlFlow::Continue(())
        })?;
        Ok(found)
    }

    /// How full the tables are that flows through these listeners need a place in.
    fn usage(&mut self, listeners: &[SocketAddr]) -> Result<Usage, DatapathError>;

    /// The new connections that each listener refused, by reason, since its mapping was made.
    fn refused(&mut self) -> Result<BTreeMap<SocketAddr, Refused>, DatapathError>;

    /// Calls `each` with what traffic tells of every pair that packets may pass between. Costs no system call, so that it can
    /// be asked often. A datapath that hears nothing says that this is unsupported.
    fn signals(&mut self, _each: &mut dyn FnMut(&Signals)) -> Result<(), DatapathError> {
        Err(DatapathError::Unsupported("this datapath tells no signals of traffic".to_owned()))
    }

    /// How long the backends of these pairs took to answer, since the pair was made.
    fn connect_times(&mut self) -> Result<Vec<ConnectTimes>, DatapathError> {
        Err(DatapathError::Unsupported("this datapath tells no signals of traffic".to_owned()))
    }

    /// What became of packets, by a word for each: how many, of all listeners together. Nothing from a datapath that does
    /// not count that.
    fn events(&mut self) -> Result<BTreeMap<&'static str, u64>, DatapathError> {
        Ok(BTreeMap::new())
    }
}

/// How full the kernel's tables are.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Flows of the whole host, and how many fit.
    pub flows: u64,
    pub flows_max: u64,
    /// New flows that found no place or no free port, since the host started, of the whole host.
    pub turned_away: u64,
    /// Per source address that a backend sees and backend: the source ports that our flows take.
    pub ports: Vec<PortUse>,
}

/// The flows from one source address to one backend: each takes one of the address's ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct PortUse {
    pub source: IpAddr,
    pub backend: SocketAddr,
    pub taken: u64,
}

impl PortUse {
    /// The ports that NAT may choose from: 1024 to 65535.
    pub const PORTS: u64 = 64_512;
}

/// New connections that a listener refused.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Refused {
    /// Their source is not on the allow-list.
    pub not_allowed: u64,
    /// The listener's limit was reached.
    pub over_limit: u64,
    /// The limit of connections per source was reached.
    pub over_source_limit: u64,
}

/// The flows of one pair that was severed, or flows that were severed one by one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Severed {
    pub listener: SocketAddr,
    pub backend: SocketAddr,
    pub flows: u64,
    /// Of these, how many had an end that did not answer until we gave it up. Such an end is told at its next packet.
    pub unanswered: u64,
    /// From the order to the last answer.
    pub took: Duration,
}

/// A change of any number of mappings.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Change {
    pub set: Vec<Mapping>,
    /// Listeners that go, and what becomes of their established flows.
    pub remove: Vec<(SocketAddr, Leaving)>,
}

/// A transaction that the kernel acknowledged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Applied {
    /// Mappings that really changed.
    pub changed: usize,
    /// From sending the transaction to the kernel's acknowledgement; zero when nothing had to change.
    pub commit: Duration,
}

/// One listener as the kernel holds it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Held {
    pub listener: SocketAddr,
    /// Where new connections go; `None`: nowhere, it is fenced.
    pub backends: Vec<SocketAddr>,
}

/// A place where the kernel did not hold what was committed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Drift {
    /// Such as `table inet shunt is gone` or `set live4: element … is missing`.
    pub what: String,
}

impl fmt::Display for Drift {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.what)
    }
}

/// Why a datapath could not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum DatapathError {
    #[error("{what} was rejected by the kernel")]
    Rejected {
        /// The object that the kernel named: `element 10.0.0.2:3306 of map primary4 in table inet shunt`.
        what: String,
        #[source]
        source: std::io::Error,
    },
    #[error("cannot {what}")]
    Kernel {
        /// What was tried: `open a netlink socket`, `read set live4 of table inet shunt back`.
        what: String,
        #[source]
        source: std::io::Error,
    },
    #[error("table {table} exists and is not shunt's: {detail}")]
    Foreign { table: String, detail: String },
    #[error("another shunt agent already drives {what} in this network namespace")]
    InUse {
        /// Such as `table shunt`.
        what: String,
    },
    /// What is in the kernel was made by another version of shunt, and this one cannot read it.
    #[error("{0}")]
    OtherVersion(String),
    #[error("{0}")]
    Unsupported(String),
}
