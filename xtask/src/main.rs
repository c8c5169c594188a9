//! What a person or CI runs: `cargo xtask setup | demo | test | bench | clean`. One file a subcommand.
//!
//! Needs Rust and a C compiler only; whatever else the project needs, `setup` gets, and the others call it first.

#![expect(clippy::print_stdout, reason = "these commands talk to the person who runs them")]

mod bench;
mod cargo;
mod clean;
mod demo;
mod interrupt;
mod moment;
mod root;
mod setup;
mod stage;
mod talk;
mod test;

use std::process::ExitCode;

use clap::{Parser, Subcommand, ValueEnum};
use shunt_tests::Flavour;

#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask", about, disable_help_subcommand = true)]
struct Args {
    #[command(subcommand)]
    command: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Get everything that build, demo and tests need (says what first)
    Setup(setup::Args),
    /// Watch a real primary die and a client carry on through the same proxy port
    Demo(demo::Args),
    /// Format, lints, unit, property, doc and lab tests
    Test(test::Args),
    /// Measure what the project promises
    #[command(subcommand)]
    Bench(bench::Bench),
    /// Remove what killed runs left behind
    Clean,
}

/// A flavour on the command line.
#[derive(Clone, Copy, ValueEnum)]
enum FlavourArg {
    Mysql,
    Mariadb,
}

impl From<FlavourArg> for Flavour {
    fn from(arg: FlavourArg) -> Self {
        match arg {
            FlavourArg::Mysql => Self::Mysql,
            FlavourArg::Mariadb => Self::Mariadb,
        }
    }
}

fn main() -> ExitCode {
    interrupt::watch();
    let done = match Args::parse().command {
        Task::Setup(args) => setup::run(&args),
        Task::Demo(args) => demo::run(&args),
        Task::Test(args) => test::run(&args),
        Task::Bench(bench) => bench::run(&bench),
        Task::Clean => {
            clean::run();
            Ok(())
        }
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            interrupt::give_way();
            talk::error(&error);
            shunt_tests::logs::print_kept(10);
            ExitCode::FAILURE
        }
    }
}
