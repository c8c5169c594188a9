//! A shunt without eBPF: it can tell that a shunt with it has been here, and must not work beside what that one left.

use std::path::Path;

use shunt_core::datapath::{Datapath, DatapathError};
use shunt_wire::namespace::cookie;

use super::OpenError;
use crate::config::AgentConfig;

const WITHOUT: &str = "this shunt is built without the eBPF datapath";

/// The configuration has refused it already.
pub(super) fn check(_settings: &AgentConfig) -> Result<(), OpenError> {
    Err(refused(DatapathError::Unsupported(WITHOUT.to_owned())))
}

pub(super) fn open(_settings: &AgentConfig) -> Result<Box<dyn Datapath>, OpenError> {
    Err(refused(DatapathError::Unsupported(WITHOUT.to_owned())))
}

pub(super) fn leftover(pins: &Path) -> Result<Option<Box<dyn Datapath>>, OpenError> {
    let what = || "tell which network namespace this is".to_owned();
    let cookie = cookie().map_err(|source| refused(DatapathError::Kernel { what: what(), source }))?;
    let folder = pins.join(cookie.to_string());
    if !folder.join("maps/CONTROL").exists() {
        return Ok(None);
    }
    let what = format!("{} holds an eBPF datapath of this network namespace, and {WITHOUT}", folder.display());
    Err(refused(DatapathError::Unsupported(what)))
}

pub(super) fn purge_unread(_pins: &Path) -> Result<(), DatapathError> {
    Err(DatapathError::Unsupported(WITHOUT.to_owned()))
}

fn refused(source: DatapathError) -> OpenError {
    let hint = "have it taken away by `shunt purge` of a build with eBPF, or install such a build".to_owned();
    OpenError { what: "two datapaths would be in force".to_owned(), source, hint }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_pinned_for_this_network_namespace_is_refused_and_what_is_pinned_for_another_is_not() {
        let pins = tempfile::TempDir::new().unwrap();
        assert!(leftover(pins.path()).unwrap().is_none());
        let pin = |cookie: u64| {
            let maps = pins.path().join(cookie.to_string()).join("maps");
            std::fs::create_dir_all(&maps).unwrap();
            std::fs::write(maps.join("CONTROL"), "").unwrap();
        };
        let ours = cookie().unwrap();
        pin(ours + 1);
        assert!(leftover(pins.path()).unwrap().is_none());
        pin(ours);
        let Err(refused) = leftover(pins.path()) else { panic!("it was not refused") };
        let said = crate::driver::error_chain(&refused);
        assert!(said.contains("this shunt is built without the eBPF datapath"), "{said}");
        assert!(refused.hint.contains("shunt purge"), "{}", refused.hint);
    }
}
