//! The figures of switchovers.

use serde_json::{Value, json};

use super::breakdown::medians;
use super::planned::Run;
use super::{Scenario, report};
use crate::bench::{maximum, median, quantile};

/// All switchovers with one flavour.
pub struct Figures {
    pub title: String,
    pub sessions: usize,
    pub runs: Vec<Run>,
}

/// What one run came to, in a line.
pub fn line(run: &Run) -> String {
    let mut line = format!(
        "longest wait: a connection {:>5.0} ms, a statement {:>5.0} ms (before: {:.0} ms); {} refused, {} aborted, \
         {} when empty, {} reset while idle; {:.0} ms in all",
        run.connect_ms,
        run.statement_ms,
        run.before_ms,
        run.refused,
        run.aborted,
        run.aborted_empty,
        run.reset_idle,
        run.took_ms
    );
    for error in run.errors.iter().take(3) {
        line.push_str(&format!("\n           {error}"));
    }
    line
}

impl Figures {
    fn of(&self, figure: impl Fn(&Run) -> f64) -> Vec<f64> {
        self.runs.iter().map(figure).collect()
    }

    fn sum(&self, figure: impl Fn(&Run) -> usize) -> usize {
        self.runs.iter().map(figure).sum()
    }

    /// The longest wait of each switchover.
    fn waits(&self) -> Vec<f64> {
        self.of(|run| run.connect_ms.max(run.statement_ms))
    }

    pub fn print_breakdown(&self) {
        report::print_breakdown(&self.runs.iter().map(|run| &run.breakdown).collect::<Vec<_>>());
    }

    pub fn print_all(all: &[Self]) {
        if all.is_empty() {
            return;
        }
        println!(
            "\n  {:<12}{:<18}{:>5}{:>9}{:>10}{:>11}{:>9}{:>9}{:>9}{:>8}{:>12}{:>8}",
            "scenario",
            "servers",
            "runs",
            "longest",
            "connect",
            "statement",
            "before",
            "refused",
            "aborted",
            "empty",
            "reset idle",
            "took"
        );
        for f in all {
            println!(
                "  {:<12}{:<18}{:>5}{:>9.0}{:>10.0}{:>11.0}{:>9.0}{:>9}{:>9}{:>8}{:>12}{:>8.0}",
                Scenario::Switchover.word(),
                f.title,
                f.runs.len(),
                maximum(&f.waits()),
                median(&f.of(|run| run.connect_ms)),
                median(&f.of(|run| run.statement_ms)),
                median(&f.of(|run| run.before_ms)),
                f.sum(|run| run.refused),
                f.sum(|run| run.aborted),
                f.sum(|run| run.aborted_empty),
                f.sum(|run| run.reset_idle),
                median(&f.of(|run| run.took_ms)),
            );
        }
        println!(
            "\n  Milliseconds. longest: of all waits in all runs (target: 150). connect, statement: the longest of a run, \
             median of the runs;\n  before: the same when nothing was switched over. refused: connection attempts that failed \
             (target: 0); aborted: transactions\n  that had changed something (target: 0); empty: transactions that had only \
             begun; reset idle: sessions cut off between\n  two transactions, which connected again."
        );
    }

    /// A row of the README's table.
    pub fn markdown(&self) -> String {
        let waits = self.waits();
        format!(
            "| {} | **shunt**, {}, {} runs, {} sessions | {} | {} | {} | ≤ 150 ms | the longest wait of a connection or \
             statement (without a switchover: {}); {} refused, {} transactions aborted, {} that had only begun |\n",
            Scenario::Switchover.title(),
            self.title,
            self.runs.len(),
            self.sessions,
            report::time(median(&waits)),
            report::time(quantile(&waits, 0.99)),
            report::time(maximum(&waits)),
            report::time(median(&self.of(|run| run.before_ms))),
            self.sum(|run| run.refused),
            self.sum(|run| run.aborted),
            self.sum(|run| run.aborted_empty),
        )
    }

    pub fn json(&self) -> Value {
        let breakdowns: Vec<_> = self.runs.iter().map(|run| &run.breakdown).collect();
        json!({
            "scenario": Scenario::Switchover.word(),
            "servers": self.title,
            "sessions": self.sessions,
            "runs": self.runs.iter().map(|run| json!({
                "took_ms": run.took_ms,
                "longest_connect_ms": run.connect_ms,
                "longest_statement_ms": run.statement_ms,
                "longest_before_ms": run.before_ms,
                "refused": run.refused,
                "aborted": run.aborted,
                "aborted_empty": run.aborted_empty,
                "reset_while_idle": run.reset_idle,
                "connections": run.connections,
                "statements": run.statements,
                "errors": run.errors,
            })).collect::<Vec<_>>(),
            "moments": report::lines(medians(breakdowns.iter().map(|b| &b.moments))),
            "tasks": report::lines(medians(breakdowns.iter().map(|b| &b.tasks))),
        })
    }
}
