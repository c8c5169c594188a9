//! A proxy: the kernel, the agent with the real state machine in it, and what the agent writes down. The agent may die at every
//! boundary between two actions; what is in the kernel and in the store stays.

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::time::Duration;

use shunt_core::cluster::{Cluster, Event, Pace, Pause, Remembered};
use shunt_core::config::ClusterConfig;
use shunt_core::operation::{Ending, OpId, Operation, OrderId, Outcast};
use shunt_core::{Epoch, Mono};

use super::history::tell;
use super::kernel::Kernel;
use super::server::number;
use super::world::{Happening, World};

/// What the agent writes down.
#[derive(Clone, Debug, Default)]
pub struct Store {
    pub epoch: Epoch,
    pub primary: Option<SocketAddr>,
    pub operation: Option<Operation>,
    pub last_operation: OpId,
    pub outcasts: Vec<Outcast>,
    pub pins: BTreeMap<Option<SocketAddr>, SocketAddr>,
    /// Until when by the wall clock, in milliseconds.
    pub pause: Option<(Option<i64>, String)>,
    /// When the last failover ended by the wall clock, in milliseconds.
    pub cooldown_until: Option<i64>,
}

pub struct Agent {
    pub machine: Cluster,
    pub started: Mono,
    pub pace: Pace,
    /// The deadline that stands in the queue.
    deadline: Option<Mono>,
    /// What came while it was frozen.
    backlog: VecDeque<Event>,
    /// Orders whose results are waited for, and those that were ever given.
    pub orders: BTreeMap<OrderId, u64>,
    pub past_orders: Vec<OrderId>,
    /// What could not be written down yet.
    pub owed_end: Option<(Box<Operation>, Ending)>,
    pub owed_outcasts: Option<Vec<Outcast>>,
}

pub struct Proxy {
    pub config: ClusterConfig,
    pub kernel: Kernel,
    pub store: Store,
    pub agent: Option<Agent>,
    /// Counts the agent's lives.
    pub life: u64,
    /// The probing connection to each server.
    pub connections: Vec<Option<u64>>,
    rounds: Vec<u64>,
    /// Whether a server is being asked, and whether it is to be asked again as soon as that is over.
    pub under_way: Vec<bool>,
    pub hastened: Vec<bool>,
    /// Its process is stopped.
    pub frozen: bool,
    /// Only its cluster's task is: everything else goes on.
    pub busy: bool,
    /// Boundaries between actions until it dies.
    pub dies_in: Option<u32>,
    /// Events during an operation until an operator aborts it.
    pub aborts_in: Option<u32>,
    /// Stale news for it, each time that it waits for something: so often.
    pub stale_next: u32,
    pub disk_full: bool,
    pub kernel_refuses: bool,
    pub hooks_fail: bool,
    /// The operation that a hook has spoken against.
    pub vetoed: Option<OpId>,
    /// How far the wall clock is off, in milliseconds.
    pub wall_off: i64,
}

impl Proxy {
    pub fn new(_p: usize, config: ClusterConfig, servers: usize) -> Self {
        Self {
            config,
            kernel: Kernel::default(),
            store: Store::default(),
            agent: None,
            life: 0,
            connections: vec![None; servers],
            rounds: vec![0; servers],
            under_way: vec![false; servers],
            hastened: vec![false; servers],
            frozen: false,
            busy: false,
            dies_in: None,
            aborts_in: None,
            stale_next: 0,
            disk_full: false,
            kernel_refuses: false,
            hooks_fail: false,
            vetoed: None,
            wall_off: 0,
        }
    }

    /// Begins a round of questions; what earlier rounds bring is for nobody.
    pub fn next_round(&mut self, s: usize) -> u64 {
        self.rounds[s] += 1;
        self.rounds[s]
    }

    pub fn is_round(&self, s: usize, round: u64) -> bool {
        self.rounds[s] == round
    }

    pub fn agent(&self) -> Option<&Agent> {
        self.agent.as_ref()
    }
}

impl Agent {
    /// The agent's own time: it counts from its start.
    pub fn time(&self, now: Mono) -> Mono {
        Mono(now.since(self.started))
    }
}

impl World {
    pub fn wall(&self, p: usize) -> i64 {
        i64::try_from(self.now.0.as_millis()).expect("a short time") + self.proxies[p].wall_off
    }

    pub fn agent_starts(&mut self, p: usize) {
        if self.proxies[p].agent.is_some() {
            return;
        }
        self.lapse_if_due(p);
        self.oracle.locks[p].fill(None);
        let wall = self.wall(p);
        let proxy = &mut self.proxies[p];
        proxy.life += 1;
        (proxy.frozen, proxy.busy) = (false, false);
        proxy.under_way.fill(false);
        proxy.hastened.fill(false);
        // What it heard may not have been written down: the hook is asked again.
        proxy.vetoed = None;
        let left = |until: i64| Mono(Duration::from_millis(u64::try_from(until - wall).unwrap_or(0)));
        let store = &proxy.store;
        let pause = store.pause.clone().filter(|(until, _)| until.is_none_or(|until| until > wall));
        let mut remembered = Remembered {
            epoch: store.epoch,
            primary: store.primary,
            held: proxy.kernel.held(),
            lapsed: proxy.kernel.lapsed.iter().copied().collect(),
            pins: store.pins.clone(),
            pause: pause.map(|(until, reason)| Pause { until: until.map(left), reason }),
            operation: store.operation.clone(),
            unreadable: None,
            last_operation: store.last_operation,
            // Whatever the wall clock did meanwhile: never longer than a whole cooldown from now.
            cooldown_until: store
                .cooldown_until
                .filter(|&until| until > wall)
                .map(left)
                .map(|at| at.min(Mono(proxy.config.cooldown))),
            outcasts: store.outcasts.clone(),
        };
        if let Some(mutation) = &mut self.mutation {
            mutation.remembers(&mut remembered);
        }
        tell!(
            self,
            "agent{} starts: epoch {}, primary {:?}, operation {:?}",
            p + 1,
            remembered.epoch,
            remembered.primary.map(|a| number(a) + 1),
            remembered.operation.as_ref().map(|o| o.step)
        );
        let mut config = self.proxies[p].config.clone();
        if let Some(mutation) = &self.mutation {
            mutation.configures(&mut config);
        }
        let (machine, actions) = Cluster::new(config, remembered, Mono::ZERO);
        let life = self.proxies[p].life;
        self.proxies[p].agent = Some(Agent {
            machine,
            started: self.now,
            pace: Pace::Normal,
            deadline: None,
            backlog: VecDeque::new(),
            orders: BTreeMap::new(),
            past_orders: Vec::new(),
            owed_end: None,
            owed_outcasts: None,
        });
        if let Some(lease) = self.proxies[p].config.lease {
            self.proxies[p].kernel.lease_until = Some(self.now + lease);
            self.later(lease / 3, Happening::Renews { p, life });
        }
        self.carry_out(p, actions);
        for s in 0..self.servers.len() {
            let delay = self.rng.millis(0, 20);
            let round = self.proxies[p].next_round(s);
            self.later(delay, Happening::ProbeAsks { p, life, s, round });
        }
    }

    /// The agent's process ends. Its connections are closed by its host.
    pub fn agent_dies(&mut self, p: usize) {
        let Some(_) = self.proxies[p].agent.take() else { return };
        tell!(self, "agent{} dies", p + 1);
        self.proxies[p].life += 1;
        self.proxies[p].frozen = false;
        self.proxies[p].dies_in = None;
        for s in 0..self.servers.len() {
            self.probe_connection_ends(p, s);
        }
        self.abandon_runs(p);
    }

    /// A boundary between two actions: the agent may die here. Whether it lives on.
    pub fn lives_on(&mut self, p: usize, life: u64) -> bool {
        if self.proxies[p].life != life || self.proxies[p].agent.is_none() {
            return false;
        }
        match &mut self.proxies[p].dies_in {
            Some(0) => {
                self.agent_dies(p);
                let delay = self.rng.millis(50, 4_000);
                self.later(delay, Happening::AgentStarts { p });
                return false;
            }
            Some(left) => *left -= 1,
            None => {}
        }
        true
    }

    /// An event for the agent: now, or when it thaws.
    pub fn tell_agent(&mut self, p: usize, event: Event) {
        let waits = self.proxies[p].frozen || self.proxies[p].busy;
        let Some(agent) = &mut self.proxies[p].agent else { return };
        if waits {
            agent.backlog.push_back(event);
            return;
        }
        let actions = self.handle(p, event);
        self.carry_out(p, actions);
        self.abort_when_due(p);
    }

    pub fn thaws(&mut self, p: usize) {
        (self.proxies[p].frozen, self.proxies[p].busy) = (false, false);
        self.lapse_if_due(p);
        let life = self.proxies[p].life;
        self.renews(p, life);
        while let Some(event) = self.proxies[p].agent.as_mut().and_then(|a| a.backlog.pop_front()) {
            self.tell_agent(p, event);
        }
    }

    pub fn set_deadline(&mut self, p: usize) {
        let (now, life) = (self.now, self.proxies[p].life);
        let Some(agent) = &mut self.proxies[p].agent else { return };
        let next = agent.machine.next_deadline();
        if next == agent.deadline {
            return;
        }
        agent.deadline = next;
        if let Some(at) = next {
            let delay = at.since(agent.time(now));
            self.later(delay, Happening::Deadline { p, life, at });
        }
    }

    pub fn deadline(&mut self, p: usize, life: u64, at: Mono) {
        if self.proxies[p].life != life {
            return;
        }
        let waits = self.proxies[p].frozen || self.proxies[p].busy;
        let Some(agent) = &mut self.proxies[p].agent else { return };
        if agent.deadline != Some(at) {
            return;
        }
        if waits {
            self.later(Duration::from_millis(20), Happening::Deadline { p, life, at });
            return;
        }
        agent.deadline = None;
        self.tell_agent(p, Event::Deadline);
        self.set_deadline(p);
        let again = self.proxies[p].agent.as_ref().is_some_and(|a| a.deadline == Some(at));
        if again {
            self.machine_spins(p, at);
        }
    }

    pub fn renews(&mut self, p: usize, life: u64) {
        if self.proxies[p].life != life || self.proxies[p].agent.is_none() || self.proxies[p].frozen {
            return;
        }
        let Some(lease) = self.proxies[p].config.lease else { return };
        self.lapse_if_due(p);
        self.proxies[p].kernel.lease_until = Some(self.now + lease);
        let kernel = &mut self.proxies[p].kernel;
        if !kernel.lapsed.is_empty() {
            let listeners = std::mem::take(&mut kernel.lapsed).into_iter().collect();
            for mapping in kernel.mappings.values_mut() {
                mapping.route = shunt_core::mapping::Route::Refuse;
                mapping.spared = None;
            }
            self.tell_agent(p, Event::LeaseLapsed { listeners });
        }
        self.later(lease / 3, Happening::Renews { p, life });
    }

    pub fn lapse_if_due(&mut self, p: usize) {
        let now = self.now;
        if self.proxies[p].kernel.lapse(now) {
            tell!(self, "kernel{}: the lease ran out", p + 1);
            self.sever_dead_flows(p);
        }
    }
}
