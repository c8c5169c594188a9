//! `shunt purge`: takes the table out of the kernel. Stopping the agent leaves it there on purpose; this is the other way.

use shunt_core::datapath::{Datapath, DatapathError};
use shunt_rules::{NftDatapath, Options};

use super::{Args, Exit, args};
use crate::config;
use crate::output::{self, Failure};

pub fn run(args: &Args, options: &args::Purge) -> Result<(), Failure> {
    let loaded = config::load(&args.config, &config::system_resolver);
    let Some(settings) = loaded.agent else {
        output::note(&loaded.render(output::stderr_has_colour()));
        return Err(Failure::new("which table is shunt's cannot be read").with_exit(Exit::Usage));
    };
    let question = format!("Every connection through table inet {} ends. Purge it?", settings.table);
    if !options.yes && !output::confirm(&question) {
        return Err(Failure::new("nothing was purged").hint("confirm it with --yes").with_exit(Exit::Refused));
    }
    let opened = NftDatapath::open(Options { table: settings.table.clone() });
    let mut datapath = opened.map_err(|error| match &error {
        DatapathError::InUse { .. } => Failure::new("nothing was purged")
            .because(&error)
            .hint("stop the agent first: `systemctl stop shunt`")
            .with_exit(Exit::Refused),
        _ => Failure::new("nothing was purged").because(&error),
    })?;
    if !datapath.found_table() {
        output::note(&format!("there is no table inet {}: nothing was to be purged", settings.table));
        return Ok(());
    }
    datapath.purge().map_err(|error| Failure::new("the table is still there").because(&error))?;
    output::note(&format!("table inet {} is gone", settings.table));
    Ok(())
}
