//! A change, planned: which elements go and come, which pairs die, and the state afterwards.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use ipnet::IpNet;
use shunt_core::config::Snat;
use shunt_core::datapath::Change;
use shunt_core::flow::Tuple;
use shunt_core::mapping::{Admission, Leaving, Mapping, Route, Weighted};

use super::lease::Lease;
use super::{Elements, Listener, Road, Source, State, gone, slots, take_one};
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
    /// Pairs that take no new connections any more, whether their flows end or not.
    pub left: Vec<Pair>,
    /// Flows that are blocked no more.
    pub unblocked: Vec<Tuple>,
    /// Pairs that may pass from now on.
    pub born: Vec<Pair>,
    /// Listeners that hold new connections no longer, and those that do until then.
    pub released: Vec<SocketAddr>,
    pub held: Vec<(SocketAddr, Instant)>,
    /// The different limits of connections per source, if they are not what they were.
    pub source_limits: Option<BTreeSet<u32>>,
    after: BTreeMap<SocketAddr, Option<Listener>>,
}

impl State {
    /// What `change` comes to. The error names the mapping that this datapath cannot hold.
    pub fn plan(&self, change: &Change, now: Instant) -> Result<Plan, String> {
        let mut after: BTreeMap<SocketAddr, Option<Listener>> = BTreeMap::new();
        for (address, leaving) in &change.remove {
            if let Some(listener) = self.listeners.get(address) {
                let former = former(Some(listener), |_| false, *leaving, now);
                after.insert(
                    *address,
                    Some(Listener {
                        cluster: listener.cluster.clone(),
                        source: Source::Client,
                        road: Road::Removed,
                        former,
                        spared: None,
                        blocked: BTreeSet::new(),
                        admission: Admission::default(),
                        lease: None,
                    }),
                );
            }
        }
        for mapping in &change.set {
            check(mapping)?;
            let address = mapping.listener;
            let before = after.get(&address).map_or_else(|| self.listeners.get(&address), Option::as_ref);
            let staying = mapping.route.backends();
            let stays = |backend| staying.contains(&backend) || mapping.spared == Some(backend);
            let blocked =
                before.filter(|b| b.spared.is_some() && b.spared == mapping.spared).map(|b| b.blocked.clone());
            let mut next = Listener {
                cluster: mapping.cluster.to_string(),
                source: source(before.map(|b| &b.source), &mapping.snat),
                road: road(before.map(|b| &b.road), &mapping.route, now),
                former: former(before, stays, mapping.leaving, now),
                spared: mapping.spared,
                blocked: blocked.unwrap_or_default(),
                admission: Admission { allow: IpNet::aggregate(&mapping.admission.allow), ..mapping.admission.clone() },
                lease: None,
            };
            let leads = !mapping.route.is_fenced() || mapping.spared.is_some();
            if let Some(span) = mapping.lease.map(whole_ms).filter(|_| leads) {
                let running =
                    before.and_then(|b| b.lease).filter(|lease| lease.span == span && !lease.has_run_out(now));
                next.lease = Some(running.unwrap_or_else(|| Lease::new(span, now)));
                if before != Some(&next) {
                    next.lease = Some(Lease::new(span, now));
                }
            }
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
            let had: BTreeSet<SocketAddr> = before.iter().flat_map(|l| l.passing()).collect();
            let has: BTreeSet<SocketAddr> = next.iter().flat_map(Listener::passing).collect();
            for backend in &has {
                *counts.entry(*backend).or_default() += 1;
            }
            for backend in &had {
                *counts.entry(*backend).or_default() -= 1;
            }
            let pair = |backend: &SocketAddr| Pair { listener: *address, backend: *backend };
            plan.dead.extend(had.difference(&has).map(pair));
            plan.born.extend(has.difference(&had).map(pair));
            plan.left.extend(live(before).difference(&live(next.as_ref())).map(pair));
            let flow = |client: &SocketAddr| Tuple { client: *client, listener: *address };
            let still = |client: &SocketAddr| next.as_ref().is_some_and(|l| l.blocked.contains(client));
            plan.unblocked.extend(before.iter().flat_map(|l| &l.blocked).filter(|client| !still(client)).map(flow));
            let holds = |listener: Option<&Listener>| match listener.map(|l| &l.road) {
                Some(Road::Hold { until, .. }) => Some(*until),
                _ => None,
            };
            match (holds(before), holds(next.as_ref())) {
                (Some(_), None) => plan.released.push(*address),
                (_, Some(until)) => plan.held.push((*address, until)),
                (None, None) => {}
            }
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
        plan.source_limits = self.source_limits_after(&after);
        plan.ops = difference(&old, &new, now);
        plan.after = after;
        plan
    }

    fn source_limits_after(&self, after: &BTreeMap<SocketAddr, Option<Listener>>) -> Option<BTreeSet<u32>> {
        let limit = |listener: Option<&Listener>| listener.and_then(|listener| listener.admission.limit_per_source);
        let moved = |(address, next): &(&SocketAddr, &Option<Listener>)| {
            limit(self.listeners.get(*address)) != limit(next.as_ref())
        };
        if !after.iter().any(|change| moved(&change)) {
            return None;
        }
        let mut counts = self.source_limits.clone();
        for (address, next) in after {
            if let Some(limit) = limit(next.as_ref()) {
                *counts.entry(limit).or_default() += 1;
            }
            if let Some(limit) = limit(self.listeners.get(address)) {
                take_one(&mut counts, &limit);
            }
        }
        let limits: BTreeSet<u32> = counts.into_keys().collect();
        (limits != self.source_limits()).then_some(limits)
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

fn live(listener: Option<&Listener>) -> BTreeSet<SocketAddr> {
    listener.iter().flat_map(|listener| listener.live()).map(|(backend, _)| backend).collect()
}

/// The kernel's unit for timeouts is the millisecond. A year is as good as any longer time and cannot overflow.
fn whole_ms(span: Duration) -> Duration {
    Duration::from_millis(span.as_millis().min(365 * 86_400_000) as u64)
}

/// What becomes of backends that pass now and do not stay. The latest word can shorten what an earlier one
/// granted, never lengthen it: a drain that is repeated keeps its deadline, a sever ends it.
fn former(
    before: Option<&Listener>,
    stays: impl Fn(SocketAddr) -> bool,
    leaving: Leaving,
    now: Instant,
) -> BTreeMap<SocketAddr, Option<Instant>> {
    let Some(before) = before else { return BTreeMap::new() };
    // Not the lease's time: a drain outlives the agent.
    let serving = before.road.backends().into_iter().chain(before.spared).map(|backend| (backend, None));
    serving
        .chain(before.former.iter().map(|(backend, until)| (*backend, *until)))
        .filter(|(backend, _)| !stays(*backend))
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

fn source(before: Option<&Source>, snat: &Snat) -> Source {
    match snat {
        Snat::None => Source::Client,
        Snat::Masquerade => Source::Masquerade,
        Snat::Pool(ranges) => {
            let known: Vec<_> = match before {
                Some(Source::Pool(slots)) => slots.iter().copied().map(Some).collect(),
                _ => Vec::new(),
            };
            let addresses: Vec<_> =
                pool(ranges).map(|ip| Weighted { address: SocketAddr::new(ip, 0), weight: 1 }).collect();
            Source::Pool(slots::fill(&known, &addresses))
        }
    }
}

/// The addresses of a pool; at most one more than there are slots.
fn pool(ranges: &[(IpAddr, IpAddr)]) -> impl Iterator<Item = IpAddr> {
    let all: BTreeSet<IpAddr> = ranges
        .iter()
        .flat_map(|(first, last)| -> Vec<IpAddr> {
            match (first, last) {
                (IpAddr::V4(first), IpAddr::V4(last)) => (first.to_bits()..=last.to_bits())
                    .take(SLOTS as usize + 1)
                    .map(|ip| IpAddr::from(ip.to_be_bytes()))
                    .collect(),
                (IpAddr::V6(first), IpAddr::V6(last)) => (first.to_bits()..=last.to_bits())
                    .take(SLOTS as usize + 1)
                    .map(|ip| IpAddr::from(ip.to_be_bytes()))
                    .collect(),
                _ => Vec::new(),
            }
        })
        .collect();
    all.into_iter().take(SLOTS as usize + 1)
}

/// Why nftables cannot hold a mapping.
fn check(mapping: &Mapping) -> Result<(), String> {
    let listener = mapping.listener;
    let refuse = |why: String| Err(format!("listener {listener}: {why}"));
    if let Snat::Pool(ranges) = &mapping.snat {
        let addresses: Vec<_> = pool(ranges).collect();
        if !(1..=SLOTS as usize).contains(&addresses.len()) {
            return refuse(format!("an SNAT pool has 1 to {SLOTS} addresses"));
        }
        if let Some(other) = addresses.iter().find(|ip| ip.is_ipv4() != listener.is_ipv4()) {
            return refuse(format!("source address {other} is of another address family, and NAT stays within one"));
        }
    }
    if let Some(other) = mapping.admission.allow.iter().find(|net| net.addr().is_ipv4() != listener.is_ipv4()) {
        return refuse(format!("network {other} is of another address family"));
    }
    if listener.ip().is_unspecified() {
        return refuse("nftables maps exact addresses, not the unspecified one".to_owned());
    }
    let backends = mapping.route.backends();
    if matches!(mapping.route, Route::Spread(_)) && !(1..=SLOTS as usize).contains(&backends.len()) {
        return refuse(format!("{} backends; 1 to {SLOTS} can share a listener", backends.len()));
    }
    if mapping.spared.is_some() && !mapping.route.is_fenced() {
        return refuse("it spares a backend, which only a fenced one does".to_owned());
    }
    for address in std::iter::once(&listener).chain(&backends).chain(&mapping.spared) {
        if matches!(address, SocketAddr::V6(v6) if v6.scope_id() != 0) {
            return refuse(format!("{address} has a scope, which NAT does not know"));
        }
        if Family::of(address) != Family::of(&listener) {
            return refuse(format!("backend {address} is of another address family, and NAT stays within one"));
        }
    }
    Ok(())
}

#[cfg(test)]
#[path = "plan_tests.rs"]
mod tests;
