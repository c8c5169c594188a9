//! The figures: on the terminal, as markdown between the README's markers, and for a program.

use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};

use super::Scenario;
use super::breakdown::medians;
use super::field::Return;
use super::outage::{PACE, Run};
use crate::bench::machine::Machine;
use crate::bench::{maximum, median, quantile};

const BEGIN: &str = "<!-- failover -->";
const END: &str = "<!-- /failover -->";

/// All runs of one scenario with one flavour.
pub struct Figures {
    pub scenario: Scenario,
    pub title: String,
    pub runs: Vec<Run>,
}

pub struct Report<'a> {
    pub machine: &'a Machine,
    pub all: &'a [Figures],
}

/// What one run came to, in a line.
pub fn line(run: &Run) -> String {
    let optional = |what: &str, ms: Option<f64>| ms.map_or_else(String::new, |ms| format!(", {what} after {ms:.0} ms"));
    let rebuilt = if run.returned == Return::Rebuilt { ", the old primary built anew" } else { "" };
    format!(
        "no write for {:>6.0} ms{}{}, first write after {:.0} ms{rebuilt}",
        run.outage_ms,
        optional("its sockets closed", run.closed_ms),
        optional("dead", run.dead_ms),
        run.first_write_ms
    )
}

impl Figures {
    pub fn new(scenario: Scenario, title: String) -> Self {
        Self { scenario, title, runs: Vec::new() }
    }

    fn of(&self, figure: impl Fn(&Run) -> Option<f64>) -> Vec<f64> {
        self.runs.iter().filter_map(figure).collect()
    }

    fn outages(&self) -> Vec<f64> {
        self.of(|run| Some(run.outage_ms))
    }

    fn rebuilt(&self) -> usize {
        self.runs.iter().filter(|run| run.returned == Return::Rebuilt).count()
    }

    /// Where the time went.
    pub fn print(&self) {
        let runs = self.runs.len();
        println!("\n  {:<40}{:>10}{:>10}   medians of {runs} runs, ms", "", "at", "after");
        let mut before = 0.0;
        for (name, at, times) in medians(self.runs.iter().map(|run| &run.breakdown.moments)) {
            let seen = if times == runs { String::new() } else { format!("   in {times} runs") };
            println!("  {name:<40}{at:>10.1}{:>+10.1}{seen}", at - before);
            before = at;
        }
        println!("\n  {:<40}{:>10}", "task, the longest of a run", "took");
        for (name, took, times) in medians(self.runs.iter().map(|run| &run.breakdown.tasks)) {
            let seen = if times == runs { String::new() } else { format!("   in {times} runs") };
            println!("  {name:<40}{took:>10.1}{seen}");
        }
    }

    fn target(&self) -> &'static str {
        match self.scenario {
            Scenario::Kill => "150 / 500",
            Scenario::Cut => "3500",
            Scenario::CutFast => "1200",
        }
    }

    fn json(&self) -> Value {
        let lines = |lines: Vec<(String, f64, usize)>| -> Vec<Value> {
            lines.into_iter().map(|(name, ms, runs)| json!({ "name": name, "median_ms": ms, "runs": runs })).collect()
        };
        let sum = |figures: &[f64]| {
            (!figures.is_empty()).then(|| {
                json!({
                    "median": median(figures), "p99": quantile(figures, 0.99), "max": maximum(figures), "all": figures,
                })
            })
        };
        json!({
            "scenario": self.scenario.word(),
            "servers": self.title,
            "runs": self.runs.len(),
            "outage_ms": sum(&self.outages()),
            "dead_ms": sum(&self.of(|run| run.dead_ms)),
            "sockets_closed_ms": sum(&self.of(|run| run.closed_ms)),
            "first_write_ms": sum(&self.of(|run| Some(run.first_write_ms))),
            "old_primaries_built_anew": self.rebuilt(),
            "moments": lines(medians(self.runs.iter().map(|run| &run.breakdown.moments))),
            "tasks": lines(medians(self.runs.iter().map(|run| &run.breakdown.tasks))),
        })
    }
}

impl Report<'_> {
    pub fn print(&self) {
        println!(
            "\n  {:<10}{:<18}{:>5}{:>10}{:>9}{:>9}{:>12}{:>9}{:>16}{:>9}",
            "scenario", "servers", "runs", "outage", "p99", "max", "target", "dead", "sockets closed", "rebuilt"
        );
        for f in self.all {
            let outages = f.outages();
            println!(
                "  {:<10}{:<18}{:>5}{:>10.0}{:>9.0}{:>9.0}{:>12}{:>9}{:>16}{:>9}",
                f.scenario.word(),
                f.title,
                f.runs.len(),
                median(&outages),
                quantile(&outages, 0.99),
                maximum(&outages),
                f.target(),
                some(&f.of(|run| run.dead_ms)),
                some(&f.of(|run| run.closed_ms)),
                f.rebuilt(),
            );
        }
        println!(
            "\n  Milliseconds; medians unless it says otherwise. The outage is what a client saw that writes every {} ms and \
             connects\n  anew at once after an error (an attempt takes {} ms at most). dead: from the cause to the verdict. \
             sockets closed: from\n  the signal until the kernel closed the killed server's connections; nobody can know \
             sooner.\n  rebuilt: old primaries that had transactions which the new one lacked.",
            PACE.every.as_millis(),
            PACE.connect.as_millis(),
        );
    }

    pub fn json(&self) -> Value {
        json!({
            "bench": "failover",
            "machine": self.machine.json(),
            "scenarios": self.all.iter().map(Figures::json).collect::<Vec<_>>(),
        })
    }

    /// Replaces what stands between the markers of a file that has them.
    pub fn write_markdown(&self, path: &Path) -> Result<()> {
        let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
        let (begin, end) = (text.find(BEGIN), text.find(END));
        let (Some(begin), Some(end)) = (begin, end) else {
            anyhow::bail!("{} has no {BEGIN} and {END}", path.display());
        };
        ensure!(begin < end, "{}: {END} stands before {BEGIN}", path.display());
        let (head, tail) = (&text[..begin + BEGIN.len()], &text[end..]);
        let text = format!("{head}\n{}{tail}", self.markdown());
        std::fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
    }

    fn markdown(&self) -> String {
        String::new()
    }
}

fn some(figures: &[f64]) -> String {
    if figures.is_empty() { "-".to_owned() } else { format!("{:.0}", median(figures)) }
}
