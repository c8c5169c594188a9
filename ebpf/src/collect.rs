//! Takes the entries of connections out of the table that are over, or of which nobody has said anything for long. A part
//! of the table at a time, so that a call costs milliseconds at most.

use std::io;
use std::time::Duration;

use shunt_ebpf_common::flow::{Flow, Tuple};
use shunt_ebpf_common::manage::{Command, what};

use crate::clock::nanoseconds;
use crate::flows::{FlowTable, is_clients};
use crate::phase::{patience, phase, seen};
use crate::sys::Place;

/// Batches that a call reads: 64 thousand entries or so. A million flows are gone through in half a minute, if it is
/// called every second.
const BATCHES: usize = 32;

pub struct Collector {
    /// How long connections stay that are over.
    closed: Duration,
    /// Where the next call goes on.
    place: Option<Place>,
}

impl Collector {
    pub fn new(closed: Duration) -> Self {
        Self { closed, place: None }
    }

    /// Goes on through the table. How many flows were taken out of it.
    pub fn go_on(&mut self, table: &FlowTable, now: u64) -> io::Result<u64> {
        let mut quiet: Vec<(Tuple, Flow)> = Vec::new();
        let mut walk = table.walk_from(self.place);
        for _ in 0..BATCHES {
            // Whatever its phase, nothing is forgotten before that.
            let next = walk.step(|tuple, flow| {
                if now.saturating_sub(flow.seen) > nanoseconds(self.closed) {
                    quiet.push((*tuple, *flow));
                }
            })?;
            self.place = next;
            if next.is_none() {
                break;
            }
        }
        let mut forget = Vec::new();
        for (tuple, flow) in quiet {
            forget.extend(self.command(table, tuple, flow, now)?);
        }
        table.manage(&forget)
    }

    /// What is to be said of it to the programs, if anything.
    fn command(&self, table: &FlowTable, tuple: Tuple, flow: Flow, now: u64) -> io::Result<Option<Command>> {
        let forget = |what, unseen_since| Ok(Some(Command { flow: tuple, unseen_since, what, zero: 0 }));
        if is_clients(&flow) {
            let both = table.both(tuple, flow)?;
            let since = now.saturating_sub(patience(&both, self.closed));
            return match phase(&both) {
                _ if seen(&both) >= since => Ok(None),
                None => forget(what::FORGET_CLOSED, since),
                Some(_) => forget(what::FORGET_IDLE, since),
            };
        }
        if table.get(&flow.rewritten.reversed())?.is_some() {
            // Its client's direction, or that of a flow which the client has begun since: then it waits for the end of that
            // one, for the programs would take both away.
            return Ok(None);
        }
        // Whoever was taking the flow away did not come to this one.
        forget(what::FORGET_IDLE, now.saturating_sub(nanoseconds(self.closed)))
    }
}
