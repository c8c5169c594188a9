//! The command line: a file a subcommand. Tables go to stdout, talk to stderr; exit codes are [`Exit`].

mod agent;
mod args;
mod config;
mod doctor;
mod events;
mod flows;
mod generate;
mod list;
mod operate;
mod operation;
mod purge;
mod show;

pub use args::{Args, Command};

use crate::output::Failure;

/// How a command ends. The numbers are a contract (README, *Exit codes*).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    Done = 0,
    Failed = 1,
    /// Wrong usage, or a configuration in error.
    Usage = 2,
    AgentNotRunning = 3,
    OutcomeUnknown = 4,
    /// A safety rule stands against it.
    Refused = 5,
}

/// Runs one command line to its end.
pub fn run(args: Args) -> Exit {
    let outcome = match &args.command {
        Command::Agent => agent::run(&args),
        Command::List(options) => list::run(&args, options),
        Command::Show(options) => show::run(&args, options),
        Command::Pin(options) => operate::pin(&args, options),
        Command::Unpin(options) => operate::unpin(&args, options),
        Command::Pause(options) => operate::pause(&args, options),
        Command::Resume(options) => operate::resume(&args, options),
        Command::Switchover(options) => operation::switchover(&args, options),
        Command::Failover(options) => operation::failover(&args, options),
        Command::Abort(options) => operate::abort(&args, options),
        Command::Rejoin(options) => operate::rejoin(&args, options),
        Command::Clear(options) => operate::clear(&args, options),
        Command::Drill(options) => operation::drill(&args, options),
        Command::Flows(options) => flows::run(&args, options),
        Command::Events(options) => events::run(&args, options),
        Command::Doctor(options) => doctor::run(&args, options),
        Command::Config(options) => config::run(&args, options),
        Command::Reload => operate::reload(&args),
        Command::Purge(options) => purge::run(&args, options),
        Command::Completions(options) => {
            generate::completions(options);
            Ok(())
        }
        Command::Man(options) => generate::man(options),
    };
    match outcome {
        Ok(()) => Exit::Done,
        Err(failure) => {
            failure.report();
            failure.exit()
        }
    }
}

/// A runtime for one call to the agent.
fn block_on<T>(work: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::new("cannot start").because(&error))?
        .block_on(work)
}
