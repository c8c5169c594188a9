//! `shunt purge`: takes the datapath out of the kernel, of whichever kind it is. Stopping the agent leaves it there on purpose;
//! this is the other way.

use shunt_core::datapath::{Datapath, DatapathError};

use super::{Args, Exit, args};
use crate::config;
use crate::datapath::{self, OpenError, Place};
use crate::output::{self, Failure};

pub fn run(args: &Args, options: &args::Purge) -> Result<(), Failure> {
    let loaded = config::load(&args.config, &config::system_resolver);
    let Some(settings) = loaded.agent else {
        output::note(&loaded.render(output::stderr_has_colour()));
        return Err(Failure::new("what is shunt's cannot be read").with_exit(Exit::Usage));
    };
    let places = datapath::everywhere(&settings, &args.state);
    let named = places.iter().map(ToString::to_string).collect::<Vec<_>>().join(" and ");
    let question = format!("Every connection through {named} ends. Purge it?");
    if !options.yes && !output::confirm(&question) {
        return Err(Failure::new("nothing was purged").hint("confirm it with --yes").with_exit(Exit::Refused));
    }
    // All of them are looked at before any goes: one that an agent uses stops us.
    let mut found = Vec::new();
    for place in places {
        match datapath::leftover(&place) {
            Ok(None) => {}
            Ok(Some(datapath)) => found.push((place, Some(datapath))),
            Err(error) if error.is_of_another_version() => found.push((place, None)),
            Err(error) => return Err(refused(&error)),
        }
    }
    if found.is_empty() {
        output::note(&format!("nothing was to be purged: {named} are not there"));
    }
    for (place, datapath) in found {
        purge(&place, datapath).map_err(|error| Failure::new(format!("{place} is still there")).because(&error))?;
        output::note(&format!("{place} is gone"));
    }
    Ok(())
}

fn purge(place: &Place, datapath: Option<Box<dyn Datapath>>) -> Result<(), DatapathError> {
    match datapath {
        Some(mut datapath) => datapath.purge(),
        None => datapath::purge_unread(place),
    }
}

fn refused(error: &OpenError) -> Failure {
    let failure = Failure::new("nothing was purged").because(error);
    if error.is_in_use() {
        return failure.hint("stop the agent first: `systemctl stop shunt`").with_exit(Exit::Refused);
    }
    failure.hint(error.hint.clone())
}
