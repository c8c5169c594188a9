//! What comes by apt, how to tell that it is there, and how to install it without harm: nothing is removed, no
//! recommended extras, lists are refreshed only when they must be.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};

use super::Needs;
use crate::talk;

pub struct Package {
    pub name: &'static str,
    pub why: &'static str,
    there: There,
    of: Of,
}

/// How to tell that a package is there, however it came.
enum There {
    Program(&'static str),
    Library(&'static str),
}

#[derive(PartialEq)]
enum Of {
    Build,
    Lab,
    Tests,
    /// Only to unpack servers and proxies.
    Unpacking,
    /// Only to compare with.
    Rivals,
}

const PACKAGES: &[Package] = &[
    Package { name: "gcc", why: "C compiler for SQLite", there: There::Program("cc"), of: Of::Build },
    Package { name: "pkg-config", why: "finds the two libraries", there: There::Program("pkg-config"), of: Of::Build },
    Package { name: "libnftnl-dev", why: "nftables over netlink", there: There::Library("libnftnl"), of: Of::Build },
    Package { name: "libmnl-dev", why: "netlink", there: There::Library("libmnl"), of: Of::Build },
    Package { name: "iproute2", why: "hosts out of namespaces", there: There::Program("ip"), of: Of::Lab },
    Package { name: "nftables", why: "looks at what the agent did", there: There::Program("nft"), of: Of::Lab },
    Package { name: "conntrack", why: "looks at connections", there: There::Program("conntrack"), of: Of::Tests },
    Package { name: "systemd", why: "checks the unit file", there: There::Program("systemd-analyze"), of: Of::Tests },
    Package { name: "mmdebstrap", why: "unpacks servers", there: There::Program("mmdebstrap"), of: Of::Unpacking },
    Package { name: "iptables", why: "to compare with", there: There::Program("iptables"), of: Of::Rivals },
];

/// Packages that are needed and not there.
pub fn missing(needs: &Needs, unpacking: bool) -> Vec<&'static Package> {
    let wanted = |package: &&Package| match package.of {
        Of::Build => true,
        Of::Lab => needs.lab,
        Of::Tests => needs.tests,
        Of::Unpacking => unpacking,
        Of::Rivals => needs.rivals,
    };
    PACKAGES.iter().filter(wanted).filter(|package| !is_there(package)).collect()
}

fn is_there(package: &Package) -> bool {
    match package.there {
        // A user's PATH often lacks the sbin folders.
        There::Program(name) => {
            let path = std::env::var("PATH").unwrap_or_default();
            path.split(':').chain(["/usr/sbin", "/sbin"]).any(|dir| Path::new(dir).join(name).is_file())
        }
        There::Library(name) => {
            Command::new("pkg-config").args(["--exists", name]).output().is_ok_and(|output| output.status.success())
        }
    }
}

/// Installs, as root.
pub fn install(names: &[&str]) -> Result<()> {
    if names.is_empty() {
        return Ok(());
    }
    if Command::new("apt-get").arg("--version").output().is_err() {
        bail!("this machine has no apt-get; install what matches these Debian packages: {}", names.join(" "));
    }
    refresh_if_empty()?;
    let what = format!("apt-get install {}", names.join(" "));
    if talk::step(&what, || apt_install(names)).is_err() {
        // Lists that are too old name files that are gone.
        refresh()?;
        talk::step(&what, || apt_install(names)).context(
            "apt cannot install what the project needs; try `apt-get update`, then `apt-get install` with the names above",
        )?;
    }
    Ok(())
}

fn apt_install(names: &[&str]) -> Result<()> {
    let mut command = Command::new("apt-get");
    command.args(["install", "--yes", "--no-install-recommends", "--no-remove", "--quiet=2"]);
    talk::quietly(command.args(names).env("DEBIAN_FRONTEND", "noninteractive")).map(drop)
}

/// Refreshes the lists of a machine that has none (as a fresh container).
pub fn refresh_if_empty() -> Result<()> {
    if targets()?.is_empty() { refresh() } else { Ok(()) }
}

pub fn refresh() -> Result<()> {
    talk::step("apt-get update", || talk::quietly(Command::new("apt-get").args(["update", "--quiet=2"])).map(drop))
}

/// Whether nobody has refreshed the lists for a day; of a machine without apt they cannot be.
pub fn lists_are_old() -> bool {
    let refreshed = std::fs::metadata("/var/lib/apt/lists").and_then(|folder| folder.modified());
    refreshed.is_ok_and(|then| then.elapsed().is_ok_and(|age| age > Duration::from_secs(86_400)))
}

/// A package archive that this machine uses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Archive {
    pub label: String,
    pub codename: String,
    pub address: String,
}

/// The archives of this machine, as apt itself tells.
pub fn targets() -> Result<Vec<Archive>> {
    let mut command = Command::new("apt-get");
    command.args(["indextargets", "--format", "$(LABEL)|$(CODENAME)|$(REPO_URI)", "Created-By: Packages"]);
    Ok(parse_targets(&talk::quietly(&mut command)?))
}

fn parse_targets(text: &str) -> Vec<Archive> {
    let mut archives: Vec<Archive> = Vec::new();
    for line in text.lines() {
        if let [label, codename, address] = line.split('|').collect::<Vec<_>>()[..] {
            let archive = Archive { label: label.into(), codename: codename.into(), address: address.into() };
            if !archives.contains(&archive) {
                archives.push(archive);
            }
        }
    }
    archives
}

/// Whether the machine's own sources have a package of that very name, and would install it.
pub fn has_candidate(name: &str) -> bool {
    let text = talk::quietly(Command::new("apt-cache").args(["policy", name])).unwrap_or_default();
    text.lines().any(|line| line.trim().strip_prefix("Candidate: ").is_some_and(|version| version != "(none)"))
}

/// The packages that come with one, itself among them.
pub fn dependencies(name: &str) -> Vec<String> {
    let mut command = Command::new("apt-cache");
    command.args(["depends", "--recurse", "--important", "--no-suggests", "--no-conflicts", "--no-breaks"]);
    let text = talk::quietly(command.arg("--no-replaces").arg(name)).unwrap_or_default();
    // A package stands at the beginning of a line, what it wants below it.
    text.lines().filter(|line| line.starts_with(|c: char| c.is_ascii_alphanumeric())).map(str::to_owned).collect()
}

/// Names of packages that the machine's own sources have.
pub fn search(pattern: &str) -> Vec<String> {
    let output = Command::new("apt-cache").args(["search", "--names-only", pattern]).output();
    let text = output.map(|o| String::from_utf8_lossy(&o.stdout).into_owned()).unwrap_or_default();
    let mut names: Vec<String> = text.lines().filter_map(|l| Some(l.split_whitespace().next()?.to_owned())).collect();
    names.sort();
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_archive_is_named_once_however_many_components_it_has() {
        let text = "Debian|bookworm|http://mirror.example/debian/\nDebian|bookworm|http://mirror.example/debian/\n";
        assert_eq!(parse_targets(text).len(), 1);
    }
}
