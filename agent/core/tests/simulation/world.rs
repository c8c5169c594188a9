//! The world: servers, network, proxies and clients in virtual time. Everything that will happen stands in one queue.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};
use std::time::Duration;

use shunt_core::Mono;
use shunt_core::observation::Outcome;

use super::client::Client;
use super::faults::Fault;
use super::history::Story;
use super::invariants::{Invariant, Oracle, Violation};
use super::mutation::Mutation;
use super::network::Network;
use super::proxy::Proxy;
use super::rng::Rng;
use super::scenario::Scenario;
use super::server::Server;
use super::tasks::Run;

/// A run of more steps than this is one that goes round in circles.
const MOST_STEPS: u64 = 300_000;

/// Something that will happen.
#[derive(Debug)]
pub enum Happening {
    Fault(usize),
    FaultEnds(usize),
    /// Every fault ends, everybody comes back.
    Heal,
    Boot {
        n: usize,
        generation: u64,
    },
    Booted {
        n: usize,
        generation: u64,
    },

    ProbeAsks {
        p: usize,
        life: u64,
        s: usize,
        round: u64,
    },
    ProbeArrives {
        p: usize,
        life: u64,
        s: usize,
        asked: Mono,
        round: u64,
    },
    ProbeEnds {
        p: usize,
        life: u64,
        s: usize,
        asked: Mono,
        round: u64,
        outcome: Box<Outcome>,
    },
    Deadline {
        p: usize,
        life: u64,
        at: Mono,
    },
    AgentStarts {
        p: usize,
    },
    Thaws {
        p: usize,
    },
    Renews {
        p: usize,
        life: u64,
    },
    LockReleased {
        s: usize,
        connection: u64,
    },

    TaskArrives {
        run: u64,
    },
    TaskReplies {
        run: u64,
    },
    TaskTimesOut {
        run: u64,
    },

    IoConnect {
        replica: usize,
        generation: u64,
    },
    IoBreaks {
        replica: usize,
        link: u64,
    },
    Pump {
        source: usize,
        replica: usize,
        link: u64,
    },
    Acknowledged {
        source: usize,
        replica: usize,
        link: u64,
        upto: usize,
    },
    DumpEnds {
        source: usize,
        replica: usize,
        link: u64,
    },
    Heartbeat {
        replica: usize,
        link: u64,
    },
    Apply {
        n: usize,
        generation: u64,
    },
    SemiSyncTimeout {
        n: usize,
        generation: u64,
        index: usize,
    },

    ClientGoes {
        c: usize,
    },
    ClientSends {
        c: usize,
        attempt: u64,
    },
    WriteArrives {
        c: usize,
        attempt: u64,
        s: usize,
        generation: Option<u64>,
    },
    WriteCommits {
        c: usize,
        attempt: u64,
        s: usize,
        generation: u64,
    },
    ServerAnswers {
        c: usize,
        attempt: u64,
        s: usize,
        generation: u64,
        written: Option<super::gtids::Txn>,
    },
    AnswerArrives {
        c: usize,
        attempt: u64,
        written: Option<super::gtids::Txn>,
    },
    ClientGivesUp {
        c: usize,
        attempt: u64,
    },

    /// Whoever promotes where shunt does not.
    OutsiderLooks,
}

pub struct World {
    pub now: Mono,
    pub rng: Rng,
    pub scenario: Scenario,
    pub story: Story,
    pub net: Network,
    pub servers: Vec<Server>,
    pub proxies: Vec<Proxy>,
    pub clients: Vec<Client>,
    pub runs: BTreeMap<u64, Run>,
    pub faults: Vec<(Mono, Fault)>,
    pub oracle: Oracle,
    pub mutation: Option<Mutation>,
    pub healed: bool,
    pub violation: Option<Violation>,
    /// Numbers replication connections, probing connections and task runs.
    pub connections: u64,
    /// Links over which something is on its way.
    pub pumps: BTreeSet<u64>,
    /// Since when the outsider misses the primary, and whom it made the primary.
    pub outsider: super::outsider::Outsider,
    queue: BinaryHeap<Reverse<(Mono, u64)>>,
    happenings: BTreeMap<u64, Happening>,
    scheduled: u64,
}

impl World {
    pub fn new(scenario: Scenario, faults: Vec<(Mono, Fault)>, mutation: Option<Mutation>, story: Story) -> Self {
        let rng = Rng::new(scenario.seed).fork(1);
        let mut world = Self {
            now: Mono::ZERO,
            rng,
            net: Network::new(scenario.delay.0, scenario.delay.1),
            servers: scenario.servers(),
            proxies: (0..scenario.proxies).map(|p| Proxy::new(p, scenario.config(p), scenario.servers)).collect(),
            clients: scenario.clients(),
            runs: BTreeMap::new(),
            oracle: Oracle::new(scenario.proxies, scenario.servers),
            healed: false,
            violation: None,
            connections: 0,
            pumps: BTreeSet::new(),
            outsider: super::outsider::Outsider::default(),
            queue: BinaryHeap::new(),
            happenings: BTreeMap::new(),
            scheduled: 0,
            faults,
            mutation,
            story,
            scenario,
        };
        world.begin();
        world
    }

    fn begin(&mut self) {
        for replica in 1..self.servers.len() {
            self.replicate_from(replica, self.scenario.source_of(replica));
        }
        for p in 0..self.proxies.len() {
            let delay = self.rng.millis(5, 400);
            self.later(delay, Happening::AgentStarts { p });
        }
        for c in 0..self.clients.len() {
            let delay = self.rng.millis(1_000, 1_500);
            self.later(delay, Happening::ClientGoes { c });
        }
        for (index, at) in self.faults.iter().map(|(at, _)| *at).enumerate().collect::<Vec<_>>() {
            self.later(at.0, Happening::Fault(index));
        }
        self.later(self.scenario.heal_at, Happening::Heal);
        if self.scenario.has_outsider() {
            self.later(Duration::from_secs(1), Happening::OutsiderLooks);
        }
    }

    /// Puts something into the queue. What is put there first for a moment happens first then.
    pub fn later(&mut self, delay: Duration, what: Happening) {
        self.scheduled += 1;
        self.queue.push(Reverse((self.now + delay, self.scheduled)));
        self.happenings.insert(self.scheduled, what);
    }

    /// Lets happen what happens, until the end or a violation. Returns how many steps that took.
    pub fn run(&mut self) -> u64 {
        let end = Mono(self.scenario.end_at);
        let mut steps = 0;
        while let Some(Reverse((at, id))) = self.queue.pop() {
            if at > end {
                break;
            }
            self.now = at;
            let Some(what) = self.happenings.remove(&id) else { continue };
            self.happen(what);
            self.check_step();
            steps += 1;
            if steps == MOST_STEPS {
                self.violated(Invariant::ItComesToAnEnd, "too much happens".to_owned());
            }
            if self.violation.is_some() {
                return steps;
            }
        }
        self.now = end;
        self.check_end();
        steps
    }

    fn happen(&mut self, what: Happening) {
        match what {
            Happening::Fault(index) => self.fault_begins(index),
            Happening::FaultEnds(index) => self.fault_ends(index),
            Happening::Heal => self.heal(),
            Happening::Boot { n, generation } => self.boot(n, generation),
            Happening::Booted { n, generation } => self.booted(n, generation),
            Happening::ProbeAsks { p, life, s, round } => self.probe_asks(p, life, s, round),
            Happening::ProbeArrives { p, life, s, asked, round } => self.probe_arrives(p, life, s, asked, round),
            Happening::ProbeEnds { p, life, s, asked, round, outcome } => {
                self.probe_ends(p, life, s, asked, round, *outcome);
            }
            Happening::Deadline { p, life, at } => self.deadline(p, life, at),
            Happening::AgentStarts { p } => self.agent_starts(p),
            Happening::Thaws { p } => self.thaws(p),
            Happening::Renews { p, life } => self.renews(p, life),
            Happening::LockReleased { s, connection } => self.lock_released(s, connection),
            Happening::TaskArrives { run } => self.task_arrives(run),
            Happening::TaskReplies { run } => self.task_replies(run),
            Happening::TaskTimesOut { run } => self.task_times_out(run),
            Happening::IoConnect { replica, generation } => self.io_connect(replica, generation),
            Happening::IoBreaks { replica, link } => self.io_breaks(replica, link),
            Happening::Pump { source, replica, link } => self.pump(source, replica, link),
            Happening::Acknowledged { source, replica, link, upto } => self.acknowledged(source, replica, link, upto),
            Happening::DumpEnds { source, replica, link } => self.dump_ends(source, replica, link),
            Happening::Heartbeat { replica, link } => self.heartbeat(replica, link),
            Happening::Apply { n, generation } => self.apply(n, generation),
            Happening::SemiSyncTimeout { n, generation, index } => self.semi_sync_timeout(n, generation, index),
            Happening::ClientGoes { c } => self.client_goes(c),
            Happening::ClientSends { c, attempt } => self.client_sends(c, attempt),
            Happening::WriteArrives { c, attempt, s, generation } => self.write_arrives(c, attempt, s, generation),
            Happening::WriteCommits { c, attempt, s, generation } => self.write_commits(c, attempt, s, generation),
            Happening::ServerAnswers { c, attempt, s, generation, written } => {
                if self.servers[s].generation == generation {
                    self.answer_client(s, c, attempt, written);
                }
            }
            Happening::AnswerArrives { c, attempt, written } => self.answer_arrives(c, attempt, written),
            Happening::ClientGivesUp { c, attempt } => self.client_gives_up(c, attempt),
            Happening::OutsiderLooks => self.outsider_looks(),
        }
    }
}
