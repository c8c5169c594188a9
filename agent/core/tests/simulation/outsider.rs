//! Somebody who promotes where shunt only follows: an orchestrator that sees everything and does its work by SQL, not always
//! with care.

use std::time::Duration;

use shunt_core::Mono;

use super::history::tell;
use super::world::{Happening, World};

const PATIENCE: Duration = Duration::from_secs(2);

#[derive(Clone, Debug, Default)]
pub struct Outsider {
    primary: usize,
    missed_since: Option<Mono>,
}

impl World {
    pub fn outsider_looks(&mut self) {
        self.later(Duration::from_secs(1), Happening::OutsiderLooks);
        let primary = self.outsider.primary;
        if self.servers[primary].is_running() {
            self.outsider.missed_since = None;
            for n in 0..self.servers.len() {
                self.outsider_repoints(n, primary);
            }
            if self.servers[primary].read_only && self.servers[primary].source.is_none() {
                tell!(self, "the outsider makes db{} writable again", primary + 1);
                self.servers[primary].read_only = false;
            }
            return;
        }
        let since = *self.outsider.missed_since.get_or_insert(self.now);
        if self.now.since(since) < PATIENCE {
            return;
        }
        let running = (0..self.servers.len()).filter(|&n| self.servers[n].is_running());
        let Some(best) = running.max_by_key(|&n| self.servers[n].received().iter().count()) else { return };
        tell!(self, "the outsider promotes db{}", best + 1);
        self.stop_receiving(best);
        let server = &mut self.servers[best];
        server.source = None;
        server.forget_relay();
        server.read_only = false;
        server.read_only_pending = false;
        if let Some(semi) = &mut server.semi {
            (semi.source_on, semi.active) = (true, true);
        }
        self.outsider = Outsider { primary: best, missed_since: None };
        self.promoted_outside(best);
    }

    fn outsider_repoints(&mut self, n: usize, primary: usize) {
        let server = &self.servers[n];
        if n == primary || !server.is_running() || server.source == Some(primary) {
            return;
        }
        tell!(self, "the outsider repoints db{}", n + 1);
        self.servers[n].read_only = true;
        self.servers[n].forget_relay();
        self.replicate_from(n, primary);
    }
}
