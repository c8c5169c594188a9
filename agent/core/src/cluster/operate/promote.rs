//! The last look at the old primary, and the step from which there is no way back.

use std::net::SocketAddr;
use std::time::Duration;

use super::steps::{PATIENCE, PROMOTE, RECHECK, run_mut};
use super::{AGAIN, Wanted, want};
use crate::Mono;
use crate::cluster::Cluster;
use crate::cluster::event::Action;
use crate::cluster::health::{Evidence, Health};
use crate::observation::{FailureKind, ServerState};
use crate::operation::{Cause, Hook, Report, Standing, Step, Task};

/// A server that refused no longer ago than this has not come back.
const JUST_NOW: Duration = Duration::from_millis(100);

/// So often is the next primary to receive from the old one what only that has.
const TRIES: u32 = 2;

impl Cluster {
    /// The last look at the old primary, if it may have come back, and the operator's last word.
    pub(super) fn before_promotion(&mut self, now: Mono, actions: &mut Vec<Action>) {
        let Some(run) = &self.run else { return };
        let mut tasks = Vec::new();
        if !self.is_known_to_be_gone(run.op.old, now) {
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

    /// Nothing comes back from it, not even a refusal: another question would only wait. Or it refuses, as the probe has just
    /// seen.
    pub(super) fn is_known_to_be_gone(&self, server: SocketAddr, now: Mono) -> bool {
        let Some(health) = self.servers.get(&server) else { return true };
        let is_silent = health.failure().is_some_and(|failure| {
            matches!(failure.kind, FailureKind::Timeout | FailureKind::NoAnswer | FailureKind::Unreachable)
        });
        let seen_just_now = health.observed_at().is_some_and(|at| now.since(at) <= JUST_NOW);
        self.evidence(server) == Evidence::Gone && (is_silent || seen_just_now)
    }

    pub(super) fn recheck(&mut self, now: Mono, actions: &mut Vec<Action>) -> bool {
        let Some(run) = &mut self.run else { return false };
        if !run.has_answers() {
            return false;
        }
        let answers = std::mem::take(&mut run.answers);
        // The operator's word counts, whatever the old primary says.
        let veto = answers.iter().find_map(|answer| match (&answer.task, &answer.result) {
            (Task::Hook { .. }, Err(error)) => Some(error.message.clone()),
            _ => None,
        });
        if let Some(why) = veto {
            self.stop(why, now, actions);
            return true;
        }
        let examined = answers.into_iter().find_map(|answer| match (answer.task, answer.result) {
            (Task::Examine { .. }, Ok(Report::Standing(standing))) => Some(standing),
            _ => None,
        });
        if let Some(standing) = examined {
            return self.old_primary_is_back(&standing, now, actions);
        }
        self.enter_promote(now, actions);
        true
    }

    /// The old primary answers. It must be read-only, and what it has must be what the next one has.
    pub(super) fn old_primary_is_back(&mut self, standing: &Standing, now: Mono, actions: &mut Vec<Action>) -> bool {
        let Some(run) = &mut self.run else { return false };
        if !standing.read_only {
            run.op.disarmed = None;
            let first_time = run.op.suspects.insert(run.op.old);
            if !first_time && self.is_switchover() && !self.has_begun_to_promote() {
                self.begin_undo("the old primary was made writable again by somebody".to_owned(), now, actions);
                return true;
            }
            // The fence is in force whatever it does; it is met as an outcast later.
            if first_time {
                run_mut(self, |run| run.step_failed = Some("the old primary takes writes again".to_owned()));
                let tasks = self.disarming();
                self.enter(Step::Disarm, tasks, now, actions);
                return true;
            }
            self.enter_promote(now, actions);
            return true;
        }
        self.note_disarmed(standing, now);
        let Some(run) = &mut self.run else { return false };
        let left =
            run.op.left_behind.as_ref().filter(|left| Some(left.candidate) == run.op.chosen && left.tries >= TRIES);
        let more = run.op.goal.as_ref().is_some_and(|goal| {
            let known = left.map_or_else(|| goal.clone(), |left| goal.union(&left.had));
            !standing.executed.is_subset(&known)
        });
        if more && !run.op.promotion_began {
            // It came back with more, or somebody with the privilege wrote there: the next primary gets that, too,
            // unless it was seen that it cannot.
            self.decide_on_candidate(now, actions);
        } else {
            self.enter_promote(now, actions);
        }
        true
    }

    pub(super) fn enter_promote(&mut self, now: Mono, actions: &mut Vec<Action>) {
        let Some(run) = &mut self.run else { return };
        let (Some(chosen), Some(_)) = (run.op.chosen, &run.op.goal) else { return };
        run.op.promotion_began = true;
        let old = run.op.old;
        run.op.suspects.extend([old, chosen]);
        self.cast_out(old, actions);
        // Nothing that is still being done about it must come after its promotion.
        if let Some(order) = self.returning.remove(&chosen).and_then(|returning| returning.order()) {
            actions.push(Action::Forget(vec![order]));
        }
        let tasks = if self.lock_bar(Some(old)).is_none() { self.promoting() } else { Vec::new() };
        self.enter(Step::Promote, tasks, now, actions);
    }

    pub(super) fn promoting(&self) -> Vec<Wanted> {
        let Some(op) = self.run.as_ref().map(|run| &run.op) else { return Vec::new() };
        let (Some(server), Some(has)) = (op.chosen, op.goal.clone()) else { return Vec::new() };
        vec![want(Task::Promote { server, has, semi_sync: op.semi_sync }, PROMOTE)]
    }

    pub(super) fn promote(&mut self, now: Mono, actions: &mut Vec<Action>) -> bool {
        let Some(run) = &mut self.run else { return false };
        if !run.has_answers() {
            return false;
        }
        let answer = run.answers.pop();
        let Some(chosen) = run.op.chosen else { return false };
        match answer.map(|a| a.result) {
            Some(Ok(Report::Standing(standing))) if !standing.read_only => {
                let semi_sync = run.op.semi_sync;
                run.op.standings.insert(chosen, *standing);
                if let Some(health) = self.servers.get_mut(&chosen) {
                    health.note_writable(now);
                    if semi_sync {
                        health.note_semi_sync_source();
                    }
                }
                let tasks = self.repointing();
                self.enter(Step::Open, tasks, now, actions);
                true
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
                true
            }
            None => self.promote_again(now, actions),
        }
    }

    /// The step is entered anew: after a restart, after a time without the lock, or when it is not known how it went. The old
    /// primary may have been made writable meanwhile, by another agent that was in charge.
    fn promote_again(&mut self, now: Mono, actions: &mut Vec<Action>) -> bool {
        let Some(op) = self.run.as_ref().map(|run| &run.op) else { return false };
        let (old, chosen) = (op.old, op.chosen);
        let unseen = |server| self.evidence(server) == Evidence::Unknown;
        if unseen(old) || chosen.is_some_and(unseen) {
            run_mut(self, |run| run.rest(now + AGAIN));
            return true;
        }
        if self.writes(old) && !chosen.is_some_and(|chosen| self.writes(chosen)) {
            run_mut(self, |run| {
                run.op.disarmed = None;
                run.step_failed = Some("the old primary takes writes again".to_owned());
            });
            let tasks = self.disarming();
            self.enter(Step::Disarm, tasks, now, actions);
            return true;
        }
        let tasks = self.promoting();
        self.start(tasks, now, actions);
        false
    }

    /// It answers, and was writable when it last did.
    pub(super) fn writes(&self, server: SocketAddr) -> bool {
        self.evidence(server) == Evidence::Answers
            && self.servers.get(&server).and_then(Health::state).is_some_and(ServerState::is_writable)
    }
}
