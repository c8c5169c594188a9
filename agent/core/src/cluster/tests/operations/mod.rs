//! Every step of an operation × whatever may happen there. The tables in [`failover`] and [`switchover`] are the
//! specification: each row is an event at a step, what the machine does at once, and how the operation ends when from there
//! on everybody does as told.

mod aborting;
mod bench;
mod ending;
mod events;
mod failover;
mod overtaken;
mod readiness;
mod refusals;
mod returning;
mod servers;
mod switchover;

use std::net::SocketAddr;

use bench::{Bench, SERVERS, number};
use events::{EVENTS, Happened, bring};

use super::db;
use crate::mapping::Route;
use crate::operation::{Kind, Step, Task};

/// After so many rounds of probes, a tenth of a second each, an operation that still waits is stuck.
const ROUNDS: usize = 80;
/// After so many rounds in which nothing is under way nothing will be.
const QUIET: usize = 8;

/// The rows of an operation's steps.
fn table(kind: Kind, steps: &[Step]) -> String {
    let mut lines = Vec::new();
    for &step in steps {
        lines.push(format!("-- {step}"));
        for (event, happen) in EVENTS {
            lines.push(row(kind, step, event, happen));
        }
    }
    lines.join("\n")
}

fn row(kind: Kind, step: Step, event: &str, happen: fn(&mut Bench) -> Happened) -> String {
    let mut bench = bring(kind, step, event != "not written");
    bench.asked.clear();
    let before = format!("{:?}", bench.machine);
    if happen(&mut bench) == Happened::CannotBe {
        return format!("{event:<20}| -");
    }
    if event.starts_with("stale") {
        assert_eq!(format!("{:?}", bench.machine), before, "{event} at {step} changes something");
        assert!(bench.asked.is_empty() && bench.writing.is_none(), "{event} at {step} begins something");
    }
    // The journal takes what it is given; the kernel and the servers have not answered yet.
    for _ in 0..10 {
        bench.write();
    }
    let now = state(&bench);
    let asked = asks(&bench.asked);
    settle(&mut bench);
    assert_eq!(bench.broken, Vec::<String>::new(), "{} at {step}, {event}", kind.word());
    format!("{event:<20}| {now:<27}| {asked:<47}| {}", end(&bench))
}

/// The step or the ending, and where the listeners lead.
fn state(bench: &Bench) -> String {
    let stuck = if bench.is_stuck() { " stuck" } else { "" };
    let step = match (bench.step(), bench.endings.last()) {
        (Some(step), _) => format!("{step}{stuck}"),
        (None, Some(outcome)) => outcome.word().to_owned(),
        (None, None) => "nothing".to_owned(),
    };
    format!("{step}, {}", listeners(bench))
}

fn listeners(bench: &Bench) -> String {
    let mapping = bench.writer();
    match (&mapping.route, mapping.spared) {
        (Route::Single(to), _) => label(*to),
        (Route::Refuse, _) => "lapsed".to_owned(),
        (_, Some(spared)) => format!("fence but {}", label(spared)),
        (_, None) => "fence".to_owned(),
    }
}

fn label(server: SocketAddr) -> String {
    format!("db{}", number(server))
}

/// The tasks that were started, those of one sort together.
fn asks(tasks: &[Task]) -> String {
    let mut sorts: Vec<(String, String)> = Vec::new();
    for task in tasks {
        let sort = match task {
            Task::CatchUp { source, .. } | Task::Follow { source, .. } => {
                format!("{} to {}", task.word(), label(*source))
            }
            _ => task.word().to_owned(),
        };
        let server = task.server().map(|s| number(s).to_string()).unwrap_or_default();
        match sorts.iter_mut().find(|(s, _)| *s == sort) {
            Some((_, servers)) if servers.contains(&server) => {}
            Some((_, servers)) => servers.push_str(&server),
            None => sorts.push((sort, server)),
        }
    }
    sorts.into_iter().map(|(sort, servers)| format!("{sort}: {servers}")).collect::<Vec<_>>().join("; ")
}

/// Everybody does as told, until nothing happens any more.
fn settle(bench: &mut Bench) {
    let mut quiet = 0;
    for _ in 0..ROUNDS {
        bench.round();
        let idle = bench.step().is_none() && bench.orders.is_empty() && bench.machine.returning.is_empty();
        quiet = if idle { quiet + 1 } else { 0 };
        if quiet == QUIET {
            return;
        }
    }
}

/// How it ended, where the listeners lead, and what is amiss.
fn end(bench: &Bench) -> String {
    let mut parts: Vec<_> = bench.endings.iter().map(|outcome| outcome.word().to_owned()).collect();
    if let Some(step) = bench.step() {
        parts.push(format!("{} at {step}", if bench.is_stuck() { "stuck" } else { "still" }));
    }
    let mut end = format!("{} → {}", parts.join(", "), listeners(bench));
    let writable: Vec<_> = (1..=SERVERS).map(db).filter(|s| bench.fakes[s].writable).collect();
    let dead = |s: &SocketAddr| bench.fakes[s].fails.is_some();
    let others: Vec<_> = writable.into_iter().filter(|s| Some(*s) != bench.leads_to() && !dead(s)).map(label).collect();
    if !others.is_empty() {
        end.push_str(&format!(", writable {}", others.join(" ")));
    }
    for outcast in &bench.outcasts {
        let what = if outcast.quarantine.is_some() { "quarantined" } else { "cast out" };
        end.push_str(&format!(", {} {what}", label(outcast.server)));
    }
    if bench.machine.barred.is_some() {
        end.push_str(", barred");
    }
    end
}

/// Says where the two differ, line by line, and then all that was found.
fn compare(found: &str, expected: &str) {
    let (found, expected): (Vec<_>, Vec<_>) = (
        found.lines().map(str::trim_end).collect(),
        expected.trim().lines().map(str::trim_end).filter(|line| !line.starts_with("//")).collect(),
    );
    if found == expected {
        return;
    }
    let mut step = "";
    let mut difference = String::new();
    for n in 0..found.len().max(expected.len()) {
        let (new, old) = (found.get(n).copied().unwrap_or(""), expected.get(n).copied().unwrap_or(""));
        step = if new.starts_with("--") { new } else { step };
        if new != old {
            difference.push_str(&format!("{step}\n- {old}\n+ {new}\n"));
        }
    }
    panic!("the machine does not do what the table says:\n{difference}\nall of it:\n{}\n", found.join("\n"));
}

#[test]
fn no_rule_is_broken_by_the_bench_when_nothing_goes_wrong() {
    for kind in [Kind::Failover, Kind::Switchover] {
        let mut bench = bring(kind, Step::Fence, true);
        settle(&mut bench);
        assert_eq!(bench.broken, Vec::<String>::new());
        assert_eq!(bench.leads_to(), Some(db(2)), "{:?}", bench.told("stuck"));
    }
}
