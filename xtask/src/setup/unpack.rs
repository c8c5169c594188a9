//! Programs that are unpacked with mmdebstrap into the lab's cache, from the machine's own package archive, and run in
//! there: nothing of the machine's is replaced, and no service starts.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail};
use nix::sys::signal::Signal;
use shunt_tests::{flavour, process, scratch};

use super::apt::{self, Archive};
use crate::talk;

/// Where packages can come from.
pub struct Sources {
    pub archive: Archive,
    pub debian: bool,
}

/// The machine's own archive.
pub fn sources() -> Result<Sources> {
    let archives = apt::targets()?;
    let of = |label: &str| archives.iter().find(|a| a.label == label && !a.codename.contains('-'));
    match (of("Debian"), of("Ubuntu")) {
        (Some(archive), _) => Ok(Sources { archive: archive.clone(), debian: true }),
        (None, Some(archive)) => Ok(Sources { archive: archive.clone(), debian: false }),
        (None, None) => bail!("this machine's package sources are neither Debian's nor Ubuntu's"),
    }
}

/// What to unpack, and how to tell that it is complete.
pub struct Order<'a> {
    /// As a path says it.
    pub name: &'a str,
    /// As a person writes it.
    pub title: &'a str,
    pub suite: &'a str,
    pub packages: &'a [String],
    pub folder: &'a Path,
    /// Asks the unpacked program for its version, and writes that down.
    pub adopt: &'a dyn Fn(&Path) -> Result<String>,
}

/// Unpacks it, as root.
pub fn get(order: &Order<'_>, archive: &Archive) -> Result<()> {
    let part = flavour::cache().join(format!("{}-root{}", order.name, scratch::part()));
    fs::create_dir_all(flavour::cache()).with_context(|| format!("cannot make {}", flavour::cache().display()))?;
    let unpacked = talk::step(&format!("{} from {}'s {}", order.title, archive.label, order.suite), || {
        let _ = fs::remove_dir_all(&part);
        unpack(order, archive, &part)?;
        make_usable(&part)?;
        let version = (order.adopt)(&part)?;
        let _ = fs::remove_dir_all(order.folder);
        fs::rename(&part, order.folder)?;
        Ok(version)
    });
    let _ = fs::remove_dir_all(&part);
    let version = unpacked?;
    let _ = fs::remove_file(failure_file(order.name));
    println!("  {} {version} is in {}", order.title, order.folder.display());
    Ok(())
}

fn failure_file(name: &str) -> PathBuf {
    flavour::cache().join(format!("{name}-unavailable"))
}

/// Why it could not be had, if that was less than an hour ago.
pub fn reason(name: &str) -> Option<String> {
    let file = failure_file(name);
    let age = fs::metadata(&file).ok()?.modified().ok()?.elapsed().unwrap_or_default();
    if age.as_secs() > 3600 {
        return None;
    }
    fs::read_to_string(file).ok()
}

/// So that the next run does not try again at once.
pub fn remember_failure(name: &str, error: &anyhow::Error) -> Result<()> {
    fs::create_dir_all(flavour::cache())?;
    Ok(fs::write(failure_file(name), format!("{error:#}"))?)
}

fn unpack(order: &Order<'_>, archive: &Archive, into: &Path) -> Result<()> {
    let mut command = Command::new("mmdebstrap");
    // A mirror's snapshot of unstable is valid for some days only; its signature is checked nevertheless.
    command.args(["--aptopt=Acquire::Check-Valid-Until \"false\"", "--variant=extract"]);
    if let Ok(proxy) = talk::quietly(Command::new("apt-config").args(["shell", "P", "Acquire::http::Proxy"]))
        && let Some(address) = proxy.trim().strip_prefix("P='").and_then(|rest| rest.strip_suffix('\''))
    {
        command.arg(format!("--aptopt=Acquire::http::Proxy \"{address}\""));
    }
    command.arg(format!("--include={}", order.packages.join(",")));
    command.arg(order.suite).arg(into).arg(&archive.address);
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
