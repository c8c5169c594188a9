//! What others took in the same kind of lab: three MySQL 9.7.4 servers in network namespaces, measured by the authors of
//! shunt's design on 2026-11-21. Not measured again here.

use super::Scenario;

pub const REMARK: &str = "The others' figures were measured by the authors of shunt's design on 2026-11-21 with the same kind \
                          of lab (three MySQL 9.7.4 servers in network namespaces), median and maximum; `bench failover` does \
                          not measure them again.";

pub struct Peer {
    pub name: &'static str,
    pub scenario: Scenario,
    pub median_s: f64,
    pub max_s: f64,
}

const fn peer(name: &'static str, scenario: Scenario, median_s: f64, max_s: f64) -> Peer {
    Peer { name, scenario, median_s, max_s }
}

const ROUTER: &str = "MySQL Router + Group Replication, defaults";
const ROUTER_TUNED: &str = "the same, tuned (expel timeout 0, router timeouts 1 s)";
const ORCHESTRATOR: &str = "Orchestrator + HAProxy, poll 5 s";
const ORCHESTRATOR_FAST: &str = "the same, poll 1 s";

pub const PEERS: &[Peer] = &[
    peer(ROUTER, Scenario::Kill, 21.7, 22.2),
    peer(ROUTER_TUNED, Scenario::Kill, 6.9, 7.4),
    peer(ORCHESTRATOR, Scenario::Kill, 4.6, 7.8),
    peer(ORCHESTRATOR_FAST, Scenario::Kill, 2.9, 3.9),
    peer(ROUTER, Scenario::Cut, 36.4, 42.7),
    peer(ROUTER_TUNED, Scenario::Cut, 8.5, 9.1),
    peer(ORCHESTRATOR, Scenario::Cut, 9.5, 14.0),
    peer(ORCHESTRATOR_FAST, Scenario::Cut, 9.2, 9.6),
    peer(ROUTER, Scenario::Switchover, 0.37, 0.49),
    peer(ORCHESTRATOR, Scenario::Switchover, 1.16, 1.63),
];
