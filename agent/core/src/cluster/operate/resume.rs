//! An operation that an earlier run of the agent left unfinished.

use super::{Run, telling, want};
use crate::Mono;
use crate::cluster::Cluster;
use crate::cluster::event::Action;
use crate::operation::{Kind, Operation, Outcome, Step, Task};

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

    /// Writes the step down again and starts what belongs to it. A fence is taken before that.
    fn reenter(&mut self, step: Step, now: Mono, actions: &mut Vec<Action>) {
        if !matches!(step, Step::Open | Step::Repoint) {
            (self.open, self.spared) = (false, None);
        }
        let tasks = match step {
            Step::Undo => self.undoing(),
            Step::Open | Step::Repoint => self.following_all(),
            _ => Vec::new(),
        };
        self.enter(step, tasks, now, actions);
    }

    /// Nobody has answered yet since the agent started, so everybody is told.
    fn following_all(&self) -> Vec<super::Wanted> {
        let Some(op) = self.run.as_ref().map(|run| &run.op) else { return Vec::new() };
        let Some(source) = op.chosen else { return Vec::new() };
        let within = self.config.probe.timeout * 3;
        let trusted = |server| op.standings.contains_key(server) && *server != op.old;
        self.servers
            .keys()
            .filter(|server| **server != source && trusted(server))
            .map(|&server| want(Task::Follow { server, source, semi_sync: op.semi_sync }, within))
            .collect()
    }
}
