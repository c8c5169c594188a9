//! Takes the entries of connections out of the table that are over, or of which nobody has said anything for long. A part
//! of the table at a time, so that a call costs milliseconds at most.

use std::io;

use shunt_ebpf_common::flow::{Flow, Tuple};

use crate::clock::nanoseconds;
use crate::flows::{FlowTable, is_clients};
use crate::phase::{CLOSED, is_forgotten};
use crate::sys::Place;

/// Batches that a call reads: 64 thousand entries or so. A million flows are gone through in half a minute, if it is
/// called every second.
const BATCHES: usize = 32;

#[derive(Default)]
pub struct Collector {
    /// Where the next call goes on.
    place: Option<Place>,
}

impl Collector {
    /// Goes on through the table. How many entries were taken out of it.
    pub fn go_on(&mut self, table: &FlowTable, now: u64) -> io::Result<u64> {
        let mut quiet: Vec<(Tuple, Flow)> = Vec::new();
        let mut walk = table.walk_from(self.place);
        for _ in 0..BATCHES {
            // Whatever its phase, nothing is forgotten before that.
            let next = walk.step(|tuple, flow| {
                if now.saturating_sub(flow.seen) > nanoseconds(CLOSED) {
                    quiet.push((*tuple, *flow));
                }
            })?;
            self.place = next;
            if next.is_none() {
                break;
            }
        }
        let mut taken = 0;
        for (tuple, flow) in quiet {
            taken += collect(table, tuple, flow, now)?;
        }
        Ok(taken)
    }
}

fn collect(table: &FlowTable, tuple: Tuple, flow: Flow, now: u64) -> io::Result<u64> {
    if is_clients(&flow) {
        let both = table.both(tuple, flow)?;
        if is_forgotten(&both, now) {
            table.remove(&both)?;
            return Ok(2);
        }
        return Ok(0);
    }
    let other = table.get(&flow.rewritten.reversed())?;
    if !other.is_some_and(|other| is_clients(&other) && other.rewritten.reversed() == tuple) {
        // Whoever was taking the flow away did not come to this one.
        return Ok(u64::from(table.remove_entry(&tuple, flow.opened)?));
    }
    Ok(0)
}
