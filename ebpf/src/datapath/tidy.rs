//! What is left over by connections that end and clients that give up, cleared away a part at a time: so that a call costs
//! milliseconds at most.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::net::SocketAddr;
use std::time::Duration;

use shunt_core::datapath::DatapathError;
use shunt_core::flow::Tuple;
use shunt_ebpf_common::admission::Source;
use shunt_ebpf_common::flow;
use shunt_ebpf_common::manage::{Command, what};
use shunt_wire::kernel;

use super::{EbpfDatapath, Loaded};
use crate::clock::{self, nanoseconds};
use crate::ends;
use crate::state::Road;
use crate::sys::Place;

/// A client that is counted has had no connections for so long: then nobody is about to count one.
const EMPTY: Duration = Duration::from_secs(10);

/// From the end of a walk through these clients to the next one: the map has a million buckets, however few are in it.
const PAUSE: Duration = Duration::from_secs(10);

/// Batches of them that a call reads.
const BATCHES: usize = 8;

/// A client has not sent its SYN again for so long: it has given up. Linux waits for 64 s after the last of them
/// (tcp_syn_retries), and no longer before.
const GIVEN_UP: Duration = Duration::from_secs(70);

/// The walk through the clients that are counted one by one.
#[derive(Default)]
pub struct Idle {
    place: Option<Place>,
    /// When the next walk begins, in nanoseconds of boot time.
    due: u64,
}

impl EbpfDatapath {
    pub(super) fn tidy(&mut self) -> Result<(), DatapathError> {
        let now = clock::now();
        self.forget_flows(now)?;
        self.forget_ended()?;
        self.answer_held(now)?;
        self.loaded.as_mut().map_or(Ok(()), |loaded| loaded.forget_sources(now))
    }

    /// Connections that are over. What somebody else has blocked goes on.
    fn forget_flows(&mut self, now: u64) -> Result<(), DatapathError> {
        let Some(loaded) = &mut self.loaded else { return Ok(()) };
        let met = loaded.collector.go_on(&loaded.tables.flow_table(), now);
        let met = met.map_err(kernel("clear the flow table of connections that are over"))?;
        if met.taken > 0 {
            tracing::debug!(taken = met.taken, "cleared the flow table of connections that are over");
        }
        let strange: Vec<Tuple> =
            met.blocked.iter().map(ends::flow).filter(|flow| !self.blocked.contains(flow)).collect();
        if !strange.is_empty() {
            tracing::warn!(flows = strange.len(), "flows were blocked that nobody has blocked");
            loaded.order(&strange, what::UNBLOCK)?;
        }
        Ok(())
    }

    /// Blocked flows that have ended by themselves, and packets that are nobody's any more.
    fn forget_ended(&mut self) -> Result<(), DatapathError> {
        let Some(loaded) = &mut self.loaded else { return Ok(()) };
        let mut ended = BTreeSet::new();
        for flow in &self.blocked {
            if loaded.client(flow)?.is_none() {
                ended.insert(*flow);
            }
        }
        self.blocked.retain(|flow| !ended.contains(flow));
        let blocked: HashSet<flow::Tuple> = self.blocked.iter().map(ends::key).collect();
        let taken = loaded.tables.clear_kept(|tuple| !blocked.contains(tuple))?;
        if taken > 0 {
            tracing::debug!(taken, "took out what was kept of flows that go on or have ended");
        }
        Ok(())
    }

    /// Clients that wait though their listener holds no more are answered: by RST, if it leads nowhere. Those that have given
    /// up are forgotten.
    fn answer_held(&mut self, now: u64) -> Result<(), DatapathError> {
        let Some(loaded) = &mut self.loaded else { return Ok(()) };
        let waited = loaded.tables.waited_for()?;
        if waited.is_empty() {
            return Ok(());
        }
        let seats: BTreeMap<u32, SocketAddr> =
            self.state.listeners.keys().filter_map(|one| Some((loaded.slots.listener(*one)?, *one))).collect();
        let given_up = now.saturating_sub(nanoseconds(GIVEN_UP));
        let taken = loaded.tables.clear_held(|frame| frame.came < given_up || !seats.contains_key(&frame.mapping))?;
        if taken > 0 {
            tracing::debug!(taken, "forgot held clients that have given up");
        }
        let holds = |listener: &SocketAddr| {
            let road = self.state.listeners.get(listener).map(|one| &one.road);
            matches!(road, Some(Road::Hold { until, .. }) if *until > now)
        };
        let over: Vec<SocketAddr> =
            waited.iter().filter_map(|slot| seats.get(slot)).filter(|listener| !holds(listener)).copied().collect();
        self.let_in(&over)
    }
}

impl Loaded {
    /// Clients without connections.
    fn forget_sources(&mut self, now: u64) -> Result<(), DatapathError> {
        if now < self.idle.due {
            return Ok(());
        }
        let unseen_since = now.saturating_sub(nanoseconds(EMPTY));
        for _ in 0..BATCHES {
            let (idle, next) = self.tables.idle_sources(self.idle.place, unseen_since)?;
            let forget = |source: Source| Command {
                flow: flow::Tuple { source: source.address, ..flow::Tuple::default() },
                unseen_since,
                what: what::FORGET_SOURCE,
                mapping: source.mapping,
            };
            let commands: Vec<Command> = idle.into_iter().map(forget).collect();
            let taken =
                self.tables.flow_table().manage(&commands).map_err(kernel("forget clients without connections"))?;
            if taken > 0 {
                tracing::debug!(taken, "forgot clients without connections");
            }
            self.idle.place = next;
            if next.is_none() {
                self.idle.due = now.saturating_add(nanoseconds(PAUSE));
                break;
            }
        }
        Ok(())
    }
}
