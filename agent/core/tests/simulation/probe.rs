//! How an agent asks the servers: one kept connection each, one round of questions at a time.

use std::time::Duration;

use shunt_core::Mono;
use shunt_core::cluster::{Event, Pace};
use shunt_core::config::FailoverMode;
use shunt_core::observation::{Failure, FailureKind, Observation, Outcome, PromoterLock};

use super::network::Node;
use super::server::{Life, db};
use super::world::{Happening, World};

/// The pace of a cluster in trouble; slower than the agent's own, so that a seed costs less.
const URGENT: Duration = Duration::from_millis(100);

/// How often a stopped process's mail is looked at again.
const RETRY: Duration = Duration::from_millis(20);

fn failed(kind: FailureKind) -> Outcome {
    Outcome::Failed(Failure { kind, detail: kind.words().to_owned() })
}

impl World {
    pub fn probe_asks(&mut self, p: usize, life: u64, s: usize, round: u64) {
        if self.proxies[p].life != life || self.proxies[p].agent.is_none() || !self.proxies[p].is_round(s, round) {
            return;
        }
        let asked = self.now;
        let round = self.proxies[p].next_round(s);
        if self.proxies[p].frozen {
            self.later(URGENT, Happening::ProbeAsks { p, life, s, round });
            return;
        }
        self.proxies[p].under_way[s] = true;
        if self.net.passes(Node::Proxy(p), Node::Server(s)) {
            let delay = self.net.delay(Node::Proxy(p), Node::Server(s), &mut self.rng);
            self.later(delay, Happening::ProbeArrives { p, life, s, asked, round });
        } else {
            self.probe_in_silence(p, life, s, asked, round);
        }
    }

    /// Every server is asked now, or once the round that is under way is over.
    pub fn hasten(&mut self, p: usize) {
        let life = self.proxies[p].life;
        for s in 0..self.servers.len() {
            if self.proxies[p].under_way[s] {
                self.proxies[p].hastened[s] = true;
                continue;
            }
            // The next round in its turn is not asked any more: this one is in its place.
            let round = self.proxies[p].next_round(s);
            self.later(Duration::ZERO, Happening::ProbeAsks { p, life, s, round });
        }
    }

    fn probe_in_silence(&mut self, p: usize, life: u64, s: usize, asked: Mono, round: u64) {
        let kind = if self.proxies[p].connections[s].is_some() { FailureKind::NoAnswer } else { FailureKind::Timeout };
        let left = self.proxies[p].config.probe.timeout.saturating_sub(self.now.since(asked));
        self.later(left, Happening::ProbeEnds { p, life, s, asked, round, outcome: Box::new(failed(kind)) });
    }

    pub fn probe_arrives(&mut self, p: usize, life: u64, s: usize, asked: Mono, round: u64) {
        if self.proxies[p].life != life {
            return;
        }
        let back = self.net.delay(Node::Server(s), Node::Proxy(p), &mut self.rng);
        let too_late = self.now.since(asked) + back > self.proxies[p].config.probe.timeout;
        let silent = !self.net.passes_both(Node::Server(s), Node::Proxy(p));
        if silent || too_late || (self.servers[s].hung && self.servers[s].is_running()) {
            self.probe_in_silence(p, life, s, asked, round);
            return;
        }
        let outcome = match self.servers[s].life {
            Life::Dead => failed(FailureKind::Refused),
            Life::Starting => failed(FailureKind::StartingOrStopping),
            Life::Running if self.servers[s].full && self.proxies[p].connections[s].is_none() => {
                failed(FailureKind::TooManyConnections)
            }
            Life::Running => {
                let lock = self.ask_for_lock(p, s);
                Outcome::Answered(Box::new(self.servers[s].state(lock)))
            }
        };
        self.later(back, Happening::ProbeEnds { p, life, s, asked, round, outcome: Box::new(outcome) });
    }

    /// The named lock of this server: taken if it is free, by the connection that asks.
    fn ask_for_lock(&mut self, p: usize, s: usize) -> PromoterLock {
        let connection = *self.proxies[p].connections[s].get_or_insert_with(|| {
            self.connections += 1;
            self.connections
        });
        if self.proxies[p].config.failover != FailoverMode::Promote {
            return PromoterLock::NotAsked;
        }
        match *self.servers[s].lock.get_or_insert((p, connection)) {
            holder if holder == (p, connection) => PromoterLock::Ours,
            _ => PromoterLock::Theirs,
        }
    }

    /// The agent's end of a probing connection is closed. The server hears of it, or finds out later.
    pub fn probe_connection_ends(&mut self, p: usize, s: usize) {
        let Some(connection) = self.proxies[p].connections[s].take() else { return };
        let heard = self.net.passes(Node::Proxy(p), Node::Server(s)) && !self.servers[s].hung;
        let delay = if heard { Duration::from_millis(3) } else { self.scenario.lock_lingers };
        self.later(delay, Happening::LockReleased { s, connection });
    }

    pub fn lock_released(&mut self, s: usize, connection: u64) {
        if self.servers[s].lock.is_some_and(|(_, held)| held == connection) {
            self.servers[s].lock = None;
        }
    }

    pub fn probe_ends(&mut self, p: usize, life: u64, s: usize, asked: Mono, round: u64, outcome: Outcome) {
        if self.proxies[p].life != life || !self.proxies[p].is_round(s, round) {
            return;
        }
        if self.proxies[p].frozen {
            // It is read when the process goes on.
            self.later(RETRY, Happening::ProbeEnds { p, life, s, asked, round, outcome: Box::new(outcome) });
            return;
        }
        let next = self.proxies[p].next_round(s);
        let Some(agent) = self.proxies[p].agent() else { return };
        let (at, interval) = (agent.time(self.now), self.interval(p));
        let broke = matches!(&outcome, Outcome::Failed(f) if !matches!(f.kind, FailureKind::TooManyConnections));
        let reset = matches!(&outcome, Outcome::Failed(f) if f.kind == FailureKind::Reset);
        if broke {
            self.probe_connection_ends(p, s);
        }
        let seen = Observation { server: db(s), at, took: self.now.since(asked), outcome };
        // A busy agent reads its news late, and in order.
        if !self.healed && !self.proxies[p].busy && self.rng.up_to(9_999) < self.scenario.late_per_myriad {
            self.proxies[p].busy = true;
            let delay = self.rng.millis(10, 2_500);
            self.later(delay, Happening::Thaws { p });
        }
        self.tell_agent(p, Event::Observed(seen));
        self.proxies[p].under_way[s] = false;
        // A connection that broke is tried anew at once.
        let wait = match std::mem::take(&mut self.proxies[p].hastened[s]) {
            true => Duration::ZERO,
            false if reset => Duration::from_millis(2),
            false => interval.saturating_sub(self.now.since(asked)),
        };
        self.later(wait, Happening::ProbeAsks { p, life, s, round: next });
    }

    fn interval(&self, p: usize) -> Duration {
        match self.proxies[p].agent().map(|a| a.pace) {
            Some(Pace::Urgent) => URGENT,
            _ => self.proxies[p].config.probe.interval,
        }
    }
}
