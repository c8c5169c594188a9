//! A plan as one transaction on the maps.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use shunt_core::datapath::DatapathError;

use super::{EbpfDatapath, Loaded};
use crate::state::plan::Plan;
use crate::state::{Listener, Pair, Road, State};
use crate::{endpoint, grace};

impl EbpfDatapath {
    /// Puts all of a plan into force, or nothing. When this returns, no packet of a pair that left is under way.
    pub(super) fn commit(&mut self, plan: Plan) -> Result<Duration, DatapathError> {
        self.load()?;
        let Some(loaded) = &mut self.loaded else { return Ok(Duration::ZERO) };
        let begin = Instant::now();
        let seated = loaded.seat(&plan)?;
        let former = match loaded.lend(&plan, &self.state) {
            Ok(former) => former,
            Err(error) => {
                loaded.unseat(seated);
                return Err(error);
            }
        };
        let freed = loaded.store(&plan, &self.state);
        let gone: Vec<_> = plan.after.iter().filter(|(_, after)| after.is_none()).map(|(one, _)| *one).collect();
        let forgotten = loaded.forget(gone);
        if !(freed.is_empty() && forgotten.is_empty() && former.is_empty()) {
            grace::wait();
        }
        let commit = begin.elapsed();
        // No program knows of these slots and numbers any more.
        loaded.take_away(former);
        for listener in forgotten {
            loaded.slots.unseat(listener);
        }
        if !freed.is_empty() {
            loaded.severer.look(begin);
        }
        loaded.slots.give_back(freed);
        let opened = released(&plan, &self.state);
        self.state.commit(plan);
        self.let_unspared_go()?;
        self.let_in(&opened)?;
        Ok(commit)
    }
}

impl Loaded {
    /// Gives every listener that is new a slot, whose mapping is absent until it is committed.
    fn seat(&mut self, plan: &Plan) -> Result<Vec<SocketAddr>, DatapathError> {
        let is_new = |listener: &SocketAddr| self.slots.listener(*listener).is_none();
        let new: Vec<_> = plan.after.keys().copied().filter(|one| plan.after[one].is_some() && is_new(one)).collect();
        if !self.slots.has_room(new.len(), plan.born.len()) {
            let (listeners, pairs) = self.tables.slots();
            let why = format!("there is room for {listeners} listeners and {pairs} pairs of a listener and a backend");
            return Err(DatapathError::Unsupported(why));
        }
        let mut seated = Vec::new();
        for listener in new {
            let Some(slot) = self.slots.seat(listener) else { continue };
            self.tables.clear_tally(slot);
            seated.push(listener);
            if let Err(error) = self.tables.listen(endpoint(listener), slot) {
                self.unseat(seated);
                return Err(error.into());
            }
        }
        Ok(seated)
    }

    /// As it was: these lead nowhere yet.
    fn unseat(&mut self, seated: Vec<SocketAddr>) {
        let forgotten = self.forget(seated);
        if !forgotten.is_empty() {
            grace::wait();
        }
        for listener in forgotten {
            self.slots.unseat(listener);
        }
    }

    /// Nothing in here can fail. The slots of pairs that are dead, which programs may still have read.
    fn store(&mut self, plan: &Plan, before: &State) -> Vec<u32> {
        let freed: Vec<u32> = plan.dead.iter().filter_map(|pair| self.slots.part(*pair)).collect();
        let mut born = BTreeSet::new();
        for pair in &plan.born {
            // There is room: seat() has asked.
            if let Some(slot) = self.slots.pair_up(*pair) {
                born.insert((slot, *pair));
            }
        }
        let absent = Listener::absent();
        let mut ways = Vec::new();
        for (address, after) in &plan.after {
            let Some(seat) = self.slots.listener(*address) else { continue };
            let after = after.as_ref().unwrap_or(&absent);
            let way = self.way(*address, after);
            let (led, noted) = self.tables.mapping(seat);
            ways.push((seat, (led != way).then_some(way), Some(after.note()).filter(|note| *note != noted)));
        }
        let new: BTreeSet<Pair> = born.iter().map(|(_, pair)| *pair).collect();
        let deadlines = deadlines(plan, before, &new);
        let slots = &self.slots;
        let mut change = self.tables.begin();
        for slot in &freed {
            change.live(*slot, 0);
        }
        for (slot, pair) in &born {
            change.assign(*slot, endpoint(pair.listener), endpoint(pair.backend));
        }
        for (pair, until) in deadlines {
            if let Some(slot) = slots.pair(pair) {
                change.live(slot, until);
            }
        }
        for (seat, way, note) in ways {
            if let Some(way) = way {
                change.lead(seat, way);
            }
            if let Some(note) = note {
                change.note(seat, note);
            }
        }
        change.commit();
        freed
    }

    /// Takes listeners away that are absent. Those of which it succeeded.
    fn forget(&mut self, listeners: Vec<SocketAddr>) -> Vec<SocketAddr> {
        listeners
            .into_iter()
            .filter(|listener| {
                let done = self.tables.forget(&endpoint(*listener));
                // It leads nowhere; what is lost is its slot.
                done.inspect_err(|error| tracing::warn!(%error, "a listener that is gone keeps its place")).is_ok()
            })
            .collect()
    }

    /// What a listener's mapping says; its pairs have their slots.
    pub(super) fn way(&self, listener: SocketAddr, one: &Listener) -> shunt_ebpf_common::mapping::Way {
        // A pair without a slot cannot be: u32::MAX is no slot, and leads to a refusal.
        let mut way = one.way(|backend| self.slots.pair(Pair { listener, backend }).unwrap_or(u32::MAX));
        (way.allow, way.pool) = (self.lent.list(listener), self.lent.pool(listener));
        way
    }
}

/// Listeners that hold no more.
fn released(plan: &Plan, before: &State) -> Vec<SocketAddr> {
    let holds = |one: Option<&Listener>| one.is_some_and(|one| matches!(one.road, Road::Hold { .. }));
    let is_released = |(address, after): &(&SocketAddr, &Option<Listener>)| {
        holds(before.listeners.get(*address)) && !holds(after.as_ref())
    };
    plan.after.iter().filter(is_released).map(|(address, _)| *address).collect()
}

/// Until when pairs are live, of those whose time changes.
fn deadlines(plan: &Plan, before: &State, new: &BTreeSet<Pair>) -> BTreeMap<Pair, u64> {
    let mut deadlines = BTreeMap::new();
    for (listener, after) in &plan.after {
        let had = before.listeners.get(listener).map(Listener::live).unwrap_or_default();
        for (backend, until) in after.iter().flat_map(Listener::live) {
            let pair = Pair { listener: *listener, backend };
            if new.contains(&pair) || had.get(&backend) != Some(&until) {
                deadlines.insert(pair, until);
            }
        }
    }
    deadlines
}
