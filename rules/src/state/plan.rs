//! A change, planned: which elements go and come, which pairs die, and the state afterwards.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use shunt_core::datapath::Change;
use shunt_core::mapping::{Leaving, Mapping, Route};

use super::{Elements, Listener, Road, State, gone, masquerades, slots};
use crate::element::{Key, Pair, Value};
use crate::schema::{Family, SLOTS};

/// One element's part of a transaction. An element that changes is deleted and added in the same transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Op {
    /// `timed`: it may have expired by the time the kernel looks for it.
    Delete {
        key: Key,
        timed: bool,
    },
    Add(Key, Value),
}

/// A change that can be committed.
#[derive(Clone, Debug, Default)]
pub struct Plan {
    pub ops: Vec<Op>,
    /// Mappings that really change.
    pub changed: usize,
    /// Pairs that may pass no more.
    pub dead: Vec<Pair>,
    /// Pairs that may pass from now on.
    pub born: Vec<Pair>,
    after: BTreeMap<SocketAddr, Option<Listener>>,
}

impl State {
    /// What `change` comes to. The error names the mapping that this datapath cannot hold.
    pub fn plan(&self, change: &Change, now: Instant) -> Result<Plan, String> {
        let mut after: BTreeMap<SocketAddr, Option<Listener>> = BTreeMap::new();
        for (address, leaving) in &change.remove {
            if let Some(listener) = self.listeners.get(address) {
                let former = former(Some(listener), &[], *leaving, now);
                after.insert(
                    *address,
                    Some(Listener { former, road: Road::Removed, masquerade: false, ..listener.clone() }),
                );
            }
        }
        for mapping in &change.set {
            let masquerade = check(mapping)?;
            let address = mapping.listener;
            let before = after.get(&address).map_or_else(|| self.listeners.get(&address), Option::as_ref);
            let next = Listener {
                cluster: mapping.cluster.to_string(),
                masquerade,
                road: road(before.map(|b| &b.road), &mapping.route, now),
                former: former(before, &mapping.route.backends(), mapping.leaving, now),
            };
            after.insert(address, Some(next));
        }
        after.retain(|address, listener| self.listeners.get(address) != listener.as_ref());
        Ok(self.transition(after, now))
    }

    /// The way from this state to the one in which the listeners of `after` are as it says.
    pub(super) fn transition(&self, after: BTreeMap<SocketAddr, Option<Listener>>, now: Instant) -> Plan {
        let mut plan = Plan { changed: after.len(), ..Plan::default() };
        let (mut old, mut new) = (Elements::new(), Elements::new());
        let mut counts: BTreeMap<SocketAddr, isize> = BTreeMap::new();
        for (address, next) in &after {
            let before = self.listeners.get(address);
            old.extend(before.iter().flat_map(|l| l.elements(*address)));
            new.extend(next.iter().flat_map(|l| l.elements(*address)));
            let had: BTreeSet<SocketAddr> = before.iter().flat_map(|l| l.live()).map(|(backend, _)| backend).collect();
            let has: BTreeSet<SocketAddr> = next.iter().flat_map(Listener::live).map(|(backend, _)| backend).collect();
            for backend in &has {
                *counts.entry(*backend).or_default() += 1;
            }
            for backend in &had {
                *counts.entry(*backend).or_default() -= 1;
            }
            let pair = |backend: &SocketAddr| Pair { listener: *address, backend: *backend };
            plan.dead.extend(had.difference(&has).map(pair));
            plan.born.extend(has.difference(&had).map(pair));
        }
        for (backend, delta) in counts {
            let before = self.backends.get(&backend).copied().unwrap_or(0);
            let entry = (Key::Backend(backend), Value::default());
            let (had, has) = (before > 0, before.saturating_add_signed(delta) > 0);
            if had && !has {
                old.extend([entry]);
            } else if has && !had {
                new.extend([entry]);
            }
        }
        plan.ops = difference(&old, &new, now);
        plan.after = after;
        plan
    }

    /// The state that a committed plan leads to.
    pub fn commit(&mut self, plan: Plan) {
        for (address, listener) in plan.after {
            self.put(address, listener);
        }
    }
}

/// What turns `old` into `new`, deletions first. Elements that have expired need no deletion and are not added.
pub fn difference(old: &Elements, new: &Elements, now: Instant) -> Vec<Op> {
    let there = |elements: &Elements, key: &Key, value: &Value| elements.get(key) == Some(value);
    let mut ops: Vec<Op> = old
        .iter()
        .filter(|(key, value)| !gone(value.deadline, now) && !there(new, key, value))
        .map(|(key, value)| Op::Delete { key: *key, timed: value.deadline.is_some() })
        .collect();
    ops.extend(
        new.iter()
            .filter(|(key, value)| !gone(value.deadline, now) && !there(old, key, value))
            .map(|(key, value)| Op::Add(*key, value.clone())),
    );
    ops
}

fn road(before: Option<&Road>, route: &Route, now: Instant) -> Road {
    match (route, before) {
        (Route::Single(backend), _) => Road::Single(*backend),
        (Route::Spread(backends), Some(Road::Spread(slots))) => {
            let slots: Vec<_> = slots.iter().copied().map(Some).collect();
            Road::Spread(slots::fill(&slots, backends))
        }
        (Route::Spread(backends), _) => Road::Spread(slots::fill(&[], backends)),
        // The timer of a hold that is already there runs on.
        (Route::Hold(span), Some(Road::Hold { span: running, until })) if running == &whole_ms(*span) => {
            Road::Hold { span: *running, until: *until }
        }
        (Route::Hold(span), _) if whole_ms(*span).is_zero() => Road::Refuse,
        (Route::Hold(span), _) => Road::Hold { span: whole_ms(*span), until: now + whole_ms(*span) },
        (Route::Refuse, _) => Road::Refuse,
    }
}

/// The kernel's unit for timeouts is the millisecond. A year is as good as any longer time and cannot overflow.
fn whole_ms(span: Duration) -> Duration {
    Duration::from_millis(span.as_millis().min(365 * 86_400_000) as u64)
}

/// What becomes of backends that pass now and are not among `staying`. The latest word can shorten what an earlier one
/// granted, never lengthen it: a drain that is repeated keeps its deadline, a sever ends it.
fn former(
    before: Option<&Listener>,
    staying: &[SocketAddr],
    leaving: Leaving,
    now: Instant,
) -> BTreeMap<SocketAddr, Option<Instant>> {
    let Some(before) = before else { return BTreeMap::new() };
    before
        .live()
        .filter(|(backend, _)| !staying.contains(backend))
        .filter_map(|(backend, until)| match leaving {
            Leaving::Sever => None,
            Leaving::Drain(span) if whole_ms(span).is_zero() => None,
            Leaving::Drain(span) => {
                let deadline = now + whole_ms(span);
                Some((backend, Some(until.map_or(deadline, |until| until.min(deadline)))))
            }
            Leaving::Keep => Some((backend, until)),
        })
        .collect()
}

/// Whether the mapping masquerades; or why nftables cannot hold it.
fn check(mapping: &Mapping) -> Result<bool, String> {
    let listener = mapping.listener;
    let refuse = |why: String| Err(format!("listener {listener}: {why}"));
    let Some(masquerade) = masquerades(&mapping.snat) else {
        return refuse("the nftables datapath has no SNAT pools yet".to_owned());
    };
    if listener.ip().is_unspecified() {
        return refuse("nftables maps exact addresses, not the unspecified one".to_owned());
    }
    let backends = mapping.route.backends();
    if matches!(mapping.route, Route::Spread(_)) && !(1..=SLOTS as usize).contains(&backends.len()) {
        return refuse(format!("{} backends; 1 to {SLOTS} can share a listener", backends.len()));
    }
    for address in std::iter::once(&listener).chain(&backends) {
        if matches!(address, SocketAddr::V6(v6) if v6.scope_id() != 0) {
            return refuse(format!("{address} has a scope, which NAT does not know"));
        }
        if Family::of(address) != Family::of(&listener) {
            return refuse(format!("backend {address} is of another address family, and NAT stays within one"));
        }
    }
    Ok(masquerade)
}

#[cfg(test)]
#[path = "plan_tests.rs"]
mod tests;
