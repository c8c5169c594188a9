//! One real server on one host. Dropping it kills it and removes its data.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use nix::sys::signal::Signal;

use crate::process::ending;
use crate::scratch::Dir;
use crate::sql::{Console, Line};
use crate::{Flavour, Host, Install, Process, logs, netns, template};

pub const PORT: u16 = 3306;

/// A start on a busy machine: InnoDB recovery after a kill -9 included.
const START: Duration = Duration::from_secs(90);

pub struct Server {
    // Fields drop in order: the process ends before its namespace and its files go.
    process: Option<Process>,
    console: Console,
    host: Host,
    install: Install,
    id: u32,
    /// Further options of the server, as on its command line: kept for restarts.
    pub options: Vec<String>,
    dir: Dir,
}

impl Server {
    /// A fresh server with the template's data. `id` is its `server_id`.
    pub fn start(host: Host, install: &Install, id: u32, options: &[&str]) -> Result<Self> {
        Self::start_with(host, install, id, options, &[])
    }

    /// The same with further files in its data folder: name and content.
    pub fn start_with(
        host: Host,
        install: &Install,
        id: u32,
        options: &[&str],
        files: &[(&str, &str)],
    ) -> Result<Self> {
        let dir = Dir::new(host.name())?;
        template::copy_to(install, &dir.path().join("data"))?;
        for (name, content) in files {
            std::fs::write(dir.path().join("data").join(name), content)?;
        }
        let mut server = Self {
            process: None,
            console: Console::new(&dir.path().join("s.sock")),
            host,
            install: install.clone(),
            id,
            options: options.iter().map(|&o| o.to_owned()).collect(),
            dir,
        };
        server.boot()?;
        Ok(server)
    }

    pub fn name(&self) -> &str {
        self.host.name()
    }

    pub fn host(&self) -> &Host {
        &self.host
    }

    pub fn flavour(&self) -> Flavour {
        self.install.flavour
    }

    /// Where clients and replicas reach it.
    pub fn address(&self) -> SocketAddr {
        self.host.at(PORT)
    }

    pub fn address_v6(&self) -> SocketAddr {
        SocketAddr::new(self.host.v6(), PORT)
    }

    /// For `mysql --socket`.
    pub fn socket(&self) -> PathBuf {
        self.dir.path().join("s.sock")
    }

    pub fn pid(&self) -> Option<u32> {
        self.process.as_ref().map(Process::pid)
    }

    /// The last lines of its log.
    pub fn log(&self, lines: usize) -> String {
        logs::tail(&self.dir.path().join("log"), lines)
    }

    /// Runs a statement as root, over the Unix socket.
    pub fn sql(&self, statement: &str) -> Result<Vec<Line>> {
        self.console.query(statement).with_context(|| format!("on {}", self.name()))
    }

    /// The first column of the first row; "" for NULL or nothing.
    pub fn value(&self, query: &str) -> Result<String> {
        self.console.value(query).with_context(|| format!("on {}", self.name()))
    }

    /// The first row by column name.
    pub fn row(&self, query: &str) -> Result<std::collections::HashMap<String, String>> {
        self.console.named(query).with_context(|| format!("on {}", self.name()))
    }

    /// kill -9.
    pub fn kill(&mut self) -> Result<()> {
        let name = self.host.name().to_owned();
        self.process.as_mut().with_context(|| format!("{name} does not run"))?.kill()?;
        self.process = None;
        self.console.forget();
        Ok(())
    }

    /// SIGSTOP: it stays silent, its connections stay open. The console is silent, too.
    pub fn freeze(&mut self) -> Result<()> {
        self.running()?.signal(Signal::SIGSTOP)
    }

    /// SIGCONT.
    pub fn thaw(&mut self) -> Result<()> {
        self.running()?.signal(Signal::SIGCONT)
    }

    /// An orderly shutdown.
    pub fn shutdown(&mut self) -> Result<()> {
        self.running()?.terminate(START)?;
        self.process = None;
        self.console.forget();
        Ok(())
    }

    /// Starts again on the same data, with [`Self::options`]; ends it first if it runs.
    pub fn restart(&mut self) -> Result<()> {
        if self.process.is_some() {
            self.shutdown()?;
        }
        self.boot()
    }

    /// Starts over as an empty server at the same address: what an operator does who restores from a backup.
    pub fn rebuild(&mut self) -> Result<()> {
        if self.process.is_some() {
            self.kill()?;
        }
        std::fs::remove_dir_all(self.dir.path().join("data"))?;
        template::copy_to(&self.install, &self.dir.path().join("data"))?;
        // A replica ignores events with its own number: under the old one it would skip what it wrote in its former life.
        self.id += 100;
        self.boot()
    }

    /// The same, and read-only from its first moment: an agent that has the server in quarantine ends every session on it as
    /// long as it takes writes.
    pub fn rebuild_read_only(&mut self) -> Result<()> {
        let options = self.options.clone();
        self.options.push(match self.install.flavour {
            Flavour::Mysql => "--super-read-only=ON".to_owned(),
            Flavour::Mariadb => "--read-only=ON".to_owned(),
        });
        let built = self.rebuild();
        self.options = options;
        built
    }

    /// Whether every commit waits for the disk, as it does by default. Without, a server catches up much sooner.
    pub fn set_durable(&self, on: bool) -> Result<()> {
        let (binlog, redo) = if on { (1, 1) } else { (0, 2) };
        self.sql(&format!("SET GLOBAL sync_binlog = {binlog}"))?;
        self.sql(&format!("SET GLOBAL innodb_flush_log_at_trx_commit = {redo}"))?;
        Ok(())
    }

    fn running(&mut self) -> Result<&mut Process> {
        let name = self.host.name();
        self.process.as_mut().with_context(|| format!("{name} does not run"))
    }

    /// Starts the process and waits until it answers.
    fn boot(&mut self) -> Result<()> {
        let _ = std::fs::remove_file(self.socket());
        let inside = self.install.inside(self.dir.path());
        let mut command = self.install.command(self.dir.path())?;
        command
            .arg(format!("--datadir={}", inside.join("data").display()))
            .arg(format!("--socket={}", inside.join("s.sock").display()))
            .arg(format!("--pid-file={}", inside.join("pid").display()))
            .arg(format!("--port={PORT}"))
            .arg(format!("--server-id={}", self.id))
            .arg(format!("--report-host={}", self.host.v4()))
            .arg(format!("--report-port={PORT}"))
            .args(["--skip-name-resolve", "--max-connections=600", "--log-bin=binlog"])
            .args(["--innodb-buffer-pool-size=32M", "--table-open-cache=400"])
            .args(match self.install.flavour {
                Flavour::Mysql => MYSQL,
                Flavour::Mariadb => MARIADB,
            })
            .args(&self.options);
        netns::enter_before_exec(&mut command, self.host.ns().path())?;
        let log = self.dir.path().join("log");
        self.process =
            Some(Process::spawn(&format!("{} ({})", self.name(), self.install.title()), command, Some(&log))?);
        let started = std::time::Instant::now();
        loop {
            if self.console.query("SELECT 1").is_ok() {
                return Ok(());
            }
            if let Some(status) = self.running()?.status()? {
                bail!("{} ended at its start with {}", self.name(), ending(status));
            }
            if started.elapsed() > START {
                bail!("{} does not answer after {START:?}", self.name());
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

const MYSQL: &[&str] = &[
    "--bind-address=*",
    "--mysqlx=OFF",
    "--gtid-mode=ON",
    "--enforce-gtid-consistency=ON",
    "--innodb-redo-log-capacity=16M",
    "--secure-file-priv=",
];

const MARIADB: &[&str] = &[
    "--bind-address=*",
    "--gtid-strict-mode=ON",
    "--log-slave-updates=ON",
    "--innodb-log-file-size=16M",
    "--performance-schema=ON",
];
