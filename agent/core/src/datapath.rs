//! The seam between deciding and the kernel: what every datapath can do.

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::time::Duration;

use crate::mapping::{Leaving, Mapping};

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

    /// Something that counts flows on its own, so that counting many never makes a commit wait.
    fn flow_counter(&self) -> Result<Box<dyn FlowCounter>, DatapathError>;

    /// Flows that were ended because their backend left, since the datapath was opened.
    fn severed(&self) -> u64;

    /// What the kernel holds for each listener, as committed.
    fn committed(&self) -> Vec<Held>;

    /// Takes everything of ours out of the kernel and leaves the host as it was.
    fn purge(&mut self) -> Result<(), DatapathError>;
}

/// Counts flows by asking the kernel.
pub trait FlowCounter: Send {
    /// The established connections through each of these listeners.
    fn connections(&mut self, listeners: &[SocketAddr]) -> Result<BTreeMap<SocketAddr, u64>, DatapathError>;
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
    #[error("another shunt agent already drives table {table} in this network namespace")]
    InUse { table: String },
    #[error("{0}")]
    Unsupported(String),
}
