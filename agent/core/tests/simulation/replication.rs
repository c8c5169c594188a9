//! How transactions get from server to server: binary log → network → relay log → applied; acknowledgements come back.

use std::time::Duration;

use super::gtids::Txn;
use super::history::tell;
use super::network::Node;
use super::server::{HEARTBEAT, Io, Waiting};
use super::world::{Happening, World};

/// A packet that got lost is sent again after this.
const RESEND: Duration = Duration::from_millis(200);
/// A replica that is not connected tries again after this.
const RECONNECT: Duration = Duration::from_secs(1);
/// So many transactions travel together.
const BATCH: usize = 64;

impl World {
    /// The I/O thread tries to connect.
    pub fn io_connect(&mut self, replica: usize, generation: u64) {
        let server = &self.servers[replica];
        if server.generation != generation || server.io != Io::Connecting || !server.is_running() {
            return;
        }
        let Some(source) = server.source else { return };
        let there = &self.servers[source];
        let reaches = self.net.passes_both(Node::Server(replica), Node::Server(source));
        if !(reaches && there.is_running() && !there.hung) {
            self.later(RECONNECT, Happening::IoConnect { replica, generation });
            return;
        }
        self.connections += 1;
        let link = self.connections;
        let had = self.servers[replica].received();
        // Auto-position: the source sends what is missing, so reading begins at the first transaction that is.
        let log = &self.servers[source].log;
        let cursor = log.iter().position(|&txn| !had.contains(txn)).unwrap_or(log.len());
        let server = &mut self.servers[replica];
        (server.io, server.cursor) = (Io::Connected(link), cursor);
        server.mark += 1;
        let acknowledges = server.semi.as_ref().is_some_and(|s| s.replica_on);
        let there = &mut self.servers[source];
        there.acknowledged.remove(&replica);
        there.dumps.remove(&replica);
        if acknowledges {
            there.dumps.insert(replica, link);
        }
        tell!(self, "db{} replicates from db{}", replica + 1, source + 1);
        self.pump_later(source, replica, link);
        self.later(HEARTBEAT, Happening::Heartbeat { replica, link });
    }

    /// Something new in the log: on its way to every replica.
    pub fn announce(&mut self, source: usize) {
        for replica in 0..self.servers.len() {
            if let (Some(from), Io::Connected(link)) = (self.servers[replica].source, self.servers[replica].io)
                && from == source
            {
                self.pump_later(source, replica, link);
            }
        }
    }

    fn pump_later(&mut self, source: usize, replica: usize, link: u64) {
        if self.pumps.insert(link) {
            let delay = self.net.delay(Node::Server(source), Node::Server(replica), &mut self.rng);
            self.later(delay, Happening::Pump { source, replica, link });
        }
    }

    /// What the source's log holds arrives.
    pub fn pump(&mut self, source: usize, replica: usize, link: u64) {
        self.pumps.remove(&link);
        if self.servers[replica].io != Io::Connected(link) {
            return;
        }
        if !self.net.passes_both(Node::Server(source), Node::Server(replica)) || self.servers[source].hung {
            self.pumps.insert(link);
            self.later(RESEND, Happening::Pump { source, replica, link });
            return;
        }
        if !self.servers[source].is_running() {
            return;
        }
        let cursor = self.servers[replica].cursor;
        let end = self.servers[source].log.len().min(cursor + BATCH);
        let news: Vec<Txn> = self.servers[source].log[cursor.min(end)..end].to_vec();
        let server = &mut self.servers[replica];
        for txn in news {
            if !server.has(txn) {
                server.relay.push_back(txn);
            }
        }
        server.cursor = end;
        server.mark += 1;
        let acknowledges = server.semi.as_ref().is_some_and(|s| s.replica_on);
        if acknowledges {
            let delay = self.net.delay(Node::Server(replica), Node::Server(source), &mut self.rng);
            self.later(delay, Happening::Acknowledged { source, replica, link, upto: end });
        }
        self.apply_later(replica);
        if end < self.servers[source].log.len() {
            self.pump_later(source, replica, link);
        }
    }

    /// A replica's acknowledgement arrives at the source.
    pub fn acknowledged(&mut self, source: usize, replica: usize, link: u64, upto: usize) {
        let server = &mut self.servers[source];
        if !server.is_running() || server.dumps.get(&replica) != Some(&link) {
            return;
        }
        if !self.net.passes_both(Node::Server(replica), Node::Server(source)) || server.hung {
            self.later(RESEND, Happening::Acknowledged { source, replica, link, upto });
            return;
        }
        let known = server.acknowledged.entry(replica).or_default();
        *known = upto.max(*known);
        self.settle(source);
    }

    /// Commits what has waited long enough for acknowledgements, and goes back to waiting once replicas have caught up.
    pub fn settle(&mut self, source: usize) {
        let end = self.servers[source].log.len();
        let Some(semi) = self.servers[source].semi.clone() else { return };
        while let Some(&first) = self.servers[source].waiting.front() {
            if semi.active && semi.source_on && self.servers[source].acknowledgements(first.index) < semi.wait_count {
                break;
            }
            self.servers[source].waiting.pop_front();
            self.commit(source, first);
        }
        if semi.source_on && !semi.active && self.servers[source].acknowledgements(end) >= semi.wait_count {
            tell!(self, "db{} waits for acknowledgements again", source + 1);
            if let Some(semi) = &mut self.servers[source].semi {
                semi.active = true;
            }
        }
        self.finish_read_only(source);
    }

    /// Makes a transaction durable and visible, and tells its client.
    pub fn commit(&mut self, server: usize, waiting: Waiting) {
        self.servers[server].executed.insert(waiting.txn);
        if let Some((client, attempt)) = waiting.attempt {
            self.servers[server].open.remove(&(client, attempt));
            self.answer_client(server, client, attempt, Some(waiting.txn));
        }
    }

    /// A pending `super_read_only` comes into force once no commit waits any more.
    pub fn finish_read_only(&mut self, n: usize) {
        let server = &mut self.servers[n];
        if server.read_only_pending && server.waiting.is_empty() {
            server.read_only_pending = false;
            server.read_only = true;
            tell!(self, "db{} is read-only", n + 1);
        }
    }

    /// Nobody acknowledged in time: the source goes on without.
    pub fn semi_sync_timeout(&mut self, source: usize, generation: u64, index: usize) {
        let server = &mut self.servers[source];
        if server.generation != generation || server.waiting.front().is_none_or(|w| w.index > index) {
            return;
        }
        let Some(semi) = &mut server.semi else { return };
        if semi.active {
            semi.active = false;
            tell!(self, "db{} waits for acknowledgements no more: nobody gave them in time", source + 1);
        }
        self.settle(source);
    }

    pub fn apply_later(&mut self, n: usize) {
        let server = &mut self.servers[n];
        let is_able = server.is_running() && server.applying && !server.apply_error && !server.hung;
        if server.apply_scheduled || !is_able || server.relay.is_empty() {
            return;
        }
        server.apply_scheduled = true;
        let (delay, generation) = (server.apply_delay, server.generation);
        self.later(delay, Happening::Apply { n, generation });
    }

    pub fn apply(&mut self, n: usize, generation: u64) {
        let server = &mut self.servers[n];
        if server.generation != generation {
            return;
        }
        server.apply_scheduled = false;
        if !server.applying || server.apply_error || server.hung {
            return;
        }
        // What takes little time is applied together: fewer events, the same result.
        let together = if server.apply_delay < Duration::from_millis(20) { 16 } else { 1 };
        for _ in 0..together {
            let Some(txn) = server.relay.pop_front() else { break };
            if !server.executed.contains(txn) {
                server.executed.insert(txn);
                server.log.push(txn);
            }
        }
        self.announce(n);
        self.apply_later(n);
    }

    pub fn heartbeat(&mut self, replica: usize, link: u64) {
        let server = &self.servers[replica];
        if server.io != Io::Connected(link) || !server.is_running() {
            return;
        }
        let Some(source) = server.source else { return };
        let there = &self.servers[source];
        let comes = there.is_running() && !there.hung && self.net.passes(Node::Server(source), Node::Server(replica));
        if comes {
            self.servers[replica].mark += 1;
        }
        self.later(HEARTBEAT, Happening::Heartbeat { replica, link });
    }

    /// Stops the I/O thread. The source notices if it can be told.
    pub fn stop_receiving(&mut self, replica: usize) {
        let source = self.servers[replica].source;
        let was = std::mem::replace(&mut self.servers[replica].io, Io::Stopped);
        if let (Some(source), Io::Connected(link)) = (source, was) {
            self.drop_dump(source, replica, link);
        }
    }

    /// The source hears that a replica's connection is over, or believes in it for a while.
    fn drop_dump(&mut self, source: usize, replica: usize, link: u64) {
        if self.net.passes(Node::Server(replica), Node::Server(source)) && !self.servers[source].hung {
            self.dump_ends(source, replica, link);
        } else {
            self.later(Duration::from_secs(30), Happening::DumpEnds { source, replica, link });
        }
    }

    pub fn dump_ends(&mut self, source: usize, replica: usize, link: u64) {
        let server = &mut self.servers[source];
        if server.dumps.get(&replica) == Some(&link) {
            server.dumps.remove(&replica);
            server.acknowledged.remove(&replica);
        }
    }

    /// Replicates from `source` from now on.
    pub fn replicate_from(&mut self, replica: usize, source: usize) {
        self.stop_receiving(replica);
        let server = &mut self.servers[replica];
        server.source = Some(source);
        server.io = Io::Connecting;
        let generation = server.generation;
        self.later(Duration::from_millis(1), Happening::IoConnect { replica, generation });
    }

    /// The source's process is gone and its host says so, or a replica has been silent about it for too long.
    pub fn io_breaks(&mut self, replica: usize, link: u64) {
        if self.servers[replica].io != Io::Connected(link) {
            return;
        }
        self.servers[replica].io = Io::Connecting;
        let generation = self.servers[replica].generation;
        self.later(RECONNECT, Happening::IoConnect { replica, generation });
    }
}
