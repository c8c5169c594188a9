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
    /// `None`: it is not set up to be in any.
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
    /// `super_read_only` brings `read_only` with it. While setting it waits for a commit, it alone reads as on, and clients
    /// still write.
    pub const fn is_writable(&self) -> bool {
        !self.read_only
    }

    /// The group that it takes part in, or tries to.
    pub fn running_group(&self) -> Option<&GroupView> {
        self.group.as_ref().filter(|group| group.runs(self.identity.uuid.as_deref()))
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

/// What a server says of the group that it is set up to be a member of. Such a group decides by itself who takes writes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum GroupView {
    Replication(ReplicationGroup),
    Galera(GaleraNode),
}

/// MySQL Group Replication as one member sees it. An expelled member sees itself ONLINE until it learns of that.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ReplicationGroup {
    pub members: Vec<GroupMember>,
    /// `VIEW_ID`: when the group was founded, and how often its members have changed since; empty if it is not known.
    pub view: String,
    /// This member's own.
    pub backlog: Option<Backlog>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupMember {
    /// `MEMBER_ID`, the server's uuid.
    pub uuid: String,
    pub state: MemberState,
    pub primary: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum MemberState {
    Online,
    /// It has joined and is still fetching or applying what it missed.
    Recovering,
    /// Whoever says so has not heard of it for seconds.
    Unreachable,
    /// Group Replication does not run there.
    Offline,
    /// It has left the group because of an error, or was expelled and knows it.
    Error,
}

impl MemberState {
    /// As `MEMBER_STATE` says it.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Online => "ONLINE",
            Self::Recovering => "RECOVERING",
            Self::Unreachable => "UNREACHABLE",
            Self::Offline => "OFFLINE",
            Self::Error => "ERROR",
        }
    }

    /// Whether a member in that state counts when the group asks for a majority.
    pub const fn counts(self) -> bool {
        matches!(self, Self::Online | Self::Recovering)
    }
}

impl ReplicationGroup {
    pub fn member(&self, uuid: &str) -> Option<&GroupMember> {
        self.members.iter().find(|m| m.uuid.eq_ignore_ascii_case(uuid))
    }

    /// Whether this view reaches more than half of the members that it knows.
    pub fn has_majority(&self) -> bool {
        self.members.iter().filter(|m| m.state.counts()).count() * 2 > self.members.len()
    }

    /// Whether both views are of one founding, and this one is the later.
    pub fn is_later_than(&self, other: &Self) -> bool {
        match (split_view(&self.view), split_view(&other.view)) {
            (Some((mine, later)), Some((theirs, earlier))) => mine == theirs && later > earlier,
            _ => false,
        }
    }
}

/// `17952895151618453:3`
fn split_view(view: &str) -> Option<(&str, u64)> {
    let (founded, number) = view.split_once(':')?;
    Some((founded, number.parse().ok()?))
}

/// A Galera node as it sees itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GaleraNode {
    /// `wsrep_cluster_state_uuid`: the history that its data belong to.
    pub cluster: String,
    /// `wsrep_cluster_status` is Primary: its component has a majority.
    pub in_primary_component: bool,
    /// `wsrep_ready`: it takes statements.
    pub ready: bool,
    pub state: GaleraState,
    /// `wsrep_cluster_size`: nodes of its component, arbitrators among them.
    pub size: u32,
    pub backlog: Backlog,
}

/// `wsrep_local_state`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum GaleraState {
    /// 4: it has everything.
    Synced,
    /// 2: it feeds another node, or an operator has desynchronised it; it may fall behind, and may be blocked.
    Donor,
    /// 0, 1, 3: it is on its way in.
    Joining,
}

/// How far a member is with what the others wrote. Numbers that grow as long as it stays a member.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Backlog {
    pub applied: u64,
    /// Received and not applied.
    pub queued: u64,
}

impl GroupView {
    pub const fn backlog(&self) -> Option<Backlog> {
        match self {
            Self::Replication(group) => group.backlog,
            Self::Galera(node) => Some(node.backlog),
        }
    }

    /// Whether the server with that uuid takes part, or tries to. A group that was only set up, or has been stopped, does
    /// nothing.
    pub fn runs(&self, uuid: Option<&str>) -> bool {
        match self {
            Self::Replication(group) => {
                let own = uuid.and_then(|uuid| group.member(uuid));
                own.is_some_and(|own| own.state != MemberState::Offline)
            }
            Self::Galera(_) => true,
        }
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
