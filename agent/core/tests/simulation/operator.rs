//! An operator at a proxy. As the driver does, what is asked for is written down before the machine hears of it.

use std::time::Duration;

use shunt_core::cluster::Event;
use shunt_core::operation::Intent;

use super::history::tell;
use super::server::db;
use super::world::World;

impl World {
    pub fn operate(&mut self, p: usize, intent: Intent) {
        if self.proxies[p].agent.is_none() || self.proxies[p].frozen || self.proxies[p].busy {
            return;
        }
        self.tell_agent(p, Event::Operate(intent));
    }

    pub fn pause(&mut self, p: usize, time: Option<Duration>) {
        if self.proxies[p].disk_full || self.proxies[p].agent.is_none() {
            return;
        }
        let wall = self.wall(p);
        let until = time.map(|t| wall + t.as_millis() as i64);
        self.proxies[p].store.pause = Some((until, "maintenance".to_owned()));
        let now = self.now;
        let until = self.proxies[p].agent().zip(time).map(|(agent, time)| agent.time(now) + time);
        self.tell_agent(p, Event::Pause { until, reason: "maintenance".to_owned() });
    }

    pub fn resume(&mut self, p: usize) {
        if self.proxies[p].disk_full || self.proxies[p].agent.is_none() {
            return;
        }
        self.proxies[p].store.pause = None;
        self.tell_agent(p, Event::Resume);
    }

    pub fn pin(&mut self, p: usize, n: usize) {
        if self.proxies[p].disk_full || self.proxies[p].agent.is_none() {
            return;
        }
        if self.proxies[p].agent().is_some_and(|agent| agent.machine.is_busy()) {
            return;
        }
        tell!(self, "an operator pins proxy{} to db{}", p + 1, n + 1);
        self.proxies[p].store.pins.insert(None, db(n));
        self.tell_agent(p, Event::Pin { listener: None, server: db(n) });
    }

    /// An operator who waits for something to take back.
    pub fn abort_when_due(&mut self, p: usize) {
        let proxy = &mut self.proxies[p];
        let is_busy = proxy.agent.as_ref().is_some_and(|agent| agent.machine.is_busy());
        match &mut proxy.aborts_in {
            Some(left) if is_busy && *left > 0 => *left -= 1,
            Some(_) if is_busy => {
                proxy.aborts_in = None;
                self.abort(p);
            }
            _ => {}
        }
    }

    pub fn abort(&mut self, p: usize) {
        let proxy = &self.proxies[p];
        let Some(machine) = proxy.agent().filter(|_| !proxy.frozen && !proxy.busy).map(|agent| &agent.machine) else {
            return;
        };
        let pauses = machine.pauses_on_abort();
        if machine.abort_refusal().is_some() || (pauses && proxy.disk_full) {
            return;
        }
        tell!(self, "an operator at proxy{} aborts", p + 1);
        if pauses {
            self.proxies[p].store.pause = Some((None, "aborted by operator".to_owned()));
        }
        self.tell_agent(p, Event::Abort { by: "operator".to_owned() });
    }

    pub fn unpin(&mut self, p: usize) {
        if self.proxies[p].disk_full || self.proxies[p].agent.is_none() {
            return;
        }
        if self.proxies[p].store.pins.remove(&None).is_some() {
            self.tell_agent(p, Event::Unpin { listener: None });
        }
    }

    pub fn clock_jumps(&mut self, p: usize, by: i64) {
        self.proxies[p].wall_off += by;
        self.clock_jumped(p);
    }
}
