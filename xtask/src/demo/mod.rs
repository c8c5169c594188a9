//! `cargo xtask demo`: a real primary dies, a client carries on through the same proxy port, and every moment of it is
//! told in milliseconds, as measured.

mod keep;
mod timeline;

use std::time::Instant;

use anyhow::{Context as _, Result};
use shunt_tests::{Flavour, Install};

use crate::setup::{self, Needs};
use crate::stage::{PACE, Stage};
use crate::{FlavourArg, cargo, root, talk};

#[derive(clap::Args)]
pub struct Args {
    /// Which servers; by default MySQL, or MariaDB where there is no MySQL
    #[arg(long, value_enum)]
    flavour: Option<FlavourArg>,
    /// Leave it running afterwards, and say what to try
    #[arg(long)]
    keep: bool,
    /// Don't install anything
    #[arg(long)]
    no_setup: bool,
    /// Don't ask before installing
    #[arg(long, short)]
    yes: bool,
}

pub fn run(args: &Args) -> Result<()> {
    println!("shunt demo: a database primary dies, a client carries on through the same proxy port\n");
    let wanted: Option<Flavour> = args.flavour.map(Into::into);
    if !args.no_setup {
        let needs = Needs {
            lab: true,
            servers: vec![wanted.unwrap_or(Flavour::Mysql)],
            again: wanted.is_some(),
            ..Needs::default()
        };
        setup::ensure(&needs, args.yes)?;
        if wanted.is_none() && Install::find(Flavour::Mysql).is_err() {
            setup::ensure(&Needs { servers: vec![Flavour::Mariadb], ..needs }, args.yes)?;
        }
    }
    let program = cargo::build_agent(false)?;
    if !root::am_i() {
        println!("  namespaces need root: going on with sudo");
        let flavour = wanted.map(|f| format!("--flavour={f}"));
        let keep = args.keep.then(|| "--keep".to_owned());
        let rest: Vec<String> = flavour.into_iter().chain(keep).collect();
        let all: Vec<&str> = ["demo", "--no-setup"].into_iter().chain(rest.iter().map(String::as_str)).collect();
        return root::again(&all);
    }
    let install = choose(wanted)?;
    let mut stage = Stage::set(&install, program)?;
    // On an error main shows what the agent and the servers said last.
    play(&mut stage)?;
    if args.keep {
        keep::keep(&mut stage, &install);
    }
    Ok(())
}

fn choose(wanted: Option<Flavour>) -> Result<Install> {
    if let Some(flavour) = wanted {
        return Install::find(flavour).with_context(|| setup::servers::status(flavour));
    }
    Install::find(Flavour::Mysql).or_else(|_| {
        let install = Install::find(Flavour::Mariadb).with_context(|| {
            format!("neither MySQL nor MariaDB is there\n  {}", setup::servers::status(Flavour::Mysql))
        })?;
        println!("  {}", setup::servers::status(Flavour::Mysql));
        println!("  so this demo runs on {}", install.title());
        Ok(install)
    })
}

fn play(stage: &mut Stage) -> Result<()> {
    let before = stage.writer.acknowledged();
    println!("\ndb1 dies now (kill -9), with {before} writes acknowledged\n");
    let failover = stage.fail_over()?;
    let outage = stage.writer.outage(failover.killed).context("the client saw no outage at all")?;
    timeline::print(&failover, |number| stage.name(number).to_owned());
    println!("\nthe client wrote nothing for {} ms, and then went on: same address, same port", outage.as_millis());
    println!(
        "(a write every {} ms, a new connection at once, each attempt bounded by {} ms)\n",
        PACE.every.as_millis(),
        PACE.connect.as_millis()
    );
    let (new, other) = (failover.new, 3 - failover.old - failover.new);
    let what = format!("{} now replicates from {}", stage.name(other), stage.name(new));
    talk::step(&what, || stage.cluster.repoint(other, new))?;
    talk::step("a hundred writes more", || {
        let (writer, from) = (&stage.writer, stage.writer.acknowledged());
        shunt_tests::eventually("the client to go on", shunt_tests::wait::PATIENCE, || {
            Ok((writer.acknowledged() >= from + 100).then_some(()))
        })
    })?;
    lost(stage, failover.killed)?;
    println!("\nshunt list says:\n");
    for line in stage.agent.shunt_ok(&["list"])?.lines() {
        println!("  {line}");
    }
    Ok(())
}

/// Which acknowledged writes the new primary lacks: replication was asynchronous, so there may be some.
fn lost(stage: &Stage, killed: Instant) -> Result<()> {
    let acknowledged: Vec<String> =
        stage.writer.attempts().into_iter().filter(|a| a.began <= killed).filter_map(|a| a.outcome.ok()).collect();
    let rows = stage.cluster.servers()[stage.primary].sql("SELECT note FROM app.t")?;
    let there: std::collections::HashSet<String> = rows.into_iter().flatten().flatten().collect();
    let lost = acknowledged.iter().filter(|note| !there.contains(*note)).count();
    println!(
        "  {} of the {} writes acknowledged before the kill are missing on {} (replication is asynchronous)",
        if lost == 0 { "none".to_owned() } else { lost.to_string() },
        acknowledged.len(),
        stage.name(stage.primary)
    );
    Ok(())
}
