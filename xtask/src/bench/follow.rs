//! `bench follow`: rounds of kill -9, promotion and repointing by SQL as an outside tool does them; how long after the
//! promotion the kernel has the new mapping, and the client its first write through.

use std::time::Instant;

use anyhow::Result;
use serde_json::json;
use shunt_tests::{Flavour, Install};

use super::{Output, maximum, median, prepare, release_agent};
use crate::FlavourArg;
use crate::setup::Needs;
use crate::stage::{Failover, Mode, PORT, Stage};

#[derive(clap::Args)]
pub struct Args {
    #[arg(long, default_value_t = 20)]
    rounds: usize,
    #[arg(long, value_enum, default_value = "mysql")]
    flavour: FlavourArg,
    #[command(flatten)]
    output: Output,
}

/// One column of the table.
struct Figure {
    name: &'static str,
    key: &'static str,
    of: fn(&Failover) -> f64,
}

const FIGURES: &[Figure] = &[
    Figure { name: "killed to noticed", key: "noticed_ms", of: |f| ms(f.killed, f.noticed) },
    Figure { name: "gone to noticed", key: "gone_noticed_ms", of: |f| ms(f.gone, f.noticed) },
    Figure { name: "the tool's SQL", key: "sql_ms", of: |f| ms(f.promoting, f.promoted) },
    Figure { name: "promoted to mapped", key: "mapped_ms", of: |f| ms(f.promoted, f.mapped) },
    Figure { name: "promoted to first write", key: "first_write_ms", of: |f| ms(f.promoted, f.first_write) },
];

pub fn run(args: &Args) -> Result<()> {
    let flavour: Flavour = args.flavour.into();
    prepare(&Needs { lab: true, servers: vec![flavour], ..Needs::default() })?;
    let install = Install::find(flavour)?;
    let mut stage = Stage::set(&install, release_agent()?, Mode::Follow)?;
    println!();
    let mut rounds: Vec<(Failover, f64)> = Vec::new();
    for round in 1..=args.rounds {
        let failover = stage.fail_over()?;
        let (old, new, other) = (failover.old, failover.new, 3 - failover.old - failover.new);
        let outage = stage.writer.outage(failover.killed).map_or(f64::NAN, |d| d.as_secs_f64() * 1000.0);
        println!(
            "  round {round:>2}: mapped {:>7.1} ms after the promotion, first write {:>7.1} ms, outage {outage:>7.1} ms",
            ms(failover.promoted, failover.mapped),
            ms(failover.promoted, failover.first_write),
        );
        rounds.push((failover, outage));
        // The dead one comes back empty, as from a backup: what it alone had is nobody's concern here.
        stage.writer.pause(true);
        stage.cluster.repoint(other, new)?;
        stage.cluster.server(old).rebuild()?;
        stage.cluster.set_read_only(old, true)?;
        stage.cluster.servers()[old].set_durable(false)?;
        stage.cluster.repoint(old, new)?;
        stage.cluster.wait_caught_up(old, new)?;
        stage.cluster.servers()[old].set_durable(true)?;
        stage.agent.wait_mapped(stage.proxy.at(PORT), stage.cluster.server(new).address())?;
        stage.wait_healthy()?;
        stage.writer.pause(false);
        stage.writer.wait_for_write(Instant::now())?;
    }
    println!("\n  {:<28}{:>10}{:>10}   ms, {} rounds, {}", "", "median", "max", rounds.len(), install.title());
    let mut all = serde_json::Map::new();
    let columns = FIGURES.iter().map(|figure| {
        (figure.name, figure.key, rounds.iter().map(|(failover, _)| (figure.of)(failover)).collect::<Vec<f64>>())
    });
    let outages = ("the client's outage", "outage_ms", rounds.iter().map(|(_, outage)| *outage).collect());
    for (name, key, figures) in columns.chain([outages]) {
        println!("  {name:<28}{:>10.1}{:>10.1}", median(&figures), maximum(&figures));
        all.insert(key.to_owned(), json!({ "median": median(&figures), "max": maximum(&figures), "all": figures }));
    }
    args.output.write(&json!({ "bench": "follow", "servers": install.title(), "rounds": rounds.len(), "figures": all }))
}

/// Milliseconds from one moment to another; negative when it came before (a mapping may precede the end of the SQL).
fn ms(from: Instant, to: Instant) -> f64 {
    let forward = to.saturating_duration_since(from).as_secs_f64();
    let back = from.saturating_duration_since(to).as_secs_f64();
    (forward - back) * 1000.0
}
