//! Which step does what, and how an operation ends.

use std::time::Duration;

use super::{Wanted, want};
use crate::Mono;
use crate::cluster::Cluster;
use crate::cluster::acknowledged::Proof;
use crate::cluster::event::Action;
use crate::cluster::health::Evidence;
use crate::operation::{Hook, Kind, Outcome, Step, Task, Trigger};

/// A server that does not answer now is tried for so long in the background: it may be slow rather than gone.
pub(super) const ASIDE: Duration = Duration::from_secs(5);
/// `super_read_only` waits for commits that wait for acknowledgements.
pub(super) const DISARM: Duration = Duration::from_secs(3);
/// Applying is waited for in slices, so that its progress can be seen.
pub(super) const DRAIN_SLICE: Duration = Duration::from_secs(1);
pub(super) const SALVAGE: Duration = Duration::from_secs(20);
pub(super) const RECHECK: Duration = Duration::from_millis(500);
pub(super) const PROMOTE: Duration = Duration::from_secs(5);
pub(super) const FOLLOW: Duration = Duration::from_secs(10);
/// Between two failovers that begin by themselves, however short the cooldown, if the first came to nothing.
const BREATHER: Duration = Duration::from_secs(5);
/// So often is a server asked in vain before it is given up.
pub(super) const PATIENCE: u32 = 3;

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

    pub(super) fn hook(&self, hook: Hook) -> Option<Wanted> {
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

    pub(super) fn has_begun_to_promote(&self) -> bool {
        self.run.as_ref().is_some_and(|run| run.op.promotion_began)
    }

    /// A rule says no further: back if that is possible, else the fence stays and a person is needed.
    pub(super) fn stop(&mut self, why: String, now: Mono, actions: &mut Vec<Action>) {
        let Some(run) = &self.run else { return };
        if !run.op.promotion_began && self.evidence(run.op.old) == Evidence::Answers {
            self.begin_undo(why, now, actions);
            return;
        }
        run_mut(self, |run| run.because = Some(why));
        self.finish(Outcome::Failed, now, actions);
    }

    pub(super) fn finish(&mut self, outcome: Outcome, now: Mono, actions: &mut Vec<Action>) {
        if outcome == Outcome::Undone {
            self.let_linger();
        }
        self.forget_orders(actions);
        let Some(mut run) = self.run.take() else { return };
        let as_meant = outcome == Outcome::Done || (outcome == Outcome::Undone && run.op.step == Step::Reopen);
        if !as_meant && run.step_failed.is_none() {
            run.step_failed.clone_from(&run.because);
        }
        self.note_left_stopped(&run, now);
        super::telling::step_done(&self.config.name, &run, now, actions);
        let ending = super::telling::ending(&self.config, &mut run, outcome, now, actions);
        let automatic = matches!(run.op.trigger, Trigger::Verdict);
        if run.op.kind == Kind::Failover && !run.op.dry_run && (automatic || outcome == Outcome::Done) {
            self.cooldown_until = Some(now + self.config.cooldown);
        }
        if outcome != Outcome::Done && automatic && !run.op.dry_run {
            // Whatever keeps it from coming to its end, a hook say, is not asked ten times a second.
            let soon = now + BREATHER;
            self.cooldown_until = self.cooldown_until.max(Some(soon));
        }
        if let (Outcome::Failed, false, Some(wait_count)) = (outcome, run.op.promotion_began, run.op.acknowledged_by) {
            // It was fenced ever since that was proven, so it still is.
            self.proof = Some(Proof { wait_count, acknowledgers: run.op.acknowledgers.clone() });
        }
        self.spared = None;
        if let Some(mode) = self.mode_after.take() {
            self.config.failover = mode;
        }
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
