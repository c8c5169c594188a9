//! The part of the agent's driver: it hands events to the state machine and carries its actions out in order, and those that
//! follow from their results. Between any two of them the agent may die.

use std::collections::VecDeque;
use std::time::Duration;

use shunt_core::cluster::{Action, Event, Plan, Stage};
use shunt_core::operation::{Kind, Order, Outcome};

use super::history::tell;
use super::mutation::Mutation;
use super::server::number;
use super::world::World;

/// Whoever has more to do than this at one moment goes round in circles.
const MOST_ACTIONS: u32 = 1_000;

impl World {
    pub fn handle(&mut self, p: usize, event: Event) -> Vec<Action> {
        if let Event::Observed(seen) = &event {
            self.observed(p, seen);
        }
        let before = matches!(event, Event::Suspected(_)).then(|| self.decided(p)).flatten();
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
        if let Some(before) = before {
            self.traffic_only_asks(p, &before, &actions);
        }
        actions
    }

    /// Carries actions out in order, and those that follow from their results, as the driver does.
    pub fn carry_out(&mut self, p: usize, actions: Vec<Action>) {
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
        let is_under_way = self.proxies[p].store.operation.is_some();
        let waits = self.proxies[p].agent().is_some_and(|agent| !agent.orders.is_empty());
        if is_under_way && waits && self.proxies[p].stale_next > 0 {
            self.proxies[p].stale_next -= 1;
            let draw = self.rng.next();
            self.stale_news(p, draw);
        }
    }

    fn carry_one_out(&mut self, p: usize, life: u64, action: Action) -> Option<Event> {
        match action {
            Action::Commit(plan) => self.commit_plan(p, life, plan),
            Action::Begin { operation, orders } => {
                let serial = operation.serial;
                tell!(self, "agent{} begins {} ({}), serial {serial}", p + 1, operation.step, operation.kind.word());
                self.operation_begins(p, &operation);
                if !self.pays_debts(p) {
                    return Some(Event::NotBegun { serial, error: "no space left on device".to_owned() });
                }
                self.step_written(p, &operation);
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
            Action::Hasten => {
                self.hasten(p);
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
            if operation.kind == Kind::Failover && !operation.dry_run && ending.outcome != Outcome::Refused {
                store.cooldown_until = Some(until);
            }
        }
        true
    }

    fn start_all(&mut self, p: usize, life: u64, orders: Vec<Order>) -> bool {
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
