//! Timelines: one line an event, milliseconds since the first, who says so.

use std::time::Instant;

use serde_json::Value;

use crate::moment::Moment;

pub const HISTORY: &str = "the agent's history";

/// What happened, when, and who says so.
pub struct Timeline {
    since: Moment,
    lines: Vec<(Instant, String, &'static str)>,
}

/// Names for the words that the history is told in. `others` says which replicas replicate.
pub struct Cast<'a> {
    pub old: &'a str,
    pub new: &'a str,
    pub others: &'a str,
    pub planned: bool,
}

impl Timeline {
    pub fn begin(since: Moment, what: String) -> Self {
        Self { since, lines: vec![(since.at, what, "this program")] }
    }

    pub fn add(&mut self, at: Instant, what: impl Into<String>, says: &'static str) {
        self.lines.push((at, what.into(), says));
    }

    /// What the history has to tell of an operation.
    pub fn tell(&mut self, events: &[Value], cast: &Cast<'_>) {
        for event in events {
            if let (Some(at), Some(what)) = (self.since.of_event(event), words(event, cast)) {
                self.add(at, what, HISTORY);
            }
        }
    }

    pub fn print(mut self) {
        // Stable: what came in the same instant stays in the order in which it was added.
        self.lines.sort_by_key(|(at, ..)| *at);
        println!("  {:>7}  {:<54} says", "ms", "what");
        for (at, what, says) in self.lines {
            println!("  {:>7.1}  {what:<54} {says}", self.since.ms_to(at));
        }
    }
}

/// One event of the history in the demo's words; what only matters to an operator's search is left out.
fn words(event: &Value, cast: &Cast<'_>) -> Option<String> {
    let Cast { old, new, others, planned } = cast;
    let data = |key: &str| event["data"][key].as_str().unwrap_or_default();
    let text = match (event["kind"].as_str()?, data("state"), data("step")) {
        ("verdict", ..) if data("verdict") == "suspect" => format!("suspected: {old}"),
        ("verdict", ..) if data("verdict") == "dead" => format!("dead: {old}"),
        ("step", "done", "hold") => "new connections are held, sessions go on".to_owned(),
        ("sessions", ..) => {
            let (idle, finished, cut) = (data("idle"), data("finished"), data("cut"));
            format!("sessions ended: {idle} idle, {finished} when done, {cut} cut")
        }
        ("step", "done", "fence") => format!("fenced: nothing reaches {old}, new connections are held"),
        ("step", "done", "disarm") if *planned => format!("{old} is read-only"),
        ("step", "done", "disarm") => format!("nobody receives from {old} any more"),
        ("step", "done", "catch_up") => format!("{new} has received what another replica had"),
        ("step", "done", "drain") => format!("{new} has applied everything"),
        ("step", "done", "promote") => format!("promoted: {new} is writable"),
        ("step", "done", "repoint") => format!("{others} from {new}"),
        _ => return None,
    };
    Some(text)
}
