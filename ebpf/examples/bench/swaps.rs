//! How long one swap takes to be in force, and a cold start, with few and with many mappings. The sizes take turns, so that
//! whatever else the machine does hits all of them alike.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::thread;
use std::time::{Duration, Instant};

use nix::sched::{CloneFlags, unshare};
use shunt_core::ClusterName;
use shunt_core::config::Snat;
use shunt_core::datapath::{Change, Datapath};
use shunt_core::mapping::{Admission, Leaving, Mapping, Route};
use shunt_ebpf::EbpfDatapath;
use shunt_rules::{NftDatapath, Notices};

use crate::Outcome;

const SIZES: [u32; 3] = [10, 1_000, 10_000];
const SWAPS_PER_ROUND: u32 = 20;

/// A datapath, and who listens for its changes: as the agent does, for each commit then costs notices, too.
type Opened = (Box<dyn Datapath>, Option<Notices>);

struct Table {
    mappings: u32,
    datapath: Box<dyn Datapath>,
    cold_start: Duration,
    /// Until a swap was in force.
    commits: Vec<Duration>,
    /// The whole calls, with what they compute before.
    calls: Vec<Duration>,
    notices: Option<Notices>,
    next: u32,
}

/// Measures tables that are opened like this, one for each size, with a swap every so often.
pub fn measure(open: fn(u32) -> Outcome<Opened>, rounds: u32, every: Duration) -> Outcome<()> {
    let mut tables = Vec::new();
    for mappings in SIZES {
        tables.push(Table::fill(mappings, open(mappings)?)?);
    }
    for _ in 0..rounds {
        for table in &mut tables {
            for _ in 0..SWAPS_PER_ROUND {
                table.swap(every)?;
            }
        }
    }
    for table in &mut tables {
        table.commits.sort();
        table.calls.sort();
        table.datapath.purge()?;
    }
    let rows: Vec<String> = tables.iter().map(Table::json).collect();
    println!("[{}]", rows.join(","));
    Ok(())
}

/// A table of its own beside the others.
pub fn nft(mappings: u32) -> Outcome<Opened> {
    let datapath = NftDatapath::open(shunt_rules::Options { table: format!("shunt-bench-{mappings}") })?;
    let notices = Notices::subscribe(vec![datapath.port_id()])?;
    Ok((Box::new(datapath), Some(notices)))
}

/// In a namespace of its own, for one has one datapath.
pub fn ebpf(_mappings: u32) -> Outcome<Opened> {
    let opening = thread::spawn(|| -> Result<EbpfDatapath, String> {
        unshare(CloneFlags::CLONE_NEWNET).map_err(|error| error.to_string())?;
        EbpfDatapath::open(shunt_ebpf::Options::default()).map_err(|error| error.to_string())
    });
    let datapath = opening.join().map_err(|_| "the thread that opens a datapath panicked")??;
    Ok((Box::new(datapath), None))
}

impl Table {
    fn fill(mappings: u32, (mut datapath, notices): Opened) -> Outcome<Self> {
        let set = (0..mappings).map(|number| mapping(number, 0)).collect::<Result<_, _>>()?;
        let begin = Instant::now();
        datapath.apply(&Change { set, remove: Vec::new() })?;
        let cold_start = begin.elapsed();
        let (commits, calls) = (Vec::new(), Vec::new());
        Ok(Self { mappings, datapath, cold_start, commits, calls, notices, next: 0 })
    }

    /// Moves one mapping from one of its two backends to the other; the mappings take turns.
    fn swap(&mut self, every: Duration) -> Outcome<()> {
        // What a swap leaves to other threads, to look for flows that are to end, is no part of the next one.
        thread::sleep(every);
        let backend = 1 - (self.next / self.mappings % 2) as u8;
        let set = vec![mapping(self.next % self.mappings, backend)?];
        self.next += 1;
        let begin = Instant::now();
        let applied = self.datapath.apply(&Change { set, remove: Vec::new() })?;
        self.calls.push(begin.elapsed());
        if applied.changed != 1 {
            return Err("a swap changed nothing".into());
        }
        self.commits.push(applied.commit);
        if let Some(notices) = &mut self.notices {
            notices.others_changed()?;
        }
        Ok(())
    }

    fn json(&self) -> String {
        let us = |times: &[Duration], part| quantile(times, part).as_secs_f64() * 1e6;
        format!(
            "{{\"mappings\":{},\"cold_start_ms\":{:.3},\"swaps\":{},\"median_us\":{:.3},\"p99_us\":{:.3},\
             \"call_median_us\":{:.3},\"call_p99_us\":{:.3}}}",
            self.mappings,
            self.cold_start.as_secs_f64() * 1e3,
            self.commits.len(),
            us(&self.commits, 0.5),
            us(&self.commits, 0.99),
            us(&self.calls, 0.5),
            us(&self.calls, 0.99)
        )
    }
}

/// Of times in order.
fn quantile(times: &[Duration], part: f64) -> Duration {
    let index = ((times.len() as f64 - 1.0) * part).round() as usize;
    times.get(index).copied().unwrap_or_default()
}

/// Mapping number `number`, with a listener and a pair of backends of its own.
fn mapping(number: u32, backend: u8) -> Outcome<Mapping> {
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
