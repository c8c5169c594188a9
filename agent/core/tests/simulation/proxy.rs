//! A proxy: the kernel, the agent with the real state machine in it, what the agent writes down, and the part of its driver.
//! The agent may die at every boundary between two actions; what is in the kernel and in the store stays.

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::time::Duration;

use shunt_core::cluster::{Action, Cluster, Event, Pace, Pause, Plan, Remembered, Stage};
use shunt_core::config::ClusterConfig;
use shunt_core::operation::{Ending, Kind, OpId, Operation, OrderId, Outcast, Outcome as Ended};
use shunt_core::{Epoch, Mono};

use super::history::tell;
use super::kernel::Kernel;
use super::mutation::Mutation;
use super::server::number;
use super::world::{Happening, World};

/// Whoever has more to do than this at one moment goes round in circles.
const MOST_ACTIONS: u32 = 1_000;

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
    owed_end: Option<(Box<Operation>, Ending)>,
    owed_outcasts: Option<Vec<Outcast>>,
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
    /// Its process is stopped.
    pub frozen: bool,
    /// Only its cluster's task is: everything else goes on.
    pub busy: bool,
    /// Boundaries between actions until it dies.
    pub dies_in: Option<u32>,
    pub disk_full: bool,
    pub kernel_refuses: bool,
    pub hooks_fail: bool,
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
            frozen: false,
            busy: false,
            dies_in: None,
            disk_full: false,
            kernel_refuses: false,
            hooks_fail: false,
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
        let wall = self.wall(p);
        let proxy = &mut self.proxies[p];
        proxy.life += 1;
        (proxy.frozen, proxy.busy) = (false, false);
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
            self.later(delay, Happening::ProbeAsks { p, life, s });
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

    fn handle(&mut self, p: usize, event: Event) -> Vec<Action> {
        if let Event::Observed(seen) = &event {
            self.observed(p, seen);
        }
        let mut event = Some(event);
        if let Some(mutation) = &mut self.mutation {
            event = event.and_then(|event| mutation.hears(event));
        }
        let (Some(event), Some(agent)) = (event, &mut self.proxies[p].agent) else { return Vec::new() };
        let at = agent.time(self.now);
        if self.story.is_aloud() && !matches!(event, Event::Observed(_) | Event::Deadline | Event::Committed { .. }) {
            let line = format!("agent{} hears {}", p + 1, short(&event));
            self.story.tell(self.now, &line);
        }
        let mut actions = agent.machine.handle(event, at);
        if let Some(mutation) = &mut self.mutation {
            actions = mutation.decides(actions);
        }
        actions
    }

    /// Carries actions out in order, and those that follow from their results, as the driver does.
    fn carry_out(&mut self, p: usize, actions: Vec<Action>) {
        let life = self.proxies[p].life;
        let mut actions = VecDeque::from(actions);
        let mut count = 0;
        while let Some(action) = actions.pop_front() {
            count += 1;
            if count == MOST_ACTIONS {
                self.machine_spins(p, self.now);
                return;
            }
            let follows = match action {
                Action::Record(entry) => {
                    tell!(self, "agent{}: {}: {}", p + 1, entry.kind, entry.message);
                    None
                }
                Action::Notify(notice) => {
                    tell!(self, "agent{} tells: {} ({})", p + 1, notice.event, notice.reason);
                    None
                }
                Action::Pace(pace) => {
                    if let Some(agent) = &mut self.proxies[p].agent {
                        agent.pace = pace;
                    }
                    None
                }
                action => {
                    if !self.lives_on(p, life) {
                        return;
                    }
                    let follows = self.carry_one_out(p, life, action);
                    if !self.lives_on(p, life) {
                        return;
                    }
                    follows
                }
            };
            if let Some(event) = follows {
                actions.extend(self.handle(p, event));
            }
            if self.violation.is_some() {
                return;
            }
        }
        self.set_deadline(p);
    }

    fn carry_one_out(&mut self, p: usize, life: u64, action: Action) -> Option<Event> {
        match action {
            Action::Commit(plan) => self.commit_plan(p, life, plan),
            Action::Begin { operation, orders } => {
                let serial = operation.serial;
                tell!(self, "agent{} begins {} ({}), serial {serial}", p + 1, operation.step, operation.kind.word());
                if !self.pays_debts(p) {
                    return Some(Event::NotBegun { serial, error: "no space left on device".to_owned() });
                }
                self.operation_begins(p, &operation);
                let drops = self.mutation.as_ref().is_some_and(Mutation::drops_the_journal);
                let store = &mut self.proxies[p].store;
                store.last_operation = store.last_operation.max(operation.id);
                store.operation = (!drops).then_some(*operation);
                if !self.lives_on(p, life) {
                    return None;
                }
                self.start_all(p, life, orders).then_some(Event::Begun { serial })
            }
            Action::Start(orders) => {
                self.start_all(p, life, orders);
                None
            }
            Action::Forget(orders) => {
                self.forget(p, &orders);
                None
            }
            Action::End { operation, ending } => {
                tell!(
                    self,
                    "agent{} ends {} {}: {}",
                    p + 1,
                    operation.kind.word(),
                    ending.outcome.word(),
                    ending.message
                );
                self.operation_ends(&operation, &ending);
                if let Some(agent) = &mut self.proxies[p].agent {
                    agent.owed_end = Some((operation, ending));
                }
                self.pays_debts(p);
                None
            }
            Action::KeepOutcasts(outcasts) => {
                if let Some(agent) = &mut self.proxies[p].agent {
                    agent.owed_outcasts = Some(outcasts);
                }
                self.pays_debts(p);
                None
            }
            Action::Pace(_) | Action::Record(_) | Action::Notify(_) => None,
        }
    }

    /// Writes down what could not be before. Whether the disk takes it.
    fn pays_debts(&mut self, p: usize) -> bool {
        if self.proxies[p].disk_full {
            return false;
        }
        let Some(agent) = &mut self.proxies[p].agent else { return false };
        let (outcasts, end) = (agent.owed_outcasts.take(), agent.owed_end.take());
        if let Some(outcasts) = outcasts {
            self.outcasts_kept(p, &outcasts);
            if !self.mutation.as_ref().is_some_and(Mutation::drops_the_journal) {
                self.proxies[p].store.outcasts = outcasts;
            }
        }
        if let Some((operation, ending)) = end {
            let until = self.wall(p) + self.scenario.cooldown.as_millis() as i64;
            let store = &mut self.proxies[p].store;
            store.operation = None;
            if operation.kind == Kind::Failover && !operation.dry_run && ending.outcome != Ended::Refused {
                store.cooldown_until = Some(until);
            }
        }
        true
    }

    fn start_all(&mut self, p: usize, life: u64, orders: Vec<shunt_core::operation::Order>) -> bool {
        for order in orders {
            self.start_task(p, order);
            if !self.lives_on(p, life) {
                return false;
            }
        }
        true
    }

    /// The epoch first, the kernel second.
    fn commit_plan(&mut self, p: usize, life: u64, plan: Plan) -> Option<Event> {
        self.lapse_if_due(p);
        let proxy = &mut self.proxies[p];
        if plan.epoch > proxy.store.epoch {
            if proxy.disk_full {
                return Some(Event::CommitFailed { stage: Stage::State, error: "no space left on device".to_owned() });
            }
            proxy.store.epoch = plan.epoch;
            proxy.store.primary = plan.primary;
            if !self.lives_on(p, life) {
                return None;
            }
        }
        let proxy = &mut self.proxies[p];
        if !proxy.kernel.lapsed.is_empty() {
            let listeners = std::mem::take(&mut proxy.kernel.lapsed).into_iter().collect();
            for mapping in proxy.kernel.mappings.values_mut() {
                mapping.route = shunt_core::mapping::Route::Refuse;
                mapping.spared = None;
            }
            return Some(Event::LeaseLapsed { listeners });
        }
        if proxy.kernel_refuses {
            return Some(Event::CommitFailed { stage: Stage::Datapath, error: "device or resource busy".to_owned() });
        }
        let done = Event::Committed { commit: Duration::from_micros(60) };
        if self.mutation.as_mut().is_some_and(|m| m.swallows_commit(&plan)) {
            return Some(done);
        }
        self.plan_committed(p, &plan);
        tell!(self, "kernel{}: epoch {}, {}", p + 1, plan.epoch, routes(&plan));
        self.proxies[p].kernel.apply(&plan, self.now);
        self.sever_dead_flows(p);
        Some(done)
    }

    fn set_deadline(&mut self, p: usize) {
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

/// An event on one line.
fn short(event: &Event) -> String {
    match event {
        Event::TaskDone { order, result: Ok(_) } => format!("that order {} is done", order.0),
        Event::TaskDone { order, result: Err(error) } => {
            format!("that order {} failed: {:?}, {}", order.0, error.cause, error.message)
        }
        other => format!("{other:?}"),
    }
}

fn routes(plan: &Plan) -> String {
    let words = |m: &shunt_core::mapping::Mapping| {
        let to: Vec<_> = m.route.backends().into_iter().map(|b| format!("db{}", number(b) + 1)).collect();
        let spared = m.spared.map(|s| format!(" sparing db{}", number(s) + 1)).unwrap_or_default();
        let to = if to.is_empty() { "nobody".to_owned() } else { to.join(", ") };
        format!("{} → {to}{spared}", m.listener)
    };
    plan.mappings.iter().map(words).collect::<Vec<_>>().join("; ")
}
