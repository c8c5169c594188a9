//! A primary dies, or its link does: how long could a client that writes every few milliseconds not write?

use std::io::Read as _;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow};
use shunt_tests::client::{Attempt, Pace};
use shunt_tests::ports::connect;

use super::breakdown::Breakdown;
use super::field::{Field, Return};
use crate::moment::Moment;

/// The client: a write every 5 ms, and after any error at once a new connection.
pub const PACE: Pace = Pace {
    every: Duration::from_millis(5),
    connect: Duration::from_millis(250),
    write: Duration::from_secs(1),
    anew: false,
};

const PATIENCE: Duration = Duration::from_secs(60);

/// How long the client writes before the primary dies.
const SETTLE: Duration = Duration::from_millis(500);

/// What the primary dies of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Death {
    Kill,
    Cut,
}

/// One failover. Milliseconds since the signal, or since the link went down.
pub struct Run {
    /// From the last write acknowledged before to the first acknowledged after.
    pub outage_ms: f64,
    /// When the kernel closed a connection that a client had straight to the killed server: it frees a process's memory
    /// before its sockets, and nobody can know of the death sooner.
    pub closed_ms: Option<f64>,
    /// The verdict.
    pub dead_ms: Option<f64>,
    pub first_write_ms: f64,
    pub breakdown: Breakdown,
    pub returned: Return,
}

pub fn run(field: &mut Field, death: Death) -> Result<Run> {
    field.mark()?;
    let old = field.primary;
    let writer = field.write("write", PACE)?;
    // Not a wait for anything: the client writes for a while before it is measured.
    std::thread::sleep(SETTLE);
    let witness = if death == Death::Kill { Some(Witness::connect(field, old)?) } else { None };
    let since = Moment::now();
    match death {
        Death::Kill => field.cluster.server(old).kill()?,
        Death::Cut => field.cluster.server(old).host().link_down()?,
    }
    let events = field.wait_ended()?;
    let after = Instant::now();
    writer.wait_for_write_within(after, PATIENCE)?;
    let closed_ms = witness.map(Witness::closed).transpose()?.map(|at| since.ms_to(at));
    let attempts = writer.finish()?;
    let (last, first) = gap(&attempts, since.at).context("the client saw no outage at all")?;
    let mut breakdown = events.breakdown(since);
    let first_write_ms = since.ms_to(first);
    breakdown.moments.push(("first write".to_owned(), first_write_ms));
    let dead_ms = events.verdict(since, "dead");
    match death {
        Death::Kill => field.cluster.server(old).restart()?,
        Death::Cut => field.cluster.server(old).host().link_up()?,
    }
    let returned = field.restore(old)?;
    let outage_ms = (first - last).as_secs_f64() * 1000.0;
    Ok(Run { outage_ms, closed_ms, dead_ms, first_write_ms, breakdown, returned })
}

/// The longest time between two acknowledgements of which the second came after that moment.
pub fn gap(attempts: &[Attempt], moment: Instant) -> Option<(Instant, Instant)> {
    let acknowledged: Vec<Instant> = attempts.iter().filter(|a| a.outcome.is_ok()).map(|a| a.ended).collect();
    let gaps = acknowledged.windows(2).map(|pair| (pair[0], pair[1])).filter(|(_, end)| *end > moment);
    gaps.max_by_key(|(start, end)| *end - *start)
}

/// A connection straight to the primary that only waits for its end.
struct Witness(JoinHandle<Instant>);

impl Witness {
    fn connect(field: &Field, server: usize) -> Result<Self> {
        let mut stream = connect(&field.client, field.address(server), PATIENCE)?;
        let mut buffer = [0; 4096];
        // Its greeting: from now on the connection is the server's, not the listening socket's.
        let _ = stream.read(&mut buffer).context("the primary does not greet")?;
        Ok(Self(std::thread::spawn(move || {
            while stream.read(&mut buffer).is_ok_and(|n| n > 0) {}
            Instant::now()
        })))
    }

    fn closed(self) -> Result<Instant> {
        self.0.join().map_err(|_| anyhow!("the witness panicked"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_outage_lies_between_two_acknowledgements_whatever_failed_in_it() {
        let start = Instant::now();
        let at = |ms: u64| start + Duration::from_millis(ms);
        let attempt = |ms: u64, good: bool| Attempt {
            began: at(ms),
            ended: at(ms + 1),
            outcome: if good { Ok(String::new()) } else { Err(String::new()) },
        };
        let all = [attempt(0, true), attempt(90, true), attempt(100, false), attempt(120, true), attempt(125, true)];
        assert_eq!(gap(&all, at(95)), Some((at(91), at(121))));
        assert_eq!(gap(&all, at(200)), None);
    }
}
