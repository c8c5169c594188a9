//! A world of three fake servers around the real state machine.

mod acknowledged;
mod assess;
mod groups;
mod invariants;
mod leases;
mod machine;
mod operations;
mod readers;
mod suspect;
mod transitions;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use super::{Action, Cluster, Entry, Event, Pace, Plan, Remembered, Stage, Verdict};
use crate::config::{
    ClusterConfig, DataLoss, Established, FailoverMode, Fallback, Fenced, ListenerConfig, ListenerRole, ProbeConfig,
    Promotion, ServerConfig, Snat,
};
use crate::mapping::{Mapping, Route};
use crate::observation::{
    Channel, Failure, FailureKind, Flavour, GroupView, Identity, IoThread, Observation, Outcome, ServerState,
};
use crate::{ClusterName, Epoch, Mono};

const TICK: Duration = Duration::from_millis(100);
const HOLD: Duration = Duration::from_secs(30);

/// db1, db2, …: 10.0.0.11:3306 and on.
pub fn db(n: u8) -> SocketAddr {
    SocketAddr::from(([10, 0, 0, 10 + n], 3306))
}

pub fn writer() -> SocketAddr {
    SocketAddr::from(([10, 0, 0, 2], 3306))
}

pub fn reader() -> SocketAddr {
    SocketAddr::from(([10, 0, 0, 2], 3307))
}

pub fn config(servers: u8) -> ClusterConfig {
    let listener = |role, address| ListenerConfig {
        role,
        address,
        allow: Vec::new(),
        snat: Snat::Masquerade,
        established: Established::Reset,
        drain: Duration::from_secs(30),
        fenced: Fenced::Hold,
        hold: HOLD,
        max_connections: None,
        max_connections_per_source: None,
        max_lag: Duration::from_secs(5),
        fallback: Fallback::Primary,
    };
    ClusterConfig {
        name: ClusterName::new("orders").unwrap(),
        servers: (1..=servers)
            .map(|n| ServerConfig {
                address: db(n),
                label: format!("db{n}"),
                dc: None,
                promotion: Promotion::Neutral,
                weight: 1,
            })
            .collect(),
        failover: FailoverMode::Follow,
        data_loss: DataLoss::Forbid,
        cooldown: Duration::from_secs(600),
        probe: ProbeConfig::default(),
        credentials: "default".to_owned(),
        listeners: vec![
            listener(ListenerRole::Primary, writer()),
            ListenerConfig { fallback: Fallback::None, ..listener(ListenerRole::Replica, reader()) },
        ],
        lease: None,
        near: None,
        promoting: crate::config::Promoting::default(),
    }
}

/// How a fake server is.
#[derive(Clone, Debug)]
pub struct Fake {
    pub writable: bool,
    pub source: Option<SocketAddr>,
    pub io: IoThread,
    pub lag: Option<Duration>,
    pub fails: Option<FailureKind>,
    pub group: Option<GroupView>,
}

/// Servers, the machine, and a driver that carries out what it is told.
pub struct World {
    pub machine: Cluster,
    pub fakes: BTreeMap<SocketAddr, Fake>,
    pub now: Mono,
    pub history: Vec<Entry>,
    pub pace: Pace,
    /// What the store has.
    pub written: Epoch,
    /// What the kernel has.
    pub kernel: Option<Plan>,
    pub fail_at: Option<Stage>,
    beats: u64,
}

impl World {
    /// db1 is the primary, the others replicate from it; nothing is known yet.
    pub fn new(servers: u8) -> Self {
        Self::with(config(servers), Remembered::default())
    }

    pub fn with(config: ClusterConfig, remembered: Remembered) -> Self {
        let replica = Fake {
            writable: false,
            source: Some(db(1)),
            io: IoThread::Connected,
            lag: Some(Duration::ZERO),
            fails: None,
            group: None,
        };
        let mut fakes: BTreeMap<_, _> = config.servers.iter().map(|s| (s.address, replica.clone())).collect();
        fakes.insert(db(1), Fake { writable: true, source: None, ..replica });
        let written = remembered.epoch;
        let (machine, actions) = Cluster::new(config, remembered, Mono::ZERO);
        let mut world = Self {
            machine,
            fakes,
            now: Mono::ZERO,
            history: Vec::new(),
            pace: Pace::Normal,
            written,
            kernel: None,
            fail_at: None,
            beats: 0,
        };
        world.carry_out(actions);
        world
    }

    /// The same, after everybody has answered and db1 is mapped.
    pub fn healthy(servers: u8) -> Self {
        let mut world = Self::new(servers);
        world.ticks(2);
        assert_eq!(world.verdict(), Verdict::Healthy, "{:?}", world.machine.assessment());
        world
    }

    pub fn fake(&mut self, n: u8) -> &mut Fake {
        self.fakes.get_mut(&db(n)).unwrap()
    }

    /// A server dies, as its replicas notice at once.
    pub fn kill(&mut self, n: u8) {
        self.fake(n).fails = Some(FailureKind::Refused);
        for fake in self.fakes.values_mut().filter(|f| f.source == Some(db(n))) {
            fake.io = IoThread::Connecting;
        }
    }

    /// Somebody else promotes a server; `followers` replicate from it.
    pub fn promote(&mut self, n: u8, followers: &[u8]) {
        *self.fake(n) = Fake { writable: true, source: None, ..self.fakes[&db(n)].clone() };
        for &follower in followers {
            let fake = self.fake(follower);
            (fake.source, fake.io, fake.writable) = (Some(db(n)), IoThread::Connected, false);
        }
    }

    /// Every server is asked once, in the order of their numbers.
    pub fn tick(&mut self) {
        for server in self.fakes.keys().copied().collect::<Vec<_>>() {
            self.ask(server);
        }
        self.now = self.now + TICK;
    }

    pub fn ticks(&mut self, n: usize) {
        for _ in 0..n {
            self.tick();
        }
    }

    /// One server is asked.
    pub fn ask(&mut self, server: SocketAddr) {
        self.ask_and_wait(server, Duration::from_micros(300));
    }

    /// One server is asked, and its answer is read so much later.
    pub fn ask_and_wait(&mut self, server: SocketAddr, took: Duration) {
        self.now = self.now + Duration::from_millis(1);
        self.beats += 1;
        let outcome = match self.fakes[&server].fails {
            Some(kind) => Outcome::Failed(Failure { kind, detail: format!("{kind} by the test") }),
            None => Outcome::Answered(Box::new(self.state(server))),
        };
        let seen = Observation { server, at: self.now, took, outcome };
        self.event(Event::Observed(seen));
    }

    fn state(&self, server: SocketAddr) -> ServerState {
        let fake = &self.fakes[&server];
        let uuid = |s: SocketAddr| Some(format!("uuid-of-{s}"));
        let channel = fake.source.map(|source| {
            // A source that is gone sends nothing, so the mark stands still.
            let alive = self.fakes.get(&source).is_some_and(|f| f.fails.is_none());
            Channel {
                name: String::new(),
                source_host: source.ip().to_string(),
                source_port: source.port(),
                source_uuid: uuid(source),
                source_server_id: u64::from(source.port()),
                io: fake.io,
                sql_running: true,
                lag: if fake.io == IoThread::Connected { fake.lag } else { None },
                received: if alive { self.beats.to_string() } else { "the last".to_owned() },
                heartbeat_period: Some(Duration::from_secs(1)),
                last_error: String::new(),
            }
        });
        ServerState {
            identity: Identity {
                uuid: uuid(server),
                server_id: 1,
                flavour: Flavour::Mysql,
                version: "9.7.0".to_owned(),
            },
            read_only: !fake.writable,
            super_read_only: !fake.writable,
            gtid_executed: String::new(),
            channels: channel.into_iter().collect(),
            group: fake.group.clone(),
            semi_sync: None,
            promoter: crate::observation::PromoterLock::NotAsked,
        }
    }

    pub fn event(&mut self, event: Event) {
        let actions = self.machine.handle(event, self.now);
        self.carry_out(actions);
    }

    /// What is in the history of that kind.
    pub fn told(&self, kind: &str) -> Vec<&str> {
        self.history.iter().filter(|e| e.kind == kind).map(|e| e.message.as_str()).collect()
    }

    fn carry_out(&mut self, actions: Vec<Action>) {
        for action in actions {
            match action {
                Action::Record(entry) => self.history.push(entry),
                Action::Pace(pace) => self.pace = pace,
                Action::Commit(plan) => {
                    let outcome = self.commit(plan);
                    self.event(outcome);
                }
                _ => {}
            }
        }
    }

    fn commit(&mut self, plan: Plan) -> Event {
        let failed = |stage| Event::CommitFailed { stage, error: "on purpose".to_owned() };
        if plan.epoch > self.written {
            if self.fail_at == Some(Stage::State) {
                return failed(Stage::State);
            }
            self.written = plan.epoch;
        }
        if self.fail_at == Some(Stage::Datapath) {
            return failed(Stage::Datapath);
        }
        self.kernel = Some(plan);
        Event::Committed { commit: Duration::from_micros(200) }
    }

    pub fn verdict(&self) -> Verdict {
        self.machine.assessment().verdict
    }

    pub fn mapping(&self, listener: SocketAddr) -> &Mapping {
        let plan = self.kernel.as_ref().expect("something was committed");
        plan.mappings.iter().find(|m| m.listener == listener).expect("every listener has a mapping")
    }

    /// Where the primary listener leads.
    pub fn leads_to(&self) -> Option<SocketAddr> {
        match self.mapping(writer()).route {
            Route::Single(to) => Some(to),
            Route::Spread(_) | Route::Hold(_) | Route::Refuse => None,
        }
    }

    pub fn readers(&self) -> Vec<SocketAddr> {
        self.mapping(reader()).route.backends()
    }
}
