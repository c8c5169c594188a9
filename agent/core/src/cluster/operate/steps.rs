//! The steps of a failover, most of which a switchover shares.

use std::net::SocketAddr;
use std::time::Duration;

use super::{AGAIN, Answer, Wanted, want};
use crate::Mono;
use crate::cluster::Cluster;
use crate::cluster::event::Action;
use crate::cluster::health::{Evidence, Health};
use crate::config::DataLoss;
use crate::observation::FailureKind;
use crate::operation::{Candidates, Cause, Hook, Kind, Outcome, Report, Standing, Step, Task, Trigger, choose};

/// A server that does not answer now is tried for so long in the background: it may be slow rather than gone.
const ASIDE: Duration = Duration::from_secs(5);
/// `super_read_only` waits for commits that wait for acknowledgements.
const DISARM: Duration = Duration::from_secs(3);
/// Applying is waited for in slices, so that its progress can be seen.
const DRAIN_SLICE: Duration = Duration::from_secs(1);
const SALVAGE: Duration = Duration::from_secs(20);
const RECHECK: Duration = Duration::from_millis(500);
const PROMOTE: Duration = Duration::from_secs(5);
const FOLLOW: Duration = Duration::from_secs(10);
/// So often is a server asked in vain before it is given up.
const PATIENCE: u32 = 3;

impl Cluster {
    /// One look at the current step. Whether something was done, so that another look is worth it.
    pub(super) fn step(&mut self, now: Mono, actions: &mut Vec<Action>) -> bool {
        let Some(run) = &self.run else { return false };
        match run.op.step {
            Step::Precheck => self.precheck(now, actions),
            Step::Hold => self.hold(now, actions),
            Step::Sessions => self.sessions(now, actions),
            Step::Fence => self.fence(now, actions),
            Step::Disarm => self.disarm(now, actions),
            Step::CatchUp => self.catch_up(now, actions),
            Step::Drain => self.drain(now, actions),
            Step::Salvage => self.salvage(now, actions),
            Step::Recheck => self.recheck(now, actions),
            Step::Promote => self.promote(now, actions),
            Step::Open => self.opened(now, actions),
            Step::Repoint => self.repoint(now, actions),
            Step::Undo => self.undo(now, actions),
            Step::Reopen => self.reopened(now, actions),
        }
    }

    fn fence(&mut self, now: Mono, actions: &mut Vec<Action>) -> bool {
        if !self.is_in_force(now) {
            return false;
        }
        let tasks = self.disarming();
        self.enter(Step::Disarm, tasks, now, actions);
        true
    }

    /// What has to be done about the old primary, and about those who receive from it.
    pub(super) fn disarming(&mut self) -> Vec<Wanted> {
        let gone = self.run.as_ref().is_some_and(|run| self.evidence(run.op.old) == Evidence::Gone);
        let Some(run) = &mut self.run else { return Vec::new() };
        let old = run.op.old;
        let read_only = Task::MakeReadOnly { server: old, end_sessions: true };
        if run.op.kind == Kind::Switchover {
            return vec![want(read_only, DISARM)];
        }
        // A living primary needs nobody to be told to stop: once it is read-only there is nothing to acknowledge, and what it
        // has still flows to its replicas.
        run.revoked |= gone;
        let revoke = run.revoked;
        let mut tasks = vec![Wanted { aside: gone, ..want(read_only, if gone { ASIDE } else { DISARM }) }];
        tasks.extend(self.ask_the_others(revoke));
        if self.config.promoting.fence_hook {
            tasks.extend(self.hook(Hook::Fence));
        }
        tasks
    }

    /// Every other server is examined; `revoke`: and stops receiving.
    fn ask_the_others(&self, revoke: bool) -> Vec<Wanted> {
        let old = self.run.as_ref().map(|run| run.op.old);
        let within = self.config.probe.timeout.max(AGAIN);
        let others = self.servers.keys().copied().filter(|&s| Some(s) != old && self.evidence(s) != Evidence::Gone);
        others
            .map(|server| want(if revoke { Task::StopReceiving { server } } else { Task::Examine { server } }, within))
            .collect()
    }

    fn disarm(&mut self, now: Mono, actions: &mut Vec<Action>) -> bool {
        let Some(run) = &mut self.run else { return false };
        if !run.has_answers() {
            return false;
        }
        for Answer { task, result } in std::mem::take(&mut run.answers) {
            match (task, result) {
                (Task::MakeReadOnly { .. }, Ok(Report::Standing(standing))) if standing.read_only => {
                    self.note_disarmed(&standing);
                }
                (Task::Examine { server } | Task::StopReceiving { server }, Ok(Report::Standing(standing))) => {
                    run_mut(self, |run| drop(run.op.standings.insert(server, *standing)));
                }
                (Task::Hook { .. }, Err(error)) => {
                    let why = format!("the fence hook failed, so the old primary may still live: {}", error.message);
                    self.stop(why, now, actions);
                    return true;
                }
                (Task::MakeReadOnly { .. }, Err(error)) if self.is_switchover() => {
                    self.begin_undo(
                        format!("the old primary could not be made read-only: {}", error.message),
                        now,
                        actions,
                    );
                    return true;
                }
                _ => {}
            }
        }
        let Some(run) = &mut self.run else { return false };
        // The old primary lives and does not take read-only: nobody may acknowledge what it commits from here on.
        if run.op.disarmed.is_none() && !run.revoked {
            run.revoked = true;
            let old = run.op.old;
            run.op.standings.retain(|&server, _| server == old);
            let tasks = self.ask_the_others(true);
            self.start(tasks, now, actions);
            return true;
        }
        self.decide_on_candidate(now, actions)
    }

    fn note_disarmed(&mut self, standing: &Standing) {
        let old = self.run.as_ref().map(|run| run.op.old);
        if let Some(health) = old.and_then(|old| self.servers.get_mut(&old)) {
            health.note_read_only();
        }
        run_mut(self, |run| {
            run.op.disarmed = Some(standing.executed.clone());
            run.op.old_executed = Some(standing.executed.clone());
        });
    }

    /// An order that nobody waited for came back: the old primary was slow, not gone.
    pub(super) fn came_back_aside(&mut self, answer: &Answer) {
        if let (Task::MakeReadOnly { .. }, Ok(Report::Standing(standing))) = (&answer.task, &answer.result)
            && standing.read_only
            && self.run.as_ref().is_some_and(|run| !run.op.promotion_began)
        {
            self.note_disarmed(standing);
        }
    }

    fn decide_on_candidate(&mut self, now: Mono, actions: &mut Vec<Action>) -> bool {
        if let Some(why) = self.unproven() {
            self.wait_or_undo(&why, now, actions);
            return true;
        }
        let Some(choice) = self.candidates().map(choose) else { return false };
        let choice = match choice {
            Ok(choice) => choice,
            Err(reasons) => {
                let reasons: Vec<_> =
                    reasons.into_iter().map(|(server, why)| format!("{}: {why}", self.label(server))).collect();
                self.wait_or_undo(&format!("nobody can be promoted: {}", reasons.join(", ")), now, actions);
                return true;
            }
        };
        let Some(run) = &mut self.run else { return false };
        let standing = run.op.standings.get(&choice.server);
        let received = standing.map(|standing| standing.received.clone());
        // A living old primary sends what it has to those who receive. Somebody may have stopped this one.
        let idle = run.op.kind == Kind::Failover && standing.is_some_and(|standing| !standing.replication.receiving);
        // What the old primary has can still be had from itself.
        let goal = run.op.disarmed.as_ref().map_or(choice.goal.clone(), |all| choice.goal.union(all));
        let sources = run.op.disarmed.as_ref().map(|_| run.op.old).into_iter().chain(choice.sources);
        run.op.chosen = Some(choice.server);
        run.op.goal = Some(goal.clone());
        let has_received = received.is_some_and(|received| goal.is_subset(&received));
        match sources.clone().next() {
            Some(source) if (run.revoked || idle) && !has_received => {
                let task = Task::CatchUp { server: choice.server, source, goal };
                let within = self.config.promoting.catch_up;
                self.enter(Step::CatchUp, vec![want(task, within)], now, actions);
            }
            _ => self.after_catch_up(now, actions),
        }
        true
    }

    /// Why `data_loss = "forbid"` stands against going on with what has answered.
    fn unproven(&self) -> Option<String> {
        let op = &self.run.as_ref()?.op;
        if op.allow_loss || op.disarmed.is_some() || self.config.data_loss == DataLoss::Allow {
            return None;
        }
        let Some(wait_count) = op.acknowledged_by else {
            return Some(
                "data_loss is \"forbid\" and nothing proves that every acknowledged transaction is on a replica"
                    .to_owned(),
            );
        };
        // What one with transactions of its own has received is not taken, so it proves nothing.
        let candidates = self.candidates()?;
        let sound =
            |server: &SocketAddr| op.standings.get(server).is_some_and(|s| candidates.errant(*server, s).is_none());
        let answered = op.acknowledgers.iter().filter(|server| sound(server)).count();
        // Every commit was acknowledged by `wait_count` of them: it is on one of these if fewer than that are missing.
        let needed = (op.acknowledgers.len() + 1).saturating_sub(wait_count as usize).max(1);
        (answered < needed).then(|| {
            format!(
                "data_loss is \"forbid\": {needed} of the {} replicas that acknowledged must answer to prove that nothing is lost, \
                 and {answered} do",
                op.acknowledgers.len()
            )
        })
    }

    pub(super) fn candidates(&self) -> Option<Candidates<'_>> {
        let run = self.run.as_ref()?;
        Some(Candidates {
            config: &self.config,
            standings: &run.op.standings,
            old: run.op.old,
            old_executed: run.op.old_executed.as_ref(),
            old_origin: &run.op.old_origin,
            excluded: &run.excluded,
            asked: run.op.asked,
        })
    }

    /// There is no way on for now. Before a promotion, and if the old primary is there, everything is taken back.
    fn wait_or_undo(&mut self, why: &str, now: Mono, actions: &mut Vec<Action>) {
        let Some(run) = &mut self.run else { return };
        run.tries += 1;
        let old = run.op.old;
        let can_undo = !run.op.promotion_began && self.evidence(old) == Evidence::Answers;
        if can_undo {
            self.begin_undo(why.to_owned(), now, actions);
            return;
        }
        self.note_stuck(why.to_owned(), actions);
        let tasks = self.disarming();
        let Some(run) = &mut self.run else { return };
        run.excluded.clear();
        run.rest(now + AGAIN);
        let tasks = tasks.into_iter().filter(|t| !matches!(t.task, Task::Hook { .. })).collect::<Vec<_>>();
        self.forget_orders(actions);
        if self.run.as_ref().is_some_and(|run| run.op.step == Step::Disarm) {
            self.start(tasks, now, actions);
            return;
        }
        let stuck = self.run.as_mut().and_then(|run| run.stuck.take());
        self.enter(Step::Disarm, tasks, now, actions);
        run_mut(self, |run| {
            run.stuck = stuck;
            run.rest(now + AGAIN);
        });
    }

    /// The chosen one turned out to be unfit: another look at all of them.
    fn choose_again(&mut self, why: String, now: Mono, actions: &mut Vec<Action>) {
        let Some(run) = &mut self.run else { return };
        if let Some(chosen) = run.op.chosen.take() {
            run.excluded.insert(chosen, why.clone());
            // What it has received may be all that there is of some transactions: only while it answers can they be had.
            run.op.standings.remove(&chosen);
        }
        run.op.goal = None;
        run.because = Some(why);
        self.forget_orders(actions);
        if self.is_switchover() && self.run.as_ref().is_some_and(|run| !run.op.promotion_began) {
            let why = self.run.as_ref().and_then(|run| run.because.clone()).unwrap_or_default();
            self.begin_undo(why, now, actions);
            return;
        }
        let revoke = self.run.as_ref().is_some_and(|run| run.revoked);
        let tasks = self.ask_the_others(revoke);
        self.enter(Step::Disarm, tasks, now, actions);
    }

    /// What they had is no measure any more: everybody is asked anew, and the choice made again.
    fn look_again_at_all(&mut self, now: Mono, actions: &mut Vec<Action>) {
        run_mut(self, |run| (run.op.chosen, run.op.goal) = (None, None));
        self.forget_orders(actions);
        let revoke = self.run.as_ref().is_some_and(|run| run.revoked);
        let tasks = self.ask_the_others(revoke);
        self.enter(Step::Disarm, tasks, now, actions);
    }

    fn catch_up(&mut self, now: Mono, actions: &mut Vec<Action>) -> bool {
        let Some(run) = &mut self.run else { return false };
        let Some(answer) = run.answers.pop() else { return false };
        let goal = run.op.goal.clone();
        match (answer.task, answer.result) {
            (Task::CatchUp { server, .. }, Ok(Report::Standing(standing)))
                if goal.as_ref().is_some_and(|goal| goal.is_subset(&standing.received)) =>
            {
                run.op.standings.insert(server, *standing);
                self.after_catch_up(now, actions);
            }
            (Task::CatchUp { source, .. }, result) => {
                let why = match result {
                    Err(error) => error.message,
                    Ok(_) => "it did not receive everything in time".to_owned(),
                };
                if source == run.op.old {
                    // It can be read no more, or not by replication: what is lacking is fetched, or shows when it returns.
                    self.salvage_from_old(now, actions);
                    return true;
                }
                let source = self.label(source);
                self.choose_again(format!("it could not catch up from {source}: {why}"), now, actions);
            }
            _ => {}
        }
        true
    }

    fn after_catch_up(&mut self, now: Mono, actions: &mut Vec<Action>) {
        if self.is_drained() {
            self.after_drain(now, actions);
            return;
        }
        let tasks = self.draining();
        self.enter(Step::Drain, tasks, now, actions);
    }

    fn is_drained(&self) -> bool {
        self.run.as_ref().is_some_and(|run| {
            let standing = run.op.chosen.and_then(|chosen| run.op.standings.get(&chosen));
            match (&run.op.goal, standing) {
                (Some(goal), Some(standing)) => goal.is_subset(&standing.executed),
                _ => false,
            }
        })
    }

    fn draining(&self) -> Vec<Wanted> {
        let Some(op) = self.run.as_ref().map(|run| &run.op) else { return Vec::new() };
        match (op.chosen, &op.goal) {
            (Some(server), Some(goal)) => vec![want(Task::Drain { server, goal: goal.clone() }, DRAIN_SLICE)],
            _ => Vec::new(),
        }
    }

    fn drain(&mut self, now: Mono, actions: &mut Vec<Action>) -> bool {
        let Some(run) = &mut self.run else { return false };
        if !run.has_answers() {
            return false;
        }
        let answer = run.answers.pop();
        let (since, goal) = (run.step_since, run.op.goal.clone());
        let overdue = now.since(since) > self.config.promoting.catch_up;
        match answer.map(|a| a.result) {
            Some(Ok(Report::Standing(standing))) => {
                let Some(run) = &mut self.run else { return false };
                run.tries = 0;
                let error = standing.replication.apply_error.clone();
                let missing = goal.as_ref().map(|goal| goal.missing_from(&standing.executed)).unwrap_or_default();
                // It had received everything. A restart may have cost it its relay log.
                let has_lost = run.revoked && goal.as_ref().is_some_and(|goal| !goal.is_subset(&standing.received));
                if let Some(chosen) = run.op.chosen {
                    run.op.standings.insert(chosen, *standing);
                }
                if self.is_drained() {
                    self.after_drain(now, actions);
                    return true;
                }
                if !error.is_empty() {
                    self.choose_again(format!("it cannot apply what it has received: {error}"), now, actions);
                    return true;
                }
                if has_lost {
                    self.look_again_at_all(now, actions);
                    return true;
                }
                let limit =
                    if self.is_switchover() { self.switchover_patience() } else { self.config.promoting.catch_up };
                if self.is_switchover() && now.since(since) > limit {
                    let why = format!("{} transactions were not applied within {} s", missing.count, limit.as_secs());
                    self.begin_undo(why, now, actions);
                    return true;
                }
                if overdue {
                    self.note_stuck(format!("{} transactions are still to be applied", missing.count), actions);
                }
            }
            Some(Ok(_)) => {}
            Some(Err(error)) => {
                let Some(run) = &mut self.run else { return false };
                run.tries += 1;
                let (tries, chosen) = (run.tries, run.op.chosen);
                let gone = chosen.is_none_or(|chosen| self.evidence(chosen) == Evidence::Gone);
                if gone || tries >= PATIENCE {
                    self.choose_again(format!("it was lost while it applied: {}", error.message), now, actions);
                    return true;
                }
                run_mut(self, |run| run.rest(now + AGAIN));
            }
            None => {}
        }
        let tasks = self.draining();
        self.start(tasks, now, actions);
        false
    }

    /// Everything is applied that could be had.
    pub(super) fn after_drain(&mut self, now: Mono, actions: &mut Vec<Action>) {
        self.before_promotion(now, actions);
    }

    /// What the next primary lacks is fetched from the old one as a file, and the goal is what its replicas have.
    fn salvage_from_old(&mut self, now: Mono, actions: &mut Vec<Action>) {
        let Some(run) = &mut self.run else { return };
        let had = run.op.disarmed.take();
        let received = run.op.chosen.and_then(|c| run.op.standings.get(&c)).map(|standing| standing.received.clone());
        let (Some(had), Some(received)) = (had, received) else {
            self.decide_on_candidate(now, actions);
            return;
        };
        let task = Task::Salvage { from: run.op.old, lacking: had.minus(&received), into: None };
        self.enter(Step::Salvage, vec![want(task, SALVAGE)], now, actions);
    }

    fn salvage(&mut self, now: Mono, actions: &mut Vec<Action>) -> bool {
        let Some(run) = &mut self.run else { return false };
        let Some(answer) = run.answers.pop() else { return false };
        if let Ok(Report::Salvaged(salvaged)) = answer.result {
            run.op.salvaged = Some(salvaged);
        }
        // What could not be fetched now is fetched when the old primary is compared.
        self.decide_on_candidate(now, actions)
    }

    /// The last look at the old primary, if it may have come back, and the operator's last word.
    fn before_promotion(&mut self, now: Mono, actions: &mut Vec<Action>) {
        let Some(run) = &self.run else { return };
        let mut tasks = Vec::new();
        if !self.is_silent(run.op.old) {
            tasks.push(want(Task::Examine { server: run.op.old }, RECHECK));
        }
        if self.config.promoting.before_promote_hook {
            tasks.extend(self.hook(Hook::BeforePromote));
        }
        if tasks.is_empty() {
            self.enter_promote(now, actions);
        } else {
            self.enter(Step::Recheck, tasks, now, actions);
        }
    }

    /// Nothing comes back from it, not even a refusal, and the probe has just seen that: another question would only wait.
    fn is_silent(&self, server: SocketAddr) -> bool {
        self.evidence(server) == Evidence::Gone
            && self.servers.get(&server).and_then(Health::failure).is_some_and(|failure| {
                matches!(failure.kind, FailureKind::Timeout | FailureKind::NoAnswer | FailureKind::Unreachable)
            })
    }

    fn recheck(&mut self, now: Mono, actions: &mut Vec<Action>) -> bool {
        let Some(run) = &mut self.run else { return false };
        if !run.has_answers() {
            return false;
        }
        for Answer { task, result } in std::mem::take(&mut run.answers) {
            match (task, result) {
                (Task::Hook { .. }, Err(error)) => {
                    self.stop(format!("the before_promote hook failed: {}", error.message), now, actions);
                    return true;
                }
                (Task::Examine { .. }, Ok(Report::Standing(standing))) => {
                    return self.old_primary_is_back(&standing, now, actions);
                }
                _ => {}
            }
        }
        self.enter_promote(now, actions);
        true
    }

    /// The old primary answers. It must be read-only, and what it has must be what the next one has.
    fn old_primary_is_back(&mut self, standing: &Standing, now: Mono, actions: &mut Vec<Action>) -> bool {
        let Some(run) = &mut self.run else { return false };
        if !standing.read_only {
            run.op.disarmed = None;
            let first_time = run.op.suspects.insert(run.op.old);
            if !first_time && self.is_switchover() {
                self.begin_undo("the old primary was made writable again by somebody".to_owned(), now, actions);
                return true;
            }
            // The fence is in force whatever it does; it is met as an outcast later.
            if first_time {
                let tasks = self.disarming();
                self.enter(Step::Disarm, tasks, now, actions);
                return true;
            }
            self.enter_promote(now, actions);
            return true;
        }
        self.note_disarmed(standing);
        let Some(run) = &mut self.run else { return false };
        let more = run.op.goal.as_ref().is_some_and(|goal| !standing.executed.is_subset(goal));
        if more && !run.op.promotion_began {
            // It came back with more, or somebody with the privilege wrote there: the next primary gets that, too.
            self.decide_on_candidate(now, actions);
        } else {
            self.enter_promote(now, actions);
        }
        true
    }

    fn enter_promote(&mut self, now: Mono, actions: &mut Vec<Action>) {
        let Some(run) = &mut self.run else { return };
        let (Some(chosen), Some(_)) = (run.op.chosen, &run.op.goal) else { return };
        run.op.promotion_began = true;
        let old = run.op.old;
        run.op.suspects.extend([old, chosen]);
        self.cast_out(old, actions);
        let tasks = if self.lock_bar(Some(old)).is_none() { self.promoting() } else { Vec::new() };
        self.enter(Step::Promote, tasks, now, actions);
    }

    pub(super) fn promoting(&self) -> Vec<Wanted> {
        let Some(op) = self.run.as_ref().map(|run| &run.op) else { return Vec::new() };
        let (Some(server), Some(has)) = (op.chosen, op.goal.clone()) else { return Vec::new() };
        vec![want(Task::Promote { server, has, semi_sync: op.semi_sync }, PROMOTE)]
    }

    fn promote(&mut self, now: Mono, actions: &mut Vec<Action>) -> bool {
        let Some(run) = &mut self.run else { return false };
        if !run.has_answers() {
            return false;
        }
        let answer = run.answers.pop();
        let Some(chosen) = run.op.chosen else { return false };
        match answer.map(|a| a.result) {
            Some(Ok(Report::Standing(standing))) if !standing.read_only => {
                run.op.standings.insert(chosen, *standing);
                if let Some(health) = self.servers.get_mut(&chosen) {
                    health.note_writable(now);
                }
                let tasks = self.repointing();
                self.enter(Step::Open, tasks, now, actions);
                return true;
            }
            Some(result) => {
                run.tries += 1;
                let (tries, why) = (
                    run.tries,
                    match &result {
                        Err(error) => error.message.clone(),
                        Ok(_) => "it is still read-only".to_owned(),
                    },
                );
                let refused = matches!(&result, Err(error) if error.cause == Cause::Refused);
                let gone = self.evidence(chosen) == Evidence::Gone;
                if gone || (refused && tries >= PATIENCE) {
                    self.cast_out(chosen, actions);
                    self.choose_again(format!("it could not be promoted: {why}"), now, actions);
                    return true;
                }
                let label = self.label(chosen);
                self.note_stuck(format!("it is not known whether {label} was promoted: {why}"), actions);
                run_mut(self, |run| run.rest(now + AGAIN));
                return true;
            }
            None => {
                let tasks = self.promoting();
                self.start(tasks, now, actions);
            }
        }
        false
    }

    /// Somebody else has made a server writable meanwhile: then this is over, and the fence stays until it is clear who is
    /// the primary.
    pub(super) fn was_overtaken(&mut self, now: Mono, actions: &mut Vec<Action>) -> bool {
        let Some(op) = self.run.as_ref().map(|run| &run.op) else { return false };
        let (old, chosen, step) = (op.old, op.chosen, op.step);
        if matches!(step, Step::Precheck | Step::Repoint | Step::Undo | Step::Reopen) {
            return false;
        }
        let Some(stranger) = self.stranger(old) else { return false };
        if let Some(chosen) = chosen.filter(|_| self.run.as_ref().is_some_and(|run| run.op.promotion_began)) {
            self.cast_out(chosen, actions);
        }
        let why = format!("somebody else has made {} writable", self.label(stranger));
        run_mut(self, |run| run.because = Some(why));
        self.finish(Outcome::Failed, now, actions);
        true
    }

    /// Another agent may be in charge by now: nothing is done to any server but by the one that holds the lock.
    pub(super) fn is_without_lock(&mut self, now: Mono, actions: &mut Vec<Action>) -> bool {
        let Some(op) = self.run.as_ref().map(|run| &run.op) else { return false };
        if matches!(op.step, Step::Precheck | Step::Hold | Step::Sessions) {
            return false;
        }
        let Some(why) = self.lock_bar(Some(op.old)) else {
            return false;
        };
        self.note_stuck(why, actions);
        run_mut(self, |run| run.rest(now + AGAIN));
        true
    }

    /// Everybody else is to replicate from the new primary. An old one only if it was seen to have nothing else.
    pub(super) fn repointing(&mut self) -> Vec<Wanted> {
        let mut tasks = Vec::new();
        let Some(run) = &self.run else { return tasks };
        let (Some(source), Some(goal)) = (run.op.chosen, run.op.goal.clone()) else { return tasks };
        let (old, semi_sync) = (run.op.old, run.op.semi_sync);
        let old_has_nothing_else = run.op.disarmed.as_ref().is_some_and(|disarmed| disarmed.is_subset(&goal));
        for &server in self.servers.keys().filter(|&&server| server != source) {
            let trusted = match run.op.standings.get(&server) {
                _ if server == old => old_has_nothing_else,
                Some(standing) => standing.executed.is_subset(&goal),
                None => false,
            };
            if trusted && self.evidence(server) != Evidence::Gone {
                tasks.push(want(Task::Follow { server, source, semi_sync }, FOLLOW));
            }
        }
        tasks
    }

    fn opened(&mut self, now: Mono, actions: &mut Vec<Action>) -> bool {
        if !self.is_in_force(now) {
            return false;
        }
        self.enter(Step::Repoint, Vec::new(), now, actions);
        true
    }

    fn repoint(&mut self, now: Mono, actions: &mut Vec<Action>) -> bool {
        let Some(run) = &mut self.run else { return false };
        if !run.has_answers() {
            return false;
        }
        run.tries += 1;
        let (tries, answers) = (run.tries, std::mem::take(&mut run.answers));
        let mut again = Vec::new();
        for Answer { task, result } in answers {
            let Task::Follow { server, .. } = task else { continue };
            match result {
                Ok(_) => self.note_follower(server),
                Err(error) => {
                    run_mut(self, |run| drop(run.op.left_out.insert(server, error.message)));
                    again.push(want(task, FOLLOW));
                }
            }
        }
        if !again.is_empty() && tries < PATIENCE {
            run_mut(self, |run| run.rest(now + AGAIN));
            self.start(again, now, actions);
            return false;
        }
        // Whoever does not follow yet is looked at when it answers again.
        let Some(op) = self.run.as_ref().map(|run| &run.op) else { return false };
        let strays = self.servers.keys().copied().filter(|s| Some(*s) != op.chosen && !op.followers.contains(s));
        for stray in strays.collect::<Vec<_>>() {
            self.cast_out(stray, actions);
        }
        self.finish(Outcome::Done, now, actions);
        true
    }

    fn note_follower(&mut self, server: SocketAddr) {
        run_mut(self, |run| {
            run.op.left_out.remove(&server);
            run.op.suspects.remove(&server);
            run.op.followers.insert(server);
        });
        self.outcasts.remove(&server);
        if let Some(health) = self.servers.get_mut(&server) {
            health.note_replica();
        }
    }

    fn hook(&self, hook: Hook) -> Option<Wanted> {
        let event = match hook {
            Hook::Fence => "fence",
            Hook::BeforePromote => "before_promote",
        };
        let notice = super::telling::notice(&self.config.name, &self.run.as_ref()?.op, event);
        Some(want(Task::Hook { hook, notice }, self.config.promoting.hook_time))
    }

    pub(super) fn is_switchover(&self) -> bool {
        self.run.as_ref().is_some_and(|run| run.op.kind == Kind::Switchover)
    }

    /// A rule says no further: back if that is possible, else the fence stays and a person is needed.
    fn stop(&mut self, why: String, now: Mono, actions: &mut Vec<Action>) {
        let Some(run) = &self.run else { return };
        if !run.op.promotion_began && self.evidence(run.op.old) == Evidence::Answers {
            self.begin_undo(why, now, actions);
            return;
        }
        run_mut(self, |run| run.because = Some(why));
        self.finish(Outcome::Failed, now, actions);
    }

    pub(super) fn finish(&mut self, outcome: Outcome, now: Mono, actions: &mut Vec<Action>) {
        self.forget_orders(actions);
        let Some(mut run) = self.run.take() else { return };
        super::telling::step_done(&self.config.name, &run, now, actions);
        let ending = super::telling::ending(&self.config, &mut run, outcome, now, actions);
        let automatic = matches!(run.op.trigger, Trigger::Verdict);
        if run.op.kind == Kind::Failover && !run.op.dry_run && (automatic || outcome == Outcome::Done) {
            self.cooldown_until = Some(now + self.config.cooldown);
        }
        self.spared = None;
        self.readiness.forget();
        actions.push(Action::KeepOutcasts(self.outcasts.values().cloned().collect()));
        actions.push(Action::End { operation: Box::new(run.op), ending });
    }
}

/// Changes the operation under way, if there is one.
pub(super) fn run_mut(cluster: &mut Cluster, change: impl FnOnce(&mut super::Run)) {
    if let Some(run) = &mut cluster.run {
        change(run);
    }
}
