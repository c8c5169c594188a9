//! Five fake servers in `promote` mode around the real state machine, with the journal, the kernel and every order in the
//! test's hand: nothing is written, committed or answered before the test says so, and what is answered is what such
//! servers would say. db1 is the primary and waits for two acknowledgements; db2 is preferred, and behind the others.
//!
//! Every action is checked as it is given; what breaks a rule is kept in `broken`.

use super::super::{config, db, writer};
use crate::cluster::{Action, AlarmKind, Cluster, Entry, Event, Plan, Remembered, Stage};
use crate::config::{ClusterConfig, FailoverMode, Promotion};
use crate::gtid::History;
use crate::mapping::Route;
use crate::observation::{
    Failure, FailureKind, Flavour, GroupView, IoThread, Observation, Outcome as Seen, PromoterLock,
};
use crate::operation::{
    Cause, Intent, Kind, Notice, Obstacle, OpId, Operation, Order, OrderId, Outcast, Outcome, Step, Task, TaskError,
};
use crate::{Epoch, Mono};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

pub const SERVERS: u8 = 5;

pub fn number(server: SocketAddr) -> u8 {
    (1..=SERVERS).find(|&n| db(n) == server).expect("the bench has five servers")
}

pub fn uuid(n: u8) -> String {
    format!("aaaaaaaa-0000-0000-0000-{n:012}")
}

/// The first `last` transactions of a server.
pub fn made_by(n: u8, last: u64) -> History {
    History::parse(Flavour::Mysql, &format!("{}:1-{last}", uuid(n))).unwrap()
}

/// How a fake server is.
#[derive(Clone, Debug)]
pub struct Fake {
    pub writable: bool,
    pub executed: History,
    pub received: History,
    pub source: Option<SocketAddr>,
    pub io: IoThread,
    pub fails: Option<FailureKind>,
    pub lock: PromoterLock,
    /// Applies what it has received only when it is waited for.
    pub slow: bool,
    pub apply_error: String,
    pub obstacles: Vec<Obstacle>,
    pub hides_sessions: bool,
    pub cannot_apply: Vec<String>,
}

pub struct Bench {
    pub machine: Cluster,
    pub config: ClusterConfig,
    pub fakes: BTreeMap<SocketAddr, Fake>,
    pub now: Mono,
    /// The operation that is being written down, with the tasks to start then.
    pub writing: Option<(Operation, Vec<Order>)>,
    /// The unfinished operation, as the journal has it.
    pub journal: Option<Operation>,
    pub in_flight: Option<Plan>,
    pub kernel: Option<Plan>,
    written: (Epoch, Option<SocketAddr>),
    /// Started, and not answered.
    pub orders: BTreeMap<OrderId, Task>,
    /// Started since [`Self::mark`].
    pub asked: Vec<Task>,
    pub endings: Vec<Outcome>,
    pub outcasts: Vec<Outcast>,
    pub notices: Vec<Notice>,
    pub history: Vec<Entry>,
    pub broken: Vec<String>,
    /// Whose lock was ours when they last answered.
    locks: BTreeMap<SocketAddr, bool>,
    /// A promotion began that succeeds it.
    succeeded: Option<SocketAddr>,
    /// Everybody who answers has been told to stop receiving.
    revoked: bool,
    /// An operator has pinned to the old primary, which is obeyed when no operation is under way.
    pub pinned: bool,
    /// The servers say that they are a group.
    pub group: Option<GroupView>,
    pub beats: u64,
}

pub fn promoting() -> ClusterConfig {
    let mut config = config(SERVERS);
    config.failover = FailoverMode::Promote;
    config.servers[1].promotion = Promotion::Prefer;
    config
}

impl Bench {
    pub fn with(config: ClusterConfig) -> Self {
        let replica = Fake {
            writable: false,
            executed: made_by(1, 90),
            received: made_by(1, 90),
            source: Some(db(1)),
            io: IoThread::Connected,
            fails: None,
            lock: PromoterLock::Ours,
            slow: false,
            apply_error: String::new(),
            obstacles: Vec::new(),
            hides_sessions: false,
            cannot_apply: Vec::new(),
        };
        let mut fakes: BTreeMap<_, _> = config.servers.iter().map(|s| (s.address, replica.clone())).collect();
        fakes.insert(db(1), Fake { writable: true, source: None, ..replica });
        let (machine, actions) = Cluster::new(config.clone(), Remembered::default(), Mono::ZERO);
        let mut bench = Self {
            machine,
            config,
            fakes,
            now: Mono::ZERO,
            writing: None,
            journal: None,
            in_flight: None,
            kernel: None,
            written: (Epoch::default(), None),
            orders: BTreeMap::new(),
            asked: Vec::new(),
            endings: Vec::new(),
            outcasts: Vec::new(),
            notices: Vec::new(),
            history: Vec::new(),
            broken: Vec::new(),
            locks: BTreeMap::new(),
            succeeded: None,
            revoked: false,
            pinned: false,
            group: None,
            beats: 0,
        };
        bench.take(actions);
        bench
    }

    /// Everybody has answered, db1 is mapped, everybody has been examined, and db1 has committed a little since.
    pub fn healthy(config: ClusterConfig) -> Self {
        let mut bench = Self::with(config);
        for _ in 0..4 {
            bench.round();
        }
        assert_eq!(bench.leads_to(), Some(db(1)), "{:?}", bench.machine.assessment());
        bench.fake(1).executed = made_by(1, 100);
        for n in 2..=SERVERS {
            let fake = bench.fake(n);
            (fake.slow, fake.received) = (true, made_by(1, if n == 2 { 95 } else { 98 }));
        }
        bench
    }

    pub fn fake(&mut self, n: u8) -> &mut Fake {
        self.fakes.get_mut(&db(n)).unwrap()
    }

    /// A server dies, as its replicas notice at once.
    pub fn kill(&mut self, n: u8) {
        self.fake(n).fails = Some(FailureKind::Refused);
        for fake in self.fakes.values_mut().filter(|f| f.source == Some(db(n)) && f.io == IoThread::Connected) {
            fake.io = IoThread::Connecting;
        }
    }

    pub fn intent(kind: Kind) -> Intent {
        let grace = Duration::from_secs(5);
        Intent { kind, to: None, grace, allow_loss: false, dry_run: false, by: "ann".to_owned() }
    }

    pub fn step(&self) -> Option<Step> {
        self.machine.run.as_ref().map(|run| run.op.step)
    }

    pub fn is_stuck(&self) -> bool {
        self.machine.operation_alarms().iter().any(|alarm| alarm.kind == AlarmKind::OperationStuck)
    }

    /// What is in the history of that kind.
    pub fn told(&self, kind: &str) -> Vec<&str> {
        self.history.iter().filter(|e| e.kind == kind).map(|e| e.message.as_str()).collect()
    }

    pub fn writer(&self) -> &crate::mapping::Mapping {
        let plan = self.kernel.as_ref().expect("something was committed");
        plan.mappings.iter().find(|m| m.listener == writer()).expect("every listener has a mapping")
    }

    pub fn leads_to(&self) -> Option<SocketAddr> {
        match self.writer().route {
            Route::Single(to) => Some(to),
            Route::Spread(_) | Route::Hold(_) | Route::Refuse => None,
        }
    }

    // What the driver does.

    pub fn event(&mut self, event: Event) {
        let actions = self.machine.handle(event, self.now);
        self.take(actions);
    }

    fn take(&mut self, actions: Vec<Action>) {
        for action in actions {
            match action {
                Action::Record(entry) => self.history.push(entry),
                Action::Pace(_) | Action::Hasten => {}
                Action::Notify(notice) => self.notices.push(notice),
                Action::KeepOutcasts(outcasts) => self.outcasts = outcasts,
                Action::Commit(plan) => {
                    self.check_plan(&plan);
                    self.in_flight = Some(plan);
                }
                Action::Begin { operation, orders } => {
                    if operation.promotion_began {
                        self.succeeded = Some(operation.old);
                    }
                    self.writing = Some((*operation, orders));
                }
                Action::Start(orders) => self.started(orders),
                Action::Forget(ids) => self.orders.retain(|id, _| !ids.contains(id)),
                Action::End { ending, .. } => {
                    (self.journal, self.writing) = (None, None);
                    self.endings.push(ending.outcome);
                }
            }
        }
    }

    fn started(&mut self, orders: Vec<Order>) {
        for order in orders {
            self.check_task(&order.task);
            self.asked.push(order.task.clone());
            self.orders.insert(order.id, order.task);
        }
        let stopped = |n: &u8| {
            let told = self.asked.iter().any(|t| matches!(t, Task::StopReceiving { server } if *server == db(*n)));
            told || self.fakes[&db(*n)].fails.is_some() || self.fakes[&db(*n)].io == IoThread::Stopped
        };
        self.revoked |= (2..=SERVERS).all(|n| stopped(&n));
    }

    /// The journal has the step.
    pub fn write(&mut self) {
        let Some((operation, orders)) = self.writing.take() else { return };
        let serial = operation.serial;
        self.journal = Some(operation);
        self.started(orders);
        self.event(Event::Begun { serial });
    }

    pub fn fail_to_write(&mut self) {
        let Some((operation, _)) = self.writing.take() else { return };
        self.event(Event::NotBegun { serial: operation.serial, error: "disk full".to_owned() });
    }

    pub fn commit(&mut self) {
        let Some(plan) = self.in_flight.take() else { return };
        self.written = (plan.epoch, plan.primary);
        self.kernel = Some(plan);
        self.event(Event::Committed { commit: Duration::from_micros(200) });
    }

    pub fn fail_to_commit(&mut self, stage: Stage) {
        let Some(plan) = self.in_flight.take() else { return };
        if stage == Stage::Datapath {
            self.written = (plan.epoch, plan.primary);
        }
        self.event(Event::CommitFailed { stage, error: "on purpose".to_owned() });
    }

    pub fn lapse(&mut self) {
        self.in_flight = None;
        if let Some(plan) = &mut self.kernel {
            plan.mappings.iter_mut().filter(|m| m.listener == writer()).for_each(|m| m.route = Route::Refuse);
        }
        self.event(Event::LeaseLapsed { listeners: vec![writer()] });
    }

    /// The agent ends here and starts anew with what the journal, the store and the kernel have.
    pub fn restart(&mut self) {
        let mappings = self.kernel.iter().flat_map(|plan| &plan.mappings);
        let remembered = Remembered {
            epoch: self.written.0,
            primary: self.written.1,
            held: mappings.map(|m| (m.listener, m.route.backends())).collect(),
            operation: self.journal.clone(),
            last_operation: self.journal.as_ref().map_or_else(OpId::default, |op| op.id),
            outcasts: self.outcasts.clone(),
            ..Remembered::default()
        };
        self.orders.clear();
        self.locks.clear();
        (self.writing, self.in_flight) = (None, None);
        let (machine, actions) = Cluster::new(self.config.clone(), remembered, self.now);
        self.machine = machine;
        self.take(actions);
    }

    // What servers do.

    /// A server is asked by the probe.
    pub fn ask(&mut self, n: u8) {
        self.now = self.now + Duration::from_millis(1);
        self.beats += 1;
        let server = db(n);
        let outcome = match self.fakes[&server].fails {
            Some(kind) => Seen::Failed(Failure { kind, detail: format!("{kind} by the test") }),
            None => Seen::Answered(Box::new(self.state(server))),
        };
        let is_ours = matches!(&outcome, Seen::Answered(state) if state.promoter == PromoterLock::Ours);
        self.locks.insert(server, is_ours);
        let took = Duration::from_micros(300);
        self.event(Event::Observed(Observation { server, at: self.now, took, outcome }));
    }

    /// Everybody is asked by the probe, and replicates in between.
    pub fn tick(&mut self) {
        self.replicate();
        for n in 1..=SERVERS {
            self.ask(n);
        }
        self.now = self.now + Duration::from_millis(95);
        if self.machine.next_deadline().is_some_and(|at| at <= self.now) {
            self.event(Event::Deadline);
        }
    }

    fn replicate(&mut self) {
        let sources = self.fakes.clone();
        for fake in self.fakes.values_mut().filter(|f| f.io != IoThread::Stopped && f.fails.is_none()) {
            let Some(source) = fake.source.and_then(|s| sources.get(&s)) else { continue };
            fake.io = if source.fails.is_some() { IoThread::Connecting } else { IoThread::Connected };
            if source.fails.is_none() {
                fake.received = fake.received.union(&source.executed);
            }
            if !fake.slow {
                fake.executed = fake.executed.union(&fake.received);
            }
        }
    }

    /// Everything that waits is written, committed and answered, and everybody is probed once.
    pub fn round(&mut self) {
        for _ in 0..20 {
            if self.writing.is_none() && self.in_flight.is_none() && self.orders.is_empty() {
                break;
            }
            self.write();
            self.commit();
            self.answer_all();
        }
        self.tick();
    }

    pub fn answer_all(&mut self) {
        for order in self.orders.keys().copied().collect::<Vec<_>>() {
            self.answer(order);
        }
    }

    pub fn answer(&mut self, order: OrderId) {
        let Some(task) = self.orders.remove(&order) else { return };
        let result = self.perform(&task);
        self.event(Event::TaskDone { order, result });
    }

    pub fn fail(&mut self, order: OrderId, cause: Cause) {
        if self.orders.remove(&order).is_some() {
            let result = Err(TaskError { cause, message: "on purpose".to_owned() });
            self.event(Event::TaskDone { order, result });
        }
    }

    /// What is on the way to a server that has died.
    pub fn break_orders_of(&mut self, n: u8) {
        let of = |(&id, task): (&OrderId, &Task)| (task.server() == Some(db(n))).then_some(id);
        for order in self.orders.iter().filter_map(of).collect::<Vec<_>>() {
            self.fail(order, Cause::Unknown);
        }
    }

    // What must hold, whatever happens.

    fn check_plan(&mut self, plan: &Plan) {
        let leads_to_old = plan.mappings.iter().filter(|m| m.listener == writer()).any(|m| match m.route {
            Route::Single(to) => Some(to) == self.succeeded,
            Route::Spread(_) | Route::Hold(_) | Route::Refuse => false,
        });
        if leads_to_old && !(self.pinned && self.journal.is_none()) {
            self.broken.push("opens to the old primary after a promotion began".to_owned());
        }
    }

    fn check_task(&mut self, task: &Task) {
        let mut broken = Vec::new();
        if let Task::Promote { server, has, .. } = task {
            if !self.writer().route.is_fenced() {
                broken.push("promotes behind open listeners");
            }
            let op = self.journal.as_ref();
            let gone = op.is_some_and(|op| self.fakes[&op.old].fails.is_some());
            if !(gone || self.revoked || op.is_some_and(|op| op.disarmed.is_some())) {
                broken.push("promotes beside an old primary that can collect acknowledgements");
            }
            if !has.is_subset(&self.fakes[server].executed) {
                broken.push("promotes one that has not applied everything");
            }
        }
        if let Task::Follow { server, source, .. } = task
            && !self.fakes[server].executed.is_subset(&self.fakes[source].executed)
        {
            broken.push("makes a replica of one that has more than its source");
        }
        let ours = self.locks.values().filter(|ours| **ours).count();
        if !matches!(task, Task::Examine { .. }) && ours * 2 <= self.fakes.len() {
            broken.push("changes a server without the lock");
        }
        for what in broken {
            let what = format!("{what} ({})", task.word());
            if !self.broken.contains(&what) {
                self.broken.push(what);
            }
        }
    }
}
