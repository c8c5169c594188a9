//! How a server stands, as asked by an operation: more than a probe asks for, and at a moment of the operation's choosing.

use serde::{Deserialize, Serialize};

use crate::gtid::History;
use crate::observation::Flavour;

/// A server's answer to everything that an operation has to know of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Standing {
    pub flavour: Flavour,
    /// `@@version`, whole.
    pub version: String,
    /// `@@server_uuid`; MariaDB has none.
    pub uuid: Option<String>,
    pub server_id: u64,
    /// Whether ordinary clients cannot write: `super_read_only` on MySQL, `read_only` on MariaDB.
    pub read_only: bool,
    /// What it has committed.
    pub executed: History,
    /// That, and what lies in its relay log.
    pub received: History,
    pub replication: Replication,
    /// Why it could not be a primary that others replicate from; empty: it could.
    pub obstacles: Vec<Obstacle>,
    /// What the agent's user lacks to apply salvaged transactions there, as GRANTs. Told by an examination, if they are to be
    /// applied.
    #[serde(default)]
    pub cannot_apply: Vec<String>,
    pub semi_sync: Option<SemiSyncRole>,
    /// It is, or is set up to be, a member of a Group Replication group or of a Galera cluster.
    pub in_group: bool,
    pub binlog_format: String,
    /// Whether it shows which of its sessions are inside a transaction; `None`: it was not asked, being read-only.
    #[serde(default)]
    pub shows_sessions: Option<bool>,
}

/// The server as a replica. With several channels: all of them together.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Replication {
    pub channels: u32,
    /// The I/O thread runs, connected or not.
    pub receiving: bool,
    /// The SQL thread, or the coordinator, runs.
    pub applying: bool,
    /// The last error of the SQL thread or a worker; empty: none.
    pub apply_error: String,
    /// Where it receives from, `host:port`; empty: nowhere.
    pub source: String,
}

/// What of semi-synchronous replication a server has switched on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SemiSyncRole {
    pub source: bool,
    pub replica: bool,
}

/// Why a server could not be a primary that others replicate from.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Obstacle {
    NoBinlog,
    /// `log_replica_updates` is off: its replicas would lack what it received.
    NoReplicaUpdates,
    NoGtids,
    /// Several replication channels.
    ManySources,
    /// What the agent's user lacks there, as the GRANT that gives it.
    MissingGrant(String),
    /// Another one, in words.
    Other(String),
}

impl std::fmt::Display for Obstacle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::NoBinlog => f.write_str("it has no binary log"),
            Self::NoReplicaUpdates => f.write_str("log_replica_updates is off"),
            Self::NoGtids => f.write_str("GTIDs are off"),
            Self::ManySources => f.write_str("it replicates over several channels"),
            Self::MissingGrant(grant) => write!(f, "the agent's user may not do what is needed there (run: {grant})"),
            Self::Other(what) => f.write_str(what),
        }
    }
}
