//! Breakages on purpose, between the machine and the world: what it decides is changed, or what it is told. The simulation
//! has to find each of them, or it proves nothing.

use std::collections::BTreeSet;
use std::time::Duration;

use shunt_core::Mono;
use shunt_core::cluster::{Action, Event, Plan, Remembered};
use shunt_core::config::ClusterConfig;
use shunt_core::gtid::History;
use shunt_core::mapping::{Leaving, Route};
use shunt_core::observation::{Failure, FailureKind, Flavour, Observation, Outcome, PromoterLock, SemiSync};
use shunt_core::operation::{Operation, OrderId, Report, Step, Task, TaskError};

use super::server::number;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Breakage {
    /// A new primary is opened under the old one's epoch.
    KeepsTheEpoch,
    /// The fence is reported as committed and is not.
    SkipsTheFence,
    /// Semi-sync is reported to prove that nothing can be lost.
    ForgesTheProof,
    /// Flows of the old primary are kept.
    KeepsFlows,
    /// Nothing is waited for to be applied.
    SkipsTheDrain,
    /// The new primary does not wait for acknowledgements.
    SkipsSemiSync,
    /// A returned server is said to have nothing of its own.
    HidesErrantTransactions,
    /// The listeners are opened to the old primary after the promotion.
    ReopensTheOld,
    /// Nothing of an operation is written down.
    DropsTheJournal,
    /// A stale answer is taken for one that is waited for.
    TakesStaleAnswers,
    /// The lock is said to be ours.
    ForgesTheLock,
    /// The cooldown is forgotten.
    ForgetsTheCooldown,
    /// What comes back from tasks is lost.
    LosesAnswers,
    /// What traffic tells is taken for an answer to a question.
    BelievesTraffic,
}

#[derive(Clone, Debug)]
pub struct Mutation {
    pub breakage: Breakage,
    /// The operation as it was last written down.
    operation: Option<Operation>,
    waited_for: BTreeSet<OrderId>,
    /// When the machine was last told of a server, in its own time.
    seen_at: Mono,
}

impl Mutation {
    pub const fn new(breakage: Breakage) -> Self {
        Self { breakage, operation: None, waited_for: BTreeSet::new(), seen_at: Mono::ZERO }
    }

    pub fn configures(&self, config: &mut ClusterConfig) {
        if self.breakage == Breakage::ForgetsTheCooldown {
            config.cooldown = Duration::ZERO;
        }
    }

    pub fn remembers(&mut self, remembered: &mut Remembered) {
        self.waited_for.clear();
        if self.breakage == Breakage::ForgetsTheCooldown {
            remembered.cooldown_until = None;
        }
    }

    pub fn drops_the_journal(&self) -> bool {
        self.breakage == Breakage::DropsTheJournal
    }

    pub fn hides_errant_transactions(&self) -> bool {
        self.breakage == Breakage::HidesErrantTransactions
    }

    /// What the machine is told.
    pub fn hears(&mut self, mut event: Event) -> Option<Event> {
        if let Event::Observed(seen) = &event {
            self.seen_at = seen.at;
        }
        match (&mut event, self.breakage) {
            (Event::Observed(seen), Breakage::ForgesTheProof) => {
                if let Outcome::Answered(state) = &mut seen.outcome {
                    let source = state.channels.is_empty();
                    state.semi_sync = Some(SemiSync {
                        source_enabled: source,
                        source_active: source,
                        replica_enabled: !source,
                        clients: 1,
                        wait_count: 1,
                        after_sync: true,
                        timeout: Duration::from_secs(86_400),
                        waiting: 0,
                    });
                }
            }
            (Event::Observed(seen), Breakage::ForgesTheLock) => {
                if let Outcome::Answered(state) = &mut seen.outcome {
                    state.promoter = PromoterLock::Ours;
                }
            }
            (Event::Observed(seen), Breakage::HidesErrantTransactions) if self.operation.is_none() => {
                if let Outcome::Answered(state) = &mut seen.outcome {
                    state.gtid_executed.clear();
                }
            }
            (Event::TaskDone { result: Ok(Report::Standing(standing)), .. }, Breakage::HidesErrantTransactions)
                if self.operation.is_none() =>
            {
                standing.executed = History::empty(Flavour::Mysql);
            }
            (Event::TaskDone { order, .. }, Breakage::TakesStaleAnswers) if !self.waited_for.contains(order) => {
                if let Some(&waited_for) = self.waited_for.first() {
                    *order = waited_for;
                }
            }
            (Event::TaskDone { .. }, Breakage::LosesAnswers) => return None,
            (Event::Suspected(suspicion), Breakage::BelievesTraffic) => {
                let failure = Failure { kind: FailureKind::Timeout, detail: suspicion.to_string() };
                event = Event::Observed(Observation {
                    server: suspicion.backend,
                    at: self.seen_at,
                    took: Duration::ZERO,
                    outcome: Outcome::Failed(failure),
                });
            }
            _ => {}
        }
        if let Event::TaskDone { order, .. } = &event {
            self.waited_for.remove(order);
        }
        Some(event)
    }

    /// What the machine decides.
    pub fn decides(&mut self, mut actions: Vec<Action>) -> Vec<Action> {
        for action in &mut actions {
            match action {
                Action::Begin { operation, orders } => {
                    self.operation = Some((**operation).clone());
                    for order in orders {
                        self.orders(&mut order.task);
                        self.waited_for.insert(order.id);
                    }
                }
                Action::Start(orders) => {
                    for order in orders {
                        self.orders(&mut order.task);
                        self.waited_for.insert(order.id);
                    }
                }
                Action::Forget(orders) => orders.iter().for_each(|id| {
                    self.waited_for.remove(id);
                }),
                Action::End { .. } => self.operation = None,
                Action::Commit(plan) => self.commits(plan),
                _ => {}
            }
        }
        actions
    }

    fn orders(&self, task: &mut Task) {
        if let Task::Promote { has, semi_sync, .. } = task {
            match self.breakage {
                Breakage::SkipsTheDrain => *has = History::empty(Flavour::Mysql),
                Breakage::SkipsSemiSync => *semi_sync = false,
                _ => {}
            }
        }
    }

    fn commits(&self, plan: &mut Plan) {
        let promoting = self.operation.as_ref().filter(|o| matches!(o.step, Step::Open | Step::Repoint));
        match (self.breakage, promoting) {
            (Breakage::KeepsTheEpoch, _) => plan.epoch.0 = plan.epoch.0.min(1),
            (Breakage::KeepsFlows, _) => plan.mappings.iter_mut().for_each(|m| m.leaving = Leaving::Keep),
            (Breakage::ReopensTheOld, Some(operation)) => {
                plan.primary = Some(operation.old);
                for mapping in &mut plan.mappings {
                    if let Route::Single(to) = &mut mapping.route {
                        *to = operation.old;
                    }
                }
            }
            _ => {}
        }
    }

    /// Whether a commit is said to be done and is not.
    pub fn swallows_commit(&self, plan: &Plan) -> bool {
        let fence = plan.mappings.iter().any(|m| m.route.is_fenced());
        self.breakage == Breakage::SkipsTheFence && fence && self.operation.is_some()
    }

    /// An answer that is made up instead of done.
    pub fn answers_at_once(&mut self, task: &Task) -> Option<Result<Report, TaskError>> {
        let Task::Drain { server, goal } = task else { return None };
        (self.breakage == Breakage::SkipsTheDrain).then(|| {
            let mut standing = super::server::Server::new(number(*server), None).standing();
            (standing.executed, standing.received) = (goal.clone(), goal.clone());
            Ok(Report::Standing(Box::new(standing)))
        })
    }
}
