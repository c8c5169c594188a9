//! Servers that die and come back.

use std::time::Duration;

use shunt_core::observation::{Failure, FailureKind, Outcome};

use super::history::tell;
use super::network::Node;
use super::server::{Io, Life, Waiting};
use super::world::{Happening, World};

impl World {
    /// The process dies. With power the host says so to everybody who is connected; without, nobody hears anything.
    pub fn kill(&mut self, n: usize, power: bool) {
        if !power {
            self.net.set_power(Node::Server(n), false);
        }
        if self.servers[n].life == Life::Dead {
            return;
        }
        tell!(self, "db{} dies{}", n + 1, if power { "" } else { " without power" });
        let server = &mut self.servers[n];
        server.life = Life::Dead;
        server.generation += 1;
        server.hung = false;
        server.read_only_pending = false;
        server.apply_scheduled = false;
        server.lock = None;
        server.waiting.clear();
        server.open.clear();
        server.dumps.clear();
        server.acknowledged.clear();
        let was = std::mem::replace(&mut server.io, Io::Stopped);
        if let (Some(source), Io::Connected(link)) = (server.source, was) {
            let delay = if power { Duration::from_millis(2) } else { Duration::from_secs(30) };
            self.later(delay, Happening::DumpEnds { source, replica: n, link });
        }
        for replica in 0..self.servers.len() {
            if let (Some(source), Io::Connected(link)) = (self.servers[replica].source, self.servers[replica].io)
                && source == n
            {
                let told = power && self.net.passes(Node::Server(n), Node::Server(replica));
                let delay = if told { Duration::from_millis(2) } else { self.scenario.net_timeout };
                self.later(delay, Happening::IoBreaks { replica, link });
            }
        }
        for p in 0..self.proxies.len() {
            let (connected, life) = (self.proxies[p].connections[n].is_some(), self.proxies[p].life);
            if power && connected && self.net.passes(Node::Server(n), Node::Proxy(p)) {
                let failure = Failure { kind: FailureKind::Reset, detail: "the connection broke".to_owned() };
                let (asked, outcome) = (self.now, Box::new(Outcome::Failed(failure)));
                let round = self.proxies[p].next_round(n);
                let delay = self.net.delay(Node::Server(n), Node::Proxy(p), &mut self.rng);
                self.later(delay, Happening::ProbeEnds { p, life, s: n, asked, round, outcome });
            }
        }
        if power {
            self.server_breaks_flows(n);
        }
    }

    /// The process is started.
    pub fn boot(&mut self, n: usize, generation: u64) {
        self.net.set_power(Node::Server(n), true);
        let server = &mut self.servers[n];
        if server.life != Life::Dead || server.generation != generation {
            return;
        }
        server.life = Life::Starting;
        let delay = self.rng.millis(50, 1_500);
        self.later(delay, Happening::Booted { n, generation });
    }

    /// It lets people in: what was in its binary log is committed, acknowledged or not.
    pub fn booted(&mut self, n: usize, generation: u64) {
        let server = &mut self.servers[n];
        if server.life != Life::Starting || server.generation != generation {
            return;
        }
        server.life = Life::Running;
        for txn in server.log.clone() {
            server.executed.insert(txn);
        }
        server.read_only = !server.boots_writable;
        server.applying = true;
        if let Some(semi) = &mut server.semi {
            semi.active = true;
        }
        let lost = self.scenario.loses_relay;
        if lost {
            self.note_lost_relay(n);
            self.servers[n].forget_relay();
        }
        let writable = if self.servers[n].read_only { "read-only" } else { "writable" };
        tell!(self, "db{} is back, {writable}", n + 1);
        if self.servers[n].source.is_some() {
            self.servers[n].io = Io::Connecting;
            self.later(Duration::from_millis(5), Happening::IoConnect { replica: n, generation });
        }
        self.apply_later(n);
    }

    /// A write of somebody who does not come through a proxy.
    pub fn write_directly(&mut self, n: usize) {
        if !self.servers[n].is_running() {
            return;
        }
        let (index, txn) = self.servers[n].write();
        tell!(self, "somebody writes {txn} on db{} itself", n + 1);
        self.commit(n, Waiting { index, txn, attempt: None });
        self.announce(n);
    }
}
