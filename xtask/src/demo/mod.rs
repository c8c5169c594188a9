//! `cargo xtask demo`: a real primary dies, shunt promotes a replica, a client carries on through the same proxy port; the
//! dead one comes back, and is switched to again. Every moment of it is told in milliseconds, as measured.

mod acts;
mod keep;
mod timeline;

use anyhow::{Context as _, Result};
use shunt_tests::{Flavour, Install};

use crate::setup::{self, Needs};
use crate::stage::{Mode, Stage};
use crate::{FlavourArg, cargo, root};

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
    println!(
        "shunt demo: a database primary dies, shunt promotes a replica, a client carries on through the same port\n"
    );
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
    let mut stage = Stage::set(&install, program, Mode::Promote)?;
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
    stage.wait_healthy()?;
    let dead = acts::dies(stage)?;
    acts::returns(stage, dead)?;
    acts::is_switched_to(stage, dead)?;
    println!("\nshunt list says:\n");
    for line in stage.agent.shunt_ok(&["list"])?.lines() {
        println!("  {line}");
    }
    Ok(())
}
