//! What an operation asks of the world: bounded pieces of work on one server each. This is the contract between the state
//! machine, the executors that speak SQL, and the simulation that plays both servers and network.
//!
//! Every task may be ordered again after a crash or an unknown outcome, so every task is idempotent: it looks at what is
//! there, does what is lacking, and looks again before it reports.

use std::net::SocketAddr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::standing::Standing;
use crate::gtid::History;

/// Names an order within its cluster's task; never used again while the agent runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct OrderId(pub u64);

/// A task that is to begin now and to be given up after `within`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Order {
    pub id: OrderId,
    pub task: Task,
    pub within: Duration,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "task", rename_all = "snake_case")]
pub enum Task {
    /// Looks, and changes nothing. → [`Report::Standing`]
    Examine { server: SocketAddr },
    /// Keeps clients from writing: `super_read_only`, or `read_only`; with `end_sessions` it then ends the connections of
    /// everybody but replicas, itself and the server's own threads. Not done until the server says that it is read-only:
    /// `super_read_only` may wait for a commit that waits for an acknowledgement. → [`Report::Standing`]
    MakeReadOnly { server: SocketAddr, end_sessions: bool },
    /// Lets clients write again, on a server that never stopped being the primary. → [`Report::Standing`]
    MakeWritable { server: SocketAddr },
    /// Stops the I/O thread, and only it: what it has received goes on being applied. → [`Report::Standing`], from after that
    StopReceiving { server: SocketAddr },
    /// Receives from another replica until `goal` is received, then stops receiving. → [`Report::Standing`]
    CatchUp { server: SocketAddr, source: SocketAddr, goal: History },
    /// Waits until `goal` is applied, or the time is up: that is no error, the answer tells how far it is.
    /// Starts the SQL thread if it is stopped without an error. → [`Report::Standing`]
    Drain { server: SocketAddr, goal: History },
    /// Resets replication, switches the source side of semi-sync on if asked to, lets clients write last of all.
    /// Does nothing of it unless `has` is applied there. → [`Report::Standing`], writable
    Promote { server: SocketAddr, has: History, semi_sync: bool },
    /// Makes it a read-only replica of `source`, whatever it was, and waits until it receives. → [`Report::Standing`]
    Follow { server: SocketAddr, source: SocketAddr, semi_sync: bool },
    /// Fetches the transactions `lacking` from a server's binary logs, keeps them as a file, and with `into` applies them
    /// there. → [`Report::Salvaged`]
    Salvage { from: SocketAddr, lacking: History, into: Option<SocketAddr> },
    /// Ends the sessions that clients have on the server through these listeners, idle ones at once, those inside a
    /// transaction when it is over or after `grace`. The listeners hold new connections and spare those that are
    /// established. → [`Report::Sessions`]
    EndSessions {
        server: SocketAddr,
        listeners: Vec<SocketAddr>,
        #[serde(with = "millis")]
        grace: Duration,
    },
    /// Runs an operator's program. → [`Report::Done`]
    Hook { hook: Hook, notice: Notice },
}

impl Task {
    /// The server that it works on.
    pub const fn server(&self) -> Option<SocketAddr> {
        match self {
            Self::Examine { server }
            | Self::MakeReadOnly { server, .. }
            | Self::MakeWritable { server }
            | Self::StopReceiving { server }
            | Self::CatchUp { server, .. }
            | Self::Drain { server, .. }
            | Self::Promote { server, .. }
            | Self::Follow { server, .. }
            | Self::EndSessions { server, .. }
            | Self::Salvage { from: server, .. } => Some(*server),
            Self::Hook { .. } => None,
        }
    }

    pub const fn word(&self) -> &'static str {
        match self {
            Self::Examine { .. } => "examine",
            Self::MakeReadOnly { .. } => "make read-only",
            Self::MakeWritable { .. } => "make writable",
            Self::StopReceiving { .. } => "stop receiving",
            Self::CatchUp { .. } => "catch up",
            Self::Drain { .. } => "apply what was received",
            Self::Promote { .. } => "promote",
            Self::Follow { .. } => "repoint",
            Self::Salvage { .. } => "salvage",
            Self::EndSessions { .. } => "end sessions",
            Self::Hook { hook, .. } => hook.word(),
        }
    }
}

/// The hooks whose failure stops an operation. The others are run on notices, and only reported.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Hook {
    Fence,
    BeforePromote,
}

impl Hook {
    pub const fn word(self) -> &'static str {
        match self {
            Self::Fence => "fence hook",
            Self::BeforePromote => "before_promote hook",
        }
    }
}

/// What a hook is told: `SHUNT_CLUSTER`, `SHUNT_EVENT` and so on, or the body of a webhook.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Notice {
    pub cluster: String,
    /// `fence`, `before_promote`, `failover_started`, `failover_done`, `failover_stuck`, `switchover_done`,
    /// `switchover_undone`, `quarantined`, `rejoined`, `alarm`.
    pub event: String,
    pub old: Option<SocketAddr>,
    pub new: Option<SocketAddr>,
    pub epoch: u64,
    /// The operation, such as `orders/17`; empty: none.
    pub op: String,
    pub reason: String,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Report {
    Done,
    Standing(Box<Standing>),
    Sessions(Sessions),
    Salvaged(Salvaged),
}

/// What became of a primary's sessions.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sessions {
    /// Ended while they were idle.
    pub idle: u64,
    /// Ended after their transaction was over.
    pub finished: u64,
    /// Were still inside a transaction when the grace was over.
    pub cut: u64,
    /// Transactions of other sessions could not be seen, so every one counted as inside of one.
    pub blind: bool,
}

/// Transactions that were fetched from a server that is not the primary any more.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Salvaged {
    /// A binary log file; its list lies beside it, as `.txt`.
    pub file: String,
    pub gtids: String,
    pub transactions: u64,
    /// Rows changed, by table.
    pub tables: Vec<(String, u64)>,
    /// All of them, if that was asked for.
    pub applied: bool,
    /// Why not all were applied though it was asked for, and which were.
    #[serde(default)]
    pub stopped: Option<String>,
}

/// Why a task did not come to its end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TaskError {
    pub cause: Cause,
    /// In an operator's words, with the server's own.
    pub message: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// No connection, or none that lets us in: nothing was done.
    Unreachable,
    /// The server, or the hook, said no. What was asked last was not done.
    Refused,
    /// The time was up, or the connection broke on the way: nobody knows whether it was done.
    Unknown,
}

mod millis {
    use std::time::Duration;

    use serde::{Deserialize, Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(time: &Duration, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_u64(u64::try_from(time.as_millis()).unwrap_or(u64::MAX))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Duration, D::Error> {
        u64::deserialize(from).map(Duration::from_millis)
    }
}
