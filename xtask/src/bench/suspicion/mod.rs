//! `bench suspicion`: the link of a primary goes down while clients write through the proxy. When does their traffic make it
//! suspect, and when is it found dead? On either datapath in turn: only shunt-ebpf has signals.

mod cut;
mod report;

use anyhow::{Context as _, Result, ensure};
use clap::ValueEnum;
use shunt_tests::{Flavour, Install};

use super::driver::Datapath;
use super::failover::field::Field;
use super::machine::Machine;
use super::{Output, prepare, release_agent};
use crate::FlavourArg;
use crate::setup::Needs;
use cut::Run;
use report::Figures;

#[derive(clap::Args)]
pub struct Args {
    /// How often with each traffic and datapath
    #[arg(long, default_value_t = 20)]
    runs: usize,
    #[arg(long, value_enum, default_value = "mysql")]
    flavour: FlavourArg,
    /// Only this traffic; may be repeated
    #[arg(long, value_enum)]
    only: Vec<Traffic>,
    #[command(flatten)]
    output: Output,
}

/// What the clients do meanwhile.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Traffic {
    /// Some connections, a statement every few milliseconds on each
    Statements,
    /// Every statement on a new connection
    Connections,
}

impl Traffic {
    const BOTH: [Self; 2] = [Self::Statements, Self::Connections];

    const fn word(self) -> &'static str {
        match self {
            Self::Statements => "statements",
            Self::Connections => "connections",
        }
    }
}

pub fn run(args: &Args) -> Result<()> {
    ensure!(args.runs > 0, "no runs, no figures");
    let flavour: Flavour = args.flavour.into();
    prepare(&Needs { lab: true, servers: vec![flavour], ..Needs::default() })?;
    let program = release_agent()?;
    let machine = Machine::look()?;
    println!("  {machine}");
    machine.warn();
    let install = Install::find(flavour)?;
    let set = |datapath: Datapath| -> Result<Field> {
        let mut field = lab(datapath).run(|| Field::set(&install, program.clone(), &[], "data_loss = \"allow\""))?;
        field.open()?;
        Ok(field)
    };
    let mut fields = Vec::new();
    for datapath in Datapath::BOTH {
        fields.push((datapath, set(datapath).with_context(|| format!("on {}", datapath.title()))?));
    }
    let mut all = Vec::new();
    for traffic in if args.only.is_empty() { Traffic::BOTH.to_vec() } else { args.only.clone() } {
        println!("\n{}, {}", traffic.word(), install.title());
        let mut figures = Datapath::BOTH.map(|datapath| Figures { traffic, datapath, runs: Vec::new() });
        for number in 1..=args.runs {
            for ((datapath, field), figures) in fields.iter_mut().zip(&mut figures) {
                let run = cut::run(field, traffic).with_context(|| format!("run {number}, {}", datapath.title()))?;
                println!("  run {number:>3}, {:<11} {}", datapath.title(), run.line());
                figures.runs.push(run);
            }
        }
        all.extend(figures);
    }
    report::print(&all);
    args.output.write(&report::json(&machine, &install.title(), &all))
}

/// The lab's name for it.
const fn lab(datapath: Datapath) -> shunt_tests::Datapath {
    match datapath {
        Datapath::Nft => shunt_tests::Datapath::Nft,
        Datapath::Ebpf => shunt_tests::Datapath::Ebpf,
    }
}
