//! `bench failover`: real primaries die, and are switched over, under real clients; shunt does the rest. What the clients
//! saw, and where the time went.

mod breakdown;
pub(super) mod field;
mod lossless;
pub(super) mod outage;
mod peers;
mod planned;
mod report;
mod switched;
mod unplanned;

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use clap::ValueEnum;
use shunt_tests::{Flavour, Install};

use super::machine::Machine;
use super::{Output, prepare, release_agent};
use crate::FlavourArg;
use crate::setup::Needs;
use field::Field;
use outage::Death;
use report::Report;

#[derive(clap::Args)]
pub struct Args {
    /// How often each scenario with each flavour
    #[arg(long, default_value_t = 30)]
    runs: usize,
    /// How often `semisync` with each flavour: it is not about a median
    #[arg(long, default_value_t = 100)]
    semisync_runs: usize,
    /// Only with these servers; both flavours if left out
    #[arg(long, value_enum)]
    flavour: Option<FlavourArg>,
    /// Only this scenario; may be repeated
    #[arg(long, value_enum)]
    only: Vec<Scenario>,
    /// How many sessions are switched over
    #[arg(long, default_value_t = 64)]
    sessions: usize,
    /// Also write the table there, between the markers that the file has for it
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
    /// `shunt switchover` under load
    Switchover,
    /// kill -9 under several writers, with semi-sync and `data_loss = "forbid"`: is anything acknowledged lost?
    Semisync,
}

impl Scenario {
    pub const ALL: [Self; 5] = [Self::Kill, Self::Cut, Self::CutFast, Self::Switchover, Self::Semisync];

    pub const fn word(self) -> &'static str {
        match self {
            Self::Kill => "kill",
            Self::Cut => "cut",
            Self::CutFast => "cut-fast",
            Self::Switchover => "switchover",
            Self::Semisync => "semisync",
        }
    }

    /// In the README's table.
    pub const fn title(self) -> &'static str {
        match self {
            Self::Kill => "`kill -9`",
            Self::Cut => "silent cut",
            Self::CutFast => "silent cut, `interval = \"200ms\"`, `timeout = \"300ms\"`",
            Self::Switchover => "planned",
            Self::Semisync => "`kill -9`, semi-sync, `data_loss = \"forbid\"`",
        }
    }

    /// Further keys of the cluster's file.
    const fn settings(self) -> &'static str {
        match self {
            Self::Kill | Self::Cut | Self::Switchover => "data_loss = \"allow\"",
            Self::CutFast => "data_loss = \"allow\"\nprobe = { interval = \"200ms\", timeout = \"300ms\" }",
            Self::Semisync => "data_loss = \"forbid\"",
        }
    }
}

pub fn run(args: &Args) -> Result<()> {
    ensure!(args.runs > 0 && args.semisync_runs > 0, "no runs, no figures");
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
    let mut report = Report { machine, unplanned: Vec::new(), switched: Vec::new() };
    for &scenario in &scenarios {
        for &flavour in &flavours {
            let install = Install::find(flavour)?;
            println!("\n{}, {}", scenario.word(), install.title());
            play(args, &install, &program, scenario, &mut report)
                .with_context(|| format!("{} with {}", scenario.word(), install.title()))?;
        }
    }
    report.print();
    if let Some(path) = &args.markdown {
        report.write_markdown(path)?;
    }
    args.output.write(&report.json())?;
    let lost: usize = report.unplanned.iter().filter_map(|f| f.checked).map(|checked| checked.lost).sum();
    ensure!(lost == 0, "{lost} acknowledged writes were lost");
    Ok(())
}

fn play(args: &Args, install: &Install, program: &Path, scenario: Scenario, report: &mut Report) -> Result<()> {
    let options = if scenario == Scenario::Semisync { lossless::options(install) } else { &[] };
    let mut field = Field::set(install, program.to_path_buf(), options, scenario.settings())?;
    if scenario == Scenario::Semisync {
        lossless::arm(&field)?;
    }
    field.open()?;
    let title = install.title();
    if scenario == Scenario::Switchover {
        let mut figures = switched::Figures { title, sessions: args.sessions, runs: Vec::new() };
        for number in 1..=args.runs {
            let run =
                planned::run(&mut field, planned::shape(args.sessions)).with_context(|| format!("run {number}"))?;
            println!("  run {number:>3}: {}", switched::line(&run));
            figures.runs.push(run);
        }
        figures.print_breakdown();
        report.switched.push(figures);
        return Ok(());
    }
    let mut figures = unplanned::Figures { scenario, title, runs: Vec::new(), checked: None };
    let runs = if scenario == Scenario::Semisync { args.semisync_runs } else { args.runs };
    for number in 1..=runs {
        let run = match scenario {
            Scenario::Kill => outage::run(&mut field, Death::Kill),
            Scenario::Cut | Scenario::CutFast => outage::run(&mut field, Death::Cut),
            Scenario::Switchover | Scenario::Semisync => lossless::run(&mut field).map(|found| {
                let checked = figures.checked.get_or_insert_default();
                checked.acknowledged += found.acknowledged;
                checked.lost += found.lost;
                found.run
            }),
        };
        let run = run.with_context(|| format!("run {number}"))?;
        println!("  run {number:>3}: {}", unplanned::line(&run));
        figures.runs.push(run);
    }
    figures.print_breakdown();
    report.unplanned.push(figures);
    Ok(())
}
