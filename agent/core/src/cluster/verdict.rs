//! Verdicts: what the evidence says about a cluster's primary.

use std::fmt;
use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

/// What the evidence says about the primary.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// It answers and takes writes, and nobody else does.
    Healthy,
    /// Something is amiss, not yet enough to say what.
    Suspect,
    /// Own evidence, and no replica receives from it any more.
    Dead,
    /// Own evidence, but a replica still receives from it, or nobody at all answers: the fault is between us.
    Unreachable,
    /// It takes connections but does not answer in time, and replicas receive from it.
    Saturated,
    /// Two servers take writes.
    Split,
    /// It is read-only, and somebody else was made primary.
    Demoted,
    /// There is no primary: nobody takes writes, or nobody who does can be trusted to be it.
    None,
}

impl Verdict {
    pub const ALL: [Self; 8] = [
        Self::Healthy,
        Self::Suspect,
        Self::Dead,
        Self::Unreachable,
        Self::Saturated,
        Self::Split,
        Self::Demoted,
        Self::None,
    ];

    pub const fn word(self) -> &'static str {
        match self {
            Self::Healthy => "healthy",
            Self::Suspect => "suspect",
            Self::Dead => "dead",
            Self::Unreachable => "unreachable",
            Self::Saturated => "saturated",
            Self::Split => "split",
            Self::Demoted => "demoted",
            Self::None => "none",
        }
    }

    /// Whether the news is worth asking every server more often than usual.
    pub const fn is_urgent(self) -> bool {
        !matches!(self, Self::Healthy | Self::Split)
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.word())
    }
}

/// Where the primary listeners should lead by the evidence alone, before pins and pauses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// As they are: nothing that was seen calls for a change.
    Keep,
    /// To this server.
    Lead(SocketAddr),
    /// To nobody.
    Fence,
}

/// A verdict with its reasons, and what follows from it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Assessment {
    pub verdict: Verdict,
    /// In an operator's words, most telling first; never empty.
    pub reasons: Vec<String>,
    pub direction: Direction,
    pub alarms: Vec<Alarm>,
}

/// Something that a person should look at.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Alarm {
    pub kind: AlarmKind,
    pub message: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AlarmKind {
    Split,
    PrimaryDead,
    PrimaryUnreachable,
    PrimarySaturated,
    NoPrimary,
    /// A server lets us in no more; it counts as alive.
    AuthDenied,
    /// A server is alive and fails us in another way.
    ServerFailing,
    ServerDown,
    /// Semi-sync is switched on at the primary, and commits go on without it, or soon will.
    SemiSyncDegraded,
    /// The decision could not be taken into the kernel.
    DatapathFailed,
    /// The decision could not be written down, so it was not taken.
    StateFailed,
    /// The configuration asks for something that is not in force.
    NotInForce,
    /// A configuration file is in error.
    ConfigBroken,
    /// The status page and the metrics cannot be served.
    PagesFailed,
    /// The kernel stopped listeners because the agent did not renew their lease.
    LeaseLapsed,
    /// An address that listeners or pools need is not this host's.
    AddressAbsent,
    /// Somebody else's NAT names a listener's port.
    ForeignNat,
    /// The table of connections is almost full: conntrack's, or that of the eBPF datapath.
    ConntrackFilling,
    FlowTableFilling,
    /// A source address has almost no ports left towards a server.
    PortsRunningOut,
    /// An operation cannot go on, and waits.
    OperationStuck,
    /// The primary was cast out by an operation that failed: nothing leads to it until an operator says so.
    PrimaryCastOut,
    /// The primary is dead, and a rule keeps shunt from replacing it.
    FailoverBarred,
    /// A former primary has what the primary lacks, or may not rejoin by itself.
    Quarantined,
    /// A server could not be made primary if it had to be.
    NotReady,
}

impl AlarmKind {
    pub const fn word(self) -> &'static str {
        match self {
            Self::Split => "split",
            Self::PrimaryDead => "primary dead",
            Self::PrimaryUnreachable => "primary unreachable",
            Self::PrimarySaturated => "primary saturated",
            Self::NoPrimary => "no primary",
            Self::AuthDenied => "auth denied",
            Self::ServerFailing => "server failing",
            Self::ServerDown => "server down",
            Self::SemiSyncDegraded => "semi-sync degraded",
            Self::DatapathFailed => "datapath failed",
            Self::StateFailed => "state failed",
            Self::NotInForce => "not in force",
            Self::ConfigBroken => "configuration broken",
            Self::PagesFailed => "pages failed",
            Self::LeaseLapsed => "lease lapsed",
            Self::AddressAbsent => "address absent",
            Self::ForeignNat => "foreign NAT",
            Self::ConntrackFilling => "conntrack filling",
            Self::FlowTableFilling => "flow table filling",
            Self::PortsRunningOut => "ports running out",
            Self::OperationStuck => "operation stuck",
            Self::PrimaryCastOut => "primary cast out",
            Self::FailoverBarred => "failover barred",
            Self::Quarantined => "quarantined",
            Self::NotReady => "not ready",
        }
    }
}
