//! `shunt switchover` under load: what did each client wait for, and was anybody refused or cut off inside a transaction?
//!
//! - The longest wait is that of any connection attempt (TCP and login) or statement that overlaps the switchover; that of a
//!   session's first statement lasts from its first attempt to its answer, a new connection in between included.
//! - Refused: connection attempts that failed, whatever the reason.
//! - Aborted: transactions that had changed something and did not come to an acknowledged COMMIT. All of them are much
//!   shorter than the grace.
//! - Aborted when empty: BEGIN was acknowledged, and the next statement failed. MariaDB shows nobody that such a transaction
//!   has begun, so shunt takes the session to be idle; the application has to repeat BEGIN, and has lost no work.
//! - Reset while idle: sessions that were cut off between two transactions and found out at their next BEGIN. They connect
//!   again and repeat it, and nothing of the application is lost.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use shunt_tests::Load;
use shunt_tests::load::{Shape, Wait, What};

use super::breakdown::Breakdown;
use super::field::{CLUSTER, Field};
use crate::bench::quantile;
use crate::moment::Moment;

/// How long the load runs before and after: before, it shows what the machine makes it wait for anyway.
const SETTLE: Duration = Duration::from_secs(2);

/// One switchover.
pub struct Run {
    /// How long `shunt switchover` took, the last replica's repointing included.
    pub took_ms: f64,
    pub connect_ms: f64,
    pub statement_ms: f64,
    /// The longest wait of either kind in the time before, when nothing was done.
    pub before_ms: f64,
    pub refused: usize,
    pub aborted: usize,
    pub aborted_empty: usize,
    pub reset_idle: usize,
    /// What the clients did meanwhile.
    pub connections: usize,
    pub statements: usize,
    /// What refused and aborted clients were told.
    pub errors: Vec<String>,
    pub breakdown: Breakdown,
}

pub fn shape(sessions: usize) -> Shape {
    Shape {
        sessions,
        newcomers: 2,
        between: Duration::from_millis(5),
        rest: Duration::from_millis(200),
        patience: Duration::from_secs(10),
    }
}

pub fn run(field: &mut Field, shape: Shape) -> Result<Run> {
    field.mark()?;
    let load = Load::start(&field.client, field.listener(), field.flavour(), shape)?;
    shunt_tests::eventually("every session to work", Duration::from_secs(60), || {
        let begun = load.waits().iter().filter(|w| w.what == What::Inside && w.outcome.is_ok()).count();
        Ok((begun >= shape.sessions * 3).then_some(()))
    })
    .with_context(|| format!("{:?}", load.waits().iter().rev().find(|w| w.outcome.is_err())))?;
    let quiet = Instant::now();
    // Not a wait for anything: a measurement has a length.
    std::thread::sleep(SETTLE);
    let since = Moment::now();
    field.agent.shunt_ok(&["switchover", CLUSTER]).with_context(|| field.agent.log(40))?;
    let took = since.at.elapsed();
    let events = field.wait_ended()?;
    std::thread::sleep(SETTLE);
    let until = Instant::now();
    let waits = load.finish()?;
    ensure!(waits.iter().any(|w| w.began > since.at + took && w.outcome.is_ok()), "the load did not go on");
    let before: Vec<&Wait> = between(&waits, quiet, since.at).collect();
    let meanwhile: Vec<&Wait> = between(&waits, since.at, until).collect();
    let failed = |what: What| meanwhile.iter().filter(move |w| w.what == what && w.outcome.is_err());
    let count = |what: What| meanwhile.iter().filter(|w| w.what == what).count();
    let found = Run {
        took_ms: took.as_secs_f64() * 1000.0,
        connect_ms: longest(&meanwhile, |what| what == What::Connect),
        statement_ms: longest(&meanwhile, |what| what != What::Connect),
        before_ms: longest(&before, |_| true),
        refused: failed(What::Connect).count(),
        aborted: failed(What::Inside).count(),
        aborted_empty: failed(What::Second).count(),
        reset_idle: failed(What::First).count(),
        connections: count(What::Connect),
        statements: count(What::First) + count(What::Second) + count(What::Inside),
        errors: failed(What::Connect)
            .chain(failed(What::Second))
            .chain(failed(What::Inside))
            .filter_map(|w| w.outcome.clone().err())
            .collect(),
        breakdown: events.breakdown(since),
    };
    field.settle()?;
    Ok(found)
}

/// Waits that overlap that time.
fn between(waits: &[Wait], from: Instant, to: Instant) -> impl Iterator<Item = &Wait> {
    waits.iter().filter(move |w| w.ended > from && w.began < to)
}

fn longest(waits: &[&Wait], what: impl Fn(What) -> bool) -> f64 {
    let times: Vec<f64> =
        waits.iter().filter(|w| what(w.what)).map(|w| (w.ended - w.began).as_secs_f64() * 1000.0).collect();
    quantile(&times, 1.0)
}
