//! Prometheus metrics, in the OpenMetrics text format. No label is per client.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;
use shunt_core::cluster::ListenerState;
use shunt_core::config::ListenerRole;
use shunt_core::operation::{Kind, Outcome};

use super::signals;
use crate::config::DatapathKind;
use crate::driver::Agent;

pub(super) type Labels = Vec<(&'static str, String)>;

/// What is counted as it happens; everything else is read off the status when somebody asks.
#[derive(Clone, Debug)]
pub struct Counters {
    commits: Histogram,
    repairs: Counter,
    failovers: Family<Labels, Counter>,
    failover_times: Histogram,
    operations: Family<Labels, Counter>,
    reconciled_ms: Arc<AtomicU64>,
    flows_severed: Counter,
    sever_times: Histogram,
}

impl Default for Counters {
    fn default() -> Self {
        // 50 µs to 100 ms: a commit takes some hundred microseconds.
        let bounds = [50e-6, 100e-6, 200e-6, 400e-6, 800e-6, 1.6e-3, 3.2e-3, 6.4e-3, 25e-3, 100e-3];
        // 5 ms to 5 s: retries and the hosts' limits on challenge ACKs make the long ones.
        let severings = [0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0];
        // 50 ms to a minute: how long somebody else takes to promote is most of it.
        let failovers = [0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0];
        Self {
            commits: Histogram::new(bounds),
            repairs: Counter::default(),
            failovers: Family::default(),
            failover_times: Histogram::new(failovers),
            operations: Family::default(),
            reconciled_ms: Arc::default(),
            flows_severed: Counter::default(),
            sever_times: Histogram::new(severings),
        }
    }
}

impl Counters {
    /// A transaction was acknowledged, so long after it was sent.
    pub fn committed(&self, took: Duration) {
        self.commits.observe(took.as_secs_f64());
    }

    /// A cluster's listeners lead to another primary than before, or could not be led to it.
    pub fn failover(&self, cluster: &str, reason: &str, succeeded: bool, took: Option<Duration>) {
        let result = if succeeded { "ok" } else { "failed" };
        let labels =
            vec![("cluster", cluster.to_owned()), ("reason", reason.to_owned()), ("result", result.to_owned())];
        self.failovers.get_or_create(&labels).inc();
        if let Some(took) = took.filter(|_| succeeded) {
            self.failover_times.observe(took.as_secs_f64());
        }
    }

    /// An operation has come to its end; a dry run is none. How long clients went without a primary is told by
    /// [`Self::failover`], at the commit that opens the listeners.
    pub fn operated(&self, cluster: &str, kind: Kind, outcome: Outcome) {
        let labels = vec![
            ("cluster", cluster.to_owned()),
            ("kind", kind.word().to_owned()),
            ("outcome", outcome.word().to_owned()),
        ];
        self.operations.get_or_create(&labels).inc();
    }

    /// So many flows of one pair were ended, in that time.
    pub fn severed(&self, flows: u64, took: Duration) {
        self.flows_severed.inc_by(flows);
        self.sever_times.observe(took.as_secs_f64());
    }

    /// The kernel was found out of line and was repaired.
    pub fn repaired(&self) {
        self.repairs.inc();
    }

    /// The kernel was compared with what was committed, at that Unix time.
    pub fn reconciled(&self, unix_ms: i64) {
        self.reconciled_ms.store(unix_ms.max(0) as u64, Ordering::Relaxed);
    }
}

/// Everything as text.
pub async fn metrics_text(agent: &Agent) -> String {
    let counters = agent.counters();
    let mut registry = Registry::with_prefix("shunt");
    registry.register(
        "commit_duration_seconds",
        "Kernel transactions, from sending to acknowledgement",
        counters.commits.clone(),
    );
    registry.register(
        "drift_repairs",
        "Times that the kernel's tables were found changed and were repaired",
        counters.repairs.clone(),
    );

    registry.register(
        "failovers",
        "Changes of primary that were carried out, by the verdict that called for them",
        counters.failovers.clone(),
    );
    registry.register(
        "failover_duration_seconds",
        "From the first sign of trouble to the listeners leading to the new primary",
        counters.failover_times.clone(),
    );
    registry.register(
        "operations",
        "Failovers and switchovers that came to their end, by what became of them",
        counters.operations.clone(),
    );
    registry.register("flows_severed", "Flows ended because their backend left", counters.flows_severed.clone());
    registry.register(
        "sever_duration_seconds",
        "From a pair's leaving to the last answer of its flows' ends",
        counters.sever_times.clone(),
    );

    let reconciled = Gauge::<f64, AtomicU64>::default();
    reconciled.set(counters.reconciled_ms.load(Ordering::Relaxed) as f64 / 1000.0);
    registry.register(
        "last_reconcile_timestamp_seconds",
        "When the kernel was last compared with what was committed",
        reconciled,
    );

    let lost = Counter::<u64>::default();
    lost.inc_by(agent.journal().lost());
    registry.register("history_lost", "Lines of history that could not be written", lost);

    let build = Family::<Labels, Gauge>::default();
    build.get_or_create(&vec![("version", env!("CARGO_PKG_VERSION").to_owned())]).set(1);
    registry.register("build_info", "The version that runs", build);

    let datapath = Family::<Labels, Gauge>::default();
    datapath.get_or_create(&vec![("datapath", agent.settings().datapath.word().to_owned())]).set(1);
    registry.register("datapath_info", "The datapath that holds the mappings", datapath);

    let up = Family::<Labels, Gauge>::default();
    let mapping = Family::<Labels, Gauge>::default();
    let epoch = Family::<Labels, Gauge>::default();
    let verdict = Family::<Labels, Gauge>::default();
    let connections = Family::<Labels, Gauge>::default();
    let alarms = Family::<Labels, Gauge>::default();
    let under_way = Family::<Labels, Gauge>::default();
    let outcasts = Family::<Labels, Gauge>::default();
    let counted = agent.connections().await;
    for cluster in agent.statuses().await {
        let name = ("cluster", cluster.name.to_string());
        epoch.get_or_create(&vec![name.clone()]).set(cluster.epoch.0.cast_signed());
        verdict.get_or_create(&vec![name.clone(), ("verdict", cluster.verdict.to_string())]).set(1);
        alarms.get_or_create(&vec![name.clone()]).set(cluster.alarms.len().cast_signed() as i64);
        if let Some(operation) = &cluster.operation {
            let labels = vec![
                name.clone(),
                ("kind", operation.kind.word().to_owned()),
                ("step", operation.step.word().to_owned()),
            ];
            under_way.get_or_create(&labels).set(1);
        }
        for outcast in &cluster.outcasts {
            let state = if outcast.quarantine.is_some() { "quarantined" } else { "not_compared" };
            let labels = vec![name.clone(), ("server", outcast.server.to_string()), ("state", state.to_owned())];
            outcasts.get_or_create(&labels).set(1);
        }
        for server in &cluster.servers {
            let labels = vec![name.clone(), ("server", server.address.to_string())];
            up.get_or_create(&labels).set(i64::from(server.answers));
        }
        for listener in &cluster.listeners {
            let role = match listener.role {
                ListenerRole::Primary => "primary",
                ListenerRole::Replica => "replica",
            };
            let labels = vec![name.clone(), ("listener", listener.address.to_string()), ("role", role.to_owned())];
            if let Some(counted) = &counted {
                let now = counted.get(&listener.address).copied().unwrap_or(0);
                connections.get_or_create(&labels).set(now.cast_signed());
            }
            let open = listener.state == ListenerState::Open;
            let backends: Vec<_> = listener.backends.iter().map(ToString::to_string).collect();
            let labels =
                [labels, vec![("backends", backends.join(",")), ("state", listener.state.word().to_owned())]].concat();
            mapping.get_or_create(&labels).set(i64::from(open));
        }
    }
    registry.register("backend_up", "Whether the server answers the probes", up);
    registry.register("mapping_info", "Where each listener leads; 0 when it is fenced", mapping);
    registry.register("cluster_epoch", "The cluster's epoch", epoch);
    registry.register("cluster_verdict_info", "The verdict on the cluster's primary", verdict);
    registry.register("cluster_alarms", "Alarms of the cluster", alarms);
    registry.register("operation_info", "The operation under way, and its step", under_way);
    registry.register("outcast_info", "Servers that were cast out and have not rejoined", outcasts);
    let own = Gauge::<i64>::default();
    own.set(agent.alarms().len().cast_signed() as i64);
    registry.register("agent_alarms", "Alarms of the agent itself and of its configuration", own);
    registry.register("listener_connections", "Established connections through the listener", connections);

    register_usage(&mut registry, agent).await;
    if let Some(told) = agent.connect_times().await {
        let clusters = agent.listeners();
        signals::register(&mut registry, told, |pair| clusters.get(&pair.listener).map(ToString::to_string));
    }

    let mut text = String::new();
    if let Err(error) = encode(&mut text, &registry) {
        tracing::error!(%error, "metrics could not be written as text");
    }
    text
}

/// How full the kernel's tables are, and what was refused; what cannot be told is left out.
async fn register_usage(registry: &mut Registry, agent: &Agent) {
    if let Some(usage) = agent.usage() {
        let gauge = |value: u64| {
            let gauge = Gauge::<i64>::default();
            gauge.set(value.cast_signed());
            gauge
        };
        let (entries, max) = (gauge(usage.flows), gauge(usage.flows_max));
        match agent.settings().datapath {
            DatapathKind::Nft => {
                registry.register("conntrack_entries", "Connections that the kernel tracks, of the host", entries);
                registry.register("conntrack_max", "How many it can track; 0: any number", max);
            }
            DatapathKind::Ebpf => {
                registry.register("flow_table_entries", "Connections in the flow table", entries);
                registry.register("flow_table_max", "How many it has room for; 0: there is none yet", max);
            }
        }
        let turned_away = Counter::<u64>::default();
        turned_away.inc_by(usage.turned_away);
        registry.register(
            "turned_away",
            "Packets of new connections that found no place in the table of connections or no free port, of the host",
            turned_away,
        );
        let ports = Family::<Labels, Gauge>::default();
        for port in usage.ports {
            let labels = vec![("source", port.source.to_string()), ("backend", port.backend.to_string())];
            ports.get_or_create(&labels).set(port.taken.cast_signed());
        }
        registry.register("snat_ports_taken", "Source ports of 64512 that connections to the backend take", ports);
    }
    let events = agent.datapath_events().await;
    if !events.is_empty() {
        let packets = Family::<Labels, Counter>::default();
        for (event, count) in events {
            packets.get_or_create(&vec![("event", event.to_owned())]).inc_by(count);
        }
        registry.register("ebpf_packets", "What became of packets and connections in the eBPF programs", packets);
    }
    if let Some(listeners) = agent.refused().await {
        let refused = Family::<Labels, Counter>::default();
        for (cluster, listener, counts) in listeners {
            let reasons = [
                ("not_allowed", counts.not_allowed),
                ("over_limit", counts.over_limit),
                ("over_source_limit", counts.over_source_limit),
            ];
            for (reason, count) in reasons {
                let labels = vec![
                    ("cluster", cluster.to_string()),
                    ("listener", listener.to_string()),
                    ("reason", reason.to_owned()),
                ];
                refused.get_or_create(&labels).inc_by(count);
            }
        }
        registry.register("refused", "New connections that the listener refused", refused);
    }
}
