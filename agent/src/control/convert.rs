//! From the agent's own types to what the API speaks.

use shunt_core::cluster::{Alarm, ClusterStatus, ServerStatus};
use shunt_core::gtid::{GtidPosition, Missing};
use shunt_core::operation::Outcast;
use shunt_core::{ClusterName, Mono};

use super::api::{
    AlarmLine, EventLine, ListAnswer, Listener, OperationLine, OutcastLine, PauseLine, PinnedListener, SCHEMA_VERSION,
    Server, ShowAnswer,
};
use crate::clock::{Clock, rfc3339};
use crate::driver::Agent;
use crate::store::RecordedEvent;

pub async fn list(agent: &Agent) -> ListAnswer {
    let clock = agent.clock();
    let connections = agent.connections().await;
    let statuses = agent.statuses().await;
    let listeners = statuses.iter().flat_map(|cluster| {
        let connections = &connections;
        cluster.listeners.iter().map(move |listener| Listener {
            cluster: cluster.name.clone(),
            role: listener.role,
            listener: listener.address.to_string(),
            backends: listener.backends.iter().map(ToString::to_string).collect(),
            state: listener.state.word().to_owned(),
            epoch: cluster.epoch.0,
            verdict: cluster.verdict,
            pinned: listener.pinned,
            paused: cluster.pause.is_some(),
            connections: connections.as_ref().map(|all| all.get(&listener.address).copied().unwrap_or(0)),
            since: date(clock, listener.since),
        })
    });
    let departed = connections.as_ref().map_or(Vec::new(), |counted| agent.departed(counted));
    let drained = departed.iter().map(|gone| Listener {
        cluster: gone.cluster.clone(),
        role: gone.role,
        listener: gone.listener.to_string(),
        backends: Vec::new(),
        state: "drained".to_owned(),
        epoch: gone.epoch.0,
        verdict: gone.verdict,
        pinned: false,
        paused: false,
        connections: connections.as_ref().and_then(|counted| counted.get(&gone.listener).copied()),
        since: date(clock, gone.since),
    });
    let listeners = listeners.chain(drained);
    ListAnswer {
        schema_version: SCHEMA_VERSION,
        listeners: listeners.collect(),
        alarms: alarms(agent, &statuses),
        operations: statuses.iter().filter_map(|status| operation(clock, status)).collect(),
        outcasts: statuses.iter().flat_map(outcasts).collect(),
    }
}

pub fn show(agent: &Agent, status: &ClusterStatus) -> ShowAnswer {
    let clock = agent.clock();
    let alarms = alarms(agent, std::slice::from_ref(status));
    let primary = status.servers.iter().find(|s| Some(s.address) == status.primary);
    ShowAnswer {
        schema_version: SCHEMA_VERSION,
        cluster: status.name.clone(),
        mode: status.mode,
        epoch: status.epoch.0,
        primary: status.primary.map(|p| p.to_string()),
        verdict: status.verdict,
        verdict_since: date(clock, status.verdict_since),
        reasons: status.reasons.clone(),
        alarms: alarms.into_iter().filter(|a| a.cluster.as_ref() == Some(&status.name)).collect(),
        pinned: status.pinned.map(|p| p.to_string()),
        pinned_listeners: status
            .pinned_listeners
            .iter()
            .map(|(listener, server)| PinnedListener { listener: listener.to_string(), server: server.to_string() })
            .collect(),
        paused: status
            .pause
            .as_ref()
            .map(|pause| PauseLine { until: pause.until.map(|at| date(clock, at)), reason: pause.reason.clone() }),
        outlook: status.outlook.clone(),
        at_risk: status.at_risk.clone(),
        operation: operation(clock, status),
        outcasts: outcasts(status),
        servers: status.servers.iter().map(|s| server(clock, primary, s)).collect(),
    }
}

pub fn operation(clock: Clock, status: &ClusterStatus) -> Option<OperationLine> {
    status.operation.map(|operation| OperationLine {
        cluster: status.name.clone(),
        op: operation.id.0,
        kind: operation.kind,
        step: operation.step,
        since: date(clock, operation.since),
        chosen: operation.chosen.map(|server| server.to_string()),
    })
}

fn outcasts(status: &ClusterStatus) -> Vec<OutcastLine> {
    let line = |outcast: &Outcast| {
        let server = status.servers.iter().find(|s| s.address == outcast.server);
        let quarantine = outcast.quarantine.as_ref();
        OutcastLine {
            cluster: status.name.clone(),
            server: outcast.server.to_string(),
            name: server.map_or_else(|| outcast.server.to_string(), |s| s.label.clone()),
            epoch: outcast.epoch.0,
            quarantined: quarantine.is_some(),
            reason: quarantine.map(|q| q.reason.clone()),
            errant: quarantine.map(|q| q.errant.clone()),
            salvaged: quarantine.and_then(|q| q.salvaged.clone()),
        }
    };
    status.outcasts.iter().map(line).collect()
}

fn server(clock: Clock, primary: Option<&ServerStatus>, server: &ServerStatus) -> Server {
    let missing = primary.and_then(|primary| missing(primary, server));
    Server {
        address: server.address.to_string(),
        name: server.label.clone(),
        role: server.role.to_owned(),
        state: server.state.clone(),
        failure: server.failure.clone(),
        suspected: server.suspected.clone(),
        read_only: server.read_only,
        gtid_executed: server.gtid_executed.clone(),
        gtid_missing: missing.as_ref().map(|m| m.count),
        gtid_missing_set: missing.map(|m| m.text),
        lag_ms: server.lag.map(|lag| lag.as_millis() as u64),
        replication: server.replication.clone(),
        semi_sync: server.semi_sync.clone(),
        observed_ms_ago: server.observed_at.map(|at| clock.now().since(at).as_millis() as u64),
        answered_in_us: server.took.map(|took| took.as_micros() as u64),
        flavour: server.flavour,
        version: server.version.clone(),
        dc: server.dc.clone(),
        promotion: server.promotion,
    }
}

/// What the primary has executed and the server has not. The two were not asked at one instant, so a few transactions
/// may only be under way.
fn missing(primary: &ServerStatus, server: &ServerStatus) -> Option<Missing> {
    let position = |s: &ServerStatus| {
        let text = s.gtid_executed.as_deref()?;
        GtidPosition::parse(s.flavour?, text).ok()
    };
    position(primary)?.missing_from(&position(server)?)
}

pub fn event(stored: RecordedEvent) -> EventLine {
    EventLine {
        id: stored.id,
        at: rfc3339(stored.event.at_ms),
        at_ms: stored.event.at_ms,
        cluster: stored.event.cluster.map(|name| name.to_string()),
        kind: stored.event.kind,
        message: stored.event.message,
        data: stored.event.data,
    }
}

fn alarms(agent: &Agent, statuses: &[ClusterStatus]) -> Vec<AlarmLine> {
    let line =
        |cluster: Option<ClusterName>, alarm: Alarm| AlarmLine { cluster, alarm: alarm.kind, message: alarm.message };
    statuses
        .iter()
        .flat_map(|s| s.alarms.iter().map(|a| line(Some(s.name.clone()), a.clone())))
        .chain(agent.alarms().into_iter().map(|(cluster, alarm)| line(cluster, alarm)))
        .collect()
}

fn date(clock: Clock, at: Mono) -> String {
    rfc3339(clock.unix_ms(at))
}
