//! The figures of primaries that died.

use serde_json::{Value, json};

use super::breakdown::medians;
use super::field::Return;
use super::outage::{PACE, Run};
use super::{Scenario, report};
use crate::bench::{maximum, median, quantile};

/// All runs of one scenario with one flavour.
pub struct Figures {
    pub scenario: Scenario,
    pub title: String,
    pub runs: Vec<Run>,
    /// Acknowledged writes that were looked for on the new primary, and those that were not there.
    pub checked: Option<Checked>,
}

#[derive(Clone, Copy, Debug, Default)]
pub struct Checked {
    pub acknowledged: usize,
    pub lost: usize,
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
    fn of(&self, figure: impl Fn(&Run) -> Option<f64>) -> Vec<f64> {
        self.runs.iter().filter_map(figure).collect()
    }

    fn outages(&self) -> Vec<f64> {
        self.of(|run| Some(run.outage_ms))
    }

    fn rebuilt(&self) -> usize {
        self.runs.iter().filter(|run| run.returned == Return::Rebuilt).count()
    }

    pub fn print_breakdown(&self) {
        report::print_breakdown(&self.runs.iter().map(|run| &run.breakdown).collect::<Vec<_>>());
    }

    /// What is promised of the median, and of the 99th percentile.
    const fn target(&self) -> (&'static str, Option<&'static str>) {
        match self.scenario {
            Scenario::Kill => ("≤ 150 ms", Some("≤ 500 ms")),
            Scenario::Cut => ("≤ 3.5 s", None),
            Scenario::CutFast => ("≤ 1.2 s", None),
            Scenario::Switchover | Scenario::Semisync => ("", None),
        }
    }

    pub fn print_all(all: &[Self]) {
        if all.is_empty() {
            return;
        }
        println!(
            "\n  {:<10}{:<18}{:>5}{:>10}{:>9}{:>9}  {:<22}{:>9}{:>16}{:>9}",
            "scenario",
            "servers",
            "runs",
            "outage",
            "p99",
            "max",
            "target, median; p99",
            "dead",
            "sockets closed",
            "rebuilt"
        );
        for f in all {
            let outages = f.outages();
            let (target, p99) = f.target();
            let target = p99.map_or_else(|| target.to_owned(), |p99| format!("{target}; {p99}"));
            println!(
                "  {:<10}{:<18}{:>5}{:>10.0}{:>9.0}{:>9.0}  {target:<22}{:>9}{:>16}{:>9}",
                f.scenario.word(),
                f.title,
                f.runs.len(),
                median(&outages),
                quantile(&outages, 0.99),
                maximum(&outages),
                some(&f.of(|run| run.dead_ms)),
                some(&f.of(|run| run.closed_ms)),
                f.rebuilt(),
            );
        }
        for f in all {
            if let Some(Checked { acknowledged, lost }) = f.checked {
                println!(
                    "\n  {}, {}: {acknowledged} acknowledged writes checked, {lost} lost",
                    f.scenario.word(),
                    f.title
                );
            }
        }
        println!(
            "\n  Milliseconds; medians where it does not say otherwise. The outage is what a client saw that writes every {} ms \
             and\n  connects anew at once after an error (an attempt takes {} ms at most). dead: from the cause to the \
             verdict.\n  sockets closed: from the signal until the kernel closed the killed server's connections; it frees \
             the memory first,\n  and nobody can know sooner. rebuilt: old primaries that had transactions which the new one \
             lacked.",
            PACE.every.as_millis(),
            PACE.connect.as_millis(),
        );
    }

    /// A row of the README's table.
    pub fn markdown(&self) -> String {
        let outages = self.outages();
        let (target, p99) = self.target();
        let target = p99.map_or_else(|| target.to_owned(), |p99| format!("{target}, p99 {p99}"));
        let mut notes = Vec::new();
        let dead = self.of(|run| run.dead_ms);
        if !dead.is_empty() {
            notes.push(format!("the verdict after {}", report::time(median(&dead))));
        }
        let closed = self.of(|run| run.closed_ms);
        if !closed.is_empty() {
            notes.push(format!("the dead server's sockets closed after {}", report::time(median(&closed))));
        }
        if let Some(Checked { acknowledged, lost }) = self.checked {
            notes.push(format!("{lost} of {acknowledged} acknowledged writes lost"));
            notes.push(format!("{} old primaries had unacknowledged ones and were built anew", self.rebuilt()));
        }
        format!(
            "| {} | **shunt**, {}, {} runs | {} | {} | {} | {target} | {} |\n",
            self.scenario.title(),
            self.title,
            self.runs.len(),
            report::time(median(&outages)),
            report::time(quantile(&outages, 0.99)),
            report::time(maximum(&outages)),
            notes.join("; "),
        )
    }

    pub fn json(&self) -> Value {
        let breakdowns: Vec<_> = self.runs.iter().map(|run| &run.breakdown).collect();
        let sum = |figures: Vec<f64>| {
            (!figures.is_empty()).then(|| {
                json!({
                    "median": median(&figures), "p99": quantile(&figures, 0.99), "max": maximum(&figures), "all": figures,
                })
            })
        };
        json!({
            "scenario": self.scenario.word(),
            "servers": self.title,
            "runs": self.runs.len(),
            "outage_ms": sum(self.outages()),
            "dead_ms": sum(self.of(|run| run.dead_ms)),
            "sockets_closed_ms": sum(self.of(|run| run.closed_ms)),
            "first_write_ms": sum(self.of(|run| Some(run.first_write_ms))),
            "rebuilt": self.rebuilt(),
            "acknowledged_checked": self.checked.map(|c| c.acknowledged),
            "acknowledged_lost": self.checked.map(|c| c.lost),
            "moments": report::lines(medians(breakdowns.iter().map(|b| &b.moments))),
            "tasks": report::lines(medians(breakdowns.iter().map(|b| &b.tasks))),
        })
    }
}

fn some(figures: &[f64]) -> String {
    if figures.is_empty() { "-".to_owned() } else { format!("{:.0}", median(figures)) }
}
