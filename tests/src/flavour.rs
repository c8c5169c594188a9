//! The two kinds of server, and where on this machine an installed one is. Nothing is installed here: that is
//! `cargo xtask setup`'s business; what is missing is told as a reason.

use std::fmt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::jail;

/// Written into an unpacked root when it is complete; holds the version, which only root could ask for.
const VERSION: &str = "lab-version";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flavour {
    Mysql,
    Mariadb,
}

impl Flavour {
    pub const ALL: [Self; 2] = [Self::Mysql, Self::Mariadb];

    /// As a person writes it.
    pub const fn title(self) -> &'static str {
        match self {
            Self::Mysql => "MySQL",
            Self::Mariadb => "MariaDB",
        }
    }

    /// As a path or an option says it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Mysql => "mysql",
            Self::Mariadb => "mariadb",
        }
    }

    /// Places of the server's binary, in a root.
    const fn binaries(self) -> &'static [&'static str] {
        match self {
            Self::Mysql => &["usr/sbin/mysqld", "usr/local/mysql/bin/mysqld"],
            Self::Mariadb => &["usr/sbin/mariadbd", "usr/local/mysql/bin/mariadbd"],
        }
    }
}

impl fmt::Display for Flavour {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A server that can be started.
#[derive(Clone, Debug)]
pub struct Install {
    pub flavour: Flavour,
    /// `9.7.4`, `10.11.19`.
    pub version: String,
    /// The folder it was unpacked into; `None`: the machine's own.
    pub root: Option<PathBuf>,
    /// As seen from inside the root.
    pub binary: PathBuf,
}

impl Install {
    /// The lab's own copy first, then the machine's.
    pub fn find(flavour: Flavour) -> Result<Self> {
        Self::unpacked(flavour).or_else(|| Self::of_the_machine(flavour)).with_context(|| {
            format!(
                "{} is not installed (cargo xtask setup gets it, where the package sources have it)",
                flavour.title()
            )
        })
    }

    fn unpacked(flavour: Flavour) -> Option<Self> {
        let root = folder(flavour);
        let version = std::fs::read_to_string(root.join(VERSION)).ok()?.trim().to_owned();
        let binary = flavour.binaries().iter().find(|path| root.join(path).exists())?;
        Some(Self { flavour, version, root: Some(root), binary: Path::new("/").join(binary) })
    }

    fn of_the_machine(flavour: Flavour) -> Option<Self> {
        let there = flavour.binaries().iter().map(|path| Path::new("/").join(path)).filter(|path| path.exists());
        // A mysqld may be a link to mariadbd: ask it.
        there.into_iter().find_map(|binary| {
            let version = ask_version(flavour, None, &binary).ok()?;
            Some(Self { flavour, version, root: None, binary })
        })
    }

    /// Declares a freshly unpacked folder complete: asks the server in it for its version, and writes that down.
    pub fn adopt(flavour: Flavour, root: &Path) -> Result<String> {
        let binary = flavour.binaries().iter().find(|path| root.join(path).exists());
        let binary = binary.with_context(|| format!("no {} in {}", flavour.title(), root.display()))?;
        let version = ask_version(flavour, Some(root), &Path::new("/").join(binary))?;
        std::fs::write(root.join(VERSION), &version)?;
        Ok(version)
    }

    /// `MySQL 9.7.4`.
    pub fn title(&self) -> String {
        format!("{} {}", self.flavour.title(), self.version)
    }

    /// The server's command, to be run with `data` at [`Self::inside`].
    pub fn command(&self, data: &Path) -> Result<Command> {
        let mut command = Command::new(&self.binary);
        command.env_clear().env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin").arg("--no-defaults").arg("--user=root");
        if let Some(root) = &self.root {
            jail::confine(&mut command, root, data)?;
        }
        Ok(command)
    }

    /// The path under which the server itself sees `data`.
    pub fn inside(&self, data: &Path) -> PathBuf {
        if self.root.is_some() { PathBuf::from(jail::INSIDE) } else { data.to_path_buf() }
    }

    /// A file of the installation, as seen from outside.
    pub fn file(&self, path: &str) -> PathBuf {
        self.root.as_deref().unwrap_or(Path::new("/")).join(path)
    }
}

/// What `cargo xtask setup` prepares: servers in folders, template data. `SHUNT_CACHE` moves it.
pub fn cache() -> PathBuf {
    std::env::var_os("SHUNT_CACHE")
        .filter(|v| !v.is_empty())
        .map_or_else(|| "/var/cache/shunt-lab".into(), PathBuf::from)
}

/// Where the lab's own copy of a flavour is unpacked.
pub fn folder(flavour: Flavour) -> PathBuf {
    cache().join(format!("{flavour}-root"))
}

fn ask_version(flavour: Flavour, root: Option<&Path>, binary: &Path) -> Result<String> {
    let mut command = Command::new(binary);
    command.args(["--no-defaults", "--version"]).env_clear();
    if let Some(root) = root {
        // Nothing to bind: the root itself will do. Needs root, as everything in the lab.
        jail::confine(&mut command, root, root)?;
    }
    let output = command.output().with_context(|| format!("cannot run {}", binary.display()))?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    if !output.status.success() {
        bail!("{} --version: {}", binary.display(), String::from_utf8_lossy(&output.stderr).trim());
    }
    version_of(flavour, &text)
        .with_context(|| format!("{} is not {}: {}", binary.display(), flavour.title(), text.trim()))
}

/// The bare number in `mysqld  Ver 9.7.4-2 for Linux on x86_64 ((Debian))`.
fn version_of(flavour: Flavour, text: &str) -> Option<String> {
    if text.contains("MariaDB") != (flavour == Flavour::Mariadb) {
        return None;
    }
    let word = text.split_whitespace().skip_while(|word| *word != "Ver").nth(1)?;
    let number: String = word.chars().take_while(|c| c.is_ascii_digit() || *c == '.').collect();
    (!number.is_empty()).then_some(number)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mysqld_that_is_mariadb_is_not_mysql() {
        let text = "mysqld  Ver 10.11.19-MariaDB-0+deb12u1 for debian-linux-gnu on x86_64 (Debian 12)";
        assert_eq!(version_of(Flavour::Mysql, text), None);
        assert_eq!(version_of(Flavour::Mariadb, text).as_deref(), Some("10.11.19"));
    }

    #[test]
    fn the_version_is_the_bare_number() {
        let text = "/usr/sbin/mysqld  Ver 9.7.4-2 for Linux on x86_64 ((Debian))";
        assert_eq!(version_of(Flavour::Mysql, text).as_deref(), Some("9.7.4"));
    }
}
