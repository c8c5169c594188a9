//! The usual scene of an end-to-end test: a client, a proxy with the agent, and a cluster behind it, on one LAN.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::client::{Pace, ask};
use crate::wait::PATIENCE;
use crate::{Agent, Cluster, Host, Install, Lan, Server, Writer, agent, eventually};

/// The cluster's name in the agent's configuration.
pub const NAME: &str = "orders";
pub const PORT: u16 = 3306;

/// Fields drop in order: what runs on the hosts ends before the hosts.
pub struct Scene {
    pub agent: Agent,
    pub cluster: Cluster,
    pub proxy: Host,
    pub client: Host,
    pub lan: Lan,
}

impl Scene {
    /// `count` servers, the agent following them; returns once the proxy port leads to db1.
    pub fn start(install: &Install, count: u8) -> Result<Self> {
        let mut scene = Self::prepare(install, count)?;
        scene.agent.write_cluster(NAME, &scene.following())?;
        scene.agent.start()?;
        scene.wait_mapped(0)?;
        Ok(scene)
    }

    /// The same without a cluster's file and with the agent not yet started.
    pub fn prepare(install: &Install, count: u8) -> Result<Self> {
        Self::prepare_with(|lan| Cluster::start(lan, install, count))
    }

    /// The same around whatever cluster.
    pub fn prepare_with(cluster: impl FnOnce(&Lan) -> Result<Cluster>) -> Result<Self> {
        let lan = Lan::new()?;
        let (client, proxy) = (lan.host("client", 1)?, lan.host("proxy", 2)?);
        proxy.forward()?;
        let cluster = cluster(&lan)?;
        let agent = Agent::prepare(&proxy)?;
        Ok(Self { agent, cluster, proxy, client, lan })
    }

    /// The cluster's file: every server, one primary listener.
    pub fn following(&self) -> String {
        agent::following(NAME, &self.addresses(), self.listener())
    }

    /// The same with shunt promoting; `more` are further keys of the whole file, such as `data_loss = "allow"`.
    pub fn start_promoting(install: &Install, count: u8, more: &str) -> Result<Self> {
        let mut scene = Self::prepare(install, count)?;
        let text = agent::promoting(NAME, &scene.addresses(), scene.listener(), more);
        scene.agent.write_cluster(NAME, &text)?;
        scene.agent.start()?;
        scene.wait_mapped(0)?;
        Ok(scene)
    }

    pub fn addresses(&self) -> Vec<SocketAddr> {
        self.cluster.servers().iter().map(Server::address).collect()
    }

    pub fn listener(&self) -> SocketAddr {
        self.proxy.at(PORT)
    }

    pub fn wait_mapped(&self, server: usize) -> Result<Value> {
        let to = self.cluster.servers()[server].address();
        self.agent.wait_mapped(self.listener(), to).with_context(|| self.agent.log(30))
    }

    pub fn wait_verdict(&self, verdict: &str) -> Result<Value> {
        let mut last = Value::Null;
        eventually(&format!("the verdict {verdict}"), PATIENCE, || {
            last = self.agent.show(NAME)?;
            Ok((last["verdict"] == verdict).then(|| last.clone()))
        })
        .with_context(|| format!("shunt show says {last}\n{}", self.agent.log(30)))
    }

    /// A client that writes through the proxy port, and has begun to.
    pub fn write(&self, pace: Pace) -> Result<Writer> {
        let writer = Writer::start(&self.client, self.listener(), self.cluster.flavour(), pace)?;
        writer.wait_for_write(Instant::now()).with_context(|| self.agent.log(30))?;
        Ok(writer)
    }

    /// The number (from 1) of the server that a new connection through the proxy port reaches.
    pub fn reached(&self) -> Result<u32> {
        let to = self.listener();
        let patience = Duration::from_secs(20);
        let id = ask(&self.client, to, self.cluster.flavour(), "SELECT CAST(@@server_id AS CHAR)", patience)?;
        Ok(id.parse()?)
    }

    /// The alarms that `shunt list` shows, by kind.
    pub fn alarms(&self) -> Result<Vec<String>> {
        let list = self.agent.list()?;
        let alarms = list["alarms"].as_array().context("the list has alarms")?;
        Ok(alarms.iter().filter_map(|a| a["alarm"].as_str().map(str::to_owned)).collect())
    }

    /// Events of that kind, newest last.
    pub fn events(&self, kind: &str) -> Result<Vec<Value>> {
        Ok(self.agent.events()?.into_iter().filter(|e| e["kind"] == kind).collect())
    }

    pub fn epoch(&self) -> Result<u64> {
        self.agent.show(NAME)?["epoch"].as_u64().context("an epoch is a number")
    }

    /// Every write that was acknowledged is in the table of that server.
    pub fn ensure_kept(&mut self, acknowledged: &[String], server: usize) -> Result<()> {
        let rows = self.cluster.server(server).sql("SELECT note FROM app.t")?;
        let there: std::collections::HashSet<String> = rows.into_iter().flatten().flatten().collect();
        for note in acknowledged {
            ensure!(there.contains(note), "{note} was acknowledged and is not there");
        }
        Ok(())
    }
}
