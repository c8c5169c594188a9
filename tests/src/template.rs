//! Data folders. One is initialised per flavour and version, with the lab's users and table already in it (so that no
//! server's GTID set begins with them), and copied for every server.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};
use nix::fcntl::{Flock, FlockArg};
use nix::sys::signal::Signal;

use crate::flavour::cache;
use crate::{Flavour, Install, process, scratch};

/// Password of every user below but root, who has none. A lab has no secrets.
pub const PASSWORD: &str = "shunt-lab";

/// Whoever changes what is in a template counts this up: old ones are then left alone.
const EDITION: u32 = 4;

/// The user that has the grants of follow mode and no others. `shunt` has those of promote mode.
pub const FOLLOWER: &str = "follower";

/// What follow mode needs.
const fn follow_grants(flavour: Flavour) -> &'static [(&'static str, &'static str)] {
    match flavour {
        Flavour::Mysql => &[("REPLICATION CLIENT", "*.*"), ("SELECT", "performance_schema.*")],
        Flavour::Mariadb => &[("REPLICA MONITOR", "*.*")],
    }
}

/// What promote mode needs, as `shunt::operate::grants` has it; a test of the lab compares the two.
const fn promote_grants(flavour: Flavour) -> &'static [(&'static str, &'static str)] {
    match flavour {
        Flavour::Mysql => &[
            (
                "REPLICATION CLIENT, REPLICATION_SLAVE_ADMIN, RELOAD, SYSTEM_VARIABLES_ADMIN, CONNECTION_ADMIN, PROCESS, \
                 REPLICATION SLAVE",
                "*.*",
            ),
            ("SELECT", "performance_schema.*"),
        ],
        Flavour::Mariadb => &[(
            "REPLICA MONITOR, BINLOG MONITOR, REPLICATION SLAVE ADMIN, REPLICATION MASTER ADMIN, RELOAD, READ_ONLY ADMIN, \
             CONNECTION ADMIN, PROCESS, REPLICATION SLAVE",
            "*.*",
        )],
    }
}

/// Users and the table, one statement a line (MariaDB's bootstrap reads lines).
fn content(flavour: Flavour) -> String {
    let give = |user: &str, grants: &[(&str, &str)]| {
        let lines: Vec<String> =
            grants.iter().map(|(what, on)| format!("GRANT {what} ON {on} TO {user}@'%';")).collect();
        lines.join("\n")
    };
    let (follow, promote) = (give(FOLLOWER, follow_grants(flavour)), give("shunt", promote_grants(flavour)));
    format!(
        "CREATE USER root@'%';
GRANT ALL PRIVILEGES ON *.* TO root@'%' WITH GRANT OPTION;
CREATE USER repl@'%' IDENTIFIED BY '{PASSWORD}';
GRANT REPLICATION SLAVE ON *.* TO repl@'%';
CREATE USER shunt@'%' IDENTIFIED BY '{PASSWORD}';
{promote}
CREATE USER {FOLLOWER}@'%' IDENTIFIED BY '{PASSWORD}';
{follow}
CREATE DATABASE app;
CREATE USER app@'%' IDENTIFIED BY '{PASSWORD}';
GRANT ALL PRIVILEGES ON app.* TO app@'%';
CREATE TABLE app.t (id BIGINT NOT NULL AUTO_INCREMENT PRIMARY KEY, note VARCHAR(200) NOT NULL DEFAULT '', at TIMESTAMP(6) NOT NULL DEFAULT CURRENT_TIMESTAMP(6)) ENGINE=InnoDB;
"
    )
}

/// Copies the template to `data`, which must not exist; makes the template first if this machine has none yet.
pub fn copy_to(install: &Install, data: &Path) -> Result<()> {
    let template = prepare(install)?;
    // cp rather than a loop of ours: sparse files stay sparse, and a file system that can share blocks does.
    let mut command = Command::new("cp");
    command.args(["-a", "--reflink=auto"]).arg(&template).arg(data).stdin(Stdio::null());
    let output = process::output(command, Signal::SIGKILL)?;
    if !output.status.success() {
        bail!("cannot copy {}: {}", template.display(), String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(())
}

/// The template's folder; made if needed. Concurrent callers wait for the first one.
pub fn prepare(install: &Install) -> Result<PathBuf> {
    let name = format!("template-{}-{}-{EDITION}", install.flavour, install.version);
    let template = cache().join(&name);
    fs::create_dir_all(cache()).with_context(|| format!("cannot make {}", cache().display()))?;
    let lock = File::create(cache().join(format!("{name}.lock")))?;
    let _lock = Flock::lock(lock, FlockArg::LockExclusive).map_err(|(_, e)| e).context("cannot lock the template")?;
    if template.exists() {
        return Ok(template);
    }
    let part = cache().join(format!("{name}{}", scratch::part()));
    let made = initialise(install, &part).and_then(|()| Ok(fs::rename(part.join("data"), &template)?));
    let _ = fs::remove_dir_all(&part);
    made.with_context(|| format!("cannot initialise {}", install.title()))?;
    Ok(template)
}

/// Leaves a data folder at `part/data`.
fn initialise(install: &Install, part: &Path) -> Result<()> {
    let _ = fs::remove_dir_all(part);
    fs::create_dir_all(part)?;
    let inside = install.inside(part);
    let mut command = install.command(part)?;
    command.arg(format!("--datadir={}", inside.join("data").display())).arg("--innodb-buffer-pool-size=32M");
    match install.flavour {
        Flavour::Mysql => {
            fs::write(part.join("input.sql"), content(install.flavour))?;
            command
                .args(["--initialize-insecure", "--innodb-redo-log-capacity=16M", "--secure-file-priv="])
                .arg(format!("--init-file={}", inside.join("input.sql").display()));
        }
        Flavour::Mariadb => {
            fs::create_dir(part.join("data"))?;
            fs::write(part.join("input.sql"), mariadb_bootstrap(install)?)?;
            command.args(["--bootstrap", "--innodb-log-file-size=16M", "--enforce-storage-engine="]);
            command.args(["--max-allowed-packet=8M", "--net-buffer-length=16K", "--log-warnings=0"]);
        }
    }
    let input = if install.flavour == Flavour::Mariadb {
        Stdio::from(File::open(part.join("input.sql"))?)
    } else {
        Stdio::null()
    };
    command.stdin(input);
    let output = process::output(command, Signal::SIGKILL)?;
    if !output.status.success() {
        let mut text = String::from_utf8_lossy(&output.stderr).into_owned();
        text.push_str(&String::from_utf8_lossy(&output.stdout));
        let last: Vec<&str> = text.lines().rev().take(8).collect();
        bail!("{}:\n{}", output.status, last.into_iter().rev().collect::<Vec<_>>().join("\n"));
    }
    // Every copy must find an identity of its own.
    let _ = fs::remove_file(part.join("data/auto.cnf"));
    Ok(())
}

/// What `mariadb-install-db` feeds to `mariadbd --bootstrap`; that script itself needs a shell inside the root.
fn mariadb_bootstrap(install: &Install) -> Result<String> {
    let mut sql = "CREATE DATABASE IF NOT EXISTS mysql;\nUSE mysql;\nSET @auth_root_socket=NULL;\n".to_owned();
    let shares = ["usr/share/mysql", "usr/share/mariadb"].map(|dir| install.file(dir));
    let find = |name: &str| shares.iter().map(|dir| dir.join(name)).find(|path| path.exists());
    // The names before 11 began with mysql_, later ones with mariadb_.
    for (name, needed) in [
        ("system_tables.sql", true),
        ("performance_tables.sql", true),
        ("system_tables_data.sql", true),
        ("maria_add_gis_sp_bootstrap.sql", false),
        ("sys_schema.sql", false),
    ] {
        let path = find(&format!("mysql_{name}")).or_else(|| find(&format!("mariadb_{name}"))).or_else(|| find(name));
        match path {
            Some(path) => sql.push_str(&fs::read_to_string(&path)?),
            None if needed => bail!("no {name} in {}", shares[0].display()),
            None => {}
        }
        sql.push('\n');
    }
    // Bootstrap runs without grants until they are loaded.
    sql.push_str("FLUSH PRIVILEGES;\n");
    sql.push_str(&content(Flavour::Mariadb));
    Ok(sql)
}
