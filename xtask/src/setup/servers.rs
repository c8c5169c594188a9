//! Getting database servers into the lab's cache.
//!
//! Debian has current MySQL in its unstable suite only, so that suite of the same mirror is used; Ubuntu has it in every
//! release. MariaDB is the machine's own if it is installed; when tests are to run, and the machine has no Galera or not the
//! server's plugins, the lab gets a MariaDB of its own, with both.

use anyhow::{Context as _, Result, bail};
use shunt_tests::{Flavour, Install, flavour, galera};

use super::apt::{self, Archive};
use super::unpack;

/// Places of a plugin of MariaDB's that tests install. It comes with the package `mariadb-server`, as most of them, and
/// the program with `mariadb-server-core`.
const PLUGIN: [&str; 2] =
    ["usr/lib/mysql/plugin/metadata_lock_info.so", "usr/local/mysql/lib/plugin/metadata_lock_info.so"];

fn has_plugins(install: &Install) -> bool {
    install.flavour != Flavour::Mariadb || PLUGIN.iter().any(|path| install.file(path).exists())
}

fn has_galera(install: &Install) -> bool {
    install.flavour != Flavour::Mariadb || galera::provider(install).is_ok()
}

/// Whether a flavour can be used, with all that `tests` want of it, or is known not to be had here (to try `again` costs
/// time at every start).
pub fn is_there(flavour: Flavour, tests: bool, again: bool) -> bool {
    let is_complete = |install: Install| !tests || (has_galera(&install) && has_plugins(&install));
    Install::find(flavour).is_ok_and(is_complete) || (!again && unpack::reason(flavour.name()).is_some())
}

/// One line about a flavour.
pub fn status(flavour: Flavour) -> String {
    match (Install::find(flavour), unpack::reason(flavour.name())) {
        (Ok(install), _) => {
            let galera = if has_galera(&install) { "" } else { ", without Galera" };
            let plugins = if has_plugins(&install) { "" } else { ", without its plugins" };
            format!("{:<8} {}{galera}{plugins}", flavour.title(), install.version)
        }
        (Err(_), Some(reason)) => format!("{:<8} cannot be had here: {}", flavour.title(), reason.trim()),
        (Err(error), None) => format!("{error:#}"),
    }
}

/// Whether a flavour was looked for where there is one: then its absence is a fault rather than a fact.
pub fn could_be_had(flavour: Flavour) -> bool {
    sources(flavour).is_ok()
}

/// So that the next run does not try again at once.
pub fn remember_failure(flavour: Flavour, error: &anyhow::Error) -> Result<()> {
    unpack::remember_failure(flavour.name(), error)
}

/// Where it can come from.
struct Sources {
    archive: Archive,
    suite: String,
    packages: Vec<String>,
}

/// The suite that has current MySQL.
pub fn mysql_suite(sources: &unpack::Sources) -> String {
    if sources.debian { "sid".to_owned() } else { sources.archive.codename.clone() }
}

fn sources(flavour: Flavour) -> Result<Sources> {
    let sources = unpack::sources()?;
    let own = sources.archive.codename.clone();
    let (suite, packages) = match (flavour, sources.debian) {
        (Flavour::Mysql, true) => {
            (mysql_suite(&sources), vec!["mysql-server-core".to_owned(), "mysql-client-core".to_owned()])
        }
        (Flavour::Mysql, false) => {
            // mysql-server-core-8.0, or without the number in later releases
            let newest = apt::search("^mysql-server-core(-[0-9.]+)?$").pop();
            let server = newest.context("the package sources have no mysql-server-core")?;
            let client = server.replace("server", "client");
            (mysql_suite(&sources), vec![server, client])
        }
        (Flavour::Mariadb, _) => {
            let mut packages = vec!["mariadb-server".to_owned(), "mariadb-client-core".to_owned()];
            // galera-4, or whatever number comes after it
            packages.extend(apt::search("^galera-[0-9]+$").pop());
            (own, packages)
        }
    };
    Ok(Sources { archive: sources.archive, suite, packages })
}

/// Unpacks a flavour into its folder, as root.
pub fn get(flavour: Flavour) -> Result<()> {
    apt::refresh_if_empty()?;
    let sources = sources(flavour)?;
    let galera_is_there = sources.packages.iter().any(|package| package.starts_with("galera-"));
    if flavour == Flavour::Mariadb && !galera_is_there && Install::find(flavour).is_ok_and(|found| has_plugins(&found))
    {
        bail!("the package sources have no Galera, and without it the MariaDB that is there will do");
    }
    let order = unpack::Order {
        name: flavour.name(),
        title: flavour.title(),
        suite: &sources.suite,
        packages: &sources.packages,
        folder: &flavour::folder(flavour),
        adopt: &|root| Install::adopt(flavour, root),
    };
    unpack::get(&order, &sources.archive)
}
