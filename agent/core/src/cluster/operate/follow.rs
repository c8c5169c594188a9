//! The listeners lead to the new primary, and everybody else follows it.

use std::net::SocketAddr;

use super::steps::{FOLLOW, PATIENCE, run_mut};
use super::{AGAIN, Answer, Wanted, want};
use crate::Mono;
use crate::cluster::Cluster;
use crate::cluster::event::Action;
use crate::cluster::health::Evidence;
use crate::operation::{Outcome, Step, Task};

impl Cluster {
    pub(super) fn opened(&mut self, now: Mono, actions: &mut Vec<Action>) -> bool {
        if !self.is_in_force(now) {
            return false;
        }
        self.enter(Step::Repoint, Vec::new(), now, actions);
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

    pub(super) fn repoint(&mut self, now: Mono, actions: &mut Vec<Action>) -> bool {
        let Some(run) = &mut self.run else { return false };
        if !run.has_answers() {
            return false;
        }
        if run.tries == 0 && run.answers.is_empty() {
            // Nobody has been asked, or not since the agent was restarted.
            let tasks = self.repointing();
            if !tasks.is_empty() {
                self.start(tasks, now, actions);
                return false;
            }
        }
        let Some(run) = &mut self.run else { return false };
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

    pub(super) fn note_follower(&mut self, server: SocketAddr) {
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
}
