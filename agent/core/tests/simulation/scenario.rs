//! What a seed draws before anything happens: the servers, the network, the configuration, and when it is over.

use std::net::SocketAddr;
use std::time::Duration;

use shunt_core::ClusterName;
use shunt_core::config::{
    ClusterConfig, DataLoss, Established, FailoverMode, Fallback, Fenced, ListenerConfig, ListenerRole, ProbeConfig,
    Promoting, Promotion, Salvage, ServerConfig, Snat,
};

use super::client::Client;
use super::rng::Rng;
use super::server::{Semi, Server, db};

const MILLI: Duration = Duration::from_millis(1);

#[derive(Clone, Debug)]
pub struct Scenario {
    pub seed: u64,
    pub mode: FailoverMode,
    pub servers: usize,
    pub proxies: usize,
    pub semi: Option<Semi>,
    pub data_loss: DataLoss,
    pub cooldown: Duration,
    pub delay: (Duration, Duration),
    /// After a restart nothing keeps clients from writing.
    pub boots_writable: bool,
    /// A restart throws away what was received and not applied, as `relay_log_recovery` does.
    pub loses_relay: bool,
    /// The last server replicates from the second.
    pub chain: bool,
    /// How long a replica believes in a silent source.
    pub net_timeout: Duration,
    /// How long a server believes in a silent connection that holds its lock.
    pub lock_lingers: Duration,
    /// Out of ten thousand rounds, how many are read late.
    pub late_per_myriad: u64,
    /// Out of a hundred statements of tasks, how many fail or have their answers lost.
    pub task_trouble: u64,
    pub lease: Option<Duration>,
    pub promoting: Promoting,
    pub established: Established,
    pub fenced: Fenced,
    pub promotions: Vec<Promotion>,
    pub heal_at: Duration,
    pub end_at: Duration,
}

impl Scenario {
    pub fn draw(seed: u64) -> Self {
        let mut rng = Rng::new(seed).fork(2);
        let r = &mut rng;
        let servers = r.pick(&[2, 3, 3, 3, 3, 4, 5]);
        let proxies = if r.percent(25) { 2 } else { 1 };
        let mode = match r.up_to(99) {
            0..=11 => FailoverMode::Follow,
            12..=14 => FailoverMode::Off,
            _ => FailoverMode::Promote,
        };
        let semi = r.percent(75).then(|| Semi {
            source_on: false,
            replica_on: true,
            active: true,
            wait_count: if servers > 3 && r.percent(30) { 2 } else { 1 },
            after_sync: r.percent(85),
            timeout: r.pick(&[MILLI * 1_000, MILLI * 10_000, MILLI * 3_600_000]),
        });
        let fast = (Duration::from_micros(200), MILLI);
        let delay = r.pick(&[fast, (MILLI, MILLI * 5), (MILLI * 5, MILLI * 30)]);
        let rules = [Promotion::Must, Promotion::Prefer, Promotion::Neutral, Promotion::PreferNot, Promotion::MustNot];
        let uneven = r.percent(30);
        let promotions = (0..servers).map(|_| if uneven { r.pick(&rules) } else { Promotion::Neutral }).collect();
        let heal_at = r.millis(30_000, 60_000);
        Self {
            seed,
            mode,
            servers,
            proxies,
            data_loss: if r.percent(65) { DataLoss::Forbid } else { DataLoss::Allow },
            cooldown: Duration::from_secs(r.pick(&[5, 20, 20, 600])),
            delay,
            boots_writable: r.percent(50),
            loses_relay: r.percent(20),
            chain: servers > 2 && r.percent(10),
            net_timeout: Duration::from_secs(r.pick(&[5, 20, 60])),
            lock_lingers: Duration::from_secs(r.pick(&[1, 10, 40])),
            late_per_myriad: r.pick(&[0, 0, 20, 100]),
            task_trouble: r.pick(&[0, 0, 3, 12]),
            lease: r.percent(15).then_some(Duration::from_secs(3)),
            promoting: Promoting {
                salvage: if r.percent(50) { Salvage::Keep } else { Salvage::Apply },
                rejoin: r.percent(80),
                catch_up: Duration::from_secs(r.pick(&[5, 60])),
                fence_hook: r.percent(15),
                before_promote_hook: r.percent(10),
                ..Promoting::default()
            },
            established: r.pick(&[
                Established::Reset,
                Established::Reset,
                Established::Reset,
                Established::Drain,
                Established::Keep,
            ]),
            fenced: r.pick(&[Fenced::Hold, Fenced::Refuse]),
            promotions,
            semi,
            heal_at,
            end_at: heal_at + Duration::from_secs(60),
        }
    }

    /// Whether somebody else promotes.
    pub fn has_outsider(&self) -> bool {
        self.mode == FailoverMode::Follow
    }

    pub const fn source_of(&self, replica: usize) -> usize {
        if self.chain && replica + 1 == self.servers && replica > 1 { 1 } else { 0 }
    }

    /// db1 is the primary, the others are its replicas.
    pub fn servers(&self) -> Vec<Server> {
        let server = |n| {
            let mut server = Server::new(n, self.semi.clone());
            server.read_only = n != 0;
            server.boots_writable = self.boots_writable;
            if n == 0
                && let Some(semi) = &mut server.semi
            {
                semi.source_on = true;
            }
            server
        };
        (0..self.servers).map(server).collect()
    }

    /// Two to each proxy: one that makes a connection for every write, one that keeps its own.
    pub fn clients(&self) -> Vec<Client> {
        let client = |n: usize| Client {
            proxy: n / 2,
            listener: writer(n / 2),
            stays: n % 2 == 1,
            pause: (MILLI * 50, MILLI * 250),
            work: (Duration::ZERO, if n % 2 == 1 { MILLI * 60 } else { MILLI * 3 }),
            attempt: 0,
            flow: None,
            waits: false,
        };
        (0..self.proxies * 2).map(client).collect()
    }

    pub fn config(&self, p: usize) -> ClusterConfig {
        let listener = |role, address| ListenerConfig {
            role,
            address,
            allow: Vec::new(),
            snat: Snat::Masquerade,
            established: self.established,
            drain: Duration::from_secs(5),
            fenced: self.fenced,
            hold: Duration::from_secs(30),
            max_connections: None,
            max_connections_per_source: None,
            max_lag: Duration::from_secs(5),
            fallback: Fallback::Primary,
        };
        ClusterConfig {
            name: ClusterName::new("orders").expect("a good name"),
            servers: (0..self.servers)
                .map(|n| ServerConfig {
                    address: db(n),
                    label: format!("db{}", n + 1),
                    dc: None,
                    promotion: self.promotions[n],
                    weight: 1,
                })
                .collect(),
            failover: self.mode,
            data_loss: self.data_loss,
            cooldown: self.cooldown,
            probe: ProbeConfig::default(),
            credentials: "default".to_owned(),
            listeners: vec![
                listener(ListenerRole::Primary, writer(p)),
                ListenerConfig { fallback: Fallback::None, ..listener(ListenerRole::Replica, reader(p)) },
            ],
            lease: self.lease,
            near: None,
            promoting: self.promoting.clone(),
        }
    }
}

pub fn writer(p: usize) -> SocketAddr {
    SocketAddr::from(([10, 0, 0, 2 + p as u8], 3306))
}

fn reader(p: usize) -> SocketAddr {
    SocketAddr::from(([10, 0, 0, 2 + p as u8], 3307))
}
