//! What the invariants have to remember, and where the world tells them of what happens.

use std::collections::{BTreeMap, BTreeSet};

use shunt_core::cluster::{AlarmKind, Event, Plan};
use shunt_core::observation::{Observation, Outcome, PromoterLock};
use shunt_core::operation::{Ending, Kind, OpId, Operation, Order, Outcast, Step, Task};
use shunt_core::{Epoch, Mono};

use super::gtids::{Gtids, Txn};
use super::history::tell;
use super::rng::Rng;
use super::server::number;
use super::world::World;

/// An operation whose promotion began.
#[derive(Clone, Debug)]
pub struct Began {
    pub p: usize,
    pub id: OpId,
    pub old: usize,
    pub at: Mono,
}

#[derive(Clone, Debug)]
pub struct Oracle {
    /// Who accepted a write through a proxy in an epoch first.
    pub accepted: BTreeMap<(usize, Epoch), usize>,
    /// What clients of a proxy know to be written.
    pub acknowledged: Vec<Gtids>,
    /// What nobody has to answer for.
    pub excused: Gtids,
    pub promotions: Vec<Began>,
    pub promoted_at: Vec<Option<Mono>>,
    last_promoted: Option<usize>,
    /// What a server had received when an operation last told it to stop receiving.
    pub stopped_with: Vec<Option<Gtids>>,
    /// By proxy, the last failover that promoted somebody.
    pub failed_over: Vec<Option<(OpId, Mono)>>,
    pub last_begun: Vec<Option<OpId>>,
    /// By proxy and server, what the agent last heard of the lock.
    pub locks: Vec<Vec<Option<PromoterLock>>>,
    /// Written by somebody who does not come through a proxy.
    pub direct: Vec<(Txn, Mono)>,
    pub ended_well: bool,
    /// What the agents said if it did not.
    pub alarms_at_end: BTreeSet<AlarmKind>,
    /// How operations ended, for the sum over many seeds.
    pub endings: Vec<(Kind, Ending)>,
}

impl Oracle {
    pub fn new(proxies: usize, servers: usize) -> Self {
        Self {
            accepted: BTreeMap::new(),
            acknowledged: vec![Gtids::default(); proxies],
            excused: Gtids::default(),
            promotions: Vec::new(),
            promoted_at: vec![None; servers],
            last_promoted: None,
            stopped_with: vec![None; servers],
            failed_over: vec![None; proxies],
            last_begun: vec![None; proxies],
            locks: vec![vec![None; servers]; proxies],
            direct: Vec::new(),
            ended_well: true,
            alarms_at_end: BTreeSet::new(),
            endings: Vec::new(),
        }
    }

    pub fn excuse(&mut self, set: &Gtids) {
        self.excused.add(set);
    }

    pub fn promotion_began(&mut self, p: usize, operation: &Operation, at: Mono) {
        if !self.promotions.iter().any(|b| b.p == p && b.id == operation.id) {
            self.promotions.push(Began { p, id: operation.id, old: number(operation.old), at });
        }
    }
}

impl World {
    pub fn step_written(&mut self, p: usize, operation: &Operation) {
        if matches!(operation.step, Step::Promote | Step::Open | Step::Repoint) {
            self.oracle.promotion_began(p, operation, self.now);
        }
    }

    /// The machine hears of a server.
    pub fn observed(&mut self, p: usize, seen: &Observation) {
        let lock = match &seen.outcome {
            Outcome::Answered(state) => Some(state.promoter),
            Outcome::Failed(_) => None,
        };
        self.oracle.locks[p][number(seen.server)] = lock;
    }

    pub fn packet_passes(&mut self, p: usize, listener: std::net::SocketAddr, s: usize) {
        self.no_packet_to_the_old(p, listener, s);
    }

    /// A server has accepted a client's write. The packet passed a moment ago: what the kernel took in since is not its doing.
    pub fn write_accepted(&mut self, c: usize, s: usize) {
        let p = self.clients[c].proxy;
        let listener = self.clients[c].listener;
        let kernel = &self.proxies[p].kernel;
        if kernel.lets_pass(listener, super::server::db(s), self.now) {
            self.one_writer(p, s);
        }
    }

    pub fn write_acknowledged(&mut self, c: usize, txn: Txn) {
        let p = self.clients[c].proxy;
        self.oracle.acknowledged[p].insert(txn);
        if self.proxies.len() > 1 && self.oracle.last_promoted.is_some_and(|n| n != txn.origin) {
            self.oracle.excused.insert(txn);
        }
    }

    /// A plan is about to be in force.
    pub fn plan_committed(&mut self, p: usize, plan: &Plan) {
        self.epochs_only_grow(p, plan);
        let Some(s) = self.led_by(p, plan) else { return };
        let leads = self.primary_listeners(p).iter().find_map(|&l| self.proxies[p].kernel.leads(l)).map(number);
        if leads == Some(s) {
            return;
        }
        self.nothing_leads_back(p, s);
        let operation = self.proxies[p].store.operation.clone();
        self.nothing_acknowledged_is_lost(p, s, operation.as_ref());
    }

    pub fn task_ordered(&mut self, p: usize, order: &Order) {
        self.nobody_changes_servers_alone(p, &order.task);
        if let Task::StopReceiving { server } = &order.task {
            self.oracle.stopped_with[number(*server)] = None;
        }
    }

    /// A server has stopped receiving because it was told to.
    pub fn stopped_receiving(&mut self, s: usize) {
        self.oracle.stopped_with[s] = Some(self.servers[s].received());
    }

    /// A promotion resets a server's replication.
    pub fn promotion_resets(&mut self, p: usize, s: usize) {
        self.drained_before_reset(p, s);
    }

    pub fn promoted(&mut self, p: usize, s: usize) {
        self.fence_first(p, s);
        self.read_only_goes_off_last(p, s);
        self.oracle.promoted_at[s] = Some(self.now);
        self.oracle.last_promoted = Some(s);
        if let Some(operation) = &self.proxies[p].store.operation
            && operation.kind == Kind::Failover
        {
            self.oracle.failed_over[p] = Some((operation.id, self.now));
        }
    }

    pub fn promoted_outside(&mut self, s: usize) {
        self.oracle.promoted_at[s] = Some(self.now);
        self.oracle.last_promoted = Some(s);
    }

    pub fn made_writable(&mut self, p: usize, s: usize) {
        self.nothing_leads_back(p, s);
    }

    pub fn follows(&mut self, s: usize, source: usize) {
        // Whoever goes on receiving from where it received before does not rejoin.
        if self.servers[s].source != Some(source) {
            self.only_subsets_rejoin(s, source);
        }
    }

    pub fn operation_ends(&mut self, operation: &Operation, ending: &Ending) {
        self.oracle.endings.push((operation.kind, ending.clone()));
    }

    pub fn outcasts_kept(&mut self, p: usize, outcasts: &[Outcast]) {
        let names: Vec<_> = outcasts.iter().map(|o| (number(o.server) + 1, o.quarantine.is_some())).collect();
        tell!(self, "agent{} keeps outcasts {names:?}", p + 1);
    }

    /// A replica that restarts throws away what it has acknowledged and not applied.
    pub fn note_lost_relay(&mut self, s: usize) {
        for txn in self.servers[s].relay.clone() {
            self.oracle.excused.insert(txn);
        }
    }

    pub fn errant_write(&mut self, n: usize) {
        if self.servers[n].is_running() {
            let txn = Txn { origin: n, number: self.servers[n].next_number };
            self.oracle.direct.push((txn, self.now));
        }
        self.write_directly(n);
    }

    pub fn clock_jumped(&mut self, p: usize) {
        self.oracle.failed_over[p] = None;
    }

    /// Hands the machine something out of date: the answer to an order that was answered, given up or never given, a journal
    /// record of another step, a commit that nobody waits for.
    pub fn stale_news(&mut self, p: usize, draw: u64) {
        if self.proxies[p].frozen || self.proxies[p].busy {
            return;
        }
        self.tell_agent(p, Event::Deadline);
        let mut rng = Rng::new(draw);
        let s = rng.below(self.servers.len());
        let standing = Box::new(self.servers[s].standing());
        let Some(agent) = &mut self.proxies[p].agent else { return };
        let past: Vec<_> = agent.past_orders.iter().filter(|id| !agent.orders.contains_key(id)).copied().collect();
        let order = if past.is_empty() { shunt_core::operation::OrderId(u64::MAX) } else { rng.pick(&past) };
        let serial = self.proxies[p].store.operation.as_ref().map_or(7, |o| o.serial.saturating_sub(1 + rng.up_to(1)));
        let event = match rng.up_to(5) {
            0..=2 => Event::TaskDone { order, result: Ok(shunt_core::operation::Report::Standing(standing)) },
            3 => Event::TaskDone { order, result: Ok(shunt_core::operation::Report::Done) },
            4 => Event::Begun { serial },
            _ => Event::NotBegun { serial, error: "stale".to_owned() },
        };
        tell!(self, "stale news for agent{}: {event:?}", p + 1);
        let now = self.now;
        let Some(agent) = &mut self.proxies[p].agent else { return };
        let told = match &mut self.mutation {
            Some(mutation) => mutation.hears(event.clone()),
            None => Some(event.clone()),
        };
        let Some(told) = told else { return };
        let actions = agent.machine.handle(told, agent.time(now));
        self.nothing_stale_acts(p, &event, &actions);
    }
}
