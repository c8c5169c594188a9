//! What a configuration says, once it has been read: typed, resolved, complete. Reading it is the agent's business.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::ClusterName;

/// One file of `clusters.d`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClusterConfig {
    pub name: ClusterName,
    /// At least one; no two with the same address.
    pub servers: Vec<ServerConfig>,
    pub failover: FailoverMode,
    pub data_loss: DataLoss,
    /// Two failovers of the cluster are at least this far apart, unless an operator asks.
    pub cooldown: Duration,
    pub probe: ProbeConfig,
    /// Which `[credentials.NAME]` of the agent's file to log in with.
    pub credentials: String,
    /// At least one; no two with the same address.
    pub listeners: Vec<ListenerConfig>,
    /// The kernel stops passing packets this long after the agent last renewed its word; `None`: it never does by itself.
    pub lease: Option<Duration>,
    /// The agent's own data centre: replicas there take readers before others do.
    pub near: Option<String>,
    pub promoting: Promoting,
}

/// What matters only to a cluster whose servers shunt changes itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Promoting {
    /// Which `[credentials.NAME]` replicas log in with at their source.
    pub replication_credentials: String,
    pub salvage: Salvage,
    /// Whether a former primary that has nothing of its own becomes a replica without being asked for.
    pub rejoin: bool,
    /// How long a new primary may take to apply what it has received before somebody is told; it is waited for all the same.
    pub catch_up: Duration,
    /// A `fence` hook is configured, and has to succeed before a failover goes on.
    pub fence_hook: bool,
    pub before_promote_hook: bool,
    /// How long either of them may take.
    pub hook_time: Duration,
}

impl Default for Promoting {
    fn default() -> Self {
        Self {
            replication_credentials: "default".to_owned(),
            salvage: Salvage::Keep,
            rejoin: true,
            catch_up: Duration::from_secs(60),
            fence_hook: false,
            before_promote_hook: false,
            hook_time: Duration::from_secs(30),
        }
    }
}

/// What becomes of transactions that the old primary has and the new one lacks, once they can be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Salvage {
    /// They are kept as a file.
    Keep,
    /// They are kept, and applied to the new primary.
    Apply,
}

/// One MySQL instance.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerConfig {
    /// Where it is. This is the server's identity everywhere in shunt: NAT knows addresses, not names.
    pub address: SocketAddr,
    /// As the operator wrote it: `db1.example:3306` or the address.
    pub label: String,
    /// Data centre.
    pub dc: Option<String>,
    pub promotion: Promotion,
    /// Share of a replica listener's connections; 1 by default, 0 for none.
    pub weight: u32,
}

/// Who decides on failovers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FailoverMode {
    /// Somebody else promotes; shunt follows and changes no server.
    Follow,
    /// shunt promotes.
    Promote,
    /// Only what the operator says.
    Off,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DataLoss {
    Forbid,
    Allow,
}

/// A server's rank as a candidate (Orchestrator's promotion rules).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Promotion {
    Must,
    Prefer,
    #[default]
    Neutral,
    PreferNot,
    MustNot,
}

/// How a cluster's servers are asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProbeConfig {
    /// From one round of questions to the next.
    pub interval: Duration,
    /// Bound of every single call: connect, log in, one round of questions.
    pub timeout: Duration,
    /// So many timeouts in a row are one's own evidence of death.
    pub failures: u32,
}

impl Default for ProbeConfig {
    fn default() -> Self {
        Self { interval: Duration::from_millis(500), timeout: Duration::from_secs(1), failures: 3 }
    }
}

/// One `[[listen]]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListenerConfig {
    pub role: ListenerRole,
    pub address: SocketAddr,
    /// Who may connect; empty: anyone.
    pub allow: Vec<IpNet>,
    pub snat: Snat,
    pub established: Established,
    pub drain: Duration,
    pub fenced: Fenced,
    /// A held connection is refused after this.
    pub hold: Duration,
    pub max_connections: Option<u32>,
    pub max_connections_per_source: Option<u32>,
    /// Replica listeners: a replica that lags more takes no connections.
    pub max_lag: Duration,
    pub fallback: Fallback,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ListenerRole {
    Primary,
    Replica,
}

/// The source address that the backend sees.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Snat {
    /// The address of the interface that the packet leaves by.
    #[default]
    Masquerade,
    /// One of these (first ..= last).
    Pool(Vec<(IpAddr, IpAddr)>),
    /// The client's own: the servers must route back through the proxy.
    None,
}

/// What becomes of the established flows of a backend that leaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Established {
    Reset,
    Drain,
    Keep,
}

/// What a listener without a backend does with a new connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Fenced {
    /// Its SYN stays unanswered, for at most `hold`.
    Hold,
    /// It gets a RST.
    Refuse,
}

/// Where a replica listener leads when no replica is fit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Fallback {
    Primary,
    None,
}
