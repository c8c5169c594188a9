//! Getting database servers: unpacked with mmdebstrap into the lab's cache, from the machine's own package archive.
//!
//! Debian has current MySQL in its unstable suite only, so that suite of the same mirror is used; Ubuntu has it in every
//! release. MariaDB is the machine's own if it is installed.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail};
use nix::sys::signal::Signal;
use shunt_tests::{Flavour, Install, flavour, process, scratch};

use super::apt::{self, Archive};
use crate::talk;

/// Whether a flavour can be used, or is known not to be had here (to try `again` costs time at every start).
pub fn is_there(flavour: Flavour, again: bool) -> bool {
    Install::find(flavour).is_ok() || (!again && reason(flavour).is_some())
}

/// One line about a flavour.
pub fn status(flavour: Flavour) -> String {
    match (Install::find(flavour), reason(flavour)) {
        (Ok(install), _) => format!("{:<8} {}", flavour.title(), install.version),
        (Err(_), Some(reason)) => format!("{:<8} cannot be had here: {}", flavour.title(), reason.trim()),
        (Err(error), None) => format!("{error:#}"),
    }
}

/// Whether a flavour was looked for where there is one: then its absence is a fault rather than a fact.
pub fn could_be_had(flavour: Flavour) -> bool {
    sources(flavour).is_ok()
}

fn failure_file(flavour: Flavour) -> std::path::PathBuf {
    flavour::cache().join(format!("{flavour}-unavailable"))
}

/// Why setup could not get it, if that was less than an hour ago.
fn reason(flavour: Flavour) -> Option<String> {
    let file = failure_file(flavour);
    let age = fs::metadata(&file).ok()?.modified().ok()?.elapsed().unwrap_or_default();
    if age.as_secs() > 3600 {
        return None;
    }
    fs::read_to_string(file).ok()
}

/// So that the next run does not try again at once.
pub fn remember_failure(flavour: Flavour, error: &anyhow::Error) -> Result<()> {
    fs::create_dir_all(flavour::cache())?;
    Ok(fs::write(failure_file(flavour), format!("{error:#}"))?)
}

/// Where it can come from.
struct Sources {
    archive: Archive,
    suite: String,
    packages: Vec<String>,
}

fn sources(flavour: Flavour) -> Result<Sources> {
    let archives = apt::targets()?;
    let of = |label: &str| archives.iter().find(|a| a.label == label && !a.codename.contains('-'));
    let (archive, debian) = match (of("Debian"), of("Ubuntu")) {
        (Some(archive), _) => (archive, true),
        (None, Some(archive)) => (archive, false),
        (None, None) => bail!("this machine's package sources are neither Debian's nor Ubuntu's"),
    };
    let archive =
        Archive { label: archive.label.clone(), codename: archive.codename.clone(), address: archive.address.clone() };
    let own = archive.codename.clone();
    let (suite, packages) = match (flavour, debian) {
        (Flavour::Mysql, true) => {
            ("sid".to_owned(), vec!["mysql-server-core".to_owned(), "mysql-client-core".to_owned()])
        }
        (Flavour::Mysql, false) => {
            // mysql-server-core-8.0, or without the number in later releases
            let newest = apt::search("^mysql-server-core(-[0-9.]+)?$").pop();
            let server = newest.context("the package sources have no mysql-server-core")?;
            let client = server.replace("server", "client");
            (own, vec![server, client])
        }
        (Flavour::Mariadb, _) => (own, vec!["mariadb-server-core".to_owned(), "mariadb-client-core".to_owned()]),
    };
    Ok(Sources { archive, suite, packages })
}

/// Unpacks a flavour into its folder, as root.
pub fn get(flavour: Flavour) -> Result<()> {
    apt::refresh_if_empty()?;
    let sources = sources(flavour)?;
    let folder = flavour::folder(flavour);
    let part = flavour::cache().join(format!("{flavour}-root{}", scratch::part()));
    fs::create_dir_all(flavour::cache()).with_context(|| format!("cannot make {}", flavour::cache().display()))?;
    let unpacked =
        talk::step(&format!("{} from {}'s {}", flavour.title(), sources.archive.label, sources.suite), || {
            let _ = fs::remove_dir_all(&part);
            unpack(&sources, &part)?;
            make_usable(&part)?;
            let version = Install::adopt(flavour, &part)?;
            let _ = fs::remove_dir_all(&folder);
            fs::rename(&part, &folder)?;
            Ok(version)
        });
    let _ = fs::remove_dir_all(&part);
    let version = unpacked?;
    let _ = fs::remove_file(failure_file(flavour));
    println!("  {} {version} is in {}", flavour.title(), folder.display());
    Ok(())
}

fn unpack(sources: &Sources, into: &Path) -> Result<()> {
    let mut command = Command::new("mmdebstrap");
    // A mirror's snapshot of unstable is valid for some days only; its signature is checked nevertheless.
    command.args(["--aptopt=Acquire::Check-Valid-Until \"false\"", "--variant=extract"]);
    if let Ok(proxy) = talk::quietly(Command::new("apt-config").args(["shell", "P", "Acquire::http::Proxy"]))
        && let Some(address) = proxy.trim().strip_prefix("P='").and_then(|rest| rest.strip_suffix('\''))
    {
        command.arg(format!("--aptopt=Acquire::http::Proxy \"{address}\""));
    }
    command.arg(format!("--include={}", sources.packages.join(",")));
    command.arg(&sources.suite).arg(into).arg(&sources.archive.address);
    command.stdin(Stdio::null());
    // It may have mounted something: TERM lets it clean up.
    talk::judged("mmdebstrap", &process::output(command, Signal::SIGTERM)?).map(drop)
}

/// Packages are unpacked, but no maintainer script has run: what those would have made, and a server needs.
fn make_usable(root: &Path) -> Result<()> {
    for name in ["bin", "sbin", "lib", "lib64"] {
        let link = root.join(name);
        if fs::symlink_metadata(&link).is_err() && root.join("usr").join(name).exists() {
            std::os::unix::fs::symlink(format!("usr/{name}"), &link)?;
        }
    }
    for name in ["proc", "tmp", "lab"] {
        fs::create_dir_all(root.join(name))?;
    }
    if !root.join("dev/null").exists() {
        bail!("the unpacked folder has no devices");
    }
    fs::create_dir_all(root.join("etc"))?;
    fs::write(root.join("etc/passwd"), "root:x:0:0:root:/:/bin/sh\n")?;
    // libaio's and others' links that ldconfig makes
    let _ = Command::new("ldconfig").arg("-r").arg(root).output();
    Ok(())
}
