//! An operator takes back what is under way. Only before a promotion began: from then on there would be two primaries.

use super::steps::run_mut;
use super::{Journal, Refusal};
use crate::Mono;
use crate::cluster::event::{Action, Pause};
use crate::cluster::health::Evidence;
use crate::cluster::{Cluster, record};
use crate::config::FailoverMode;
use crate::operation::{Outcome, Step, Trigger};

impl Cluster {
    /// Why nothing can be aborted; `None`: it can.
    pub fn abort_refusal(&self) -> Option<Refusal> {
        let name = &self.config.name;
        let Some(run) = &self.run else {
            let refusal = Refusal::rule(format!("nothing is under way in {name}, so there is nothing to take back"));
            return self.sealed.is_none().then(|| refusal.hint(format!("`shunt events {name}` tells what was")));
        };
        let what = format!("{} {}", run.op.kind.word(), run.op.id);
        if run.op.promotion_began {
            let new = run.op.chosen.map_or_else(|| "the next primary".to_owned(), |chosen| self.label(chosen));
            let why = format!(
                "the promotion of {new} has begun, and to lead to {} again could make two primaries",
                self.label(run.op.old)
            );
            return Some(
                Refusal::rule(format!("{what} of {name} can only go on: {why}"))
                    .hint(format!("`shunt events -f {name}` shows how it goes on, and what it waits for")),
            );
        }
        // What cannot be taken back may be given up.
        let waits_for_old = run.op.step == Step::Undo && run.journal == Journal::Written && run.stuck.is_some();
        (matches!(run.op.step, Step::Undo | Step::Reopen) && !waits_for_old).then(|| {
            Refusal::rule(format!("{what} of {name} is being taken back already: step {}", run.op.step))
                .hint(format!("`shunt events -f {name}` shows how it goes on"))
        })
    }

    /// Whether a verdict could begin the next failover as soon as this one is aborted, so that the cluster is paused with it.
    pub fn pauses_on_abort(&self) -> bool {
        let would_begin_anew = match &self.run {
            Some(run) if run.op.dry_run => false,
            Some(run) => run.op.trigger == Trigger::Verdict || self.evidence(run.op.old) != Evidence::Answers,
            // Who began it cannot be read.
            None => self.sealed.is_some(),
        };
        let lasting = self.pause.as_ref().is_some_and(|pause| pause.until.is_none());
        would_begin_anew && !lasting && self.mode_after.unwrap_or(self.config.failover) == FailoverMode::Promote
    }

    /// Whether the journal has an operation that nobody can read.
    pub const fn is_sealed(&self) -> bool {
        self.sealed.is_some()
    }

    /// Takes it back if the old primary can be reached; if not, the fence stays and nobody is promoted.
    pub(in crate::cluster) fn abort(&mut self, by: &str, now: Mono, actions: &mut Vec<Action>) {
        if let Some(refusal) = self.abort_refusal() {
            actions.push(record("refused", format!("abort refused: {}", refusal.error)));
            return;
        }
        let why = format!("aborted by {by}");
        if self.pauses_on_abort() {
            actions.push(record("paused", format!("no automatic change any more: {why}")));
            self.pause = Some(Pause { until: None, reason: why.clone() });
        }
        let Some(op) = self.run.as_ref().map(|run| &run.op) else {
            self.sealed = None;
            actions.push(record("unsealed", format!("the operation that cannot be read is over: {why}")));
            return;
        };
        let (old, step) = (op.old, op.step);
        // One that was made read-only meanwhile, or is being read, is slow rather than gone.
        let has_answered = op.disarmed.is_some() || step == Step::Salvage;
        let is_gone = self.evidence(old) == Evidence::Gone && !has_answered;
        run_mut(self, |run| run.because = Some(why.clone()));
        match step {
            Step::Precheck => self.finish(Outcome::Undone, now, actions),
            // A second time: it cannot be made writable, so the fence stays until the verdict, or a pin, says otherwise.
            Step::Undo => self.finish(Outcome::Failed, now, actions),
            _ if is_gone => self.finish(Outcome::Failed, now, actions),
            // No server was asked for anything yet, and sessions still go on.
            Step::Hold | Step::Sessions if self.view(now).writable().eq([old]) => {
                self.forget_orders(actions);
                run_mut(self, |run| run.step_failed = Some(why));
                self.enter(Step::Reopen, Vec::new(), now, actions);
            }
            _ => self.begin_undo(why, now, actions),
        }
    }
}
