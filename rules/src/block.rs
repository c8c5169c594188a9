//! Blocked flows: copies of what their clients sent wait here, and go back into the stack when the flows go on.
//!
//! TCP would send it again by itself, so nothing is lost without this, but not before 200 ms have gone by (RFC 6298, 2.4, as
//! Linux has it). A flow is blocked for a few milliseconds, to look whether its session is idle; somebody who had just
//! begun to speak should not have to wait longer than that. The guard therefore copies what it drops of such a flow. Put
//! back through a raw socket, from the client to the listener, it takes the way of the host's own packets, where conntrack
//! counts it to its flow, whose NAT applies. What was copied too late, or found no room, comes by TCP's own repetition.

mod room;

use std::net::SocketAddr;
use std::time::Instant;

use shunt_core::datapath::DatapathError;
use shunt_core::flow::Tuple;

use crate::nflog::Copies;
use crate::schema::Groups;
use crate::thread::{Shared, Thread};
use room::Room;
use shunt_wire::packet::Whole;
use shunt_wire::raw::Raw;

pub struct Block {
    thread: Thread<State>,
}

#[derive(Default)]
struct State {
    room: Room,
    /// Flows that have gone on.
    released: Vec<Tuple>,
}

impl Block {
    /// The thread works in the network namespace of the caller.
    pub fn start(groups: Groups) -> Result<Self, DatapathError> {
        let copies = Copies::subscribe(groups.blocked)?;
        let raw = Raw::open(None)?;
        let starting = "start the thread that keeps what blocked clients send";
        let thread = Thread::start("shunt-block", starting, move |shared| shared.run(copies, &raw))?;
        Ok(Self { thread })
    }

    /// The clients of these flows are not heard from now on. To be called before the kernel ceases to hear them.
    pub fn block(&self, flows: &[(Tuple, SocketAddr)]) {
        if !flows.is_empty() {
            let mut state = self.thread.lock();
            for (flow, backend) in flows {
                state.room.block(*flow, *backend);
            }
        }
    }

    /// These flows go on. To be called after the kernel lets them.
    pub fn release(&self, flows: &[Tuple]) {
        if !flows.is_empty() {
            self.thread.lock().released.extend(flows);
            self.thread.wake();
        }
    }

    /// These flows end: what was kept of them is of no use to anybody.
    pub fn forget(&self, flows: &[Tuple]) {
        let mut state = self.thread.lock();
        for flow in flows {
            state.room.forget(*flow);
        }
    }
}

impl Shared<State> {
    fn run(&self, mut copies: Copies, raw: &Raw) {
        loop {
            if self.is_over() {
                return;
            }
            let released = std::mem::take(&mut self.lock().released);
            // What was dropped before the flows went on is among the copies that wait to be read.
            let mut packets = self.read(&mut copies);
            {
                let mut state = self.lock();
                let now = Instant::now();
                packets.extend(released.into_iter().flat_map(|flow| state.room.release(flow, now)));
            }
            put_back(raw, packets);
            self.wake.wait(Some(&copies), None);
        }
    }

    /// Takes the copies in. Returns those that are late: their flows have gone on already.
    fn read(&self, copies: &mut Copies) -> Vec<(SocketAddr, Whole)> {
        let now = Instant::now();
        let mut late = Vec::new();
        let read = copies.read_bytes(|packet| {
            if let Some(packet) = Whole::parse(packet) {
                late.extend(self.lock().room.came(packet, now));
            }
        });
        if let Err(error) = read {
            tracing::warn!(%error, "cannot read what blocked clients send");
        }
        late
    }
}

fn put_back(raw: &Raw, packets: Vec<(SocketAddr, Whole)>) {
    let total = packets.len();
    for (listener, packet) in packets {
        for piece in packet.pieces(listener) {
            if let Err(error) = raw.send_bytes(&piece, listener) {
                // The flow has ended meanwhile, or its client sends it again.
                tracing::debug!(%error, %listener, "what a blocked client sent could not be put back");
            }
        }
    }
    if total > 0 {
        tracing::debug!(total, "put packets of flows that were blocked back");
    }
}
