//! The figures as a table on the terminal, and for a program.

use serde_json::{Value, json};

use super::{Closings, EVERY, PATIENCE, REQUESTS, Round};
use crate::bench::driver::Datapath;
use crate::bench::machine::Machine;
use crate::bench::{maximum, median, quantile};

pub struct Report<'a> {
    pub machine: &'a Machine,
    pub sizes: &'a [usize],
    pub datapaths: &'a [Datapath],
    pub rounds: &'a [Round],
}

/// One side with one number of connections: medians of the rounds, and the worst of the last ends. In milliseconds from
/// the acknowledgement; none, where nothing closed.
#[derive(Clone, Copy, Debug)]
pub struct Figure {
    pub first: Option<f64>,
    pub p99: Option<f64>,
    pub last: Option<f64>,
    pub worst: Option<f64>,
    /// Ends that closed, and that did not, in all rounds.
    pub closed: usize,
    pub remaining: usize,
}

impl Figure {
    fn of(sides: &[&Closings]) -> Self {
        let closed: Vec<&[f64]> = sides.iter().map(|s| s.closed_ms.as_slice()).filter(|all| !all.is_empty()).collect();
        let over = |sum: fn(&[f64]) -> f64, figure: fn(&[f64]) -> f64| {
            (!closed.is_empty()).then(|| sum(&closed.iter().map(|all| figure(all)).collect::<Vec<_>>()))
        };
        Self {
            first: over(median, |all| quantile(all, 0.0)),
            p99: over(median, |all| quantile(all, 0.99)),
            last: over(median, maximum),
            worst: over(maximum, maximum),
            closed: closed.iter().map(|all| all.len()).sum(),
            remaining: sides.iter().map(|side| side.remaining).sum(),
        }
    }

    /// The share of ends that closed.
    pub fn share(&self) -> f64 {
        self.closed as f64 / (self.closed + self.remaining).max(1) as f64
    }
}

/// Its name and which side of a round it is.
type Choice = (&'static str, &'static str, fn(&Round) -> &Closings);

pub const SIDES: [Choice; 2] =
    [("clients", "clients", |round| &round.clients), ("old server", "old_server", |round| &round.servers)];

impl Report<'_> {
    pub fn rounds_of(&self, datapath: Datapath, connections: usize) -> impl Iterator<Item = &Round> {
        self.rounds.iter().filter(move |round| round.datapath == datapath && round.connections == connections)
    }

    pub fn figure(&self, datapath: Datapath, connections: usize, side: fn(&Round) -> &Closings) -> Figure {
        Figure::of(&self.rounds_of(datapath, connections).map(side).collect::<Vec<_>>())
    }

    /// Every number of connections through every datapath.
    fn cases(&self) -> impl Iterator<Item = (Datapath, usize)> {
        self.datapaths.iter().flat_map(|&datapath| self.sizes.iter().map(move |&size| (datapath, size)))
    }

    pub fn print(&self) {
        println!(
            "\n  {:<11}{:>11}  {:<11}{:>10}{:>10}{:>10}{:>11}{:>10}{:>12}",
            "", "connections", "side", "first, ms", "p99, ms", "last, ms", "worst, ms", "closed", "remain"
        );
        for (datapath, size) in self.cases() {
            for (name, _, side) in SIDES {
                let figure = self.figure(datapath, size, side);
                println!(
                    "  {:<11}{size:>11}  {name:<11}{:>10}{:>10}{:>10}{:>11}{:>8.1} %{:>12}",
                    datapath.title(),
                    ms(figure.first),
                    ms(figure.p99),
                    ms(figure.last),
                    ms(figure.worst),
                    figure.share() * 100.0,
                    figure.remaining
                );
            }
        }
        println!(
            "\n  {:<11}{:>11}{:>11}{:>12}{:>10}{:>12}{:>12}   {:<34}{:>8}",
            "",
            "connections",
            "apply, ms",
            "commit, µs",
            "severed",
            "unanswered",
            "took, ms",
            "late client packets; the last came",
            "missed"
        );
        for (datapath, size) in self.cases() {
            for round in self.rounds_of(datapath, size) {
                let told = |of: fn(&super::driver::Severed) -> f64, digits: usize| {
                    round.told.as_ref().map_or_else(|| "-".to_owned(), |told| format!("{:.digits$}", of(told)))
                };
                let last = round.late.last_client_ms.map_or_else(|| "-".to_owned(), |ms| format!("{ms:.3} ms"));
                println!(
                    "  {:<11}{size:>11}{:>11.2}{:>12.0}{:>10}{:>12}{:>12}   {:<34}{:>8}",
                    datapath.title(),
                    round.apply_ms,
                    round.commit_us,
                    told(|t| t.flows as f64, 0),
                    told(|t| t.unanswered as f64, 0),
                    told(|t| t.took_ns as f64 / 1e6, 1),
                    format!("{:>5}; {last}", round.late.clients),
                    round.late.missed,
                );
            }
        }
        println!(
            "\n  Times count from the acknowledgement of the swap; medians of the rounds, and the worst round's last end.\n  \
             Half of the connections are idle, the others send every {} ms, or all together {REQUESTS:.0} times a second.\n  \
             What has not closed {} s after the swap remains.\n  \
             Promised for 10,000: 100 %, no packet of a client late; by shunt-nft clients within 500 ms and the old server \
             within 1,000 ms, by shunt-ebpf both within 300 ms.",
            EVERY.as_millis(),
            PATIENCE.as_secs(),
        );
    }

    pub fn json(&self) -> Value {
        let sizes: Vec<Value> = self
            .cases()
            .map(|(datapath, size)| {
                let mut entry = json!({
                    "datapath": datapath.name(),
                    "connections": size,
                    "rounds": self.rounds_of(datapath, size).map(round_json).collect::<Vec<_>>(),
                });
                for (_, key, side) in SIDES {
                    let figure = self.figure(datapath, size, side);
                    entry[key] = json!({
                        "first_ms": figure.first,
                        "p99_ms": figure.p99,
                        "last_ms": figure.last,
                        "worst_ms": figure.worst,
                        "closed": figure.closed,
                        "remaining": figure.remaining,
                    });
                }
                entry
            })
            .collect();
        json!({ "bench": "sever", "machine": self.machine.json(), "patience_s": PATIENCE.as_secs(), "sizes": sizes })
    }
}

fn ms(figure: Option<f64>) -> String {
    figure.map_or_else(|| "-".to_owned(), |ms| format!("{ms:.1}"))
}

fn round_json(round: &Round) -> Value {
    let side = |side: &Closings| {
        json!({
            "first_ms": side.closed_ms.first(),
            "p99_ms": quantile(&side.closed_ms, 0.99),
            "last_ms": side.closed_ms.last(),
            "closed": side.closed_ms.len(),
            "by_reset": side.by_reset,
            "remaining": side.remaining,
        })
    };
    json!({
        "busy": round.busy,
        "apply_ms": round.apply_ms,
        "commit_us": round.commit_us,
        "clients": side(&round.clients),
        "old_server": side(&round.servers),
        "told": round.told.map(|told| json!({
            "flows": told.flows, "unanswered": told.unanswered, "took_ms": told.took_ns as f64 / 1e6,
        })),
        "late": {
            "client_packets": round.late.clients,
            "last_client_packet_ms": round.late.last_client_ms,
            "resets": round.late.resets,
            "probes": round.late.probes,
            "missed": round.late.missed,
        },
    })
}
