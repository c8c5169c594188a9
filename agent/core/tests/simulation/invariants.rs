//! The ten invariants, each a function that is asked whenever it can be broken. What they need to remember is in
//! `oracle.rs`; what they do not hold anybody to is said here, beside what they do.

use std::time::Duration;

use shunt_core::Mono;
use shunt_core::cluster::{Action, AlarmKind, Assessment, Event, Plan};
use shunt_core::config::{DataLoss, Established, FailoverMode, ListenerRole};
use shunt_core::mapping::Route;
use shunt_core::observation::PromoterLock;
use shunt_core::operation::{Kind, Operation, Step, Task, Trigger};

use super::gtids::{Gtids, Txn};
use super::server::{Io, db, number};
use super::world::World;

pub use super::oracle::Oracle;

/// A promise that was broken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    pub invariant: Invariant,
    pub detail: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Invariant {
    OneWriter,
    FenceFirst,
    NothingAcknowledgedIsLost,
    NoPacketToTheOld,
    ReadOnlyGoesOffLast,
    OnlySubsetsRejoin,
    NothingLeadsBack,
    NothingStaleActs,
    NobodyPromotesAlone,
    CooldownBetween,
    /// Not in the list: what traffic tells is a reason to ask.
    TrafficOnlyAsks,
    /// Not in the list: the operator's own programs have a word in it.
    HooksAreHeard,
    /// Not in the list, and what it is all for.
    ItComesToAnEnd,
}

/// What a suspicion must leave as it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decided {
    assessment: Assessment,
    committed: Option<Plan>,
    deadline: Option<Mono>,
}

impl Invariant {
    pub const fn sentence(self) -> &'static str {
        match self {
            Self::OneWriter => {
                "1: per cluster and epoch at most one server accepts writes through any listener of a proxy"
            }
            Self::FenceFirst => "2: nobody is made writable or mapped before the fence on the old primary is in force",
            Self::NothingAcknowledgedIsLost => {
                "3: with data_loss = \"forbid\", every acknowledged transaction is in the new primary's set"
            }
            Self::NoPacketToTheOld => "4: after the swap not one packet of a client reaches the old primary",
            Self::ReadOnlyGoesOffLast => "5: read-only goes off only after drain, replication reset, and semi-sync on",
            Self::OnlySubsetsRejoin => "6: a server rejoins only if executed(old) ⊆ executed(new)",
            Self::NothingLeadsBack => {
                "7: an uncertain step keeps the fence; nothing reopens the old primary by itself after a promotion began"
            }
            Self::NothingStaleActs => "8: a stale epoch, journal record or operator request cannot act",
            Self::NobodyPromotesAlone => "9: without its coordinator an agent promotes nobody",
            Self::CooldownBetween => {
                "10: two failovers of one cluster are at least a cooldown apart unless an operator asks"
            }
            Self::TrafficOnlyAsks => "what traffic tells of a server hastens the questions and changes nothing",
            Self::HooksAreHeard => "a hook that failed keeps its operation from promoting anybody",
            Self::ItComesToAnEnd => {
                "liveness: once everything is back, the listeners lead to the one writable primary, or an alarm says why not"
            }
        }
    }
}

impl World {
    pub fn violated(&mut self, invariant: Invariant, detail: String) {
        if self.violation.is_none() {
            super::history::tell!(self, "VIOLATED {}: {detail}", invariant.sentence());
            self.violation = Some(Violation { invariant, detail });
        }
    }

    /// Invariant 1: A write that came through a listener was accepted. Per proxy: two proxies that are not coordinated do not promise
    /// more than that each leads to one.
    pub fn one_writer(&mut self, p: usize, s: usize) {
        let epoch = self.proxies[p].kernel.epoch;
        let first = *self.oracle.accepted.entry((p, epoch)).or_insert(s);
        if first != s {
            let detail = format!("proxy{}, epoch {epoch}: db{} and db{}", p + 1, first + 1, s + 1);
            self.violated(Invariant::OneWriter, detail);
        }
    }

    /// Invariant 2: As a server is made writable by an agent: that agent's kernel leads nobody to another one. Other proxies follow
    /// when they see it; until there is a fleet they are not waited for.
    pub fn fence_first(&mut self, p: usize, s: usize) {
        let now = self.now;
        let kernel = &self.proxies[p].kernel;
        let drains = |n: usize| self.servers[n].read_only && self.scenario.established != Established::Reset;
        let live = |n: usize, l| {
            let leads = kernel.leads(l) == Some(db(n)) || kernel.spares(l, db(n));
            n != s && (leads || (kernel.lets_pass(l, db(n), now) && !drains(n)))
        };
        let pinned = !self.proxies[p].store.pins.is_empty();
        let is_live = |n: &usize| self.primary_listeners(p).into_iter().any(|l| live(*n, l));
        if let Some(other) = (0..self.servers.len()).find(is_live).filter(|_| !pinned) {
            let detail = format!("db{} turns writable while proxy{} leads to db{}", s + 1, p + 1, other + 1);
            self.violated(Invariant::FenceFirst, detail);
        }
    }

    /// Invariant 3: As a listener is opened to a server that this agent promoted. Not held to: what an operator allowed to be lost;
    /// what only a replica had received that threw its relay log away as it restarted; what clients of another proxy wrote
    /// after this one's promotion.
    pub fn nothing_acknowledged_is_lost(&mut self, p: usize, s: usize, operation: Option<&Operation>) {
        let missing = self.oracle.acknowledged[p].minus(&self.servers[s].executed).minus(&self.oracle.excused);
        if missing.is_empty() {
            return;
        }
        let allowed = self.scenario.data_loss == DataLoss::Allow || operation.is_none_or(|o| o.allow_loss);
        let pinned = !self.proxies[p].store.pins.is_empty();
        if allowed || pinned || self.scenario.mode != FailoverMode::Promote {
            self.oracle.excuse(&missing);
            return;
        }
        let detail = format!("db{} is opened without {}", s + 1, missing.short());
        self.violated(Invariant::NothingAcknowledgedIsLost, detail);
    }

    /// Invariant 4: A client's packet passes the proxy: to the primary of the kernel's epoch, or to one that it spares. Connections that are
    /// configured to be drained or kept may go on to one that takes no writes, or that is the primary of the epoch still.
    pub fn no_packet_to_the_old(&mut self, p: usize, listener: std::net::SocketAddr, s: usize) {
        let kernel = &self.proxies[p].kernel;
        let leads = kernel.leads(listener) == Some(db(s)) || kernel.spares(listener, db(s));
        let harmless = self.servers[s].read_only || kernel.primary == Some(db(s));
        let harmless = self.scenario.established != Established::Reset && harmless;
        if !leads && !harmless {
            let detail = format!("a packet passes proxy{} to db{}", p + 1, s + 1);
            self.violated(Invariant::NoPacketToTheOld, detail);
        }
    }

    /// Invariant 5, first half: As replication is reset: everything that was received when receiving was stopped for the promotion is
    /// applied, and everything that the operation found anywhere.
    pub fn drained_before_reset(&mut self, p: usize, s: usize) {
        let stopped = self.oracle.stopped_with[s].clone().unwrap_or_default();
        let goal = self.proxies[p].store.operation.as_ref().and_then(|o| o.goal.as_ref()).map(Gtids::from_history);
        let wanted = goal.map_or_else(
            || stopped.clone(),
            |mut goal| {
                goal.add(&stopped);
                goal
            },
        );
        let missing = wanted.minus(&self.servers[s].executed);
        if !missing.is_empty() {
            let detail = format!("db{} is reset before it has applied {}", s + 1, missing.short());
            self.violated(Invariant::ReadOnlyGoesOffLast, detail);
        }
    }

    /// Invariant 5, second half: As read-only goes off.
    pub fn read_only_goes_off_last(&mut self, p: usize, s: usize) {
        let server = &self.servers[s];
        if server.io != Io::Stopped || server.source.is_some() {
            self.violated(Invariant::ReadOnlyGoesOffLast, format!("db{} still replicates", s + 1));
            return;
        }
        let old = self.proxies[p].store.operation.as_ref().map(|o| number(o.old));
        let source_on = |n: usize| self.servers[n].semi.as_ref().is_some_and(|semi| semi.source_on);
        if old.is_some_and(source_on) && !source_on(s) {
            self.violated(Invariant::ReadOnlyGoesOffLast, format!("db{} does not wait for acknowledgements", s + 1));
        }
    }

    /// Invariant 6: As a server is made a replica. What somebody wrote there while it was being done is not held against it.
    pub fn only_subsets_rejoin(&mut self, s: usize, source: usize) {
        let mut has = self.servers[source].executed.clone();
        for &txn in &self.servers[source].log {
            has.insert(txn);
        }
        let grace = Duration::from_secs(5);
        let recent = |txn: &Txn| self.oracle.direct.iter().any(|(t, at)| t == txn && self.now.since(*at) < grace);
        let errant: Vec<Txn> = self.servers[s].executed.minus(&has).iter().filter(|t| !recent(t)).collect();
        if !errant.is_empty() {
            let mut set = Gtids::default();
            for txn in errant {
                set.insert(txn);
            }
            let detail = format!("db{} follows db{} and has {} of its own", s + 1, source + 1, set.short());
            self.violated(Invariant::OnlySubsetsRejoin, detail);
        }
    }

    /// Invariant 7: As a listener is led to a server, or one is made writable again: not the old primary of an operation whose promotion
    /// began, unless it was promoted since or an operator pinned it.
    pub fn nothing_leads_back(&mut self, p: usize, s: usize) {
        let pinned = !self.proxies[p].store.pins.is_empty();
        let back =
            self.oracle.promotions.iter().any(|began| {
                began.p == p && began.old == s && self.oracle.promoted_at[s].is_none_or(|at| at < began.at)
            });
        if back && !pinned {
            let detail = format!("proxy{} goes back to db{}", p + 1, s + 1);
            self.violated(Invariant::NothingLeadsBack, detail);
        }
    }

    /// Invariant 8: News that is out of date: the machine may say something about it, and must do nothing.
    pub fn nothing_stale_acts(&mut self, p: usize, event: &Event, actions: &[Action]) {
        let acts = |a: &&Action| !matches!(a, Action::Record(_) | Action::Pace(_) | Action::Notify(_));
        if let Some(action) = actions.iter().find(acts) {
            let detail = format!("agent{} answers {event:?} with {action:?}", p + 1);
            self.violated(Invariant::NothingStaleActs, detail);
        }
    }

    /// Invariant 8: Epochs never go back, and are written down before they are in force.
    pub fn epochs_only_grow(&mut self, p: usize, plan: &Plan) {
        let proxy = &self.proxies[p];
        if plan.epoch < proxy.kernel.epoch || plan.epoch > proxy.store.epoch {
            let detail =
                format!("epoch {} over {}, {} written down", plan.epoch, proxy.kernel.epoch, proxy.store.epoch);
            self.violated(Invariant::NothingStaleActs, detail);
        }
    }

    /// What an agent makes of the world, and until when it will.
    pub fn decided(&self, p: usize) -> Option<Decided> {
        let machine = &self.proxies[p].agent()?.machine;
        Some(Decided {
            assessment: machine.assessment().clone(),
            committed: machine.committed().cloned(),
            deadline: machine.next_deadline(),
        })
    }

    /// As an agent has heard of a suspicion, true or false.
    pub fn traffic_only_asks(&mut self, p: usize, before: &Decided, actions: &[Action]) {
        let acts = |a: &&Action| !matches!(a, Action::Record(_) | Action::Hasten);
        if let Some(action) = actions.iter().find(acts) {
            self.violated(Invariant::TrafficOnlyAsks, format!("agent{} answers a suspicion with {action:?}", p + 1));
        }
        let after = self.decided(p);
        if after.as_ref() != Some(before) {
            self.violated(Invariant::TrafficOnlyAsks, format!("agent{}: {before:?} becomes {after:?}", p + 1));
        }
    }

    /// Invariant 9: As an automatic failover begins: the promoter's lock is this agent's on a majority of the servers, by what they last
    /// answered; of two servers, on the one that is left.
    pub fn nobody_promotes_alone(&mut self, p: usize, operation: &Operation) {
        self.holds_the_lock(p, Some(number(operation.old)), "begins");
        if self.scenario.mode != FailoverMode::Promote {
            self.violated(Invariant::NobodyPromotesAlone, "the mode is not promote".to_owned());
        }
    }

    fn holds_the_lock(&mut self, p: usize, without: Option<usize>, what: &str) {
        let locks = &self.oracle.locks[p];
        let (count, total) = (locks.iter().filter(|lock| **lock == Some(PromoterLock::Ours)).count(), locks.len());
        let the_other = (0..total).any(|s| total == 2 && Some(s) != without && locks[s] == Some(PromoterLock::Ours));
        if count * 2 <= total && !(the_other && without.is_some()) {
            let detail = format!("agent{} {what} with the lock of {count} of {total}", p + 1);
            self.violated(Invariant::NobodyPromotesAlone, detail);
        }
    }

    /// Invariant 9: As an agent orders what changes who is the primary: the same. Who was promoted may gather its replicas without.
    pub fn nobody_changes_servers_alone(&mut self, p: usize, task: &Task) {
        let undoes = self.proxies[p].store.operation.as_ref().is_some_and(|o| o.step == Step::Undo);
        let changes = match task {
            Task::Promote { .. } | Task::MakeWritable { .. } | Task::CatchUp { .. } => true,
            Task::Follow { .. } => undoes,
            _ => false,
        };
        if changes && self.scenario.mode == FailoverMode::Promote {
            let old = self.proxies[p].store.operation.as_ref().map(|o| number(o.old));
            self.holds_the_lock(p, old, &format!("orders to {}", task.word()));
        }
    }

    /// Invariant 10: As an automatic failover begins: the last promotion by a failover of this agent was a cooldown ago. Not held to
    /// after its wall clock jumped, which is all that a restarted agent has.
    pub fn cooldown_between(&mut self, p: usize, operation: &Operation) {
        let Some((id, at)) = self.oracle.failed_over[p] else { return };
        let since = self.now.since(at);
        if id != operation.id && since < self.scenario.cooldown {
            let detail = format!("operation {} begins {since:?} after {id} promoted", operation.id);
            self.violated(Invariant::CooldownBetween, detail);
        }
    }

    /// What is asked at the begin of every step of an operation.
    pub fn operation_begins(&mut self, p: usize, operation: &Operation) {
        let is_new = self.oracle.last_begun[p] != Some(operation.id);
        if is_new {
            self.oracle.last_begun[p] = Some(operation.id);
            if operation.id <= self.proxies[p].store.last_operation {
                let detail = format!("operation {} begins twice", operation.id);
                self.violated(Invariant::NothingStaleActs, detail);
            }
        }
        if is_new && operation.trigger == Trigger::Verdict {
            self.nobody_promotes_alone(p, operation);
            if operation.kind == Kind::Failover {
                self.cooldown_between(p, operation);
            }
        }
    }

    /// After every step of the world.
    pub fn check_step(&mut self) {
        for p in 0..self.proxies.len() {
            let kernel = &self.proxies[p].kernel;
            let mut led: Vec<_> = self.primary_listeners(p).iter().filter_map(|&l| kernel.leads(l)).collect();
            led.dedup();
            let (free, ahead) = (self.proxies[p].store.pins.is_empty(), kernel.epoch > self.proxies[p].store.epoch);
            if free && led.iter().any(|&l| kernel.primary != Some(l)) {
                let detail = format!("proxy{} leads to {led:?}, the primary is {:?}", p + 1, kernel.primary);
                self.violated(Invariant::OneWriter, detail);
            }
            if ahead {
                self.violated(Invariant::NothingStaleActs, "the kernel is ahead of what is written down".to_owned());
            }
        }
    }

    /// The end, a minute after everything healed.
    pub fn check_end(&mut self) {
        for p in 0..self.proxies.len() {
            let Some(agent) = self.proxies[p].agent() else {
                self.violated(Invariant::ItComesToAnEnd, format!("agent{} does not run", p + 1));
                return;
            };
            let status = agent.machine.status(agent.time(self.now));
            let kernel = &self.proxies[p].kernel;
            let outcasts: Vec<_> = self.proxies[p].store.outcasts.iter().map(|o| number(o.server)).collect();
            let led = self.primary_listeners(p).iter().find_map(|&l| kernel.leads(l)).map(number);
            let writable: Vec<_> =
                (0..self.servers.len()).filter(|n| !self.servers[*n].read_only && !outcasts.contains(n)).collect();
            let is_well = led.is_some_and(|n| writable == [n] && self.servers[n].is_running());
            self.oracle.ended_well &= is_well;
            if !is_well {
                self.oracle.alarms_at_end.extend(status.alarms.iter().map(|alarm| alarm.kind));
            }
            // Everybody is back, so that nobody is dead, unreachable or stuck is no excuse any more.
            let says_why = |kind| {
                matches!(
                    kind,
                    AlarmKind::Split | AlarmKind::NoPrimary | AlarmKind::Quarantined | AlarmKind::PrimaryCastOut
                )
            };
            let is_said = status.alarms.iter().any(|alarm| says_why(alarm.kind));
            if !is_well && !is_said && self.scenario.mode != FailoverMode::Off {
                let detail = format!(
                    "proxy{} leads to {:?}, writable are {:?}, verdict {}, alarms {:?}",
                    p + 1,
                    led.map(|n| n + 1),
                    writable.iter().map(|n| n + 1).collect::<Vec<_>>(),
                    status.verdict,
                    self.oracle.alarms_at_end
                );
                self.violated(Invariant::ItComesToAnEnd, detail);
                return;
            }
        }
    }

    /// A deadline that does not move keeps the driver busy.
    pub fn machine_spins(&mut self, p: usize, at: Mono) {
        let detail = format!("agent{} asks for the deadline {at} again, though it was told of it", p + 1);
        self.violated(Invariant::ItComesToAnEnd, detail);
    }

    pub fn primary_listeners(&self, p: usize) -> Vec<std::net::SocketAddr> {
        let listeners = self.proxies[p].config.listeners.iter();
        listeners.filter(|l| l.role == ListenerRole::Primary).map(|l| l.address).collect()
    }

    /// Where a plan leads the primary listeners.
    pub fn led_by(&self, p: usize, plan: &Plan) -> Option<usize> {
        let listeners = self.primary_listeners(p);
        plan.mappings.iter().filter(|m| listeners.contains(&m.listener)).find_map(|m| match m.route {
            Route::Single(to) => Some(number(to)),
            Route::Spread(_) | Route::Hold(_) | Route::Refuse => None,
        })
    }
}
