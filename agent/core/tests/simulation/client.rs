//! Clients: they write through a listener and remember what was acknowledged. The kernel's mapping decides about every
//! packet of theirs, on its way there and on its way back.

use std::net::SocketAddr;
use std::time::Duration;

use super::gtids::Txn;
use super::history::tell;
use super::network::Node;
use super::server::{Waiting, db, number};
use super::world::{Happening, World};

/// A client gives up on an attempt after this.
const PATIENCE: Duration = Duration::from_secs(3);
/// A packet that was not answered is sent again after this.
const RESEND: Duration = Duration::from_millis(200);

#[derive(Clone, Debug)]
pub struct Client {
    pub proxy: usize,
    pub listener: SocketAddr,
    /// It keeps its connection.
    pub stays: bool,
    pub pause: (Duration, Duration),
    /// How long its transactions take.
    pub work: (Duration, Duration),
    /// Counts its attempts; what comes back for an earlier one is for nobody.
    pub attempt: u64,
    /// The server that its connection leads to, and that server's process.
    pub flow: Option<(usize, Option<u64>)>,
    /// It has sent something and waits.
    pub waits: bool,
}

impl World {
    pub fn client_goes(&mut self, c: usize) {
        let client = &mut self.clients[c];
        client.attempt += 1;
        client.waits = true;
        if !client.stays {
            client.flow = None;
        }
        let attempt = client.attempt;
        self.later(PATIENCE, Happening::ClientGivesUp { c, attempt });
        self.client_sends(c, attempt);
    }

    /// A packet comes to the proxy: the first of a connection, or one of an established connection.
    pub fn client_sends(&mut self, c: usize, attempt: u64) {
        let client = &self.clients[c];
        if client.attempt != attempt || !client.waits {
            return;
        }
        let (p, listener, flow) = (client.proxy, client.listener, client.flow);
        self.lapse_if_due(p);
        let (server, generation) = if let Some((server, generation)) = flow {
            if !self.proxies[p].kernel.lets_pass(listener, db(server), self.now) {
                self.flow_ends(c);
                return;
            }
            (server, generation)
        } else {
            let Some(to) = self.proxies[p].kernel.leads(listener) else {
                // Held or refused: the client tries again either way.
                self.later(RESEND, Happening::ClientSends { c, attempt });
                return;
            };
            self.clients[c].flow = Some((number(to), None));
            (number(to), None)
        };
        self.packet_passes(p, listener, server);
        if self.net.passes(Node::Proxy(p), Node::Server(server)) {
            let delay = self.net.delay(Node::Proxy(p), Node::Server(server), &mut self.rng);
            self.later(delay, Happening::WriteArrives { c, attempt, s: server, generation });
        } else {
            self.later(RESEND, Happening::ClientSends { c, attempt });
        }
    }

    pub fn write_arrives(&mut self, c: usize, attempt: u64, s: usize, generation: Option<u64>) {
        let server = &mut self.servers[s];
        let is_new = generation.is_none();
        let knows = generation.is_none_or(|g| g == server.generation);
        if !server.is_running() || !knows {
            // Its host refuses, or resets what it does not know.
            if self.net.has_power(Node::Server(s)) && self.clients[c].attempt == attempt {
                self.flow_ends(c);
            }
            return;
        }
        if server.hung {
            return;
        }
        if is_new && self.clients[c].attempt == attempt && self.clients[c].flow == Some((s, None)) {
            self.clients[c].flow = Some((s, Some(server.generation)));
        }
        if self.servers[s].read_only {
            self.answer_client(s, c, attempt, None);
            return;
        }
        if !self.servers[s].open.insert((c, attempt)) {
            return;
        }
        let (least, most) = self.clients[c].work;
        let delay = self.rng.between(least, most);
        let generation = self.servers[s].generation;
        self.later(delay, Happening::WriteCommits { c, attempt, s, generation });
    }

    pub fn write_commits(&mut self, c: usize, attempt: u64, s: usize, generation: u64) {
        if self.servers[s].generation != generation || !self.servers[s].open.contains(&(c, attempt)) {
            return;
        }
        if self.servers[s].read_only_pending || self.servers[s].hung {
            // The commit waits for `super_read_only`, which waits for the commits before it.
            self.later(RESEND, Happening::WriteCommits { c, attempt, s, generation });
            return;
        }
        if self.servers[s].read_only {
            self.servers[s].open.remove(&(c, attempt));
            self.answer_client(s, c, attempt, None);
            return;
        }
        let (index, txn) = self.servers[s].write();
        self.write_accepted(c, s);
        let waiting = Waiting { index, txn, attempt: Some((c, attempt)) };
        if self.servers[s].waits_for_acknowledgements() {
            let semi = self.servers[s].semi.as_ref().map_or((true, Duration::ZERO), |s| (s.after_sync, s.timeout));
            if !semi.0 {
                self.servers[s].executed.insert(txn);
            }
            self.servers[s].waiting.push_back(waiting);
            self.later(semi.1, Happening::SemiSyncTimeout { n: s, generation, index });
        } else {
            self.commit(s, waiting);
        }
        self.announce(s);
    }

    /// The server has answered: written, or refused.
    pub fn answer_client(&mut self, s: usize, c: usize, attempt: u64, written: Option<Txn>) {
        let p = self.clients[c].proxy;
        let delay = self.net.delay(Node::Server(s), Node::Proxy(p), &mut self.rng);
        if self.clients[c].attempt != attempt || !self.clients[c].waits {
            return;
        }
        if self.net.passes(Node::Server(s), Node::Proxy(p)) && !self.servers[s].hung {
            self.later(delay, Happening::AnswerArrives { c, attempt, written });
        } else if self.servers[s].is_running() {
            let generation = self.servers[s].generation;
            self.later(RESEND, Happening::ServerAnswers { c, attempt, s, generation, written });
        }
    }

    /// An answer comes to the proxy. It passes while its connection lives.
    pub fn answer_arrives(&mut self, c: usize, attempt: u64, written: Option<Txn>) {
        let client = &self.clients[c];
        let (p, listener) = (client.proxy, client.listener);
        let Some((server, _)) = client.flow.filter(|_| client.attempt == attempt && client.waits) else { return };
        self.lapse_if_due(p);
        if !self.proxies[p].kernel.lets_pass(listener, db(server), self.now) {
            self.flow_ends(c);
            return;
        }
        match written {
            Some(txn) => {
                tell!(self, "client{} has written {txn} on db{}", c + 1, server + 1);
                self.write_acknowledged(c, txn);
                self.client_rests(c, false);
            }
            // It takes no writes: a pooled connection that is of no use is closed.
            None => self.client_rests(c, true),
        }
    }

    pub fn client_gives_up(&mut self, c: usize, attempt: u64) {
        if self.clients[c].attempt == attempt && self.clients[c].waits {
            self.client_rests(c, true);
        }
    }

    fn client_rests(&mut self, c: usize, closes: bool) {
        let client = &mut self.clients[c];
        client.waits = false;
        if closes || !client.stays {
            client.flow = None;
        }
        let (least, most) = client.pause;
        let delay = self.rng.between(least, most);
        self.later(delay, Happening::ClientGoes { c });
    }

    /// The client's end is closed: it does not know what became of what it sent.
    pub fn flow_ends(&mut self, c: usize) {
        let client = &mut self.clients[c];
        client.flow = None;
        if std::mem::take(&mut client.waits) {
            client.attempt += 1;
            let delay = self.rng.millis(20, 100);
            self.later(delay, Happening::ClientGoes { c });
        }
    }

    /// The kernel ends what it lets pass no more.
    pub fn sever_dead_flows(&mut self, p: usize) {
        for c in 0..self.clients.len() {
            let client = &self.clients[c];
            if let Some((server, _)) = client.flow
                && client.proxy == p
                && !self.proxies[p].kernel.lets_pass(client.listener, db(server), self.now)
            {
                if self.net.passes(Node::Proxy(p), Node::Server(server)) {
                    self.server_ends_session(c, server);
                }
                self.flow_ends(c);
            }
        }
    }

    /// A server's end of a client's connection is closed: a transaction that has not committed is rolled back.
    pub fn server_ends_session(&mut self, c: usize, s: usize) {
        let attempt = self.clients[c].attempt;
        self.servers[s].open.remove(&(c, attempt));
    }

    /// A server's process is gone, and its host says so.
    pub fn server_breaks_flows(&mut self, s: usize) {
        for c in 0..self.clients.len() {
            let is_its = self.clients[c].flow.is_some_and(|(server, _)| server == s);
            if is_its && self.net.passes(Node::Server(s), Node::Proxy(self.clients[c].proxy)) {
                self.flow_ends(c);
            }
        }
    }
}
