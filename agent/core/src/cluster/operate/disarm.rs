//! The old primary is kept from taking writes, and it is decided who comes after it.

use std::net::SocketAddr;

use super::steps::{ASIDE, DISARM, run_mut};
use super::{AGAIN, Answer, Wanted, want};
use crate::Mono;
use crate::cluster::event::Action;
use crate::cluster::health::Evidence;
use crate::cluster::{Cluster, record};
use crate::config::DataLoss;
use crate::gtid::History;
use crate::operation::{Candidates, Hook, Kind, Report, Standing, Step, Task, Trigger, choose};

impl Cluster {
    pub(super) fn fence(&mut self, now: Mono, actions: &mut Vec<Action>) -> bool {
        if !self.is_in_force(now) {
            return false;
        }
        // Nothing that was known before the fence counts: the moment from which the old primary can acknowledge nothing to a
        // client any more is now. A verdict's proof was taken when its fence was.
        let by_verdict = self.run.as_ref().is_some_and(|run| run.op.trigger == Trigger::Verdict);
        let proof = self.run.as_ref().and_then(|run| self.proof_of(run.op.old, now));
        run_mut(self, |run| {
            let old = run.op.old;
            run.op.standings.retain(|&server, _| server == old);
            (run.op.chosen, run.op.goal, run.op.disarmed) = (None, None, None);
            if !by_verdict {
                run.op.acknowledged_by = proof.as_ref().map(|proof| proof.wait_count);
                run.op.acknowledgers = proof.map(|proof| proof.acknowledgers).unwrap_or_default();
            }
        });
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
            let others = self.ask_the_others(false);
            return std::iter::once(want(read_only, DISARM)).chain(others).collect();
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
    pub(super) fn ask_the_others(&self, revoke: bool) -> Vec<Wanted> {
        let old = self.run.as_ref().map(|run| run.op.old);
        let within = self.config.probe.timeout.max(AGAIN);
        let others = self.servers.keys().copied().filter(|&s| Some(s) != old && self.evidence(s) != Evidence::Gone);
        others
            .map(|server| want(if revoke { Task::StopReceiving { server } } else { Task::Examine { server } }, within))
            .collect()
    }

    pub(super) fn disarm(&mut self, now: Mono, actions: &mut Vec<Action>) -> bool {
        let Some(run) = &mut self.run else { return false };
        if !run.has_answers() {
            return false;
        }
        for Answer { task, result } in std::mem::take(&mut run.answers) {
            match (task, result) {
                (Task::MakeReadOnly { .. }, Ok(Report::Standing(standing))) if standing.read_only => {
                    self.note_disarmed(&standing, now);
                }
                (Task::Examine { server } | Task::StopReceiving { server }, Ok(Report::Standing(standing))) => {
                    run_mut(self, |run| drop(run.op.standings.insert(server, *standing)));
                }
                (Task::Hook { .. }, Err(error)) => {
                    let why = format!("{}; the old primary may still live", error.message);
                    self.stop(why, now, actions);
                    return true;
                }
                (Task::MakeReadOnly { .. }, Err(error)) if self.is_switchover() && !self.has_begun_to_promote() => {
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

    pub(super) fn note_disarmed(&mut self, standing: &Standing, now: Mono) {
        let old = self.run.as_ref().map(|run| run.op.old);
        if let Some(health) = old.and_then(|old| self.servers.get_mut(&old)) {
            health.note_read_only(now);
        }
        run_mut(self, |run| {
            run.op.disarmed = Some(standing.executed.clone());
            run.op.old_executed = Some(standing.executed.clone());
        });
    }

    /// An order that nobody waited for came back: the old primary was slow, not gone.
    pub(super) fn came_back_aside(&mut self, answer: &Answer, now: Mono) {
        if let (Task::MakeReadOnly { .. }, Ok(Report::Standing(standing))) = (&answer.task, &answer.result)
            && standing.read_only
            && self.run.as_ref().is_some_and(|run| !run.op.promotion_began)
        {
            self.note_disarmed(standing, now);
        }
        // Whoever could not be sent back is sent again.
        if let (Task::Follow { server, .. }, Err(_)) = (&answer.task, &answer.result) {
            run_mut(self, |run| run.sent_back.retain(|s| s != server));
        }
    }

    pub(super) fn decide_on_candidate(&mut self, now: Mono, actions: &mut Vec<Action>) -> bool {
        if let Some(why) = self.unproven() {
            self.wait_or_undo(&why, now, actions);
            return true;
        }
        // Whoever was cast out earlier is compared before it is trusted with anything.
        let outcasts: Vec<_> = self.outcasts.keys().copied().collect();
        run_mut(self, |run| {
            for outcast in outcasts.into_iter().filter(|outcast| !run.op.suspects.contains(outcast)) {
                run.excluded.entry(outcast).or_insert_with(|| "it was cast out and has not been compared".to_owned());
            }
        });
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
        if let Some(why) = self.lost_since(&choice.goal) {
            self.wait_or_undo(&why, now, actions);
            return true;
        }
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
    pub(super) fn unproven(&self) -> Option<String> {
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

    /// What was seen to be received before and nobody has any more, if it must not be lost.
    fn lost_since(&mut self, goal: &History) -> Option<String> {
        let op = &mut self.run.as_mut()?.op;
        let seen = op.seen.as_ref().map_or_else(|| goal.clone(), |seen| seen.union(goal));
        // A crash may have cost the old primary what it had sent before: that it answers proves nothing about that.
        let lost = seen.missing_from(&op.disarmed.as_ref().map_or_else(|| goal.clone(), |all| goal.union(all)));
        op.seen = Some(seen);
        (lost.count > 0 && !op.allow_loss).then(|| {
            format!("data_loss is \"forbid\", and a replica had received {} that nobody has any more", lost.text)
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
    pub(super) fn wait_or_undo(&mut self, why: &str, now: Mono, actions: &mut Vec<Action>) {
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
        run_mut(self, |run| run.step_failed = Some(why.to_owned()));
        let stuck = self.run.as_mut().and_then(|run| run.stuck.take());
        self.enter(Step::Disarm, tasks, now, actions);
        run_mut(self, |run| {
            run.stuck = stuck;
            run.rest(now + AGAIN);
        });
    }

    /// The chosen one turned out to be unfit: another look at all of them.
    pub(super) fn choose_again(&mut self, why: String, now: Mono, actions: &mut Vec<Action>) {
        let Some(run) = &mut self.run else { return };
        let passed_over = run.op.chosen.take();
        if let Some(chosen) = passed_over {
            run.excluded.insert(chosen, why.clone());
            // What it has received may be all that there is of some transactions: only while it answers can they be had.
            run.op.standings.remove(&chosen);
        }
        run.op.goal = None;
        run.because = Some(why.clone());
        if let Some(chosen) = passed_over {
            actions.push(record("passed_over", format!("{} is not to be the next primary: {why}", self.label(chosen))));
        }
        self.forget_orders(actions);
        if self.is_switchover() && self.run.as_ref().is_some_and(|run| !run.op.promotion_began) {
            let why = self.run.as_ref().and_then(|run| run.because.clone()).unwrap_or_default();
            self.begin_undo(why, now, actions);
            return;
        }
        let revoke = self.run.as_ref().is_some_and(|run| run.revoked);
        run_mut(self, |run| run.step_failed.clone_from(&run.because));
        let tasks = self.ask_the_others(revoke);
        self.enter(Step::Disarm, tasks, now, actions);
    }

    /// What they had is no measure any more: everybody is asked anew, and the choice made again.
    pub(super) fn look_again_at_all(&mut self, now: Mono, actions: &mut Vec<Action>) {
        run_mut(self, |run| (run.op.chosen, run.op.goal) = (None, None));
        self.forget_orders(actions);
        let revoke = self.run.as_ref().is_some_and(|run| run.revoked);
        let tasks = self.ask_the_others(revoke);
        self.enter(Step::Disarm, tasks, now, actions);
    }
}
