//! `bench agent`: what an agent costs with many clusters. Three real servers stand for all of them: each host has an
//! address for every cluster, so that the agent sees as many different servers as it would see in life.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use serde_json::json;
use shunt_tests::server::PORT;
use shunt_tests::{Agent, Cluster, Flavour, Install, Lan, agent};

use super::{Output, prepare, release_agent};
use crate::setup::Needs;
use crate::{FlavourArg, talk};

#[derive(clap::Args)]
pub struct Args {
    /// How many clusters, growing
    #[arg(long, value_delimiter = ',', default_values_t = [10, 50, 100])]
    clusters: Vec<u8>,
    /// How long to measure each, in seconds
    #[arg(long, default_value_t = 30)]
    seconds: u64,
    #[arg(long, value_enum, default_value = "mysql")]
    flavour: FlavourArg,
    #[command(flatten)]
    output: Output,
}

struct Cost {
    clusters: u8,
    cpu_percent: f64,
    resident_mb: f64,
}

pub fn run(args: &Args) -> Result<()> {
    let flavour: Flavour = args.flavour.into();
    prepare(&Needs { lab: true, servers: vec![flavour], ..Needs::default() })?;
    let install = Install::find(flavour)?;
    let program = release_agent()?;
    let most = args.clusters.iter().copied().max().unwrap_or(0);

    let lan = Lan::new()?;
    let proxy = lan.host("proxy", 2)?;
    proxy.forward()?;
    let what = format!("{}: three servers", install.title());
    let cluster = talk::step(&what, || Cluster::start(&lan, &install, 3))?;
    talk::step(&format!("{most} addresses a host"), || {
        for (number, server) in (1..).zip(cluster.servers()) {
            let all: Vec<IpAddr> = (1..=most).map(|c| server_of(c, number).ip()).collect();
            server.host().add_addresses(&all)?;
        }
        proxy.add_addresses(&(1..=most).map(|c| listener_of(c).ip()).collect::<Vec<_>>())
    })?;

    let mut agent = Agent::prepare_program(&proxy, program)?;
    let mut costs = Vec::new();
    let mut written = 0;
    for &clusters in &args.clusters {
        for number in written + 1..=clusters {
            let name = format!("c{number:03}");
            let servers = [1, 2, 3].map(|host| server_of(number, host));
            agent.write_cluster(&name, &agent::following(&name, &servers, listener_of(number)))?;
        }
        written = written.max(clusters);
        talk::step(&format!("{clusters} clusters mapped"), || {
            if agent.is_running() {
                agent.shunt_ok(&["reload"])?;
            } else {
                agent.start()?;
            }
            for number in 1..=clusters {
                agent.wait_mapped(listener_of(number), server_of(number, 1))?;
            }
            Ok(())
        })?;
        let pid = agent.pid().context("the agent does not run")?;
        let cost = talk::step(&format!("{clusters} clusters measured"), || measure(pid, clusters, args.seconds))?;
        costs.push(cost);
    }

    println!("\n  {:>8}{:>9}{:>14}{:>12}", "clusters", "servers", "CPU, % core", "memory, MB");
    for cost in &costs {
        let servers = u32::from(cost.clusters) * 3;
        println!("  {:>8}{servers:>9}{:>14.2}{:>12.1}", cost.clusters, cost.cpu_percent, cost.resident_mb);
    }
    let figures: Vec<_> = costs
        .iter()
        .map(|c| json!({ "clusters": c.clusters, "cpu_percent": c.cpu_percent, "resident_mb": c.resident_mb }))
        .collect();
    args.output.write(&json!({ "bench": "agent", "servers": install.title(), "figures": figures }))
}

/// Cluster `cluster`'s server on host `host`: 10.77.cluster.1<host>.
fn server_of(cluster: u8, host: u8) -> SocketAddr {
    SocketAddr::new(Ipv4Addr::new(10, 77, cluster, 10 + host).into(), PORT)
}

fn listener_of(cluster: u8) -> SocketAddr {
    SocketAddr::new(Ipv4Addr::new(10, 77, cluster, 2).into(), PORT)
}

/// CPU over some seconds of quiet, after it has settled, and memory at their end.
fn measure(pid: u32, clusters: u8, seconds: u64) -> Result<Cost> {
    // Not a wait for anything: a measurement has a length.
    std::thread::sleep(Duration::from_secs(3));
    let (before, started) = (cpu_time(pid)?, Instant::now());
    std::thread::sleep(Duration::from_secs(seconds));
    let used = cpu_time(pid)?.saturating_sub(before);
    let cpu_percent = used.as_secs_f64() / started.elapsed().as_secs_f64() * 100.0;
    Ok(Cost { clusters, cpu_percent, resident_mb: resident_mb(pid)? })
}

/// User and system time of a process: fields 14 and 15 of proc(5)'s stat, in ticks of 1/100 s.
pub(super) fn cpu_time(pid: u32) -> Result<Duration> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    // The second field is the name in parentheses, which may hold blanks.
    let rest = stat.rsplit_once(") ").context("an odd /proc/PID/stat")?.1;
    let ticks: u64 = rest.split(' ').skip(11).take(2).filter_map(|field| field.parse::<u64>().ok()).sum();
    Ok(Duration::from_millis(ticks * 10))
}

fn resident_mb(pid: u32) -> Result<f64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS in /proc/PID/status")?;
    let kb: f64 = line.trim().trim_end_matches("kB").trim().parse()?;
    Ok(kb / 1024.0)
}
