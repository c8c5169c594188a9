//! What the failovers happen on: three servers, a proxy with the agent in promote mode, a client. One field sees many
//! failovers: after each the old primary comes back, and the next one begins with three servers that have the same data.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use shunt_tests::client::Pace;
use shunt_tests::{Agent, Cluster, Flavour, Host, Install, Lan, Server, Writer, agent, eventually};

use super::breakdown::Events;
use crate::talk;

/// The cluster's name in the agent's configuration.
pub const CLUSTER: &str = "bench";
pub const PORT: u16 = 3306;

/// InnoDB's recovery, a rejoin, a replica that catches up: none of it is measured.
const PATIENCE: Duration = Duration::from_secs(90);

/// Fields drop in order: what runs on the hosts ends before the hosts.
pub struct Field {
    pub agent: Agent,
    pub cluster: Cluster,
    /// The number of the server that is the primary now.
    pub primary: usize,
    pub proxy: Host,
    pub client: Host,
    flavour: Flavour,
    /// The newest event that has been seen.
    seen: i64,
    _lan: Lan,
}

/// How the old primary came back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Return {
    /// By itself.
    Rejoined,
    /// It had transactions that the new primary lacks, was put in quarantine, and was built anew.
    Rebuilt,
}

impl Field {
    /// `more` are further keys of the cluster's file; `options` are the servers'.
    pub fn set(install: &Install, program: PathBuf, options: &[&str], more: &str) -> Result<Self> {
        let lan = Lan::new()?;
        let (client, proxy) = (lan.host("client", 1)?, lan.host("proxy", 2)?);
        proxy.forward()?;
        let what = format!("{}: a primary, two replicas", install.title());
        let cluster = talk::step(&what, || Cluster::start_with(&lan, install, 3, options))?;
        let agent = Agent::prepare_program(&proxy, program)?;
        let addresses: Vec<SocketAddr> = cluster.servers().iter().map(Server::address).collect();
        let text = agent::promoting(CLUSTER, &addresses, proxy.at(PORT), &format!("cooldown = \"0s\"\n{more}"));
        agent.write_cluster(CLUSTER, &text)?;
        let flavour = install.flavour;
        Ok(Self { agent, cluster, primary: 0, proxy, client, flavour, seen: 0, _lan: lan })
    }

    /// Starts the agent, once the servers are as they should be.
    pub fn open(&mut self) -> Result<()> {
        // As often as the fastest of the settings asks the servers; a server that rejoins gets what shunt gives it.
        self.cluster.set_heartbeat(0.2)?;
        self.agent.start()?;
        self.agent.wait_mapped(self.listener(), self.address(0))?;
        self.wait_healthy()
    }

    pub fn listener(&self) -> SocketAddr {
        self.proxy.at(PORT)
    }

    pub fn flavour(&self) -> Flavour {
        self.flavour
    }

    pub fn address(&self, server: usize) -> SocketAddr {
        self.cluster.servers()[server].address()
    }

    /// A client that writes through the proxy, and has begun to.
    pub fn write(&self, name: &str, pace: Pace) -> Result<Writer> {
        let writer = Writer::start_as(name, &self.client, self.listener(), self.flavour, pace)?;
        writer.wait_for_write(Instant::now())?;
        Ok(writer)
    }

    /// From here on events are new.
    pub fn mark(&mut self) -> Result<()> {
        let newest = self.agent.events_after(CLUSTER, self.seen)?;
        self.seen = newest.last().and_then(|e| e["id"].as_i64()).unwrap_or(self.seen);
        Ok(())
    }

    pub fn news(&self) -> Result<Vec<Value>> {
        self.agent.events_after(CLUSTER, self.seen)
    }

    /// Waits for the end of the operation; what was told since the mark. The new primary is known from then on.
    pub fn wait_ended(&mut self) -> Result<Events> {
        let ended = eventually("the operation to end", PATIENCE, || {
            let events = Events(self.news()?);
            Ok(events.ended().is_some().then_some(events))
        });
        let events = ended.with_context(|| self.agent.log(60))?;
        let end = events.ended().context("it has just ended")?;
        ensure!(end["data"]["outcome"] == "done", "{}", end["message"]);
        let new = end["data"]["new"].as_str().context("the end names the new primary")?;
        let found = (0..3).find(|&n| self.address(n).to_string() == new);
        self.primary = found.with_context(|| format!("{new} is nobody's address"))?;
        Ok(events)
    }

    /// After a failover, with nobody writing: the old primary answers again; returns once it follows, nobody has rows
    /// any more, and the agent finds everything well.
    pub fn restore(&mut self, old: usize) -> Result<Return> {
        let address = self.address(old).to_string();
        let told = eventually("the old primary to be judged", PATIENCE, || self.told_of(&address));
        let kind = told.with_context(|| self.agent.log(60))?;
        let new = self.primary;
        self.cluster.server(new).sql("TRUNCATE TABLE app.t")?;
        for number in (0..3).filter(|&n| n != new && n != old) {
            self.wait_follows(number)?;
        }
        let returned = if kind == "quarantined" {
            self.rebuild(old).context("the old primary could not be built anew")?;
            Return::Rebuilt
        } else {
            Return::Rejoined
        };
        self.wait_follows(old)?;
        self.wait_healthy()?;
        Ok(returned)
    }

    /// After a switchover, with nobody writing: everybody follows, nobody has rows any more.
    pub fn settle(&mut self) -> Result<()> {
        self.cluster.server(self.primary).sql("TRUNCATE TABLE app.t")?;
        for number in (0..3).filter(|&n| n != self.primary) {
            self.wait_follows(number)?;
        }
        self.wait_healthy()
    }

    /// What the agent has last said of a server that was cast out.
    fn told_of(&self, address: &str) -> Result<Option<String>> {
        let judged = |e: &&Value| e["kind"] == "rejoined" || e["kind"] == "quarantined";
        let told = self.news()?.iter().filter(judged).rfind(|e| e["data"]["server"] == address).cloned();
        Ok(told.and_then(|e| e["kind"].as_str().map(str::to_owned)))
    }

    /// A new server in the place of one, which takes itself to have what the primary has: the table is empty everywhere.
    fn rebuild(&mut self, number: usize) -> Result<()> {
        let has = match self.flavour {
            Flavour::Mysql => "SELECT @@global.gtid_executed",
            Flavour::Mariadb => "SELECT @@global.gtid_binlog_pos",
        };
        let has = self.cluster.servers()[self.primary].value(has)?.replace('\n', "");
        let server = self.cluster.server(number);
        server.rebuild_read_only()?;
        let adopt = match server.flavour() {
            Flavour::Mysql => {
                let modern = server.sql("RESET BINARY LOGS AND GTIDS").is_ok();
                if !modern {
                    server.sql("RESET MASTER")?;
                }
                format!("SET GLOBAL gtid_purged = '{has}'")
            }
            Flavour::Mariadb => {
                server.sql("RESET MASTER")?;
                format!("SET GLOBAL gtid_binlog_state = '{has}'")
            }
        };
        server.sql(&adopt)?;
        self.mark()?;
        let address = self.address(number).to_string();
        self.agent.shunt_ok(&["rejoin", CLUSTER, &address])?;
        eventually("the new server to be taken in", PATIENCE, || {
            Ok(self.told_of(&address)?.filter(|k| k == "rejoined"))
        })
        .with_context(|| self.agent.log(40))?;
        Ok(())
    }

    fn wait_follows(&self, number: usize) -> Result<()> {
        let what = format!("{} to replicate", self.cluster.servers()[number].name());
        eventually(&what, PATIENCE, || Ok(self.cluster.replicates(number)?.then_some(())))?;
        self.cluster.wait_caught_up(number, self.primary)
    }

    pub fn wait_healthy(&self) -> Result<()> {
        eventually("the agent to find the cluster healthy", PATIENCE, || {
            Ok((self.agent.show(CLUSTER)?["verdict"] == "healthy").then_some(()))
        })
        .with_context(|| self.agent.log(40))
    }
}
