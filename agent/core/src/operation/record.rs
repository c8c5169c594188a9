//! An operation as it is written into the journal before each of its steps: enough to go on with after a crash.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::SocketAddr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::standing::Standing;
use super::task::Salvaged;
use crate::Epoch;
use crate::gtid::History;

/// Counts a cluster's operations.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct OpId(pub u64);

impl fmt::Display for OpId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// What an operator asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Intent {
    pub kind: Kind,
    /// The server that is to become the primary.
    pub to: Option<SocketAddr>,
    /// Switchover: how long sessions inside a transaction may take to finish.
    pub grace: Duration,
    /// Failover: though `data_loss = "forbid"` and nothing proves that nothing is lost.
    pub allow_loss: bool,
    /// Everything is examined, nothing is changed.
    pub dry_run: bool,
    pub by: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    Failover,
    Switchover,
}

impl Kind {
    pub const fn word(self) -> &'static str {
        match self {
            Self::Failover => "failover",
            Self::Switchover => "switchover",
        }
    }
}

/// Who wanted it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Trigger {
    /// The verdict on the primary.
    Verdict,
    Operator(String),
}

/// The steps of a failover and of a switchover, in the order of both. A switchover has no `Salvage`; a failover has
/// neither `Hold` nor `Sessions`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Step {
    /// Everything that will be needed is examined; nothing is changed.
    Precheck,
    /// New connections are held; established ones are spared.
    Hold,
    /// The old primary's sessions end, those inside a transaction last.
    Sessions,
    /// No packet reaches the old primary any more; new connections are held.
    Fence,
    /// The old primary is made read-only, or is given up; nobody receives from it any more.
    Disarm,
    /// The next primary receives what a more advanced replica has.
    CatchUp,
    /// The next primary applies what it has received.
    Drain,
    /// What it lacks is fetched from the old primary, if that can be read.
    Salvage,
    /// The old primary has not come back writable.
    Recheck,
    /// Replication is reset, semi-sync on, read-only off. From here on nothing leads back to the old primary.
    Promote,
    /// The listeners lead to the new primary, under the new epoch.
    Open,
    /// The others replicate from the new primary.
    Repoint,
    /// Something was uncertain before the promotion: the old primary is made writable again …
    Undo,
    /// … and the listeners lead to it as before.
    Reopen,
}

impl Step {
    pub const ALL: [Self; 14] = [
        Self::Precheck,
        Self::Hold,
        Self::Sessions,
        Self::Fence,
        Self::Disarm,
        Self::CatchUp,
        Self::Drain,
        Self::Salvage,
        Self::Recheck,
        Self::Promote,
        Self::Open,
        Self::Repoint,
        Self::Undo,
        Self::Reopen,
    ];

    pub const fn word(self) -> &'static str {
        match self {
            Self::Precheck => "precheck",
            Self::Hold => "hold",
            Self::Sessions => "sessions",
            Self::Fence => "fence",
            Self::Disarm => "disarm",
            Self::CatchUp => "catch_up",
            Self::Drain => "drain",
            Self::Salvage => "salvage",
            Self::Recheck => "recheck",
            Self::Promote => "promote",
            Self::Open => "open",
            Self::Repoint => "repoint",
            Self::Undo => "undo",
            Self::Reopen => "reopen",
        }
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.word())
    }
}

/// An operation under way.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Operation {
    pub id: OpId,
    pub kind: Kind,
    pub trigger: Trigger,
    /// Why, in words.
    pub reason: String,
    /// The epoch that it began in. The new primary's is the next.
    pub epoch: Epoch,
    /// The primary of that epoch.
    pub old: SocketAddr,
    /// The server that an operator named.
    pub asked: Option<SocketAddr>,
    pub allow_loss: bool,
    pub dry_run: bool,
    pub grace_ms: u64,
    pub step: Step,
    /// Counts the steps as they are written down.
    pub serial: u64,
    /// Who was asked, as it last answered.
    pub standings: BTreeMap<SocketAddr, Standing>,
    /// What the old primary was last known to have committed.
    pub old_executed: Option<History>,
    /// How it numbers its own transactions.
    pub old_origin: Origin,
    /// What semi-sync proved when the old primary was fenced off, or at the verdict that began this: `Some(w)`: commits waited
    /// for `w` acknowledgements.
    pub acknowledged_by: Option<u32>,
    /// Replicas that acknowledged then.
    pub acknowledgers: BTreeSet<SocketAddr>,
    /// Whether the new primary has to wait for acknowledgements, because the old one had to.
    pub semi_sync: bool,
    /// The next primary.
    pub chosen: Option<SocketAddr>,
    /// What it must have applied before it may be one.
    pub goal: Option<History>,
    /// Servers that may take writes though they are not the primary: they are made read-only when they come back.
    pub suspects: BTreeSet<SocketAddr>,
    /// Everything that anybody was ever seen to have received: a replica that restarts may lose what it had.
    pub seen: Option<History>,
    /// The old primary answered after it was made read-only, and had this: what the next primary must have.
    pub disarmed: Option<History>,
    /// What of the old primary's the candidate could not receive from there, and how often that was tried.
    #[serde(default)]
    pub left_behind: Option<LeftBehind>,
    /// Read-only may be off on a server other than the old primary: from here on nothing is taken back.
    pub promotion_began: bool,
    pub salvaged: Option<Salvaged>,
    /// Who follows the new primary.
    pub followers: BTreeSet<SocketAddr>,
    /// Replicas that could not be made to follow, and why.
    pub left_out: BTreeMap<SocketAddr, String>,
}

/// What a candidate could not be given by replication. It is saved as a file, or waits on the old primary.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeftBehind {
    pub candidate: SocketAddr,
    /// All that the old primary had then.
    pub had: History,
    pub tries: u32,
}

/// How a server's own transactions are told apart.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Origin {
    /// `@@server_uuid`; MariaDB has none.
    pub uuid: Option<String>,
    pub server_id: u64,
}

/// How an operation ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ending {
    pub outcome: Outcome,
    pub message: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    Done,
    /// Nothing was changed, because a rule forbids it.
    Refused,
    /// It was begun and taken back; the old primary goes on.
    Undone,
    /// It could not be done, and could not be taken back: the fence stays.
    Failed,
}

impl Outcome {
    pub const fn word(self) -> &'static str {
        match self {
            Self::Done => "done",
            Self::Refused => "refused",
            Self::Undone => "undone",
            Self::Failed => "failed",
        }
    }
}
