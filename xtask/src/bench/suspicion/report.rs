//! The figures of all cuts: on the terminal, and for a program.

use serde_json::{Value, json};

use super::cut::{CLIENTS, EVERY};
use super::{Datapath, Machine, Run, Traffic};
use crate::bench::{maximum, median};

/// All cuts under one traffic on one datapath.
pub struct Figures {
    pub traffic: Traffic,
    pub datapath: Datapath,
    pub runs: Vec<Run>,
}

/// A moment of a run, if it had it.
type Figure = (&'static str, &'static str, fn(&Run) -> Option<f64>);

const FIGURES: [Figure; 5] = [
    ("cut", "cut_ms", |run| Some(run.cut_ms)),
    ("suspected", "suspected_ms", |run| run.suspected_ms),
    ("verdict suspect", "suspect_ms", |run| run.suspect_ms),
    ("verdict dead", "dead_ms", |run| run.dead_ms),
    ("first write", "first_write_ms", |run| Some(run.first_write_ms)),
];

impl Figures {
    fn of(&self, figure: fn(&Run) -> Option<f64>) -> Vec<f64> {
        self.runs.iter().filter_map(figure).collect()
    }

    fn wrongly(&self) -> usize {
        self.runs.iter().map(|run| run.wrongly.len()).sum()
    }

    fn json(&self) -> Value {
        let mut found = json!({
            "traffic": self.traffic.word(),
            "datapath": self.datapath.name(),
            "runs": self.runs.iter().map(Run::json).collect::<Vec<_>>(),
            "suspected_wrongly": self.wrongly(),
        });
        for (_, key, figure) in FIGURES {
            let all = self.of(figure);
            found[key] = if all.is_empty() {
                Value::Null
            } else {
                json!({ "runs": all.len(), "median": median(&all), "max": maximum(&all) })
            };
        }
        found
    }
}

pub fn print(all: &[Figures]) {
    print!("\n  {:<13}{:<12}{:>5}{:>9}", "traffic", "datapath", "runs", "wrongly");
    for (name, ..) in FIGURES {
        print!("{name:>17}{:>7}", "max");
    }
    println!();
    for figures in all {
        let title = figures.datapath.title();
        print!("  {:<13}{title:<12}{:>5}{:>9}", figures.traffic.word(), figures.runs.len(), figures.wrongly());
        for (.., figure) in FIGURES {
            match figures.of(figure) {
                none if none.is_empty() => print!("{:>17}{:>7}", "-", "-"),
                some => print!("{:>17.0}{:>7.0}", median(&some), maximum(&some)),
            }
        }
        println!();
    }
    println!(
        "\n  Milliseconds since the primary's link began to go down, median and maximum; cut: until it was. {CLIENTS} clients write through the proxy, \
         each every\n  {} ms, or as soon as it has its answer. suspected: by their traffic, as the history has it (target: \
         within 300). The\n  verdicts are the probes', at their default settings. wrongly: suspicions before the cut.",
        EVERY.as_millis()
    );
}

pub fn json(machine: &Machine, servers: &str, all: &[Figures]) -> Value {
    json!({
        "bench": "suspicion",
        "machine": machine.json(),
        "servers": servers,
        "clients": CLIENTS,
        "every_ms": EVERY.as_millis() as u64,
        "figures": all.iter().map(Figures::json).collect::<Vec<_>>(),
    })
}
