//! The next primary receives and applies everything that can be had.

use super::steps::{DRAIN_SLICE, PATIENCE, SALVAGE, run_mut};
use super::{AGAIN, Wanted, want};
use crate::Mono;
use crate::cluster::Cluster;
use crate::cluster::event::Action;
use crate::cluster::health::Evidence;
use crate::operation::{LeftBehind, Report, Step, Task};

impl Cluster {
    pub(super) fn catch_up(&mut self, now: Mono, actions: &mut Vec<Action>) -> bool {
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

    pub(super) fn after_catch_up(&mut self, now: Mono, actions: &mut Vec<Action>) {
        if self.is_drained() {
            self.after_drain(now, actions);
            return;
        }
        let tasks = self.draining();
        self.enter(Step::Drain, tasks, now, actions);
    }

    pub(super) fn is_drained(&self) -> bool {
        self.run.as_ref().is_some_and(|run| {
            let standing = run.op.chosen.and_then(|chosen| run.op.standings.get(&chosen));
            match (&run.op.goal, standing) {
                (Some(goal), Some(standing)) => goal.is_subset(&standing.executed),
                _ => false,
            }
        })
    }

    pub(super) fn draining(&self) -> Vec<Wanted> {
        let Some(op) = self.run.as_ref().map(|run| &run.op) else { return Vec::new() };
        match (op.chosen, &op.goal) {
            (Some(server), Some(goal)) => vec![want(Task::Drain { server, goal: goal.clone() }, DRAIN_SLICE)],
            _ => Vec::new(),
        }
    }

    pub(super) fn drain(&mut self, now: Mono, actions: &mut Vec<Action>) -> bool {
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
                let is_unsent = goal.as_ref().is_some_and(|goal| !goal.is_subset(&standing.received));
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
                let old = self.run.as_ref().map(|run| run.op.old);
                let can_undo = self.run.as_ref().is_some_and(|run| !run.op.promotion_began);
                let old_is_gone = old.is_some_and(|old| self.evidence(old) == Evidence::Gone);
                if self.is_switchover() && can_undo && old_is_gone {
                    self.begin_undo("the old primary died before everything was sent".to_owned(), now, actions);
                    return true;
                }
                if old_is_gone && is_unsent {
                    // What only it had comes no more. The rule about data decides whether that may be.
                    run_mut(self, |run| (run.revoked, run.op.disarmed) = (true, None));
                    self.look_again_at_all(now, actions);
                    return true;
                }
                if has_lost {
                    self.look_again_at_all(now, actions);
                    return true;
                }
                let limit =
                    if self.is_switchover() { self.switchover_patience() } else { self.config.promoting.catch_up };
                if self.is_switchover() && can_undo && now.since(since) > limit {
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
    pub(super) fn salvage_from_old(&mut self, now: Mono, actions: &mut Vec<Action>) {
        let Some(run) = &mut self.run else { return };
        let had = run.op.disarmed.take();
        let received = run.op.chosen.and_then(|c| run.op.standings.get(&c)).map(|standing| standing.received.clone());
        let (Some(had), Some(received)) = (had, received) else {
            self.decide_on_candidate(now, actions);
            return;
        };
        let task = Task::Salvage { from: run.op.old, lacking: had.minus(&received), into: None };
        if let Some(candidate) = run.op.chosen {
            let before = run.op.left_behind.take().filter(|left| left.candidate == candidate && left.had == had);
            let tries = before.map_or(0, |left| left.tries) + 1;
            run.op.left_behind = Some(LeftBehind { candidate, had, tries });
        }
        self.enter(Step::Salvage, vec![want(task, SALVAGE)], now, actions);
    }

    pub(super) fn salvage(&mut self, now: Mono, actions: &mut Vec<Action>) -> bool {
        let Some(run) = &mut self.run else { return false };
        let Some(answer) = run.answers.pop() else { return false };
        if let Ok(Report::Salvaged(salvaged)) = answer.result {
            run.op.salvaged = Some(salvaged);
        }
        // What could not be fetched now is fetched when the old primary is compared.
        self.decide_on_candidate(now, actions)
    }
}
