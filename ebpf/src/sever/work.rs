//! The thread that looks, tells, listens and deletes.

use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use shunt_ebpf_common::flow::Tuple;
use shunt_ebpf_common::manage::{Command, what};
use shunt_wire::packet::Segment;
use shunt_wire::raw::Raw;

use super::ears::Ears;
use super::plan::{Packet, Plan};
use super::{Order, Shared};
use crate::flows::{Both, FlowTable, is_clients};
use crate::live::Liveness;

/// Flows between two looks at the answers: few enough that hosts with many connections are not flooded.
const BURST: usize = 128;

/// What could not be sent for want of room is tried again after this, so many times.
const PAUSE: Duration = Duration::from_micros(200);
const TRIES: u32 = 50;

/// After a look at the table has failed.
const RETRY: Duration = Duration::from_millis(100);

pub struct Worker {
    shared: Arc<Shared>,
    table: FlowTable,
    live: Liveness,
    raw: Raw,
    ears: Option<Ears>,
    plan: Plan,
    /// Flows whose ends are to be told in this round.
    round: VecDeque<Tuple>,
}

impl Worker {
    pub fn new(shared: Arc<Shared>, table: FlowTable, live: Liveness, raw: Raw) -> Self {
        Self { shared, table, live, raw, ears: None, plan: Plan::default(), round: VecDeque::new() }
    }

    pub fn run(mut self) {
        while self.take_orders() {
            if let Some(since) = self.plan.looks_again() {
                self.look(since);
            }
            self.prick_up();
            if self.round.is_empty() {
                self.round.extend(self.plan.due(Instant::now()));
            }
            self.tell();
            self.listen();
            self.delete();
            self.shared.lock().finished.extend(self.plan.take_finished());
            if self.round.is_empty() {
                if self.plan.is_empty() {
                    self.ears = None;
                }
                self.shared.wake.wait(self.ears.as_ref(), self.plan.next_deadline());
            }
        }
    }

    /// False when the thread shall end.
    fn take_orders(&mut self) -> bool {
        let (orders, stop) = {
            let mut state = self.shared.lock();
            (std::mem::take(&mut state.orders), state.stop)
        };
        let mut look: Option<Instant> = None;
        for order in orders {
            match order {
                Order::Look { since } => look = Some(look.map_or(since, |other| other.min(since))),
                Order::Flows { flows, since } => self.add(flows, since),
            }
        }
        if let Some(since) = look {
            self.look(since);
        }
        !stop
    }

    /// Looks for flows whose pair is dead.
    fn look(&mut self, since: Instant) {
        let mut dead = Vec::new();
        let mut walk = self.table.walk();
        let (live, plan) = (&self.live, &self.plan);
        let mut goes_on = Ok(true);
        while let Ok(true) = goes_on {
            let step = walk.step(|tuple, flow| {
                if is_clients(flow) && !live.is_live(flow) && !plan.knows(tuple, flow) {
                    dead.push(*tuple);
                }
            });
            goes_on = step.map(|next| next.is_some());
        }
        if let Err(error) = goes_on {
            // Whoever says something is told in any case.
            tracing::warn!(%error, "cannot look for the flows that are to end");
            self.plan.leave_for_later(since);
            std::thread::sleep(RETRY);
        }
        self.add(dead, since);
    }

    fn add(&mut self, flows: Vec<Tuple>, since: Instant) {
        let now = Instant::now();
        for tuple in flows {
            if !self.plan.has_room() {
                self.plan.leave_for_later(since);
                break;
            }
            let found = self.table.get(&tuple).and_then(|client| match client {
                // Looked at anew: a client may have begun again since.
                Some(client) if !self.live.is_live(&client) => self.table.both(tuple, client).map(Some),
                _ => Ok(None),
            });
            match found {
                Ok(Some(flow)) => {
                    let packets = self.plan.add(&flow, since, now);
                    self.send(&packets);
                }
                Ok(None) => {}
                Err(error) => tracing::warn!(%error, "cannot read a flow that is to end"),
            }
        }
    }

    /// Before anybody is told, so that no answer is missed.
    fn prick_up(&mut self) {
        if self.ears.is_none() && !self.plan.is_empty() {
            match Ears::open() {
                Ok(ears) => self.ears = Some(ears),
                Err(error) => {
                    tracing::warn!(%error, "cannot hear whether the ends of severed flows answer: they count as unanswered");
                }
            }
        }
    }

    fn tell(&mut self) {
        for _ in 0..BURST {
            let Some(tuple) = self.round.pop_front() else { break };
            let read = self.table.get(&tuple).and_then(|client| {
                let server = client.map(|client| self.table.get(&client.rewritten.reversed())).transpose()?.flatten();
                Ok((client, server))
            });
            match read {
                Ok((client, server)) => {
                    let packets = self.plan.packets(&tuple, client, server, Instant::now());
                    self.send(&packets);
                }
                // It is told in the next round.
                Err(error) => tracing::warn!(%error, "cannot read a flow that is to end"),
            }
        }
    }

    fn send(&self, packets: &[Packet]) {
        for packet in packets {
            let (segment, (from, to)) = match *packet {
                Packet::Reset { way: (from, to), sequence } => (Segment::reset(from, to, sequence), (from, to)),
                Packet::Question { way: (from, to), sequence, acknowledgement } => {
                    (Segment::question(from, to, sequence, acknowledgement), (from, to))
                }
            };
            let Some(bytes) = segment.and_then(Segment::bytes) else { continue };
            if let Err(error) = self.send_bytes(&bytes, to) {
                // It is told again, and reported as unanswered in the end.
                tracing::debug!(%error, %from, %to, "an end of a severed flow could not be told");
            }
        }
    }

    fn send_bytes(&self, bytes: &[u8], to: SocketAddr) -> io::Result<()> {
        let mut tries = 0;
        loop {
            let sent = self.raw.send_bytes(bytes, to);
            let is_full = |error: &io::Error| {
                error.kind() == io::ErrorKind::WouldBlock || error.raw_os_error() == Some(libc::ENOBUFS)
            };
            match sent {
                Err(error) if is_full(&error) && tries < TRIES => {
                    tries += 1;
                    std::thread::sleep(PAUSE);
                }
                other => return other,
            }
        }
    }

    fn listen(&mut self) {
        let now = Instant::now();
        let plan = &mut self.plan;
        if let Some(Err(error)) = self.ears.as_mut().map(|ears| ears.hear(|from, to| plan.heard(from, to, now))) {
            tracing::warn!(%error, "cannot hear the answers of severed flows");
        }
    }

    fn delete(&mut self) {
        let forget =
            |flow: Both| Command { flow: flow.tuple, unseen_since: u64::MAX, what: what::FORGET_DEAD, mapping: 0 };
        let commands: Vec<Command> = self.plan.take_done().into_iter().map(forget).collect();
        if let Err(error) = self.table.manage(&commands) {
            // They are found again at the next look.
            tracing::warn!(%error, "cannot have severed flows forgotten");
        }
    }
}
