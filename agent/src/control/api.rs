//! What the API speaks: one JSON object an answer, each with its `schema_version`. The command line prints these with
//! `--json` as they are. Names only ever get added; times are RFC 3339 in UTC, durations carry their unit in the name.

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};
use shunt_core::ClusterName;
use shunt_core::cluster::{AlarmKind, Verdict};
use shunt_core::config::{FailoverMode, ListenerRole, Promotion};
use shunt_core::observation::Flavour;
use shunt_core::operation::{Kind, Salvaged, Step};

pub const SCHEMA_VERSION: u32 = 1;

/// `GET /v1/listeners`, `shunt list --json`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ListAnswer {
    pub schema_version: u32,
    pub listeners: Vec<Listener>,
    pub alarms: Vec<AlarmLine>,
    /// Operations under way.
    #[serde(default)]
    pub operations: Vec<OperationLine>,
    #[serde(default)]
    pub outcasts: Vec<OutcastLine>,
}

/// An operation under way.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OperationLine {
    pub cluster: ClusterName,
    /// Counts the cluster's operations.
    pub op: u64,
    pub kind: Kind,
    pub step: Step,
    /// When the operation began.
    pub since: String,
    /// The next primary; `null` until it is chosen.
    pub chosen: Option<String>,
}

/// A server that must not take writes until it has been compared with the primary.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OutcastLine {
    pub cluster: ClusterName,
    pub server: String,
    /// As the configuration writes it.
    pub name: String,
    /// The epoch in which it was succeeded.
    pub epoch: u64,
    /// It was compared, and does not rejoin by itself.
    pub quarantined: bool,
    /// Why it is quarantined; `null` before it was compared.
    pub reason: Option<String>,
    /// What it has and the primary lacks; empty: nothing; `null` before it was compared.
    pub errant: Option<String>,
    /// What was saved of that.
    pub salvaged: Option<Salvaged>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Listener {
    pub cluster: ClusterName,
    pub role: ListenerRole,
    /// Proxy address:port.
    pub listener: String,
    /// `ip:port` each; empty when fenced.
    pub backends: Vec<String>,
    /// `open`, `held` or `refused`.
    pub state: String,
    pub epoch: u64,
    pub verdict: Verdict,
    pub pinned: bool,
    pub paused: bool,
    /// Established connections through the listener; `null` when the kernel could not be asked.
    pub connections: Option<u64>,
    pub since: String,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AlarmLine {
    /// `null` for an alarm of the agent itself.
    pub cluster: Option<ClusterName>,
    pub alarm: AlarmKind,
    pub message: String,
}

/// `GET /v1/clusters/NAME`, `shunt show NAME --json`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ShowAnswer {
    pub schema_version: u32,
    pub cluster: ClusterName,
    pub mode: FailoverMode,
    pub epoch: u64,
    pub primary: Option<String>,
    pub verdict: Verdict,
    pub verdict_since: String,
    pub reasons: Vec<String>,
    pub alarms: Vec<AlarmLine>,
    /// The server that the whole cluster is pinned to.
    pub pinned: Option<String>,
    /// Listeners that are pinned on their own.
    #[serde(default)]
    pub pinned_listeners: Vec<PinnedListener>,
    pub paused: Option<PauseLine>,
    pub outlook: String,
    /// What a failover now would lose; `null`: nothing that is known.
    #[serde(default)]
    pub at_risk: Option<String>,
    #[serde(default)]
    pub operation: Option<OperationLine>,
    #[serde(default)]
    pub outcasts: Vec<OutcastLine>,
    pub servers: Vec<Server>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PinnedListener {
    pub listener: String,
    pub server: String,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PauseLine {
    /// `null`: until resumed.
    pub until: Option<String>,
    pub reason: String,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Server {
    pub address: String,
    /// As the configuration writes it.
    pub name: String,
    /// `primary`, `replica`, `none` or `unknown`.
    pub role: String,
    /// `up`, `suspect`, `down`, `unknown`, or how a server that is alive fails us.
    pub state: String,
    pub failure: Option<String>,
    /// What traffic through the listeners makes it suspect of, until it has answered a question that was asked for that reason.
    #[serde(default)]
    pub suspected: Option<String>,
    pub read_only: Option<bool>,
    pub gtid_executed: Option<String>,
    /// Transactions that the primary has executed and this server has not, and which; `null` when that is not known.
    pub gtid_missing: Option<u64>,
    pub gtid_missing_set: Option<String>,
    pub lag_ms: Option<u64>,
    pub replication: String,
    pub semi_sync: String,
    pub observed_ms_ago: Option<u64>,
    pub answered_in_us: Option<u64>,
    pub flavour: Option<Flavour>,
    pub version: Option<String>,
    pub dc: Option<String>,
    pub promotion: Promotion,
}

/// `POST /v1/clusters/NAME/pin`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PinRequest {
    /// Address or name of a server of the cluster; the port may be left out.
    pub server: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub listener: Option<String>,
    /// Whether the operator has been told of the doubts.
    #[serde(default)]
    pub confirmed: bool,
}

/// `POST /v1/clusters/NAME/unpin`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UnpinRequest {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub listener: Option<String>,
}

/// `POST /v1/clusters/NAME/pause`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PauseRequest {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub for_seconds: Option<u64>,
    pub reason: String,
}

/// `POST /v1/clusters/NAME/switchover`, `…/failover` and `…/drill`. Each takes what it has a use for.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OperateRequest {
    /// The next primary: address or name of a server of the cluster; the best one if left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to: Option<String>,
    /// Switchover: how long sessions inside a transaction may take to finish.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub grace_ms: Option<u64>,
    /// Everything is examined, nothing is changed.
    #[serde(default)]
    pub dry_run: bool,
    /// Failover: though nothing proves that nothing is lost.
    #[serde(default)]
    pub allow_data_loss: bool,
}

/// The operation has begun. How it goes on stands in the history: events with its number in `data.op`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OperateAnswer {
    pub schema_version: u32,
    pub op: u64,
}

/// `POST /v1/clusters/NAME/rejoin` and `…/clear`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ServerRequest {
    /// Address or name of a server of the cluster; the port may be left out.
    pub server: String,
}

/// What a request that changes something comes to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Done {
    pub schema_version: u32,
    pub message: String,
}

impl Done {
    pub fn new(message: impl Into<String>) -> Self {
        Self { schema_version: SCHEMA_VERSION, message: message.into() }
    }
}

/// `GET /v1/events?after=ID&cluster=NAME&limit=N&wait_ms=MS`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EventsAnswer {
    pub schema_version: u32,
    pub events: Vec<EventLine>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EventLine {
    pub id: i64,
    pub at: String,
    /// Unix time in milliseconds.
    pub at_ms: i64,
    /// `null` for an event of the agent itself.
    pub cluster: Option<String>,
    pub kind: String,
    pub message: String,
    pub data: serde_json::Value,
}

/// A line of `GET /v1/flows?cluster=NAME&source_port=N`, one of the `flows` of `shunt flows --json`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FlowLine {
    pub cluster: ClusterName,
    pub client: SocketAddr,
    pub listener: SocketAddr,
    /// The client's address as the backend sees it: what stands in its process list.
    pub seen_as: SocketAddr,
    pub backend: SocketAddr,
    /// `opening`, `established` or `closing`.
    pub state: String,
    /// `null` unless the kernel keeps it (nf_conntrack_timestamp).
    pub age_ms: Option<u64>,
    /// Since the last packet, to the second; `null` when that cannot be told.
    pub idle_ms: Option<u64>,
    /// Bytes of IP packets; `null` unless the kernel counts them (nf_conntrack_acct).
    pub bytes_to_backend: Option<u64>,
    pub bytes_to_client: Option<u64>,
}

/// `POST /v1/reload`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReloadAnswer {
    pub schema_version: u32,
    pub added: Vec<ClusterName>,
    pub changed: Vec<ClusterName>,
    pub removed: Vec<ClusterName>,
    /// Warnings as rendered text.
    pub diagnostics: String,
}

/// What comes with every status that is not 2xx.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Problem {
    pub schema_version: u32,
    pub code: ProblemCode,
    pub error: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
    /// Text to read before the error: a configuration's diagnostics.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub details: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ProblemCode {
    /// 400, exit code 2.
    BadRequest,
    /// 403, exit code 1.
    NotAllowed,
    /// 404, exit code 2.
    NotFound,
    /// 409, exit code 5: a safety rule stands against it; `confirmed` may answer it.
    NeedsConfirmation,
    /// 409, exit code 5: a safety rule stands against it, whoever confirms it.
    RefusedByRule,
    /// 422, exit code 2: the configuration is in error, what ran before still runs.
    BadConfiguration,
    /// 503, exit code 1: as much as possible of this is under way already.
    Busy,
    /// 500, exit code 1.
    Failed,
}
