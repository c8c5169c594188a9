//! An operation that an earlier run of the agent left unfinished.

use std::collections::BTreeSet;

use super::{Run, telling};
use crate::Mono;
use crate::cluster::Cluster;
use crate::cluster::event::Action;
use crate::operation::{Kind, Operation, Outcome, Step};

impl Cluster {
    /// Goes on with it, or takes it back, or stays fenced: whatever was under way may have been done or not.
    pub(in crate::cluster) fn resume_operation(&mut self, op: Operation, now: Mono, actions: &mut Vec<Action>) {
        let opened = self.epoch > op.epoch;
        let stale = self.epoch > op.epoch.next() || (opened && self.primary != op.chosen);
        let mut run = Run::new(op, now);
        if stale {
            run.because = Some("an epoch that is newer than it was written down since".to_owned());
            self.run = Some(run);
            self.finish(Outcome::Failed, now, actions);
            return;
        }
        telling::resumed(&self.config.name, &run.op, actions);
        // Whether they were told to stop receiving before the agent ended is not known.
        run.revoked = run.op.kind == Kind::Failover;
        // The kernel led to the old primary: what was proven when the step was written down may be so no more.
        if self.open {
            (run.op.acknowledged_by, run.op.acknowledgers) = (None, BTreeSet::new());
        }
        let (step, kind, began) = (run.op.step, run.op.kind, run.op.promotion_began);
        for &suspect in &run.op.suspects {
            if Some(suspect) != run.op.chosen {
                let outcast = crate::operation::Outcast { server: suspect, epoch: run.op.epoch, quarantine: None };
                self.outcasts.entry(suspect).or_insert(outcast);
            }
        }
        self.run = Some(run);
        match step {
            Step::Precheck => {
                if let Some(run) = &mut self.run {
                    run.because = Some("the agent was restarted before anything was changed".to_owned());
                }
                self.finish(Outcome::Undone, now, actions);
            }
            Step::Repoint => {
                self.reenter(Step::Repoint, now, actions);
            }
            Step::Open => self.reenter(Step::Open, now, actions),
            Step::Promote => self.reenter(Step::Promote, now, actions),
            Step::Reopen | Step::Undo => {
                if let Some(run) = &mut self.run {
                    run.because = Some("it was being taken back when the agent was restarted".to_owned());
                }
                self.reenter(Step::Undo, now, actions);
            }
            _ if kind == Kind::Switchover && !began => {
                if let Some(run) = &mut self.run {
                    run.because = Some("the agent was restarted in the middle".to_owned());
                }
                self.reenter(Step::Undo, now, actions);
            }
            Step::Hold
            | Step::Sessions
            | Step::Fence
            | Step::Disarm
            | Step::CatchUp
            | Step::Drain
            | Step::Salvage
            | Step::Recheck => self.reenter(Step::Fence, now, actions),
        }
    }

    /// Writes the step down again. A fence is taken before that; what the step asks of servers waits until they have answered
    /// and the lock is ours.
    fn reenter(&mut self, step: Step, now: Mono, actions: &mut Vec<Action>) {
        if matches!(step, Step::Open | Step::Repoint) {
            // What the old primary has taken since is not known: it is compared before it follows.
            super::steps::run_mut(self, |run| run.op.disarmed = None);
        } else {
            (self.open, self.spared) = (false, None);
        }
        self.enter(step, Vec::new(), now, actions);
    }
}
