//! `bench failover`: real primaries die, and are switched over, under real clients; shunt does the rest. What the clients
//! saw, and where the time went.

mod breakdown;
mod field;
mod outage;
mod report;

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use clap::ValueEnum;
use shunt_tests::{Flavour, Install};

use super::machine::Machine;
use super::{Output, prepare, release_agent};
use crate::setup::Needs;
use crate::FlavourArg;
use field::Field;
use outage::Death;
use report::{Figures, Report};

#[derive(clap::Args)]
pub struct Args {
    /// How many failovers of each scenario
    #[arg(long, default_value_t = 30)]
    runs: usize,
    /// Only with these servers; both flavours if left out
    #[arg(long, value_enum)]
    flavour: Option<FlavourArg>,
    /// Only this scenario; may be repeated
    #[arg(long, value_enum)]
    only: Vec<Scenario>,
    /// Also write the table there, between the markers of `failover`
    #[arg(long, value_name = "FILE")]
    markdown: Option<PathBuf>,
    #[command(flatten)]
    output: Output,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Scenario {
    /// kill -9 of the primary
    Kill,
    /// The primary's link goes down, with the default settings
    Cut,
    /// The same, with a shorter interval and timeout of the agent's questions
    CutFast,
}

impl Scenario {
    const ALL: [Self; 3] = [Self::Kill, Self::Cut, Self::CutFast];

    pub const fn word(self) -> &'static str {
        match self {
            Self::Kill => "kill",
            Self::Cut => "cut",
            Self::CutFast => "cut-fast",
        }
    }

    /// Further keys of the cluster's file.
    const fn settings(self) -> &'static str {
        match self {
            Self::Kill | Self::Cut => "data_loss = \"allow\"",
            Self::CutFast => "data_loss = \"allow\"\nprobe = { interval = \"200ms\", timeout = \"300ms\" }",
        }
    }
}

pub fn run(args: &Args) -> Result<()> {
    let flavours: Vec<Flavour> = match args.flavour {
        Some(flavour) => vec![flavour.into()],
        None => vec![Flavour::Mysql, Flavour::Mariadb],
    };
    prepare(&Needs { lab: true, servers: flavours.clone(), ..Needs::default() })?;
    let program = release_agent()?;
    let machine = Machine::look()?;
    println!("  {machine}");
    machine.warn();
    let scenarios = if args.only.is_empty() { Scenario::ALL.to_vec() } else { args.only.clone() };
    let mut all = Vec::new();
    for flavour in flavours {
        let install = Install::find(flavour)?;
        for &scenario in &scenarios {
            println!("\n{}, {}", scenario.word(), install.title());
            let figures = play(&install, &program, scenario, args.runs)
                .with_context(|| format!("{} with {}", scenario.word(), install.title()))?;
            figures.print();
            all.push(figures);
        }
    }
    let report = Report { machine: &machine, all: &all };
    report.print();
    if let Some(path) = &args.markdown {
        report.write_markdown(path)?;
    }
    args.output.write(&report.json())
}

fn play(install: &Install, program: &Path, scenario: Scenario, runs: usize) -> Result<Figures> {
    let mut figures = Figures::new(scenario, install.title());
    let death = if scenario == Scenario::Kill { Death::Kill } else { Death::Cut };
    let mut field = Field::set(install, program.to_path_buf(), &[], scenario.settings())?;
    field.open()?;
    for number in 1..=runs {
        let run = outage::run(&mut field, death).with_context(|| format!("run {number} of {runs}"))?;
        println!("  run {number:>3}: {}", report::line(&run));
        figures.runs.push(run);
    }
    Ok(figures)
}
