//! What a probe saw: an answer, typed, or the kind of failure. Kinds of failure are not one kind.

use std::fmt;
use std::net::SocketAddr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::Mono;

/// One round of questions to one server, or the news that its connection broke.
#[derive(Clone, Debug, PartialEq)]
pub struct Observation {
    pub server: SocketAddr,
    /// When the answer, or the news, came.
    pub at: Mono,
    /// From the question to the answer.
    pub took: Duration,
    pub outcome: Outcome,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Outcome {
    Answered(Box<ServerState>),
    Failed(Failure),
}

/// Why there was no answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    pub kind: FailureKind,
    /// The server's or the kernel's own words, with what was tried.
    pub detail: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FailureKind {
    /// ECONNREFUSED: a host, but nobody on the port.
    Refused,
    /// An established connection broke: RST or EOF.
    Reset,
    /// No connection within the deadline.
    Timeout,
    /// A connection, but no greeting or no answer on it within the deadline.
    NoAnswer,
    /// EHOSTUNREACH, ENETUNREACH: the network says that there is no way.
    Unreachable,
    /// 1045, 1044, 1698, 1251 …: it lives and does not let us in, or not do this.
    AuthDenied,
    /// 1040, 1203: alive.
    TooManyConnections,
    /// 1129: alive, `max_connect_errors` was reached.
    HostBlocked,
    /// 1053, 3032 and the like: alive, and on its way up or down.
    StartingOrStopping,
    /// The TLS handshake failed: alive.
    Tls,
    /// What answers does not speak MySQL: HTTP, garbage.
    NotMysql,
    /// The server answered a question with some other error: alive.
    Query,
}

impl FailureKind {
    /// Whether something that may well be the server answered. Alive-but-failing is never dead.
    pub const fn is_alive(self) -> bool {
        match self {
            Self::AuthDenied
            | Self::TooManyConnections
            | Self::HostBlocked
            | Self::StartingOrStopping
            | Self::Tls
            | Self::NotMysql
            | Self::Query => true,
            Self::Refused | Self::Reset | Self::Timeout | Self::NoAnswer | Self::Unreachable => false,
        }
    }

    /// In an operator's words.
    pub const fn words(self) -> &'static str {
        match self {
            Self::Refused => "refused",
            Self::Reset => "connection broke",
            Self::Timeout => "timeout",
            Self::NoAnswer => "no answer",
            Self::Unreachable => "unreachable",
            Self::AuthDenied => "auth denied",
            Self::TooManyConnections => "too many connections",
            Self::HostBlocked => "host blocked",
            Self::StartingOrStopping => "starting or stopping",
            Self::Tls => "TLS failed",
            Self::NotMysql => "not MySQL",
            Self::Query => "query failed",
        }
    }
}

impl fmt::Display for FailureKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.words())
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Flavour {
    Mysql,
    Mariadb,
}

impl fmt::Display for Flavour {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Mysql => "mysql",
            Self::Mariadb => "mariadb",
        })
    }
}

/// Who a server says it is. A source is recognised by this rather than by its address, which may differ by route.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// `@@server_uuid`; MariaDB has none.
    pub uuid: Option<String>,
    pub server_id: u64,
    pub flavour: Flavour,
    /// `@@version`, whole.
    pub version: String,
}

/// Everything a server told in one round.
#[derive(Clone, Debug, PartialEq)]
pub struct ServerState {
    pub identity: Identity,
    pub read_only: bool,
    /// Always false on MariaDB, which has only `read_only`.
    pub super_read_only: bool,
    /// `@@gtid_executed`, or MariaDB's `@@gtid_current_pos`; as text, without blanks.
    pub gtid_executed: String,
    /// One a configured channel, running or not; empty when the server replicates from nobody.
    pub channels: Vec<Channel>,
    pub group: Option<GroupView>,
    /// `None`: semi-sync is not installed.
    pub semi_sync: Option<SemiSync>,
    /// Who may promote in this server's cluster.
    pub promoter: PromoterLock,
}

/// The server's named lock, which the one agent holds that may promote: two agents can never hold it on the same server.
/// It is held by the connection that probes, so it is lost with it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PromoterLock {
    /// Nobody asked for it: the cluster is not in promote mode.
    #[default]
    NotAsked,
    Ours,
    /// Another connection holds it: another agent, or one of ours that the server has not yet noticed to be gone.
    Theirs,
}

impl ServerState {
    pub const fn is_writable(&self) -> bool {
        !self.read_only && !self.super_read_only
    }
}

/// A replication channel, as its replica sees it.
#[derive(Clone, Debug, PartialEq)]
pub struct Channel {
    /// Empty for the default channel.
    pub name: String,
    pub source_host: String,
    pub source_port: u16,
    /// Unknown until the replica has once been connected; MariaDB never knows.
    pub source_uuid: Option<String>,
    /// Zero until the replica has once been connected.
    pub source_server_id: u64,
    pub io: IoThread,
    pub sql_running: bool,
    /// Seconds behind the source; `None` when the server itself says NULL.
    pub lag: Option<Duration>,
    /// Anything that grows when something is received: heartbeats, bytes, transactions. Only ever compared for equality.
    pub received: String,
    /// How often the source sends a heartbeat when it has nothing else to send.
    pub heartbeat_period: Option<Duration>,
    /// `Last_IO_Error`, `Last_SQL_Error`; empty: none.
    pub last_error: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum IoThread {
    Connected,
    Connecting,
    Stopped,
}

/// Group Replication as one member sees it. An expelled member still sees itself ONLINE: only a majority counts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupView {
    pub members: Vec<GroupMember>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupMember {
    /// `MEMBER_ID`, the server's uuid.
    pub uuid: String,
    pub online: bool,
    pub primary: bool,
}

impl GroupView {
    /// Whether the members that this view has ONLINE are more than half of all it knows.
    pub fn has_majority(&self) -> bool {
        self.members.iter().filter(|m| m.online).count() * 2 > self.members.len()
    }

    /// Whether, by this view, the server with that uuid is an ONLINE primary within a majority.
    pub fn makes_primary(&self, uuid: &str) -> bool {
        self.has_majority() && self.members.iter().any(|m| m.online && m.primary && m.uuid == uuid)
    }

    /// Whether, by this view, the server with that uuid is ONLINE within a majority and not a primary.
    pub fn makes_secondary(&self, uuid: &str) -> bool {
        self.has_majority() && self.members.iter().any(|m| m.online && !m.primary && m.uuid == uuid)
    }
}

/// Semi-synchronous replication, both sides.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SemiSync {
    pub source_enabled: bool,
    /// Whether commits wait for an acknowledgement right now.
    pub source_active: bool,
    /// Whether this server acknowledges to the source that it is, or was last, connected to.
    pub replica_enabled: bool,
    /// Replicas that acknowledge.
    pub clients: u32,
    /// So many must have acknowledged a commit; MariaDB: always one.
    pub wait_count: u32,
    /// AFTER_SYNC: nobody sees a transaction before it is acknowledged. Otherwise AFTER_COMMIT.
    pub after_sync: bool,
    /// After so long without acknowledgements the source goes on without them. Zero: as soon as too few replicas are
    /// connected (`wait_no_replica` is off).
    pub timeout: Duration,
    /// Sessions that wait for an acknowledgement right now.
    pub waiting: u32,
}
