//! The proxies that `bench datapath` compares with: unpacked into the lab's cache, started by the benchmark only.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result};
use shunt_tests::{flavour, jail};

use super::{apt, servers, unpack};
use crate::talk;

/// Written into an unpacked root when it is complete; holds the version.
const VERSION: &str = "lab-version";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rival {
    Haproxy,
    MysqlRouter,
}

impl Rival {
    pub const ALL: [Self; 2] = [Self::Haproxy, Self::MysqlRouter];

    /// As a person writes it.
    pub const fn title(self) -> &'static str {
        match self {
            Self::Haproxy => "HAProxy",
            Self::MysqlRouter => "MySQL Router",
        }
    }

    /// As a path says it; also the package's name.
    const fn name(self) -> &'static str {
        match self {
            Self::Haproxy => "haproxy",
            Self::MysqlRouter => "mysql-router",
        }
    }

    /// In its root.
    const fn binary(self) -> &'static str {
        match self {
            Self::Haproxy => "/usr/sbin/haproxy",
            Self::MysqlRouter => "/usr/bin/mysqlrouter",
        }
    }

    fn folder(self) -> PathBuf {
        flavour::cache().join(format!("{}-root", self.name()))
    }

    /// Its version; the reason, if it is not there.
    pub fn version(self) -> Result<String> {
        if let Ok(version) = std::fs::read_to_string(self.folder().join(VERSION)) {
            return Ok(version.trim().to_owned());
        }
        let why = unpack::reason(self.name()).unwrap_or_else(|| "it is not unpacked".to_owned());
        Err(anyhow::anyhow!("{} cannot be had here: {}", self.title(), why.trim()))
    }

    /// Whether it can be used, or is known not to be had here.
    pub fn is_settled(self) -> bool {
        self.version().is_ok() || unpack::reason(self.name()).is_some()
    }

    /// Its command, to be run with the folder `data` at [`jail::INSIDE`].
    pub fn command(self, data: &Path) -> Result<Command> {
        self.command_in(&self.folder(), data)
    }

    fn command_in(self, root: &Path, data: &Path) -> Result<Command> {
        let mut command = Command::new(self.binary());
        command.env_clear().env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin");
        jail::confine(&mut command, root, data)?;
        Ok(command)
    }

    /// Unpacks it, as root.
    pub fn get(self) -> Result<()> {
        apt::refresh_if_empty()?;
        let sources = unpack::sources()?;
        let suite = match self {
            Self::Haproxy => sources.archive.codename.clone(),
            Self::MysqlRouter => servers::mysql_suite(&sources),
        };
        let order = unpack::Order {
            name: self.name(),
            title: self.title(),
            suite: &suite,
            packages: &[self.name().to_owned()],
            folder: &self.folder(),
            adopt: &|root| self.adopt(root),
        };
        unpack::get(&order, &sources.archive)
    }

    pub fn remember_failure(self, error: &anyhow::Error) -> Result<()> {
        unpack::remember_failure(self.name(), error)
    }

    /// `HAProxy version 2.6.12-1 …`, `MySQL Router  Ver 9.7.4-2 for …`: the bare number.
    fn adopt(self, root: &Path) -> Result<String> {
        let option = match self {
            Self::Haproxy => "-v",
            Self::MysqlRouter => "--version",
        };
        // Nothing to bind: the root itself will do.
        let text = talk::quietly(self.command_in(root, root)?.arg(option))?;
        let version = bare_number(&text).with_context(|| format!("no version in: {text}"))?;
        std::fs::write(root.join(VERSION), &version)?;
        Ok(version)
    }
}

fn bare_number(text: &str) -> Option<String> {
    let word = text.split_whitespace().find(|word| word.starts_with(|c: char| c.is_ascii_digit()))?;
    Some(word.chars().take_while(|c| c.is_ascii_digit() || *c == '.').collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_is_the_first_bare_number() {
        let haproxy = "HAProxy version 2.6.12-1+deb12u3 2025/10/03 - https://haproxy.org/";
        assert_eq!(bare_number(haproxy).as_deref(), Some("2.6.12"));
        let router = "MySQL Router  Ver 9.7.4-2 for Linux on x86_64 ((Debian))";
        assert_eq!(bare_number(router).as_deref(), Some("9.7.4"));
    }
}
