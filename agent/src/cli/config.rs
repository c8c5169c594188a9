//! `shunt config check`: what the agent would say of the files, without an agent.

use super::{Args, Exit, args};
use crate::config;
use crate::output::{self, Failure};

pub fn run(args: &Args, options: &args::Config) -> Result<(), Failure> {
    match options.command {
        args::ConfigCommand::Check => check(args),
    }
}

fn check(args: &Args) -> Result<(), Failure> {
    let loaded = config::load(&args.config, &config::system_resolver);
    if !loaded.diagnostics.is_empty() {
        output::note(&loaded.render(output::stderr_has_colour()));
    }
    if loaded.has_errors() {
        let failure = Failure::new(format!("the configuration in {} is in error", args.config.display()));
        return Err(failure.with_exit(Exit::Usage));
    }
    let listeners: usize = loaded.clusters.iter().map(|c| c.listeners.len()).sum();
    output::note(&format!(
        "{}: {} clusters, {listeners} listeners, no errors",
        args.config.display(),
        loaded.clusters.len()
    ));
    Ok(())
}
