//! Operations in history and in notices.

use std::net::SocketAddr;
use std::time::Duration;

use super::planned::plan_words;
use super::{Pending, Run};
use crate::cluster::Cluster;
use crate::cluster::event::{Action, Entry};
use crate::config::ClusterConfig;
use crate::operation::{Ending, Kind, Notice, Operation, Outcome, Report, Sessions, Step, TaskError};
use crate::{ClusterName, Mono};

type Data = Vec<(&'static str, String)>;

fn of(op: &Operation, mut more: Data) -> Data {
    let mut data = vec![("op", op.id.to_string()), ("kind", op.kind.word().to_owned())];
    data.append(&mut more);
    data
}

fn entry(kind: &'static str, message: String, data: Data) -> Action {
    Action::Record(Entry { kind, message, data })
}

fn ms(time: Duration) -> String {
    time.as_millis().to_string()
}

pub(super) fn notice(cluster: &ClusterName, op: &Operation, event: &str) -> Notice {
    Notice {
        cluster: cluster.to_string(),
        event: event.to_owned(),
        old: Some(op.old),
        new: op.chosen,
        epoch: op.epoch.next().0,
        op: format!("{cluster}/{}", op.id),
        reason: op.reason.clone(),
    }
}

pub(super) fn began(cluster: &ClusterName, op: &Operation, actions: &mut Vec<Action>) {
    let message = format!("{} {} begins: {}", op.kind.word(), op.id, op.reason);
    let data =
        of(op, vec![("state", "begun".to_owned()), ("old", op.old.to_string()), ("epoch", op.epoch.to_string())]);
    actions.push(entry("operation", message, data));
    if !op.dry_run {
        actions.push(Action::Notify(notice(cluster, op, &format!("{}_started", op.kind.word()))));
    }
}

pub(super) fn resumed(cluster: &ClusterName, op: &Operation, actions: &mut Vec<Action>) {
    let message = format!("{} {} of {cluster} was at step {} when the agent ended", op.kind.word(), op.id, op.step);
    actions.push(entry(
        "operation",
        message,
        of(op, vec![("state", "resumed".to_owned()), ("step", op.step.to_string())]),
    ));
}

pub(super) fn step_begun(_: &ClusterName, op: &Operation, actions: &mut Vec<Action>) {
    let data = of(op, vec![("step", op.step.to_string()), ("state", "begun".to_owned())]);
    actions.push(entry("step", format!("{} begins", op.step), data));
}

pub(super) fn step_done(_: &ClusterName, run: &Run, now: Mono, actions: &mut Vec<Action>) {
    if run.op.serial == 0 {
        return;
    }
    let took = now.since(run.step_since);
    let state = if run.step_failed.is_some() { "failed" } else { "done" };
    let mut data = vec![("step", run.op.step.to_string()), ("state", state.to_owned()), ("took_ms", ms(took))];
    if let Some(chosen) = run.op.chosen {
        data.push(("server", chosen.to_string()));
    }
    let mut message = format!("{} is over after {} ms", run.op.step, took.as_millis());
    if let Some(why) = &run.step_failed {
        message = format!("{} failed after {} ms: {why}", run.op.step, took.as_millis());
        data.push(("reason", why.clone()));
    }
    actions.push(entry("step", message, of(&run.op, data)));
}

pub(super) fn task(
    _: &ClusterName,
    op: &Operation,
    pending: &Pending,
    result: &Result<Report, TaskError>,
    now: Mono,
    actions: &mut Vec<Action>,
) {
    let took = now.since(pending.since);
    let what = pending.task.word();
    let server = pending.task.server().map(|server| server.to_string()).unwrap_or_default();
    let whose = format!("{what} {server}").trim_end().to_owned();
    let (state, message) = match result {
        Ok(_) => ("done", format!("{whose}: done in {} ms", took.as_millis())),
        Err(error) => ("failed", format!("{whose}: {}", error.message)),
    };
    let data = vec![
        ("task", what.to_owned()),
        ("server", server),
        ("step", op.step.to_string()),
        ("state", state.to_owned()),
        ("took_ms", ms(took)),
    ];
    actions.push(entry("task", message, of(op, data)));
}

pub(super) fn stuck(cluster: &ClusterName, op: &Operation, why: &str, actions: &mut Vec<Action>) {
    let data = of(op, vec![("step", op.step.to_string())]);
    actions.push(entry("stuck", format!("{} {} waits: {why}", op.kind.word(), op.id), data));
    let reason = why.to_owned();
    actions.push(Action::Notify(Notice { reason, ..notice(cluster, op, &format!("{}_stuck", op.kind.word())) }));
}

pub(super) fn sessions(_: &ClusterName, op: &Operation, sessions: &Sessions, actions: &mut Vec<Action>) {
    let Sessions { idle, finished, cut, blind } = sessions;
    let unseen = if *blind { "; transactions could not be seen, so every session counted as busy" } else { "" };
    let message = format!(
        "sessions ended: {idle} idle, {finished} after their transaction, {cut} inside one when the grace was over{unseen}"
    );
    let data = vec![("idle", idle.to_string()), ("finished", finished.to_string()), ("cut", cut.to_string())];
    actions.push(entry("sessions", message, of(op, data)));
}

/// Said before anybody is held: clients will wait longer than they would have to.
pub(super) fn hidden_sessions(cluster: &Cluster, actions: &mut Vec<Action>) {
    let Some(op) = cluster.run.as_ref().map(|run| &run.op).filter(|op| hides_sessions(op)) else { return };
    let message = format!(
        "which sessions are inside a transaction cannot be seen on {}: each counts as busy and gets {} ms to end by itself",
        cluster.label(op.old),
        op.grace_ms
    );
    actions.push(entry("sessions_hidden", message, of(op, Vec::new())));
}

fn hides_sessions(op: &Operation) -> bool {
    op.standings.get(&op.old).is_some_and(|standing| standing.shows_sessions == Some(false))
}

/// How it ended: for the history, for whoever is to be told, and for the journal.
pub(super) fn ending(
    config: &ClusterConfig,
    run: &mut Run,
    outcome: Outcome,
    now: Mono,
    actions: &mut Vec<Action>,
) -> Ending {
    let label = |address: SocketAddr| {
        config.servers.iter().find(|s| s.address == address).map_or_else(|| address.to_string(), |s| s.label.clone())
    };
    let op = &run.op;
    let took = now.since(run.began_at);
    let because = run.because.take().unwrap_or_default();
    let old = label(op.old);
    let message = match outcome {
        Outcome::Done if op.dry_run => "nothing stands against it; nothing was changed".to_owned(),
        Outcome::Done => {
            let mut message =
                format!("{old} → {} in {} ms", op.chosen.map(label).unwrap_or_default(), took.as_millis());
            if let Some(salvaged) = &op.salvaged {
                message.push_str(&format!("; {} transactions are kept in {}", salvaged.transactions, salvaged.file));
            }
            for (server, why) in &op.left_out {
                message.push_str(&format!("; {} does not follow yet: {why}", label(*server)));
            }
            message
        }
        Outcome::Refused => format!("nothing was changed: {because}"),
        Outcome::Undone => format!("taken back, {old} goes on as before: {because}"),
        Outcome::Failed => format!("it came to nothing, and nothing could be taken back: {because}"),
    };
    let mut data = vec![
        ("state", "ended".to_owned()),
        ("outcome", outcome.word().to_owned()),
        ("took_ms", ms(took)),
        ("old", op.old.to_string()),
        ("epoch", op.epoch.next().to_string()),
    ];
    if let Some(chosen) = op.chosen {
        data.push(("new", chosen.to_string()));
    }
    actions.push(entry(
        "operation",
        format!("{} {} {}: {message}", op.kind.word(), op.id, outcome.word()),
        of(op, data),
    ));
    if !op.dry_run {
        let event = format!("{}_{}", op.kind.word(), outcome.word());
        actions.push(Action::Notify(Notice { reason: message.clone(), ..notice(&config.name, op, &event) }));
    }
    Ending { outcome, message }
}

/// What a dry run says: what stands against it, then each step that would be taken.
pub(super) fn plan(cluster: &Cluster, problems: &[String], actions: &mut Vec<Action>) {
    let Some(op) = cluster.run.as_ref().map(|run| &run.op) else { return };
    let old = cluster.label(op.old);
    let new = op.chosen.map_or_else(|| "the new primary".to_owned(), |chosen| cluster.label(chosen));
    let steps: &[Step] = match op.kind {
        Kind::Switchover => &[
            Step::Precheck,
            Step::Hold,
            Step::Sessions,
            Step::Fence,
            Step::Disarm,
            Step::Drain,
            Step::Recheck,
            Step::Promote,
            Step::Open,
            Step::Repoint,
        ],
        Kind::Failover => &[
            Step::Precheck,
            Step::Fence,
            Step::Disarm,
            Step::CatchUp,
            Step::Drain,
            Step::Salvage,
            Step::Recheck,
            Step::Promote,
            Step::Open,
            Step::Repoint,
        ],
    };
    for problem in problems {
        let data = vec![("step", Step::Precheck.to_string()), ("ok", "false".to_owned())];
        actions.push(entry("plan", problem.clone(), of(op, data)));
    }
    for &step in steps.iter().filter(|step| **step != Step::Precheck || problems.is_empty()) {
        let words = plan_words(step, &old, &new, Duration::from_millis(op.grace_ms), hides_sessions(op));
        let data = vec![("step", step.to_string()), ("ok", true.to_string())];
        actions.push(entry("plan", words, of(op, data)));
    }
}

fn about(cluster: &Cluster, server: SocketAddr, event: &str, reason: String) -> Notice {
    Notice {
        cluster: cluster.config.name.to_string(),
        event: event.to_owned(),
        old: Some(server),
        new: cluster.primary,
        epoch: cluster.epoch.0,
        op: String::new(),
        reason,
    }
}

pub(super) fn rejoined(cluster: &Cluster, server: SocketAddr, message: String, actions: &mut Vec<Action>) {
    actions.push(entry("rejoined", message.clone(), vec![("server", server.to_string())]));
    actions.push(Action::Notify(about(cluster, server, "rejoined", message)));
}

pub(super) fn restored(server: SocketAddr, message: String, actions: &mut Vec<Action>) {
    actions.push(entry("restored", message, vec![("server", server.to_string())]));
}

pub(super) fn quarantined(cluster: &Cluster, server: SocketAddr, message: String, actions: &mut Vec<Action>) {
    actions.push(entry("quarantined", message.clone(), vec![("server", server.to_string())]));
    actions.push(Action::Notify(about(cluster, server, "quarantined", message)));
}
