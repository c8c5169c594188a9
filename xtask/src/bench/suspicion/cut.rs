//! One link that goes down without a word, under traffic, and everything that follows until the clients write again.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use serde_json::{Value, json};
use shunt_tests::client::{Attempt, Pace};

use super::Traffic;
use crate::bench::failover::field::{Field, Return};
use crate::bench::failover::outage::gap;
use crate::moment::Moment;

/// How many clients write at once, and how often each does, if it need not wait for its answer.
pub const CLIENTS: usize = 4;
pub const EVERY: Duration = Duration::from_millis(8);

/// Whoever gives up a connection attempt sooner than the kernel sends its SYN again sees the shorter outage.
const CONNECT: Duration = Duration::from_millis(250);

const PATIENCE: Duration = Duration::from_secs(60);

/// How long the clients write before the cut. What is suspected meanwhile is suspected wrongly.
const SETTLE: Duration = Duration::from_secs(1);

/// Milliseconds since the link went down.
pub struct Run {
    /// Taking it down was over: on a busy machine that takes its time, and the loss was later than the moment counted from.
    pub cut_ms: f64,
    /// The history has it that traffic made the primary suspect.
    pub suspected_ms: Option<f64>,
    /// Why, and since when its host was silent, by the datapath's own account.
    pub message: Option<String>,
    pub awaited_ms: Option<f64>,
    /// The verdicts, which are the probes'.
    pub suspect_ms: Option<f64>,
    pub dead_ms: Option<f64>,
    /// The first acknowledged write of any client after the outage.
    pub first_write_ms: f64,
    /// Suspicions before the cut, in words.
    pub wrongly: Vec<String>,
    returned: Return,
}

pub fn run(field: &mut Field, traffic: Traffic) -> Result<Run> {
    field.mark()?;
    let old = field.primary;
    let address = field.address(old).to_string();
    let pace =
        Pace { every: EVERY, connect: CONNECT, write: Duration::from_secs(1), anew: traffic == Traffic::Connections };
    let writers = (0..CLIENTS).map(|n| field.write(&format!("client {n}"), pace)).collect::<Result<Vec<_>>>()?;
    // Not a wait for anything: the clients write for a while before they are measured.
    std::thread::sleep(SETTLE);
    let since = Moment::now();
    field.cluster.server(old).host().link_down()?;
    let cut_ms = since.ms_to(Instant::now());
    let events = field.wait_ended()?;
    let after = Instant::now();
    for writer in &writers {
        writer.wait_for_write_within(after, PATIENCE)?;
    }
    let mut attempts: Vec<Attempt> = Vec::new();
    for writer in writers {
        attempts.extend(writer.finish()?);
    }
    attempts.sort_by_key(|attempt| attempt.ended);
    let (_, first) = gap(&attempts, since.at).context("the clients saw no outage at all")?;
    field.cluster.server(old).host().link_up()?;
    let returned = field.restore(old)?;

    let told: Vec<&Value> = events.0.iter().filter(|event| event["kind"] == "suspected").collect();
    // The history's milliseconds are whole ones: one of the cut's own may seem to be before it.
    let at = |event: &Value| since.ms_to_event(event).filter(|at| *at > -1.0);
    let message = |event: &&Value| event["message"].as_str().map(str::to_owned);
    let found = told.iter().find(|event| event["data"]["server"] == address.as_str() && at(event).is_some());
    Ok(Run {
        cut_ms,
        suspected_ms: found.and_then(|event| at(event)),
        message: found.and_then(message),
        awaited_ms: found.and_then(|event| event["data"]["awaited_ms"].as_str()?.parse().ok()),
        suspect_ms: events.verdict(since, "suspect"),
        dead_ms: events.verdict(since, "dead"),
        first_write_ms: since.ms_to(first),
        wrongly: told.iter().filter(|event| at(event).is_none()).filter_map(message).collect(),
        returned,
    })
}

impl Run {
    pub fn line(&self) -> String {
        let ms = |ms: Option<f64>| ms.map_or_else(|| "   -".to_owned(), |ms| format!("{ms:>4.0}"));
        let wrongly = if self.wrongly.is_empty() { "" } else { ", something wrongly before" };
        let rebuilt = if self.returned == Return::Rebuilt { ", the old primary built anew" } else { "" };
        format!(
            "cut {:.0}, suspected {}, verdict suspect {}, dead {}, first write {:>4.0} ms{wrongly}{rebuilt}",
            self.cut_ms,
            ms(self.suspected_ms),
            ms(self.suspect_ms),
            ms(self.dead_ms),
            self.first_write_ms
        )
    }

    pub fn json(&self) -> Value {
        json!({
            "cut_ms": self.cut_ms,
            "suspected_ms": self.suspected_ms,
            "message": self.message,
            "awaited_ms": self.awaited_ms,
            "suspect_ms": self.suspect_ms,
            "dead_ms": self.dead_ms,
            "first_write_ms": self.first_write_ms,
            "suspected_wrongly": self.wrongly,
        })
    }
}
