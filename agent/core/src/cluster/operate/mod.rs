//! The cluster's operation under way: what is written down, what was ordered, what came back.
//!
//! ```text
//!  verdict dead ─┐                    ┌─ switchover: Precheck ► Hold ► Sessions ─┐
//!                ├─ gate ─ failover ──┤                                          ▼
//!  operator ─────┘                    └──────────────────────────────────────► Fence ► Disarm ► CatchUp ► Drain
//!                                                                                                         │
//!     end ◄─ Repoint ◄─ Open ◄─ Promote ◄──────────────────────────────────── Recheck ◄─ Salvage ◄────────┘
//!                                  │ no way back from here
//!     end ◄─ Reopen ◄─ Undo ◄──────┴── anything uncertain before, while the old primary can still be reached
//! ```
//!
//! A step is entered by writing it down. Only when the journal has it are its tasks started and its posture taken: what the
//! listeners do while it lasts. Answers to tasks come back as events; [`Cluster::advance`] looks whether the step is over
//! and enters the next. A task that nobody waits for any more, of an earlier run or epoch, has no order here and is ignored.
//!
//! Nothing but an operation's own steps moves the primary listeners while it lasts. An operator may have it taken back
//! before the promotion ([`Cluster::abort_refusal`]).

mod abort;
mod charge;
mod disarm;
mod follow;
mod gate;
mod lingering;
mod planned;
mod promote;
mod ready;
mod receive;
mod refuse;
mod restore;
mod resume;
mod returning;
mod steps;
mod stopped;
mod telling;

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::Duration;

use super::event::Action;
use super::health::Evidence;
use super::{AlarmKind, Cluster};
use crate::Mono;
use crate::operation::{Operation, Order, OrderId, Report, Step, Task, TaskError};

use steps::run_mut;

pub(super) use lingering::Lingering;
pub(super) use ready::Readiness;
pub use refuse::Refusal;
pub(super) use restore::Restoring;
pub(super) use returning::Returning;
pub(super) use stopped::LeftStopped;

/// What could not be done is tried again after this.
const AGAIN: Duration = Duration::from_millis(500);
/// A journal that could not be written is tried again after this.
const JOURNAL_AGAIN: Duration = Duration::from_secs(1);

/// An operation under way, and what of it need not survive the agent.
#[derive(Clone, Debug)]
pub(super) struct Run {
    pub(super) op: Operation,
    journal: Journal,
    /// The step's first tasks, until the journal has the step.
    first: Vec<Order>,
    pending: BTreeMap<OrderId, Pending>,
    /// What came back in this step.
    answers: Vec<Answer>,
    /// Candidates that turned out to be unfit.
    excluded: BTreeMap<SocketAddr, String>,
    /// The replicas have been told to stop receiving.
    revoked: bool,
    /// Repetitions in this step.
    tries: u32,
    /// When to look again, if nothing happens before.
    wake_at: Option<Mono>,
    pub(super) began_at: Mono,
    pub(super) step_since: Mono,
    /// Why it does not get on, while it does not.
    pub(super) stuck: Option<String>,
    /// What went wrong, for the end's message.
    because: Option<String>,
    /// Why the step that ends now did not come to what it was for.
    step_failed: Option<String>,
    /// Whoever was sent back to the old primary while this is taken back.
    sent_back: BTreeSet<SocketAddr>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Journal {
    /// The step is being written.
    Writing,
    Written,
    /// It could not be; again then.
    Failed(Mono),
}

#[derive(Clone, Debug)]
struct Pending {
    task: Task,
    since: Mono,
    /// Nobody waits for it: a silent server may take its time to answer.
    aside: bool,
}

#[derive(Clone, Debug)]
struct Answer {
    task: Task,
    result: Result<Report, TaskError>,
}

impl Run {
    fn new(op: Operation, now: Mono) -> Self {
        Self {
            op,
            journal: Journal::Written,
            first: Vec::new(),
            pending: BTreeMap::new(),
            answers: Vec::new(),
            excluded: BTreeMap::new(),
            revoked: false,
            tries: 0,
            wake_at: None,
            began_at: now,
            step_since: now,
            stuck: None,
            because: None,
            step_failed: None,
            sent_back: BTreeSet::new(),
        }
    }

    /// Whether everything that the step waits for has come back.
    fn has_answers(&self) -> bool {
        self.pending.values().all(|p| p.aside)
    }

    /// Whether a retry is due; until then there is nothing to do.
    fn is_resting(&self, now: Mono) -> bool {
        self.wake_at.is_some_and(|at| now < at)
    }

    fn rest(&mut self, until: Mono) {
        self.wake_at = Some(until);
    }
}

/// A task with its bound, and whether the step waits for it.
struct Wanted {
    task: Task,
    within: Duration,
    aside: bool,
}

fn want(task: Task, within: Duration) -> Wanted {
    Wanted { task, within, aside: false }
}

impl Cluster {
    /// Takes an event that is about operations.
    pub(super) fn task_done(
        &mut self,
        order: OrderId,
        result: Result<Report, TaskError>,
        now: Mono,
        actions: &mut Vec<Action>,
    ) {
        if let Some(run) = &mut self.run
            && let Some(pending) = run.pending.remove(&order)
        {
            if run.stuck.is_none() {
                telling::task(&self.config.name, &run.op, &pending, &result, now, actions);
            }
            let answer = Answer { task: pending.task, result };
            if pending.aside {
                self.came_back_aside(&answer, now);
            } else {
                run.answers.push(answer);
            }
            return;
        }
        self.errand_done(order, result, now, actions);
    }

    pub(super) fn begun(&mut self, serial: u64, now: Mono, actions: &mut Vec<Action>) {
        let Some(run) = &mut self.run else { return };
        if run.op.serial != serial || run.journal == Journal::Written {
            return;
        }
        run.journal = Journal::Written;
        run.step_since = now;
        run.first.clear();
        self.take_posture(actions);
    }

    pub(super) fn not_begun(&mut self, serial: u64, error: &str, now: Mono, actions: &mut Vec<Action>) {
        let Some(run) = &mut self.run else { return };
        if run.op.serial != serial {
            return;
        }
        let ids: Vec<_> = run.first.iter().map(|order| order.id).collect();
        run.pending.retain(|id, _| !ids.contains(id));
        run.journal = Journal::Failed(now + JOURNAL_AGAIN);
        let what = format!("step {} waits: it could not be written into the journal: {error}", run.op.step);
        self.note_stuck(what, actions);
    }

    /// Writes a step down, with the tasks to start once it is written.
    fn enter(&mut self, step: Step, tasks: Vec<Wanted>, now: Mono, actions: &mut Vec<Action>) {
        let Some(run) = &mut self.run else { return };
        telling::step_done(&self.config.name, run, now, actions);
        run.op.step = step;
        // What repoints replicas begins while the listeners open.
        if step != Step::Repoint {
            run.answers.clear();
        }
        run.tries = 0;
        run.wake_at = None;
        run.step_since = now;
        (run.stuck, run.step_failed) = (None, None);
        self.write_step(tasks, now, actions);
    }

    fn write_step(&mut self, tasks: Vec<Wanted>, now: Mono, actions: &mut Vec<Action>) {
        let orders = self.orders(tasks, now);
        let Some(run) = &mut self.run else { return };
        run.op.serial += 1;
        run.journal = Journal::Writing;
        run.first.clone_from(&orders);
        telling::step_begun(&self.config.name, &run.op, actions);
        actions.push(Action::Begin { operation: Box::new(run.op.clone()), orders });
    }

    /// The step is written; these belong to it and may be repeated.
    fn start(&mut self, tasks: Vec<Wanted>, now: Mono, actions: &mut Vec<Action>) {
        let orders = self.orders(tasks, now);
        if !orders.is_empty() {
            actions.push(Action::Start(orders));
        }
    }

    fn orders(&mut self, tasks: Vec<Wanted>, now: Mono) -> Vec<Order> {
        let mut orders = Vec::with_capacity(tasks.len());
        for Wanted { task, within, aside } in tasks {
            let id = self.next_order();
            if let Some(run) = &mut self.run {
                run.pending.insert(id, Pending { task: task.clone(), since: now, aside });
            }
            orders.push(Order { id, task, within });
        }
        orders
    }

    fn next_order(&mut self) -> OrderId {
        self.last_order.0 += 1;
        self.last_order
    }

    /// Nobody waits for the answers of this step any more, nor for those aside.
    fn forget_orders(&mut self, actions: &mut Vec<Action>) {
        let Some(run) = &mut self.run else { return };
        let ids: Vec<_> = std::mem::take(&mut run.pending).into_keys().collect();
        if !ids.is_empty() {
            actions.push(Action::Forget(ids));
        }
    }

    /// What the listeners do while the step lasts.
    fn take_posture(&mut self, actions: &mut Vec<Action>) {
        let Some(run) = &self.run else { return };
        let (old, chosen) = (run.op.old, run.op.chosen);
        match run.op.step {
            Step::Precheck => {}
            Step::Hold | Step::Sessions => (self.open, self.spared) = (false, Some(old)),
            Step::Fence
            | Step::Disarm
            | Step::CatchUp
            | Step::Drain
            | Step::Salvage
            | Step::Recheck
            | Step::Promote
            | Step::Undo => (self.open, self.spared) = (false, None),
            Step::Open | Step::Repoint => {
                self.spared = None;
                if let Some(chosen) = chosen {
                    self.lead(chosen, "promoted", actions);
                }
            }
            Step::Reopen => {
                self.spared = None;
                // The agent may have ended between casting it out and writing the promotion down.
                if self.outcasts.remove(&old).is_some() {
                    self.keep_outcasts(actions);
                }
                self.lead(old, "reopened", actions);
            }
        }
    }

    /// Whether the kernel holds what this step wants of it.
    fn is_in_force(&self, now: Mono) -> bool {
        let wanted = self.wanted(now);
        self.in_flight.is_none() && self.committed.as_ref().is_some_and(|held| held.asks_the_same_as(&wanted))
    }

    /// Goes on as far as can be gone on.
    pub(super) fn advance(&mut self, now: Mono, actions: &mut Vec<Action>) {
        loop {
            let Some(journal) = self.run.as_ref().map(|run| run.journal) else { return };
            match journal {
                Journal::Writing => return,
                Journal::Failed(until) if now < until => return,
                Journal::Failed(_) if self.was_overtaken(now, actions) => return,
                Journal::Failed(_) if !self.may_go_on() => {
                    run_mut(self, |run| run.journal = Journal::Failed(now + JOURNAL_AGAIN));
                    return;
                }
                Journal::Failed(_) => {
                    let Some(run) = &mut self.run else { return };
                    run.stuck = None;
                    run.journal = Journal::Writing;
                    run.op.serial += 1;
                    for order in &run.first {
                        let pending = Pending { task: order.task.clone(), since: now, aside: false };
                        run.pending.insert(order.id, pending);
                    }
                    let (operation, orders) = (Box::new(run.op.clone()), run.first.clone());
                    actions.push(Action::Begin { operation, orders });
                    return;
                }
                Journal::Written => {}
            }
            let Some(run) = &mut self.run else { return };
            if run.is_resting(now) {
                return;
            }
            run.wake_at = None;
            if self.was_overtaken(now, actions) || self.is_without_lock(now, actions) || !self.step(now, actions) {
                return;
            }
        }
    }

    /// When the operation wants to be looked at, if nothing happens before.
    pub(super) fn operation_deadline(&self) -> Option<Mono> {
        let run = self.run.as_ref()?;
        match run.journal {
            Journal::Failed(at) => Some(at),
            Journal::Writing => None,
            Journal::Written => run.wake_at,
        }
    }

    pub(super) fn evidence(&self, server: SocketAddr) -> Evidence {
        self.servers.get(&server).map_or(Evidence::Gone, |health| health.evidence(&self.config.probe))
    }

    fn note_stuck(&mut self, why: String, actions: &mut Vec<Action>) {
        let Some(run) = &mut self.run else { return };
        if run.stuck.as_ref() != Some(&why) {
            telling::stuck(&self.config.name, &run.op, &why, actions);
            run.stuck = Some(why);
        }
    }

    /// What is amiss with operations, for the status.
    pub(super) fn operation_alarms(&self) -> Vec<super::Alarm> {
        let mut alarms = Vec::new();
        let mut alarm = |kind, message| alarms.push(super::Alarm { kind, message });
        if let Some((op, why)) = self.run.as_ref().and_then(|run| run.stuck.as_ref().map(|why| (&run.op, why))) {
            alarm(AlarmKind::OperationStuck, format!("{} {} waits at {}: {why}", op.kind.word(), op.id, op.step));
        }
        if let Some(why) = &self.sealed {
            let name = &self.config.name;
            let hint = format!(
                "`shunt pin {name} SERVER` says who the primary is, `shunt abort {name}` that nobody goes on with it"
            );
            alarm(AlarmKind::OperationStuck, format!("an operation was under way and cannot be read: {why}; {hint}"));
        }
        if let Some(why) = &self.barred {
            alarm(AlarmKind::FailoverBarred, why.clone());
        }
        if let Some(primary) = self.primary.filter(|p| self.run.is_none() && self.outcasts.contains_key(p)) {
            let (name, label) = (&self.config.name, self.label(primary));
            let what = format!(
                "{label} was the primary and was cast out by an operation that failed, so nothing leads to it by itself: \
                 `shunt pin {name} {label}` does, once it is known that nobody else took writes"
            );
            alarm(AlarmKind::PrimaryCastOut, what);
        }
        for outcast in self.outcasts.values() {
            let label = self.label(outcast.server);
            if let Some(quarantine) = &outcast.quarantine {
                alarm(AlarmKind::Quarantined, format!("{label}: {}", quarantine.reason));
            }
        }
        alarms.extend(self.readiness_alarms());
        alarms
    }
}
