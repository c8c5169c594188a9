//! What each task does on its server, statement by statement.

use std::net::SocketAddr;
use std::time::Duration;

use shunt_core::operation::{Cause, Report, Salvaged, Sessions, Task};

use super::gtids::{Gtids, Txn};
use super::history::tell;
use super::invariants::Invariant;
use super::mutation::Mutation;
use super::network::Node;
use super::server::{Io, number};
use super::tasks::{Run, Told, error};
use super::world::World;

impl World {
    /// One statement of a task on the server that it came to.
    pub fn statement(&mut self, id: u64, s: usize, run: &Run) -> Told {
        match &run.task {
            Task::Examine { .. } => self.stands(s),
            Task::MakeReadOnly { end_sessions, .. } => {
                if run.phase == 0 && *end_sessions {
                    self.end_sessions_at(s);
                }
                self.read_only_statement(s)
            }
            Task::MakeWritable { .. } => {
                self.servers[s].read_only = false;
                self.servers[s].read_only_pending = false;
                self.made_writable(run.p, s);
                self.stands(s)
            }
            Task::StopReceiving { .. } => {
                self.stop_receiving(s);
                self.stopped_receiving(s);
                self.stands(s)
            }
            Task::CatchUp { source, goal, .. } => {
                if run.phase == 0 {
                    self.replicate_from(s, number(*source));
                    return Told::Next;
                }
                if Gtids::from_history(goal).is_subset(&self.servers[s].received()) {
                    self.stop_receiving(s);
                    return self.stands(s);
                }
                Told::Waits
            }
            Task::Drain { goal, .. } => {
                if run.phase == 0 {
                    self.servers[s].applying = true;
                    self.apply_later(s);
                    return Told::Next;
                }
                if self.servers[s].apply_error || Gtids::from_history(goal).is_subset(&self.servers[s].executed) {
                    return self.stands(s);
                }
                Told::Waits
            }
            Task::Promote { has, semi_sync, .. } => {
                self.promote_statement(s, run, &Gtids::from_history(has), *semi_sync)
            }
            Task::Follow { source, semi_sync, .. } => self.follow_statement(s, run, number(*source), *semi_sync),
            Task::Salvage { lacking, into, .. } => self.salvage_statement(s, run, &Gtids::from_history(lacking), *into),
            Task::EndSessions { listeners, grace, .. } => self.end_sessions_of(id, s, run, listeners, *grace),
            Task::Hook { .. } => Told::Ends(Ok(Report::Done)),
        }
    }

    fn stands(&self, s: usize) -> Told {
        Told::Ends(Ok(Report::Standing(Box::new(self.servers[s].standing()))))
    }

    /// `SET GLOBAL super_read_only = 1`, which waits for commits that wait for acknowledgements.
    fn read_only_statement(&mut self, s: usize) -> Told {
        if !self.servers[s].read_only {
            self.servers[s].read_only_pending = true;
            self.finish_read_only(s);
        }
        if self.servers[s].read_only { self.stands(s) } else { Told::Waits }
    }

    fn promote_statement(&mut self, s: usize, run: &Run, has: &Gtids, semi_sync: bool) -> Told {
        match run.phase {
            0 => {
                let proxy = &self.proxies[run.p];
                let vetoed = proxy.agent().is_some_and(|agent| Some(agent.machine.last_operation()) == proxy.vetoed);
                if vetoed {
                    self.violated(Invariant::HooksAreHeard, format!("agent{} promotes db{}", run.p + 1, s + 1));
                }
                if !has.is_subset(&self.servers[s].executed) {
                    return Told::Ends(Err(error(Cause::Refused, "it has not applied what it has to have")));
                }
                Told::Next
            }
            1 => {
                self.promotion_resets(run.p, s);
                self.stop_receiving(s);
                let server = &mut self.servers[s];
                server.source = None;
                server.forget_relay();
                Told::Next
            }
            2 => {
                if let Some(semi) = self.servers[s].semi.as_mut().filter(|_| semi_sync) {
                    (semi.source_on, semi.active) = (true, true);
                }
                Told::Next
            }
            _ => {
                self.servers[s].read_only = false;
                self.servers[s].read_only_pending = false;
                tell!(self, "db{} is promoted", s + 1);
                self.promoted(run.p, s);
                self.stands(s)
            }
        }
    }

    fn follow_statement(&mut self, s: usize, run: &Run, source: usize, semi_sync: bool) -> Told {
        let reaches = self.net.passes_both(Node::Proxy(run.p), Node::Server(source));
        if run.phase < 2 && !(reaches && self.servers[source].is_running() && !self.servers[source].hung) {
            return Told::Ends(Err(error(Cause::Unreachable, "the source does not answer")));
        }
        match run.phase {
            0 => match self.read_only_statement(s) {
                Told::Waits => Told::Waits,
                _ => Told::Next,
            },
            1 => {
                let compares = !self.mutation.as_ref().is_some_and(Mutation::hides_errant_transactions);
                if compares && !self.servers[s].executed.is_subset(&self.servers[source].executed) {
                    return Told::Ends(Err(error(Cause::Refused, "it has transactions that the source lacks")));
                }
                self.follows(s, source);
                if self.servers[s].source != Some(source) {
                    self.stop_receiving(s);
                    self.servers[s].forget_relay();
                }
                self.servers[s].applying = true;
                if let Some(semi) = &mut self.servers[s].semi {
                    semi.replica_on |= semi_sync;
                }
                if !matches!(self.servers[s].io, Io::Connected(_)) || self.servers[s].source != Some(source) {
                    self.replicate_from(s, source);
                }
                self.apply_later(s);
                Told::Next
            }
            _ if matches!(self.servers[s].io, Io::Connected(_)) => self.stands(s),
            _ => Told::Waits,
        }
    }

    fn salvage_statement(&mut self, s: usize, run: &Run, lacking: &Gtids, into: Option<SocketAddr>) -> Told {
        let found: Vec<Txn> = lacking.iter().filter(|&txn| self.servers[s].executed.contains(txn)).collect();
        if run.phase == 0 {
            return Told::Next;
        }
        let mut gtids = Gtids::default();
        for &txn in &found {
            gtids.insert(txn);
        }
        let mut applied = false;
        if let Some(to) = into.map(number) {
            let reaches = self.net.passes_both(Node::Proxy(run.p), Node::Server(to));
            if !reaches || !self.servers[to].is_running() {
                return Told::Ends(Err(error(Cause::Unknown, "the connection to the new primary broke")));
            }
            for txn in found {
                if !self.servers[to].executed.contains(txn) {
                    self.servers[to].executed.insert(txn);
                    self.servers[to].log.push(txn);
                }
            }
            self.announce(to);
            applied = true;
        }
        let transactions = gtids.iter().count() as u64;
        let salvaged = Salvaged {
            file: "salvaged".to_owned(),
            gtids: gtids.text(),
            transactions,
            tables: Vec::new(),
            applied,
            stopped: None,
        };
        Told::Ends(Ok(Report::Salvaged(salvaged)))
    }

    /// Ends the sessions of everybody's clients on a server.
    fn end_sessions_at(&mut self, s: usize) {
        for c in 0..self.clients.len() {
            let p = self.clients[c].proxy;
            if self.clients[c].flow.is_some_and(|(server, generation)| server == s && generation.is_some())
                && self.net.passes(Node::Server(s), Node::Proxy(p))
            {
                self.server_ends_session(c, s);
                self.flow_ends(c);
            }
        }
        self.servers[s].open.clear();
    }

    /// Idle ones at once, those inside a transaction when it is over or the grace is.
    fn end_sessions_of(&mut self, id: u64, s: usize, run: &Run, listeners: &[SocketAddr], grace: Duration) -> Told {
        let over = self.now.since(run.began) >= grace;
        let (mut left, mut idle, mut cut) = (0, 0, 0);
        for c in 0..self.clients.len() {
            let client = &self.clients[c];
            let is_ours = client.proxy == run.p && listeners.contains(&client.listener);
            if !is_ours || client.flow.is_none_or(|(server, _)| server != s) {
                continue;
            }
            if !client.waits {
                idle += 1;
                self.flow_ends(c);
            } else if over {
                cut += 1;
                self.server_ends_session(c, s);
                self.flow_ends(c);
            } else {
                left += 1;
            }
        }
        if left > 0 {
            return Told::Waits;
        }
        let _ = id;
        Told::Ends(Ok(Report::Sessions(Sessions { idle, finished: 0, cut, blind: false })))
    }
}
