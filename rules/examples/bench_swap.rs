//! How long one swap's kernel transaction takes, and a cold start, with few and with many mappings.
//!
//! Works in the network namespace that it is run in, which should be one made for it:
//! `ip netns exec NAME bench_swap [--json] [--rounds N]`. The sizes take turns, so that whatever else the machine does
//! hits all of them alike.
#![allow(clippy::print_stdout, reason = "printing the figures is what it is for")]

use std::error::Error;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use shunt_core::ClusterName;
use shunt_core::config::Snat;
use shunt_core::datapath::{Change, Datapath as _};
use shunt_core::mapping::{Admission, Leaving, Mapping, Route};
use shunt_rules::{NftDatapath, Notices, Options};

const SIZES: [u32; 3] = [10, 1_000, 10_000];
const ROUNDS: u32 = 30;
const SWAPS_PER_ROUND: u32 = 20;

struct Table {
    mappings: u32,
    datapath: NftDatapath,
    cold_start: Duration,
    swaps: Vec<Duration>,
    notices: Notices,
    next: u32,
}

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let json = arguments.iter().any(|argument| argument == "--json");
    let rounds = match arguments.iter().position(|argument| argument == "--rounds") {
        Some(index) => arguments.get(index + 1).ok_or("--rounds wants a number")?.parse()?,
        None => ROUNDS,
    };
    let mut tables = Vec::new();
    for mappings in SIZES {
        tables.push(Table::fill(mappings)?);
    }
    for _ in 0..rounds {
        for table in &mut tables {
            for _ in 0..SWAPS_PER_ROUND {
                table.swap()?;
            }
        }
    }
    for table in &mut tables {
        table.swaps.sort();
        table.datapath.purge()?;
    }
    if json {
        let rows: Vec<String> = tables.iter().map(Table::json).collect();
        println!("{{\"bench\":\"swap\",\"results\":[{}]}}", rows.join(","));
    } else {
        println!("{:>9}  {:>12}  {:>8}  {:>12}  {:>12}", "mappings", "cold start", "swaps", "median", "p99");
        for table in &tables {
            let (median, p99) = (table.quantile(0.5), table.quantile(0.99));
            println!(
                "{:>9}  {:>9.1} ms  {:>8}  {:>9.1} µs  {:>9.1} µs",
                table.mappings,
                table.cold_start.as_secs_f64() * 1e3,
                table.swaps.len(),
                median.as_secs_f64() * 1e6,
                p99.as_secs_f64() * 1e6
            );
        }
    }
    Ok(())
}

impl Table {
    fn fill(mappings: u32) -> Result<Self, Box<dyn Error>> {
        let options = Options { table: format!("shunt-bench-{mappings}") };
        let mut datapath = NftDatapath::open(options)?;
        // As the agent does: with somebody who listens, each commit costs notices, too.
        let notices = Notices::subscribe(vec![datapath.port_id()])?;
        let set = (0..mappings).map(|number| mapping(number, 0)).collect::<Result<_, _>>()?;
        let begin = Instant::now();
        datapath.apply(&Change { set, remove: Vec::new() })?;
        let cold_start = begin.elapsed();
        Ok(Self { mappings, datapath, cold_start, swaps: Vec::new(), notices, next: 0 })
    }

    /// Moves one mapping from one of its two backends to the other; the mappings take turns.
    fn swap(&mut self) -> Result<(), Box<dyn Error>> {
        let backend = 1 - (self.next / self.mappings % 2) as u8;
        let set = vec![mapping(self.next % self.mappings, backend)?];
        self.next += 1;
        let applied = self.datapath.apply(&Change { set, remove: Vec::new() })?;
        if applied.changed != 1 {
            return Err("a swap changed nothing".into());
        }
        self.swaps.push(applied.commit);
        self.notices.others_changed()?;
        Ok(())
    }

    fn quantile(&self, part: f64) -> Duration {
        let index = ((self.swaps.len() as f64 - 1.0) * part).round() as usize;
        self.swaps.get(index).copied().unwrap_or_default()
    }

    fn json(&self) -> String {
        format!(
            "{{\"mappings\":{},\"cold_start_ms\":{:.3},\"swaps\":{},\"median_us\":{:.3},\"p99_us\":{:.3}}}",
            self.mappings,
            self.cold_start.as_secs_f64() * 1e3,
            self.swaps.len(),
            self.quantile(0.5).as_secs_f64() * 1e6,
            self.quantile(0.99).as_secs_f64() * 1e6
        )
    }
}

/// Mapping number `number`, with a listener and a pair of backends of its own.
fn mapping(number: u32, backend: u8) -> Result<Mapping, Box<dyn Error>> {
    let [_, _, high, low] = number.to_be_bytes();
    let at = |net: u8| SocketAddr::new(IpAddr::V4(Ipv4Addr::new(10, net, high, low)), 3306);
    Ok(Mapping {
        listener: at(0),
        cluster: ClusterName::new(format!("cluster-{number}"))?,
        route: Route::Single(at(1 + backend)),
        snat: Snat::Masquerade,
        leaving: Leaving::Sever,
        admission: Admission::default(),
        lease: None,
        spared: None,
    })
}
