//! A datapath driven by hand, whichever it is: an order a line on stdin, an answer a line of JSON on stdout. Moments are
//! nanoseconds of CLOCK_MONOTONIC, so that other processes of the machine can compare them with their own.
//!
//! ```text
//! lead LISTENER=BACKEND …              one change: each listener leads to its backend
//! swap LISTENER A B EVERY_MS COUNT     moves one listener from one backend to the other and back, COUNT times
//! severed                              what has been severed since this was last asked
//! repair                               puts back what somebody took away
//! ```

use std::io::BufRead as _;
use std::net::SocketAddr;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use nix::time::{ClockId, clock_gettime};
use shunt_core::ClusterName;
use shunt_core::config::Snat;
use shunt_core::datapath::{Applied, Change, Datapath};
use shunt_core::mapping::{Admission, Leaving, Mapping, Route};

use crate::Outcome;

/// How often the agent calls a datapath's upkeep.
const UPKEEP: Duration = Duration::from_secs(1);

/// Carries out orders to the end of the input.
pub fn serve(datapath: &mut dyn Datapath) -> Outcome<()> {
    let (told, orders) = mpsc::channel();
    thread::spawn(move || std::io::stdin().lock().lines().try_for_each(|line| told.send(line)));
    let mut due = Instant::now() + UPKEEP;
    loop {
        match orders.recv_timeout(due.saturating_duration_since(Instant::now())) {
            Ok(line) => println!("{}", carried_out(datapath, &line?)?),
            Err(RecvTimeoutError::Timeout) => {
                datapath.upkeep()?;
                due = Instant::now() + UPKEEP;
            }
            Err(RecvTimeoutError::Disconnected) => break,
        }
    }
    datapath.purge()?;
    Ok(())
}

fn carried_out(datapath: &mut dyn Datapath, order: &str) -> Outcome<String> {
    let words: Vec<&str> = order.split_whitespace().collect();
    match words.as_slice() {
        ["lead", pairs @ ..] => lead(datapath, pairs),
        ["swap", listener, a, b, every, count] => {
            let backends = [a.parse()?, b.parse()?];
            let every = Duration::from_millis(every.parse()?);
            swap(datapath, listener.parse()?, backends, every, count.parse()?)
        }
        ["severed"] => Ok(severed(datapath)),
        ["repair"] => Ok(format!("{{\"repaired\":{}}}", datapath.reconcile()?.len())),
        _ => Err(format!("not an order: {order}").into()),
    }
}

fn lead(datapath: &mut dyn Datapath, pairs: &[&str]) -> Outcome<String> {
    let mut set = Vec::new();
    for pair in pairs {
        let (listener, backend) = pair.split_once('=').ok_or_else(|| format!("not LISTENER=BACKEND: {pair}"))?;
        set.push(mapping(listener.parse()?, backend.parse()?)?);
    }
    let done = Timed::apply(datapath, set)?;
    Ok(format!(
        "{{\"changed\":{},\"began_ns\":{},\"acknowledged_ns\":{},\"commit_ns\":{}}}",
        done.applied.changed,
        done.began,
        done.acknowledged,
        done.applied.commit.as_nanos()
    ))
}

fn swap(
    datapath: &mut dyn Datapath,
    listener: SocketAddr,
    backends: [SocketAddr; 2],
    every: Duration,
    count: u32,
) -> Outcome<String> {
    let (mut commits, mut calls) = (Vec::new(), Vec::new());
    let started = Instant::now();
    for (number, backend) in (1..=count).zip(backends.iter().cycle().skip(1)) {
        thread::sleep((started + every * number).saturating_duration_since(Instant::now()));
        let done = Timed::apply(datapath, vec![mapping(listener, *backend)?])?;
        commits.push(done.applied.commit);
        calls.push(Duration::from_nanos(done.acknowledged.abs_diff(done.began)));
    }
    let took = started.elapsed().as_nanos();
    let (commits, calls) = (quantiles(commits), quantiles(calls));
    Ok(format!("{{\"swaps\":{count},\"took_ns\":{took},\"commit\":{commits},\"call\":{calls}}}"))
}

fn quantiles(mut times: Vec<Duration>) -> String {
    times.sort();
    let at = |part: f64| times.get(((times.len() as f64 - 1.0) * part).round() as usize);
    let ns = |part| at(part).map_or(0, Duration::as_nanos);
    format!("{{\"median_ns\":{},\"p99_ns\":{},\"max_ns\":{}}}", ns(0.5), ns(0.99), ns(1.0))
}

fn severed(datapath: &mut dyn Datapath) -> String {
    let all: Vec<String> = datapath
        .severed()
        .iter()
        .map(|done| {
            format!(
                "{{\"listener\":\"{}\",\"backend\":\"{}\",\"flows\":{},\"unanswered\":{},\"took_ns\":{}}}",
                done.listener,
                done.backend,
                done.flows,
                done.unanswered,
                done.took.as_nanos()
            )
        })
        .collect();
    format!("{{\"severed\":[{}]}}", all.join(","))
}

struct Timed {
    applied: Applied,
    began: i64,
    /// When the datapath said that it is done: slightly later than the kernel's own word.
    acknowledged: i64,
}

impl Timed {
    fn apply(datapath: &mut dyn Datapath, set: Vec<Mapping>) -> Outcome<Self> {
        let change = Change { set, remove: Vec::new() };
        let began = now()?;
        let applied = datapath.apply(&change)?;
        Ok(Self { applied, began, acknowledged: now()? })
    }
}

fn now() -> Outcome<i64> {
    let time = clock_gettime(ClockId::CLOCK_MONOTONIC)?;
    Ok(time.tv_sec() * 1_000_000_000 + time.tv_nsec())
}

fn mapping(listener: SocketAddr, backend: SocketAddr) -> Outcome<Mapping> {
    Ok(Mapping {
        listener,
        cluster: ClusterName::new("bench")?,
        route: Route::Single(backend),
        snat: Snat::Masquerade,
        leaving: Leaving::Sever,
        admission: Admission::default(),
        lease: None,
        spared: None,
    })
}
