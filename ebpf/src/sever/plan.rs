//! Which end is told what and when, and what is known of each. Pure: the clock is an argument.

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use shunt_core::datapath::Severed;
use shunt_ebpf_common::flow::{Flow, Tuple, mark, state};

use super::Direction;
use crate::ends;
use crate::flows::Both;

/// When an end that did not answer is told again, and at last given up; from the first time on. Packets get lost, and a
/// socket answers what it does not expect at most every 500 ms (net.ipv4.tcp_invalid_ratelimit).
const ROUNDS: [Duration; 7] = [
    Duration::ZERO,
    Duration::from_millis(100),
    Duration::from_millis(300),
    Duration::from_millis(700),
    Duration::from_millis(1300),
    Duration::from_millis(2500),
    Duration::from_secs(5),
];

/// Flows that are ended at a time. The others wait, and whoever of them says something is answered all the same.
const AT_A_TIME: usize = 50_000;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    Client,
    Backend,
}

/// A packet to be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Packet {
    Reset { way: Direction, sequence: u32 },
    Question { way: Direction, sequence: u32, acknowledgement: u32 },
}

/// All that is being severed.
#[derive(Default)]
pub struct Plan {
    jobs: BTreeMap<Job, Progress>,
    targets: HashMap<Tuple, Target>,
    senders: HashMap<Direction, (Tuple, End)>,
    /// Flows whose entries may go.
    done: Vec<Both>,
    /// There were more than fit: look again, for those that died then.
    left: Option<Instant>,
}

/// A pair at one time of its life; those of its flows that were ended one by one, or all others.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Job {
    slot: u32,
    generation: u32,
    one_by_one: bool,
}

struct Progress {
    listener: SocketAddr,
    backend: SocketAddr,
    since: Instant,
    last_answer: Instant,
    open: usize,
    flows: u64,
    unanswered: u64,
}

struct Target {
    flow: Both,
    begun: Instant,
    rounds: usize,
    client_closed: bool,
    backend_closed: bool,
    /// An end of it is taken for closed though it has not answered.
    is_silent: bool,
}

impl Target {
    fn job(&self) -> Job {
        let Flow { pair: slot, generation, marks, .. } = self.flow.client;
        Job { slot, generation, one_by_one: marks & mark::ENDED != 0 }
    }
}

impl Plan {
    /// Whether there is room for one more.
    pub fn has_room(&self) -> bool {
        self.targets.len() < AT_A_TIME
    }

    pub fn is_empty(&self) -> bool {
        self.targets.is_empty() && self.left.is_none()
    }

    /// There was no room for all: of those that have died since then.
    pub fn leave_for_later(&mut self, since: Instant) {
        self.left = Some(self.left.map_or(since, |left| left.min(since)));
    }

    /// Since when to look again, once there is room for many.
    pub fn looks_again(&mut self) -> Option<Instant> {
        if self.targets.len() * 2 > AT_A_TIME { None } else { self.left.take() }
    }

    pub fn knows(&self, tuple: &Tuple, flow: &Flow) -> bool {
        self.targets.get(tuple).is_some_and(|target| target.flow.client.opened == flow.opened)
    }

    /// A flow that may pass no more. What goes to its ends at once.
    pub fn add(&mut self, flow: &Both, since: Instant, now: Instant) -> Vec<Packet> {
        if self.knows(&flow.tuple, &flow.client) {
            return Vec::new();
        }
        // The port was used again: the flow that was told about is no more.
        self.give_up(&flow.tuple);
        if flow.client.state & state::CLOSED != 0 {
            self.done.push(*flow);
            return Vec::new();
        }
        if flow.client.state & state::ACKNOWLEDGED == 0 {
            // A client that is still connecting sends its SYN again, and must find the new way: it is not told. What the
            // backend has begun for it ends.
            self.done.push(*flow);
            return resets(flow, End::Backend);
        }
        let target = Target {
            flow: *flow,
            begun: now,
            rounds: 0,
            client_closed: false,
            backend_closed: false,
            is_silent: false,
        };
        let progress = self.jobs.entry(target.job()).or_insert_with(|| Progress {
            listener: ends::listener(flow),
            backend: ends::backend(flow),
            since,
            last_answer: since,
            open: 0,
            flows: 0,
            unanswered: 0,
        });
        progress.open += 1;
        progress.flows += 1;
        for end in [End::Client, End::Backend] {
            self.senders.insert(sender(flow, end), (flow.tuple, end));
        }
        self.targets.insert(flow.tuple, target);
        Vec::new()
    }

    /// Flows whose ends are to be told now. Those that had all their rounds are given up.
    pub fn due(&mut self, now: Instant) -> Vec<Tuple> {
        let (mut due, mut over) = (Vec::new(), Vec::new());
        for (tuple, target) in &mut self.targets {
            let Some(after) = ROUNDS.get(target.rounds).filter(|after| target.begun + **after <= now) else { continue };
            // A round that comes late makes all later ones late: an end is given up only after it had its time to answer.
            target.begun = now.checked_sub(*after).unwrap_or(now);
            target.rounds += 1;
            let list = if target.rounds == ROUNDS.len() { &mut over } else { &mut due };
            list.push(*tuple);
        }
        for tuple in over {
            self.give_up(&tuple);
        }
        due
    }

    /// What is to be sent to the ends of a flow that have not answered, given what stands in the table now. The numbers of
    /// a flow that is dead stay as they are.
    pub fn packets(&mut self, tuple: &Tuple, client: Option<Flow>, server: Option<Flow>, now: Instant) -> Vec<Packet> {
        let Some(target) = self.targets.get(tuple) else { return Vec::new() };
        let opened = target.flow.client.opened;
        let is_ours = |entry: Option<Flow>| entry.is_some_and(|entry| entry.opened == opened);
        let flow = target.flow;
        // Entries that are another flow's now, or gone: that end has begun anew, and must not be disturbed.
        for (end, there) in [(End::Client, is_ours(client)), (End::Backend, is_ours(server))] {
            if !there {
                self.close(tuple, end, now, end == End::Client);
            }
        }
        let mut packets = Vec::new();
        let Some(target) = self.targets.get(tuple) else { return packets };
        for (end, closed) in [(End::Client, target.client_closed), (End::Backend, target.backend_closed)] {
            if !closed {
                packets.extend(resets(&flow, end));
                packets.push(question(&flow, end));
            }
        }
        packets
    }

    /// An end has sent an RST: it is closed.
    pub fn heard(&mut self, from: SocketAddr, to: SocketAddr, now: Instant) {
        if let Some((tuple, end)) = self.senders.get(&(from, to)).copied() {
            self.close(&tuple, end, now, true);
        }
    }

    /// Flows of which both ends are closed, or given up.
    pub fn take_done(&mut self) -> Vec<Both> {
        std::mem::take(&mut self.done)
    }

    /// Pairs of which nothing is left to do.
    pub fn take_finished(&mut self) -> Vec<Severed> {
        if self.left.is_some() {
            return Vec::new();
        }
        let over: Vec<Job> = self.jobs.iter().filter(|(_, one)| one.open == 0).map(|(job, _)| *job).collect();
        let finished = over.into_iter().filter_map(|job| {
            let Progress { listener, backend, since, last_answer, flows, unanswered, .. } = self.jobs.remove(&job)?;
            Some(Severed { listener, backend, flows, unanswered, took: last_answer.saturating_duration_since(since) })
        });
        finished.collect()
    }

    /// When there is something to do again; `None`: not before the next order.
    pub fn next_deadline(&self) -> Option<Instant> {
        let round = |target: &Target| ROUNDS.get(target.rounds).map(|after| target.begun + *after);
        self.targets.values().filter_map(round).min()
    }

    fn close(&mut self, tuple: &Tuple, end: End, now: Instant, answered: bool) {
        let Some(target) = self.targets.get_mut(tuple) else { return };
        match end {
            End::Client => target.client_closed = true,
            End::Backend => target.backend_closed = true,
        }
        target.is_silent |= !answered;
        let (job, closed) = (target.job(), target.client_closed && target.backend_closed);
        let is_silent = target.is_silent;
        if let Some(progress) = self.jobs.get_mut(&job) {
            if answered {
                progress.last_answer = progress.last_answer.max(now);
            }
            progress.unanswered += u64::from(closed && is_silent);
        }
        if closed {
            self.remove(tuple);
        }
    }

    fn give_up(&mut self, tuple: &Tuple) {
        if let Some(target) = self.targets.get(tuple) {
            if let Some(progress) = self.jobs.get_mut(&target.job()) {
                progress.unanswered += 1;
            }
            self.remove(tuple);
        }
    }

    fn remove(&mut self, tuple: &Tuple) {
        let Some(target) = self.targets.remove(tuple) else { return };
        for end in [End::Client, End::Backend] {
            let sender = sender(&target.flow, end);
            if self.senders.get(&sender).is_some_and(|(other, _)| other == tuple) {
                self.senders.remove(&sender);
            }
        }
        if let Some(progress) = self.jobs.get_mut(&target.job()) {
            progress.open -= 1;
        }
        self.done.push(target.flow);
    }
}

/// How the packets of an end go.
fn sender(flow: &Both, end: End) -> Direction {
    match end {
        End::Client => (ends::client(flow), ends::listener(flow)),
        End::Backend => (ends::backend(flow), ends::seen_as(flow)),
    }
}

/// What an end has said, and what the other has.
fn sides(flow: &Both, end: End) -> (Flow, Flow) {
    let server = flow.server.unwrap_or_default();
    match end {
        End::Client => (flow.client, server),
        End::Backend => (server, flow.client),
    }
}

/// What an end expects next is what it has acknowledged; or what the other end has sent, if its acknowledgement was still
/// to come.
fn resets(flow: &Both, end: End) -> Vec<Packet> {
    let (from, to) = sender(flow, end);
    let (own, other) = sides(flow, end);
    let acknowledged = (own.state & state::ACKNOWLEDGED != 0).then_some(own.acknowledged);
    let sent = (other.packets > 0).then_some(other.next).filter(|next| Some(*next) != acknowledged);
    let reset = |sequence| Packet::Reset { way: (to, from), sequence };
    acknowledged.into_iter().chain(sent).map(reset).collect()
}

/// A repetition of what was acknowledged long ago, as a keepalive is (RFC 9293, 3.8.4).
fn question(flow: &Both, end: End) -> Packet {
    let (from, to) = sender(flow, end);
    let (own, _) = sides(flow, end);
    Packet::Question { way: (to, from), sequence: own.acknowledged.wrapping_sub(1), acknowledgement: own.next }
}

#[cfg(test)]
#[path = "plan_tests.rs"]
mod tests;
