//! What demo and benchmarks play on: client, proxy and three database hosts on one LAN, the agent on the proxy, and a
//! client that writes through the proxy port. Also the play itself: a primary dies, an outside tool promotes.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use serde_json::Value;
use shunt_tests::client::Pace;
use shunt_tests::watch::KernelWatch;
use shunt_tests::{Agent, Cluster, Host, Install, Lan, Server, Writer, agent, eventually};

use crate::moment::Moment;
use crate::talk;

/// The cluster's name in the agent's configuration.
pub const CLUSTER: &str = "demo";

/// The proxy port.
pub const PORT: u16 = 3306;

/// Further keys of the cluster's file in promote mode.
const PROMOTING: &str = "data_loss = \"allow\"\ncooldown = \"0s\"";

pub const PATIENCE: Duration = Duration::from_secs(30);

/// How the client behaves: it gives up a connection attempt sooner than the kernel repeats a SYN (1 s).
pub const PACE: Pace = Pace {
    every: Duration::from_millis(5),
    connect: Duration::from_millis(250),
    write: Duration::from_secs(1),
    anew: false,
};

/// Fields drop in order: what runs on the hosts ends before the hosts.
pub struct Stage {
    pub writer: Writer,
    pub watch: KernelWatch,
    pub agent: Agent,
    pub cluster: Cluster,
    /// The number of the server that is the primary now.
    pub primary: usize,
    pub proxy: Host,
    pub client: Host,
    _lan: Lan,
}

/// Who promotes when the primary dies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// An outside tool; the agent follows.
    Follow,
    /// The agent, though writes may be lost (replication is asynchronous), and as often as it takes.
    Promote,
}

impl Stage {
    /// Sets everything up, a line a step.
    pub fn set(install: &Install, program: PathBuf, mode: Mode) -> Result<Self> {
        let (lan, client, proxy) = talk::step("hosts out of namespaces: client, proxy, db1, db2, db3", || {
            let lan = Lan::new()?;
            let (client, proxy) = (lan.host("client", 1)?, lan.host("proxy", 2)?);
            proxy.forward()?;
            Ok((lan, client, proxy))
        })?;
        let what = format!("{}: db1 the primary, db2, db3 its replicas", install.title());
        let cluster = talk::step(&what, || Cluster::start(&lan, install, 3))?;
        let listener = proxy.at(PORT);
        let watch = KernelWatch::start(&proxy)?;
        let agent = talk::step("the agent on the proxy", || {
            let mut agent = Agent::prepare_program(&proxy, program)?;
            let servers: Vec<_> = cluster.servers().iter().map(Server::address).collect();
            let text = match mode {
                Mode::Follow => agent::following(CLUSTER, &servers, listener),
                Mode::Promote => agent::promoting(CLUSTER, &servers, listener, PROMOTING),
            };
            agent.write_cluster(CLUSTER, &text)?;
            agent.start()?;
            agent.wait_mapped(listener, servers[0])?;
            Ok(agent)
        })?;
        let writer = talk::step(&format!("a client that writes through {listener}"), || {
            let writer = Writer::start(&client, listener, install.flavour, PACE)?;
            eventually("a hundred acknowledged writes", PATIENCE, || Ok((writer.acknowledged() >= 100).then_some(())))
                .with_context(|| format!("{:?}", writer.attempts().last()))?;
            Ok(writer)
        })?;
        Ok(Self { writer, watch, agent, cluster, primary: 0, proxy, client, _lan: lan })
    }

    /// A server's name: db1 is number 0.
    pub fn name(&self, number: usize) -> &str {
        self.cluster.servers()[number].name()
    }

    /// The two that are not `primary`.
    pub fn replicas(&self) -> [usize; 2] {
        [(self.primary + 1) % 3, (self.primary + 2) % 3]
    }

    /// Kills the primary, waits until the agent has noticed, promotes by SQL, waits for the first write through.
    pub fn fail_over(&mut self) -> Result<Failover> {
        let (old, candidates) = (self.primary, self.replicas());
        let killed = Moment::now();
        self.cluster.server(old).kill()?;
        let gone = Instant::now();
        let noticed = eventually("the agent to notice", PATIENCE, || {
            let show = self.agent.show(CLUSTER)?;
            Ok((show["verdict"] == "dead").then(Instant::now))
        })?;
        let promoting = Instant::now();
        let new = self.cluster.promote_best(&candidates)?;
        let promoted = Instant::now();
        self.primary = new;
        let first_write = self.writer.wait_for_write_within(promoting, PATIENCE)?;
        let address = self.cluster.server(new).host().v4().to_string();
        let mapped = eventually("the kernel's word on the mapping", PATIENCE, || {
            Ok(self.watch.first(promoting, |line| line.contains(&address)))
        })?;
        let events = self.agent.events()?;
        let told = |word: &str| first_event(killed, &events, word);
        Ok(Failover {
            noticed: told("dead").unwrap_or(noticed),
            old,
            new,
            killed: killed.at,
            gone,
            promoting,
            promoted,
            mapped,
            first_write,
        })
    }
}

impl Stage {
    /// Waits until the agent has nothing to complain about.
    pub fn wait_healthy(&self) -> Result<()> {
        eventually("the agent to find the cluster healthy", PATIENCE, || {
            Ok((self.agent.show(CLUSTER)?["verdict"] == "healthy").then_some(()))
        })
    }
}

/// When what happened.
pub struct Failover {
    pub old: usize,
    pub new: usize,
    pub killed: Instant,
    /// The kernel has taken the process apart; its connections break somewhat before.
    pub gone: Instant,
    pub noticed: Instant,
    /// The outside tool begins with its SQL.
    pub promoting: Instant,
    /// The new primary is writable.
    pub promoted: Instant,
    /// By the kernel's own notice.
    pub mapped: Instant,
    /// The client's first write that the new primary acknowledged.
    pub first_write: Instant,
}

/// The first event of the history since then that says `word`.
fn first_event(killed: Moment, events: &[Value], word: &str) -> Option<Instant> {
    let says = |event: &&Value| {
        let text = format!("{} {} {}", event["kind"], event["message"], event["data"]).to_lowercase();
        text.contains(word) && killed.ms_to_event(event).is_some_and(|since| since >= 0.0)
    };
    events.iter().filter(says).filter_map(|event| killed.of_event(event)).min()
}
