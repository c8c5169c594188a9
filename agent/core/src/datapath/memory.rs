//! A datapath in memory: the promises about what is held, without a kernel and without a packet. It stands in for a
//! kernel's in tests, and is the shortest description of what that one must keep account of.
//!
//! Time passes when [`Memory::advance`] says so, and connections come about by [`Memory::connect`].

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::ops::ControlFlow;
use std::time::Duration;

use super::{Applied, Change, Datapath, DatapathError, Drift, Held, Meter, PortUse, Refused, Severed, Usage};
use crate::Mono;
use crate::flow::{Flow, FlowFilter, Phase, Tuple};
use crate::mapping::{Leaving, Mapping, Route};

/// The kernel and the agent's knowledge of it in one: what a real datapath reads back when it is opened again.
#[derive(Clone, Debug, Default)]
pub struct Memory {
    now: Mono,
    listeners: BTreeMap<SocketAddr, Entry>,
    flows: BTreeMap<Tuple, Established>,
    severed: Vec<Severed>,
    refused: BTreeMap<SocketAddr, Refused>,
}

#[derive(Clone, Debug)]
struct Entry {
    /// `None`: the listener was removed, but some of its pairs still pass.
    mapping: Option<Mapping>,
    /// Until when packets pass, unless the lease is renewed.
    lease: Option<Mono>,
    /// When a hold becomes a refusal.
    held_until: Option<Mono>,
    /// Pairs that take no new flows but still pass: until then, or as long as their flows last.
    former: BTreeMap<SocketAddr, Option<Mono>>,
    /// The clients of the spared backend's flows that are not heard.
    blocked: BTreeSet<SocketAddr>,
}

#[derive(Clone, Copy, Debug)]
struct Established {
    backend: SocketAddr,
    since: Mono,
}

/// What becomes of a new connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    Reached(SocketAddr),
    Unanswered,
    Refused,
}

impl Entry {
    fn is_lapsed(&self, now: Mono) -> bool {
        self.lease.is_some_and(|until| now >= until)
    }

    fn backends(&self) -> Vec<SocketAddr> {
        self.mapping.iter().flat_map(|mapping| mapping.route.backends()).collect()
    }

    fn spared(&self) -> Option<SocketAddr> {
        self.mapping.as_ref().and_then(|mapping| mapping.spared)
    }

    fn is_live(&self, backend: SocketAddr, now: Mono) -> bool {
        let serves = self.backends().contains(&backend) || self.spared() == Some(backend);
        (serves && !self.is_lapsed(now))
            || self.former.get(&backend).is_some_and(|until| until.is_none_or(|until| now < until))
    }

    /// The entry after a change, with what becomes of the pairs that it had. The latest word can shorten what an earlier
    /// one granted, never lengthen it.
    fn next(before: Option<&Self>, mapping: Option<&Mapping>, leaving: Leaving, now: Mono) -> Self {
        let spared = mapping.and_then(|mapping| mapping.spared);
        let staying: Vec<_> = mapping.iter().flat_map(|mapping| mapping.route.backends()).chain(spared).collect();
        let mut former = BTreeMap::new();
        let had = before
            .iter()
            .flat_map(|entry| entry.backends().into_iter().chain(entry.spared()).chain(entry.former.keys().copied()));
        for backend in had.filter(|backend| !staying.contains(backend)) {
            let Some(before) = before.filter(|entry| entry.is_live(backend, now)) else { continue };
            let until = before.former.get(&backend).copied().flatten();
            match leaving {
                Leaving::Sever => {}
                Leaving::Keep => drop(former.insert(backend, until)),
                Leaving::Drain(span) => {
                    let deadline = now + span;
                    former.insert(backend, Some(until.map_or(deadline, |until| until.min(deadline))));
                }
            }
        }
        let held_until = match mapping.map(|mapping| &mapping.route) {
            // A hold that is there already is the same hold.
            Some(route @ Route::Hold(span)) => {
                let same = before.filter(|entry| entry.mapping.as_ref().is_some_and(|mapping| mapping.route == *route));
                same.map_or(Some(now + *span), |entry| entry.held_until)
            }
            _ => None,
        };
        let lease =
            mapping.filter(|mapping| is_leased(mapping)).and_then(|mapping| mapping.lease).map(|span| now + span);
        let same = before.filter(|entry| spared.is_some() && entry.spared() == spared);
        let blocked = same.map(|entry| entry.blocked.clone()).unwrap_or_default();
        Self { mapping: mapping.cloned(), lease, held_until, former, blocked }
    }
}

impl Memory {
    /// What another agent finds that opens the datapath after this one has gone: everything but what was not yet told.
    #[must_use]
    pub fn reopened(mut self) -> Self {
        self.severed.clear();
        self
    }

    /// Lets time pass, and the kernel do what it does by itself meanwhile.
    pub fn advance(&mut self, span: Duration) {
        self.now = self.now + span;
        self.sever_what_is_not_live();
    }

    /// A client calls.
    pub fn connect(&mut self, tuple: Tuple) -> Outcome {
        let now = self.now;
        let Some(entry) = self.listeners.get(&tuple.listener) else { return Outcome::Refused };
        let Some(mapping) = &entry.mapping else { return Outcome::Refused };
        let backend = match &mapping.route {
            Route::Hold(_) if entry.held_until.is_some_and(|until| now < until) => return Outcome::Unanswered,
            Route::Hold(_) | Route::Refuse => return Outcome::Refused,
            Route::Single(_) | Route::Spread(_) if entry.is_lapsed(now) => return Outcome::Refused,
            Route::Single(backend) => *backend,
            Route::Spread(backends) => {
                // Where the share of what its weight entitles it to is smallest.
                let taken = |backend| self.count(|flow, to| flow.listener == tuple.listener && to == backend);
                let next = backends.iter().min_by_key(|one| taken(one.address) * 1_000 / u64::from(one.weight));
                let Some(next) = next else { return Outcome::Refused };
                next.address
            }
        };
        let admission = &mapping.admission;
        let full = |limit: Option<u32>, taken: u64| limit.is_some_and(|limit| taken >= u64::from(limit));
        let source = tuple.client.ip();
        let of_all = self.count(|flow, _| flow.listener == tuple.listener);
        let of_source = self.count(|flow, _| flow.listener == tuple.listener && flow.client.ip() == source);
        let stranger = !admission.allow.is_empty() && !admission.allow.iter().any(|net| net.contains(&source));
        let (over, over_source) = (full(admission.limit, of_all), full(admission.limit_per_source, of_source));
        let refused = self.refused.entry(tuple.listener).or_default();
        let reason = match (stranger, over, over_source) {
            (true, _, _) => &mut refused.not_allowed,
            (_, true, _) => &mut refused.over_limit,
            (_, _, true) => &mut refused.over_source_limit,
            (false, false, false) => {
                self.flows.insert(tuple, Established { backend, since: now });
                return Outcome::Reached(backend);
            }
        };
        *reason += 1;
        Outcome::Refused
    }

    /// Whether what the flow's client sends reaches its backend.
    pub fn passes(&self, tuple: Tuple) -> bool {
        self.flows.contains_key(&tuple) && !self.is_blocked(tuple)
    }

    /// Whether it does not for the moment, and would if the flow were unblocked.
    pub fn is_blocked(&self, tuple: Tuple) -> bool {
        let blocks = |entry: &Entry| entry.blocked.contains(&tuple.client);
        self.flows.contains_key(&tuple) && self.listeners.get(&tuple.listener).is_some_and(blocks)
    }

    /// Its client or server closes it.
    pub fn close(&mut self, tuple: Tuple) {
        self.flows.remove(&tuple);
    }

    fn count(&self, of: impl Fn(Tuple, SocketAddr) -> bool) -> u64 {
        self.flows.iter().filter(|(tuple, flow)| of(**tuple, flow.backend)).count() as u64
    }

    /// Ends the flows whose pair is live no more, and forgets the pairs themselves.
    fn sever_what_is_not_live(&mut self) {
        let now = self.now;
        let is_live = |tuple: &Tuple, backend| {
            self.listeners.get(&tuple.listener).is_some_and(|entry: &Entry| entry.is_live(backend, now))
        };
        let dead: Vec<Tuple> =
            self.flows.iter().filter(|(tuple, flow)| !is_live(tuple, flow.backend)).map(|(tuple, _)| *tuple).collect();
        self.end(&dead);
        for entry in self.listeners.values_mut() {
            entry.former.retain(|_, until| until.is_none_or(|until| now < until));
        }
        self.listeners.retain(|_, entry| entry.mapping.is_some() || !entry.former.is_empty());
    }

    fn end(&mut self, flows: &[Tuple]) {
        let mut ended: BTreeMap<(SocketAddr, SocketAddr), u64> = BTreeMap::new();
        for tuple in flows {
            if let Some(flow) = self.flows.remove(tuple) {
                if let Some(entry) = self.listeners.get_mut(&tuple.listener) {
                    entry.blocked.remove(&tuple.client);
                }
                *ended.entry((tuple.listener, flow.backend)).or_default() += 1;
            }
        }
        let took = Duration::ZERO;
        let told = ended.into_iter().map(|((listener, backend), flows)| Severed {
            listener,
            backend,
            flows,
            unanswered: 0,
            took,
        });
        self.severed.extend(told);
    }
}

/// A fence has nothing that a lease could end, unless it spares somebody.
const fn is_leased(mapping: &Mapping) -> bool {
    mapping.lease.is_some() && (mapping.spared.is_some() || !mapping.route.is_fenced())
}

/// Why a mapping cannot be held: NAT stays within a family, and there are neither shares of nothing nor two of one.
fn check(mapping: &Mapping) -> Result<(), DatapathError> {
    let refuse = |why: String| Err(DatapathError::Unsupported(format!("listener {}: {why}", mapping.listener)));
    let backends = mapping.route.backends();
    if mapping.spared.is_some() && !mapping.route.is_fenced() {
        return refuse("it spares a backend, which only a fenced one does".to_owned());
    }
    if let Some(other) =
        backends.iter().chain(&mapping.spared).find(|backend| backend.is_ipv4() != mapping.listener.is_ipv4())
    {
        return refuse(format!("backend {other} is of another address family, and NAT stays within one"));
    }
    if matches!(mapping.route, Route::Spread(_)) && backends.is_empty() {
        return refuse("there is no backend to share its connections".to_owned());
    }
    Ok(())
}

impl Datapath for Memory {
    fn apply(&mut self, change: &Change) -> Result<Applied, DatapathError> {
        change.set.iter().try_for_each(check)?;
        let mut after: BTreeMap<SocketAddr, Entry> = BTreeMap::new();
        for (listener, leaving) in &change.remove {
            if let Some(entry) = self.listeners.get(listener) {
                let next = Entry::next(Some(entry), None, *leaving, self.now);
                if entry.mapping.is_some() || entry.former != next.former {
                    after.insert(*listener, next);
                }
            }
        }
        for mapping in &change.set {
            let before = after.get(&mapping.listener).or_else(|| self.listeners.get(&mapping.listener));
            let next = Entry::next(before, Some(mapping), mapping.leaving, self.now);
            let same =
                before.is_some_and(|entry| entry.mapping.as_ref() == Some(mapping) && entry.former == next.former);
            if !same {
                after.insert(mapping.listener, next);
            }
        }
        let changed = after.len();
        self.listeners.extend(after);
        self.sever_what_is_not_live();
        Ok(Applied { changed, commit: Duration::ZERO })
    }

    fn reconcile(&mut self) -> Result<Vec<Drift>, DatapathError> {
        // Pairs that are kept as long as their flows last.
        for (listener, entry) in &mut self.listeners {
            let has_flows =
                |backend| self.flows.iter().any(|(tuple, flow)| tuple.listener == *listener && flow.backend == backend);
            entry.former.retain(|backend, until| until.is_some() || has_flows(*backend));
        }
        self.sever_what_is_not_live();
        Ok(Vec::new())
    }

    fn upkeep(&mut self) -> Result<(), DatapathError> {
        self.sever_what_is_not_live();
        Ok(())
    }

    fn renew(&mut self) -> Result<Vec<SocketAddr>, DatapathError> {
        let now = self.now;
        let mut lapsed = Vec::new();
        for (listener, entry) in &mut self.listeners {
            let Some(mapping) = &mut entry.mapping else { continue };
            if entry.lease.is_some_and(|until| now >= until) {
                mapping.route = Route::Refuse;
                mapping.spared = None;
                entry.blocked.clear();
                entry.lease = None;
                lapsed.push(*listener);
            } else if is_leased(mapping) {
                entry.lease = mapping.lease.map(|span| now + span);
            }
        }
        Ok(lapsed)
    }

    fn sever(&mut self, flows: &[Tuple]) -> Result<(), DatapathError> {
        self.end(flows);
        Ok(())
    }

    fn block(&mut self, flows: &[Tuple]) -> Result<(), DatapathError> {
        let spares = |flow: &&Tuple| self.listeners.get(&flow.listener).is_some_and(|entry| entry.spared().is_some());
        if let Some(Tuple { client, listener }) = flows.iter().find(|flow| !spares(flow)) {
            let why = "its listener spares no backend";
            return Err(DatapathError::Unsupported(format!("the flow {client} → {listener} cannot be blocked: {why}")));
        }
        for flow in flows {
            if let Some(entry) = self.listeners.get_mut(&flow.listener) {
                entry.blocked.insert(flow.client);
            }
        }
        Ok(())
    }

    fn unblock(&mut self, flows: &[Tuple]) -> Result<(), DatapathError> {
        for flow in flows {
            if let Some(entry) = self.listeners.get_mut(&flow.listener) {
                entry.blocked.remove(&flow.client);
            }
        }
        Ok(())
    }

    fn severed(&mut self) -> Vec<Severed> {
        std::mem::take(&mut self.severed)
    }

    /// What was carried at this moment.
    fn meter(&self) -> Result<Box<dyn Meter>, DatapathError> {
        Ok(Box::new(self.clone()))
    }

    fn committed(&self) -> Vec<Held> {
        let held = |(listener, entry): (&SocketAddr, &Entry)| {
            entry.mapping.as_ref().map(|mapping| Held { listener: *listener, backends: mapping.route.backends() })
        };
        self.listeners.iter().filter_map(held).collect()
    }

    fn purge(&mut self) -> Result<(), DatapathError> {
        *self = Self { now: self.now, ..Self::default() };
        Ok(())
    }
}

impl Meter for Memory {
    fn connections(&mut self, listeners: &[SocketAddr]) -> Result<BTreeMap<SocketAddr, u64>, DatapathError> {
        Ok(listeners.iter().map(|listener| (*listener, self.count(|flow, _| flow.listener == *listener))).collect())
    }

    fn flows(
        &mut self,
        filter: &FlowFilter,
        each: &mut dyn FnMut(Flow) -> ControlFlow<()>,
    ) -> Result<(), DatapathError> {
        for (tuple, flow) in &self.flows {
            let flow = Flow {
                tuple: *tuple,
                backend: flow.backend,
                seen_as: tuple.client,
                phase: Phase::Established,
                traffic: None,
                age: Some(self.now.since(flow.since)),
                idle: None,
            };
            if filter.lets_through(&flow) && each(flow).is_break() {
                break;
            }
        }
        Ok(())
    }

    fn usage(&mut self, listeners: &[SocketAddr]) -> Result<Usage, DatapathError> {
        let mut ports: BTreeMap<_, u64> = BTreeMap::new();
        for (tuple, flow) in self.flows.iter().filter(|(tuple, _)| listeners.contains(&tuple.listener)) {
            *ports.entry((tuple.client.ip(), flow.backend)).or_default() += 1;
        }
        let ports = ports.into_iter().map(|((source, backend), taken)| PortUse { source, backend, taken }).collect();
        Ok(Usage { flows: self.flows.len() as u64, flows_max: u64::MAX, turned_away: 0, ports })
    }

    fn refused(&mut self) -> Result<BTreeMap<SocketAddr, Refused>, DatapathError> {
        let mapped = |listener: &SocketAddr| self.listeners.get(listener).is_some_and(|entry| entry.mapping.is_some());
        Ok(self
            .refused
            .iter()
            .filter(|(listener, _)| mapped(listener))
            .map(|(listener, count)| (*listener, *count))
            .collect())
    }
}

#[cfg(test)]
#[path = "memory_tests.rs"]
mod tests;
