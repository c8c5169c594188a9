//! One primary and its replicas, and what an outside tool does to them by SQL: promote, repoint, switch over.

use anyhow::{Context, Result, ensure};

use crate::template::PASSWORD;
use crate::wait::PATIENCE;
use crate::{Flavour, Host, Install, Lan, Server, eventually};

/// The first server's host number; db1 is 10.77.0.11.
const FIRST: u8 = 11;

pub struct Cluster {
    servers: Vec<Server>,
}

impl Cluster {
    /// `count` servers, db1 the primary of all others; returns once every replica receives and applies.
    pub fn start(lan: &Lan, install: &Install, count: u8) -> Result<Self> {
        Self::start_with(lan, install, count, &[])
    }

    /// The same, with further server options.
    pub fn start_with(lan: &Lan, install: &Install, count: u8, options: &[&str]) -> Result<Self> {
        let cluster =
            Self::unrelated(install, hosts(lan, count)?, &|_| options.iter().map(|&o| o.to_owned()).collect())?;
        for replica in 1..usize::from(count) {
            cluster.set_read_only(replica, true)?;
            cluster.repoint(replica, 0)?;
        }
        Ok(cluster)
    }

    /// A server on each host, with options by host, all started at once and none related to another.
    pub(crate) fn unrelated(
        install: &Install,
        hosts: Vec<Host>,
        options: &(dyn Fn(&Host) -> Vec<String> + Sync),
    ) -> Result<Self> {
        crate::template::prepare(install)?;
        let starts: Vec<Result<Server>> = std::thread::scope(|scope| {
            let threads: Vec<_> = (1..)
                .zip(hosts)
                .map(|(id, host)| {
                    scope.spawn(move || {
                        let options = options(&host);
                        let options: Vec<&str> = options.iter().map(String::as_str).collect();
                        Server::start(host, install, id, &options)
                    })
                })
                .collect();
            threads
                .into_iter()
                .map(|thread| thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
                .collect()
        });
        Ok(Self { servers: starts.into_iter().collect::<Result<_>>()? })
    }

    /// Servers that were started elsewhere.
    pub(crate) const fn of(servers: Vec<Server>) -> Self {
        Self { servers }
    }

    pub fn servers(&self) -> &[Server] {
        &self.servers
    }

    /// db1 is number 0.
    pub fn server(&mut self, number: usize) -> &mut Server {
        &mut self.servers[number]
    }

    pub fn flavour(&self) -> Flavour {
        self.servers[0].flavour()
    }

    /// What an outside tool does when the primary is dead: promotes the replica that has received most. Its number.
    pub fn promote_best(&self, candidates: &[usize]) -> Result<usize> {
        for &number in candidates {
            self.servers[number].sql(words(&self.servers[number]).stop_receiving)?;
        }
        let mut best = *candidates.first().context("nobody to promote")?;
        for &number in &candidates[1..] {
            if self.has_less(best, number)? {
                best = number;
            }
        }
        self.promote(best)?;
        Ok(best)
    }

    /// Whether `other` has received something that `number` has not.
    fn has_less(&self, number: usize, other: usize) -> Result<bool> {
        let (mine, theirs) = (self.received(number)?, self.received(other)?);
        match self.flavour() {
            Flavour::Mysql => {
                let contained = format!("SELECT GTID_SUBSET('{theirs}', '{mine}')");
                Ok(self.servers[number].value(&contained)? == "0")
            }
            // domain-server-sequence, and the lab has one domain.
            Flavour::Mariadb => {
                let sequence = |gtid: &str| gtid.rsplit('-').next().and_then(|n| n.parse::<u64>().ok()).unwrap_or(0);
                Ok(sequence(&mine) < sequence(&theirs))
            }
        }
    }

    /// Whether a replica has everything that `source` has now, applied or not.
    pub fn has_received(&self, number: usize, source: usize) -> Result<bool> {
        let (mine, from) = (self.received(number)?, &self.servers[source]);
        match self.flavour() {
            Flavour::Mysql => {
                let all = from.value("SELECT @@global.gtid_executed")?;
                Ok(from.value(&format!("SELECT GTID_SUBSET('{all}', '{mine}')"))? == "1")
            }
            Flavour::Mariadb => Ok(mine == from.value("SELECT @@global.gtid_binlog_pos")?),
        }
    }

    /// Everything that a server has, applied or not.
    fn received(&self, number: usize) -> Result<String> {
        let server = &self.servers[number];
        let status = server.row(words(server).status)?;
        let column = |name: &str| status.get(name).cloned().unwrap_or_default();
        Ok(match server.flavour() {
            Flavour::Mysql => {
                let set = format!("{},{}", column("Executed_Gtid_Set"), column("Retrieved_Gtid_Set"));
                set.replace('\n', "").trim_matches(',').to_owned()
            }
            Flavour::Mariadb => column("Gtid_IO_Pos"),
        })
    }

    /// Makes a replica a primary: what it has received is applied, replication reset, then writable.
    pub fn promote(&self, number: usize) -> Result<()> {
        let server = &self.servers[number];
        server.sql(words(server).stop_receiving)?;
        let status = server.row(words(server).status)?;
        let (received, wait) = match server.flavour() {
            Flavour::Mysql => (status.get("Retrieved_Gtid_Set"), "WAIT_FOR_EXECUTED_GTID_SET"),
            Flavour::Mariadb => (status.get("Gtid_IO_Pos"), "MASTER_GTID_WAIT"),
        };
        if let Some(received) = received.filter(|set| !set.is_empty()) {
            let applied = server.value(&format!("SELECT {wait}('{received}', 30)"))?;
            ensure!(applied == "0", "{} has not applied {received} within 30 s", server.name());
        }
        server.sql(words(server).stop)?;
        server.sql(words(server).reset)?;
        self.set_read_only(number, false)
    }

    /// Sets or clears the flag that keeps everybody from writing. Not persistent: a restarted server is as its options say.
    pub fn set_read_only(&self, number: usize, on: bool) -> Result<()> {
        let server = &self.servers[number];
        for statement in if on { words(server).read_only } else { words(server).writable } {
            server.sql(statement)?;
        }
        Ok(())
    }

    /// Makes a server a replica of another; returns once it receives and applies.
    pub fn repoint(&self, number: usize, source: usize) -> Result<()> {
        let (server, from) = (&self.servers[number], &self.servers[source]);
        server.sql(words(server).stop)?;
        let (host, port) = (from.host().v4(), from.address().port());
        match server.flavour() {
            // A heartbeat a second is what a failure detector needs: the default of 30 s hides a silent death as long.
            Flavour::Mysql => server.sql(&format!(
                "CHANGE REPLICATION SOURCE TO SOURCE_HOST='{host}', SOURCE_PORT={port}, SOURCE_USER='repl', \
                 SOURCE_PASSWORD='{PASSWORD}', SOURCE_AUTO_POSITION=1, SOURCE_SSL=1, SOURCE_CONNECT_RETRY=1, \
                 SOURCE_RETRY_COUNT=86400, SOURCE_HEARTBEAT_PERIOD=1"
            ))?,
            Flavour::Mariadb => {
                // A former primary has its own transactions in the binary log only.
                server.sql("SET GLOBAL gtid_slave_pos = @@gtid_binlog_pos")?;
                server.sql(&format!(
                    "CHANGE MASTER TO MASTER_HOST='{host}', MASTER_PORT={port}, MASTER_USER='repl', \
                     MASTER_PASSWORD='{PASSWORD}', MASTER_USE_GTID=slave_pos, MASTER_CONNECT_RETRY=1, \
                     MASTER_HEARTBEAT_PERIOD=1"
                ))?
            }
        };
        server.sql(words(server).start)?;
        eventually(&format!("{} to replicate from {}", server.name(), from.name()), PATIENCE, || {
            Ok(self.replicates(number)?.then_some(()))
        })
        .with_context(|| format!("{:?}", self.replication_errors(number)))
    }

    /// Has every replica of db1 hear from it that often, in seconds, when there is nothing else to hear.
    pub fn set_heartbeat(&self, period: f64) -> Result<()> {
        for server in &self.servers[1..] {
            let change = match server.flavour() {
                Flavour::Mysql => format!("CHANGE REPLICATION SOURCE TO SOURCE_HEARTBEAT_PERIOD={period}"),
                Flavour::Mariadb => format!("CHANGE MASTER TO MASTER_HEARTBEAT_PERIOD={period}"),
            };
            for statement in [words(server).stop, &change, words(server).start] {
                server.sql(statement)?;
            }
        }
        Ok(())
    }

    /// Whether both threads of a replica run.
    pub fn replicates(&self, number: usize) -> Result<bool> {
        let row = self.servers[number].row(words(&self.servers[number]).status)?;
        let yes = |keys: [&str; 2]| keys.iter().any(|key| row.get(*key).is_some_and(|v| v == "Yes"));
        Ok(yes(["Replica_IO_Running", "Slave_IO_Running"]) && yes(["Replica_SQL_Running", "Slave_SQL_Running"]))
    }

    /// Whether ordinary clients can write there.
    pub fn is_writable(&self, number: usize) -> Result<bool> {
        let server = &self.servers[number];
        let flag = match server.flavour() {
            Flavour::Mysql => "SELECT @@global.super_read_only",
            Flavour::Mariadb => "SELECT @@global.read_only",
        };
        // The agent ends whatever sessions it finds on a server that it makes read-only, this one too.
        Ok(server.value(flag).or_else(|_| server.value(flag))? == "0")
    }

    /// The host that a replica is told to replicate from; "" if there is none.
    pub fn source_of(&self, number: usize) -> Result<String> {
        let row = self.servers[number].row(words(&self.servers[number]).status)?;
        Ok(["Source_Host", "Master_Host"].iter().find_map(|key| row.get(*key).cloned()).unwrap_or_default())
    }

    /// Stops a replica's SQL thread: it receives on and applies nothing.
    pub fn stop_applying(&self, number: usize) -> Result<()> {
        let server = &self.servers[number];
        server.sql(words(server).stop_applying).map(drop)
    }

    pub fn stop_receiving(&self, number: usize) -> Result<()> {
        let server = &self.servers[number];
        server.sql(words(server).stop_receiving).map(drop)
    }

    fn replication_errors(&self, number: usize) -> Result<[String; 2]> {
        let row = self.servers[number].row(words(&self.servers[number]).status)?;
        Ok(["Last_IO_Error", "Last_SQL_Error"].map(|key| row.get(key).cloned().unwrap_or_default()))
    }

    /// Waits until `number` has applied everything that `source` has now.
    pub fn wait_caught_up(&self, number: usize, source: usize) -> Result<()> {
        let (server, from) = (&self.servers[number], &self.servers[source]);
        let (position, answer, expected) = match server.flavour() {
            Flavour::Mysql => {
                let set = from.value("SELECT @@global.gtid_executed")?;
                (set.clone(), format!("SELECT WAIT_FOR_EXECUTED_GTID_SET('{set}', 45)"), "0")
            }
            Flavour::Mariadb => {
                let set = from.value("SELECT @@global.gtid_binlog_pos")?;
                (set.clone(), format!("SELECT MASTER_GTID_WAIT('{set}', 45)"), "0")
            }
        };
        let got = server.value(&answer)?;
        ensure!(got == expected, "{} has not applied {position} of {} within 45 s", server.name(), from.name());
        Ok(())
    }

    /// A planned switch as an outside tool does it: the old one read-only, the new one caught up, promoted, all repointed.
    pub fn planned_switch(&self, old: usize, new: usize) -> Result<()> {
        self.set_read_only(old, true)?;
        self.wait_caught_up(new, old)?;
        self.promote(new)?;
        for other in (0..self.servers.len()).filter(|&n| n != new) {
            self.repoint(other, new)?;
        }
        Ok(())
    }
}

/// db1, db2, …
pub(crate) fn hosts(lan: &Lan, count: u8) -> Result<Vec<Host>> {
    (1..=count).map(|n| lan.host(&format!("db{n}"), FIRST + n - 1)).collect()
}

/// SQL that differs by flavour.
struct Words {
    status: &'static str,
    stop_receiving: &'static str,
    stop_applying: &'static str,
    stop: &'static str,
    start: &'static str,
    reset: &'static str,
    read_only: &'static [&'static str],
    writable: &'static [&'static str],
}

fn words(server: &Server) -> &'static Words {
    match server.flavour() {
        Flavour::Mysql => &Words {
            status: "SHOW REPLICA STATUS",
            stop_receiving: "STOP REPLICA IO_THREAD",
            stop_applying: "STOP REPLICA SQL_THREAD",
            stop: "STOP REPLICA",
            start: "START REPLICA",
            reset: "RESET REPLICA ALL",
            read_only: &["SET GLOBAL super_read_only = ON"],
            writable: &["SET GLOBAL super_read_only = OFF", "SET GLOBAL read_only = OFF"],
        },
        Flavour::Mariadb => &Words {
            status: "SHOW ALL SLAVES STATUS",
            stop_receiving: "STOP SLAVE IO_THREAD",
            stop_applying: "STOP SLAVE SQL_THREAD",
            stop: "STOP SLAVE",
            start: "START SLAVE",
            reset: "RESET SLAVE ALL",
            read_only: &["SET GLOBAL read_only = ON"],
            writable: &["SET GLOBAL read_only = OFF"],
        },
    }
}
