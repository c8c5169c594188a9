//! eBPF: programs and maps that are pinned in a bpf file system, a folder for each network namespace.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use nix::net::if_::if_nameindex;
use nix::sys::statfs::{BPF_FS_MAGIC, statfs};
use shunt_core::datapath::{Datapath, DatapathError};
use shunt_ebpf::{EbpfDatapath, Level, Options, Pins, Size};
use shunt_wire::namespace::cookie;

use super::OpenError;
use crate::config::{AgentConfig, EbpfLog};

/// What the configuration asks for and this host must have.
pub(super) fn check(settings: &AgentConfig) -> Result<(), OpenError> {
    in_bpf_file_system(&settings.pins).map_err(|source| OpenError {
        hint: "mount one there: `mount -t bpf bpf /sys/fs/bpf`, or name another folder with `pins` in [agent] of shunt.toml"
            .to_owned(),
        ..refused(source)
    })?;
    // Programs are loaded with the first mapping, which is late to find out that they cannot be.
    if !Pins::hold_maps(&ours(&settings.pins).map_err(refused)?) {
        shunt_ebpf::try_out().map_err(|error| refused(error.into()))?;
    }
    let there = interfaces().map_err(refused)?;
    match absent(&settings.interfaces, &there) {
        None => Ok(()),
        Some(what) => Err(OpenError {
            hint: "`interfaces` in [agent] of shunt.toml names those that clients and servers are reached by; left out, it \
                   is every one that has an address"
                .to_owned(),
            ..refused(DatapathError::Unsupported(what))
        }),
    }
}

/// Whether the folder is in a bpf file system, or will be when it is made.
pub fn in_bpf_file_system(pins: &Path) -> Result<(), DatapathError> {
    // There is always one: the root.
    let there = pins.ancestors().find(|folder| folder.exists()).unwrap_or(pins);
    let looked = statfs(there).map_err(|error| DatapathError::Kernel {
        what: format!("look at {}", there.display()),
        source: error.into(),
    })?;
    if looked.filesystem_type() == BPF_FS_MAGIC {
        return Ok(());
    }
    Err(shunt_ebpf::Error::NoBpffs { path: pins.to_path_buf() }.into())
}

/// The names of the interfaces that there are.
pub fn interfaces() -> Result<BTreeSet<String>, DatapathError> {
    let listed = if_nameindex();
    let there = listed
        .map_err(|error| DatapathError::Kernel { what: "list the interfaces".to_owned(), source: error.into() })?;
    Ok(there.iter().filter_map(|one| one.name().to_str().ok().map(str::to_owned)).collect())
}

/// What to say of the interfaces that are not there.
pub fn absent(wanted: &[String], there: &BTreeSet<String>) -> Option<String> {
    let missing: Vec<_> = wanted.iter().filter(|name| !there.contains(*name)).map(String::as_str).collect();
    if missing.is_empty() {
        return None;
    }
    let there: Vec<_> = there.iter().map(String::as_str).collect();
    Some(format!("this host has no interface {}; it has {}", missing.join(", "), there.join(", ")))
}

pub(super) fn open(settings: &AgentConfig) -> Result<Box<dyn Datapath>, OpenError> {
    match Pins::sweep(&settings.pins) {
        Ok(gone) => gone.iter().for_each(|folder| {
            tracing::info!(folder = %folder.display(), "took away what was pinned for a network namespace that is gone");
        }),
        // It takes up memory, and nothing else.
        Err(error) => tracing::warn!(%error, "pins of network namespaces that are gone stay"),
    }
    let options = Options {
        pins: settings.pins.clone(),
        size: Size { flows: settings.max_flows, ..Size::default() },
        interfaces: settings.interfaces.clone(),
        log: level(settings.ebpf_log),
        ..Options::default()
    };
    Ok(Box::new(EbpfDatapath::open(options).map_err(refused)?))
}

const fn level(log: EbpfLog) -> Level {
    match log {
        EbpfLog::Off => Level::Off,
        EbpfLog::Error => Level::Error,
        EbpfLog::Info => Level::Info,
        EbpfLog::Debug => Level::Debug,
    }
}

pub(super) fn leftover(pins: &Path) -> Result<Option<Box<dyn Datapath>>, OpenError> {
    if !Pins::hold_maps(&ours(pins).map_err(refused)?) {
        return Ok(None);
    }
    let options = Options { pins: pins.to_path_buf(), ..Options::default() };
    Ok(Some(Box::new(EbpfDatapath::open(options).map_err(refused)?)))
}

pub(super) fn purge_unread(pins: &Path) -> Result<(), DatapathError> {
    Ok(Pins::at(&ours(pins)?)?.purge()?)
}

/// This network namespace's folder.
fn ours(pins: &Path) -> Result<PathBuf, DatapathError> {
    let what = "tell which network namespace this is".to_owned();
    cookie().map(|cookie| pins.join(cookie.to_string())).map_err(|source| DatapathError::Kernel { what, source })
}

fn refused(source: DatapathError) -> OpenError {
    let hint = match &source {
        DatapathError::InUse { .. } => {
            "stop the other agent: a network namespace has one eBPF datapath, and one agent drives it"
        }
        DatapathError::OtherVersion(_) => {
            "another version of shunt made them: install that one again, or have them taken away by `shunt purge`, which ends \
             the connections"
        }
        _ => "`shunt doctor` examines what the kernel can do; shunt never falls back to another datapath by itself",
    };
    OpenError { what: "the eBPF datapath cannot be opened".to_owned(), source, hint: hint.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn interfaces_that_are_not_there_are_named_beside_those_that_are() {
        let there = ["eth0", "lo"].map(str::to_owned).into();
        assert_eq!(absent(&[], &there), None);
        assert_eq!(absent(&["eth0".to_owned()], &there), None);
        let said = absent(&["eth0", "eth7", "wan"].map(str::to_owned), &there);
        assert_eq!(said.as_deref(), Some("this host has no interface eth7, wan; it has eth0, lo"));
    }
}
