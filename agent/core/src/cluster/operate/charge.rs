//! Whether this operation is still ours to go on with.

use std::net::SocketAddr;

use super::AGAIN;
use super::steps::run_mut;
use crate::Mono;
use crate::cluster::Cluster;
use crate::cluster::event::Action;
use crate::cluster::health::{Evidence, Health};
use crate::cluster::verdict::Direction;
use crate::observation::ServerState;
use crate::operation::{Outcome, Step};

impl Cluster {
    /// Somebody else has made a server writable meanwhile: then this is over, and the fence stays until it is clear who is
    /// the primary.
    pub(super) fn was_overtaken(&mut self, now: Mono, actions: &mut Vec<Action>) -> bool {
        let Some(op) = self.run.as_ref().map(|run| &run.op) else { return false };
        let (old, chosen, step) = (op.old, op.chosen, op.step);
        if matches!(step, Step::Precheck | Step::Undo | Step::Reopen) {
            return false;
        }
        // The new primary stays, as any does beside a second writer, unless it has been succeeded itself.
        if matches!(step, Step::Open | Step::Repoint) && chosen.is_some_and(|chosen| self.may_take_writes(chosen)) {
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

    /// Nothing that was seen of it says that it does not.
    pub(super) fn may_take_writes(&self, server: SocketAddr) -> bool {
        let state = self.servers.get(&server).and_then(Health::state);
        self.evidence(server) != Evidence::Gone && state.is_none_or(ServerState::is_writable)
    }

    /// Whether the step's tasks may be started: it asks nothing of servers, or the lock is ours.
    pub(super) fn may_go_on(&self) -> bool {
        self.run.as_ref().is_some_and(|run| {
            matches!(run.op.step, Step::Precheck | Step::Hold | Step::Sessions | Step::Fence | Step::Reopen)
                || self.lock_bar(Some(run.op.old)).is_none()
        })
    }

    /// Another agent may be in charge by now: nothing is done to any server but by the one that holds the lock.
    pub(super) fn is_without_lock(&mut self, now: Mono, actions: &mut Vec<Action>) -> bool {
        let Some(op) = self.run.as_ref().map(|run| &run.op) else { return false };
        let (old, step) = (op.old, op.step);
        // To lead to the old primary again changes no server.
        if matches!(step, Step::Precheck | Step::Reopen) {
            return false;
        }
        let Some(why) = self.lock_bar(Some(old)) else {
            return false;
        };
        // The old primary takes writes, nobody else does, and it is still received from: to lead to it again changes no server.
        let untouched = !op.promotion_began
            && self.view(now).writable().eq([old])
            && (self.is_switchover() || !self.view(now).receivers_of(old).is_empty());
        if untouched && matches!(step, Step::Hold | Step::Sessions | Step::Fence | Step::Undo) {
            self.forget_orders(actions);
            run_mut(self, |run| (run.because, run.step_failed) = (Some(why.clone()), Some(why)));
            self.enter(Step::Reopen, Vec::new(), now, actions);
            return true;
        }
        if !op.promotion_began && self.another_agent_has_the_lock() {
            // What that one does with the servers is its own; the fence ends when the verdict says so.
            run_mut(self, |run| run.because = Some(format!("another agent is in charge by now: {why}")));
            self.finish(Outcome::Failed, now, actions);
            return true;
        }
        if !matches!(step, Step::Open | Step::Repoint)
            && let Some(successor) = self.successor(old, now).or_else(|| self.heir())
        {
            let why = format!("another agent has promoted {}", self.label(successor));
            run_mut(self, |run| run.because = Some(why));
            self.finish(Outcome::Failed, now, actions);
            return true;
        }
        if self.was_taken_back(now) {
            // To lead back as well is a person's word: `shunt clear`.
            let because = format!("another agent is in charge and has led back to {}", self.label(old));
            run_mut(self, |run| run.because = Some(because));
            self.finish(Outcome::Failed, now, actions);
            return true;
        }
        self.note_stuck(why, actions);
        run_mut(self, |run| run.rest(now + AGAIN));
        true
    }

    /// Whoever has the lock has seen to it that our promotion did not happen: the old primary is the only one that takes
    /// writes, and the one that we had chosen receives from it.
    fn was_taken_back(&self, now: Mono) -> bool {
        let Some(op) = self.run.as_ref().map(|run| &run.op) else { return false };
        let view = self.view(now);
        op.step == Step::Promote
            && self.another_agent_has_the_lock()
            && view.writable().eq([op.old])
            && op.chosen.is_some_and(|chosen| view.receivers_of(op.old).contains(&chosen))
    }

    /// Of two servers the one that we were about to promote, if the agent that has the lock has done it, by the verdict. The
    /// other one may never receive from it: it may be in quarantine.
    fn heir(&self) -> Option<SocketAddr> {
        let op = self.run.as_ref().map(|run| &run.op)?;
        let theirs = op.step == Step::Promote && self.servers.len() == 2 && self.another_agent_has_the_lock();
        let heir = op.chosen.filter(|_| theirs)?;
        (self.assessment.direction == Direction::Lead(heir)).then_some(heir)
    }

    /// Whom others replicate from already: not our doing, for that comes after the listeners.
    pub(super) fn successor(&self, old: SocketAddr, now: Mono) -> Option<SocketAddr> {
        let view = self.view(now);
        view.writable().find(|&server| server != old && !view.receivers_of(server).is_empty())
    }
}
