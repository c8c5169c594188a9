//! What only a planned change has: everything is examined first, sessions end one by one, and it can be taken back.

use std::net::SocketAddr;
use std::time::Duration;

use super::steps::run_mut;
use super::{AGAIN, Answer, Wanted, telling, want};
use crate::Mono;
use crate::cluster::Cluster;
use crate::cluster::event::Action;
use crate::cluster::health::{Evidence, Health};
use crate::config::ListenerRole;
use crate::operation::{Candidates, Kind, Outcome, Report, Standing, Step, Task, choose};

/// A server is fit for a switchover if it has no more to receive or apply than this many transactions.
const LAG: u64 = 10_000;
const UNDO: Duration = Duration::from_secs(5);
const FOLLOW: Duration = Duration::from_secs(10);

impl Cluster {
    /// Everything was examined: is there a way, and if it is not only asked for, the first step of it.
    pub(super) fn precheck(&mut self, now: Mono, actions: &mut Vec<Action>) -> bool {
        let Some(run) = &mut self.run else { return false };
        if !run.has_answers() {
            return false;
        }
        let mut unanswered = Vec::new();
        for Answer { task, result } in std::mem::take(&mut run.answers) {
            let Task::Examine { server } = task else { continue };
            match result {
                Ok(Report::Standing(standing)) => drop(run.op.standings.insert(server, *standing)),
                Ok(_) => {}
                Err(error) => unanswered.push((server, error.message)),
            }
        }
        let problems = self.problems(&unanswered);
        let Some(run) = &self.run else { return false };
        let (dry_run, kind) = (run.op.dry_run, run.op.kind);
        if dry_run {
            telling::plan(self, &problems, actions);
        }
        if !problems.is_empty() {
            run_mut(self, |run| run.because = Some(problems.join("; ")));
            self.finish(Outcome::Refused, now, actions);
        } else if dry_run {
            self.finish(Outcome::Done, now, actions);
        } else if kind == Kind::Switchover {
            telling::hidden_sessions(self, actions);
            self.enter(Step::Hold, Vec::new(), now, actions);
        } else {
            self.enter(Step::Fence, Vec::new(), now, actions);
        }
        true
    }

    /// What stands against it, each in a sentence. Notes who would be chosen.
    fn problems(&mut self, unanswered: &[(SocketAddr, String)]) -> Vec<String> {
        let Some(run) = &self.run else { return Vec::new() };
        let op = &run.op;
        let gone = self.evidence(op.old) != Evidence::Answers;
        let mut problems: Vec<_> = self.lock_bar(gone.then_some(op.old)).into_iter().collect();
        if let Some(stranger) = self.stranger(op.old) {
            problems.push(format!("{} is writable already: somebody else may be at work", self.label(stranger)));
        }
        let old = op.standings.get(&op.old);
        match old {
            Some(standing) => problems.extend(self.problems_of_old(op.kind, standing)),
            None if op.kind == Kind::Switchover => {
                let why = unanswered.iter().find(|(s, _)| *s == op.old).map(|(_, why)| why.clone());
                problems.push(format!("{}: {}", self.label(op.old), why.unwrap_or_default()));
            }
            None => {}
        }
        let old_executed = old.map(|standing| standing.executed.clone()).or_else(|| op.old_executed.clone());
        let choice = choose(Candidates {
            config: &self.config,
            standings: &op.standings,
            old: op.old,
            old_executed: old_executed.as_ref(),
            old_origin: &op.old_origin,
            excluded: &run.excluded,
            asked: op.asked,
        });
        match choice {
            Err(reasons) => problems.extend(reasons.into_iter().map(|(server, why)| {
                let answer = unanswered.iter().find(|(s, _)| *s == server).map(|(_, why)| why.clone());
                format!("{}: {}", self.label(server), answer.unwrap_or(why))
            })),
            Ok(choice) => {
                if let (Some(old), Some(standing)) = (old, op.standings.get(&choice.server)) {
                    problems.extend(self.problems_of_candidate(op.kind, choice.server, standing, old));
                }
                run_mut(self, |run| run.op.chosen = Some(choice.server));
            }
        }
        problems
    }

    fn problems_of_old(&self, kind: Kind, standing: &Standing) -> Vec<String> {
        let Some(op) = self.run.as_ref().map(|run| &run.op) else { return Vec::new() };
        let label = self.label(op.old);
        let mut problems: Vec<_> = standing.obstacles.iter().map(|obstacle| format!("{label}: {obstacle}")).collect();
        if kind == Kind::Switchover && standing.read_only {
            problems.push(format!("{label} is read-only, so it is not taking the writes that would be switched over"));
        }
        if standing.in_group {
            problems.push(format!("{label} is a member of a group, which chooses its primary by itself"));
        }
        problems
    }

    fn problems_of_candidate(
        &self,
        kind: Kind,
        server: SocketAddr,
        standing: &Standing,
        old: &Standing,
    ) -> Vec<String> {
        let label = self.label(server);
        let mut problems = Vec::new();
        let behind = old.executed.missing_from(&standing.executed);
        if kind == Kind::Switchover && !(standing.replication.receiving && standing.replication.applying) {
            problems.push(format!("{label} does not replicate: {}", replication_trouble(standing)));
        } else if kind == Kind::Switchover && behind.count > LAG {
            problems.push(format!("{label} is {} transactions behind; wait until it is closer", behind.count));
        }
        problems
    }

    pub(super) fn hold(&mut self, now: Mono, actions: &mut Vec<Action>) -> bool {
        if !self.is_in_force(now) {
            return false;
        }
        let Some(op) = self.run.as_ref().map(|run| &run.op) else { return false };
        let grace = Duration::from_millis(op.grace_ms);
        let task = Task::EndSessions { server: op.old, listeners: self.listeners_to_primary(), grace };
        self.enter(Step::Sessions, vec![want(task, grace + UNDO)], now, actions);
        true
    }

    /// The listeners that led to the primary: those of its role, and those of readers without a replica.
    fn listeners_to_primary(&self) -> Vec<SocketAddr> {
        let wanted = self.committed.as_ref().map(|plan| &plan.mappings);
        let spares = |address| {
            wanted.is_some_and(|mappings| mappings.iter().any(|m| m.listener == address && m.spared.is_some()))
        };
        self.config
            .listeners
            .iter()
            .filter(|l| l.role == ListenerRole::Primary || spares(l.address))
            .map(|l| l.address)
            .collect()
    }

    pub(super) fn sessions(&mut self, now: Mono, actions: &mut Vec<Action>) -> bool {
        let Some(run) = &mut self.run else { return false };
        let Some(answer) = run.answers.pop() else { return false };
        match answer.result {
            Ok(Report::Sessions(sessions)) => {
                telling::sessions(&self.config.name, &run.op, &sessions, actions);
                self.enter(Step::Fence, Vec::new(), now, actions);
            }
            Ok(_) => {}
            Err(error) => self.begin_undo(format!("the sessions could not be ended: {}", error.message), now, actions),
        }
        true
    }

    /// How long what is left to apply may take before a switchover is taken back.
    pub(super) fn switchover_patience(&self) -> Duration {
        let grace = self.run.as_ref().map_or(0, |run| run.op.grace_ms);
        Duration::from_millis(grace).max(Duration::from_secs(10))
    }

    /// Takes everything back. Only before a promotion began.
    pub(super) fn begin_undo(&mut self, why: String, now: Mono, actions: &mut Vec<Action>) {
        let Some(run) = &mut self.run else { return };
        if run.op.promotion_began {
            return;
        }
        (run.because, run.step_failed) = (Some(why.clone()), Some(why));
        self.forget_orders(actions);
        // What it asks of servers waits until the lock is known to be ours.
        self.enter(Step::Undo, Vec::new(), now, actions);
    }

    /// The old primary is to take writes again, as often as it takes; who received from it is sent back once, unless that fails.
    pub(super) fn undoing(&mut self) -> Vec<Wanted> {
        let Some(run) = &self.run else { return Vec::new() };
        let (source, semi_sync) = (run.op.old, run.op.semi_sync);
        let mut tasks = vec![want(Task::MakeWritable { server: source }, UNDO)];
        if run.revoked {
            let receivers: Vec<_> =
                self.receivers_before(source).filter(|server| !run.sent_back.contains(server)).collect();
            run_mut(self, |run| run.sent_back.extend(&receivers));
            let follow = |server| Wanted { aside: true, ..want(Task::Follow { server, source, semi_sync }, FOLLOW) };
            tasks.extend(receivers.into_iter().map(follow));
        }
        tasks
    }

    /// Somebody else who takes writes and has no source: whoever made it so, the old primary is not the primary any more.
    fn successor_of(&self, old: SocketAddr) -> Option<SocketAddr> {
        let view = self.view(Mono::ZERO);
        view.writable().find(|&server| server != old && !view.is_attached(server))
    }

    /// Who received from that server until it was told to stop.
    fn receivers_before(&self, source: SocketAddr) -> impl Iterator<Item = SocketAddr> {
        let view = self.view(Mono::ZERO);
        let receives = move |server: SocketAddr| {
            let state = view.servers.get(&server).and_then(Health::state);
            state.is_some_and(|state| state.channels.iter().any(|channel| view.is_source(channel, source)))
        };
        let trusted = move |server: &SocketAddr| !view.outcasts.contains_key(server) && receives(*server);
        view.answering().map(|(server, ..)| server).filter(move |server| *server != source && trusted(server))
    }

    pub(super) fn undo(&mut self, now: Mono, actions: &mut Vec<Action>) -> bool {
        let Some(run) = &mut self.run else { return false };
        if !run.has_answers() {
            return false;
        }
        let old = run.op.old;
        match run.answers.pop().map(|answer| answer.result) {
            Some(Ok(Report::Standing(standing))) if !standing.read_only => {
                if let Some(health) = self.servers.get_mut(&old) {
                    health.note_writable(now);
                }
                self.enter(Step::Reopen, Vec::new(), now, actions);
                true
            }
            Some(result) => {
                if self.evidence(old) == Evidence::Gone {
                    // What the verdict says about that comes next.
                    run_mut(self, |run| run.step_failed = Some("the old primary died on the way".to_owned()));
                    self.finish(Outcome::Failed, now, actions);
                    return true;
                }
                let why = result.err().map_or_else(|| "it is still read-only".to_owned(), |error| error.message);
                let label = self.label(old);
                self.note_stuck(format!("{label} could not be made writable again: {why}"), actions);
                run_mut(self, |run| run.rest(now + AGAIN));
                true
            }
            None => {
                if self.servers.keys().any(|&server| self.evidence(server) == Evidence::Unknown) {
                    run_mut(self, |run| run.rest(now + AGAIN));
                    return true;
                }
                if let Some(other) = self.successor_of(old) {
                    let why = format!("{} takes writes by now", self.label(other));
                    run_mut(self, |run| run.because = Some(why));
                    self.finish(Outcome::Failed, now, actions);
                    return true;
                }
                let tasks = self.undoing();
                self.start(tasks, now, actions);
                false
            }
        }
    }

    pub(super) fn reopened(&mut self, now: Mono, actions: &mut Vec<Action>) -> bool {
        if !self.is_in_force(now) {
            return false;
        }
        self.finish(Outcome::Undone, now, actions);
        true
    }
}

fn replication_trouble(standing: &Standing) -> String {
    let replication = &standing.replication;
    match (replication.receiving, replication.apply_error.is_empty()) {
        (_, false) => replication.apply_error.clone(),
        (false, true) => "its I/O thread is stopped".to_owned(),
        (true, true) => "its SQL thread is stopped".to_owned(),
    }
}

/// Kept here so that the plan's words and the steps' are changed together.
pub(super) fn plan_words(step: Step, old: &str, new: &str, grace: Duration, hidden: bool) -> String {
    match step {
        Step::Precheck => {
            "examine every server: what it has, whether it replicates, what the agent may do there".to_owned()
        }
        Step::Hold => format!("hold new connections; those to {old} go on"),
        Step::Sessions if hidden => {
            format!(
                "end the sessions on {old}: which of them are inside a transaction cannot be seen there, so each gets \
                 {grace:?} to end by itself"
            )
        }
        Step::Sessions => {
            format!("end the sessions on {old}: idle ones at once, those inside a transaction within {grace:?}")
        }
        Step::Fence => format!("let no packet through to {old} any more"),
        Step::Disarm => format!("make {old} read-only and end what is left on it"),
        Step::CatchUp => format!("let {new} receive what others have"),
        Step::Drain => format!("wait until {new} has applied everything"),
        Step::Salvage => format!("fetch what {new} lacks from {old}"),
        Step::Recheck => format!("look whether {old} is still read-only"),
        Step::Promote => format!("reset replication on {new} and make it writable"),
        Step::Open => format!("lead the listeners to {new} and let held connections through"),
        Step::Repoint => format!("make the others replicas of {new}"),
        Step::Undo => format!("make {old} writable again"),
        Step::Reopen => format!("lead the listeners to {old} again"),
    }
}
