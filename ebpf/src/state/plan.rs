//! What a change comes to. Pure.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use ipnet::IpNet;
use shunt_core::config::Snat;
use shunt_core::datapath::Change;
use shunt_core::mapping::{Leaving, Mapping, Route};
use shunt_ebpf_common::mapping::FOR_EVER;

use super::check::check;
use super::lease::{Lease, is_over};
use super::{Listener, Pair, Road, Source, State};
use crate::clock::nanoseconds;

/// A change that can be committed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// What the listeners that change are like afterwards; `None`: gone.
    pub after: BTreeMap<SocketAddr, Option<Listener>>,
    /// Pairs that may pass no more.
    pub dead: Vec<Pair>,
    /// Pairs that may pass from now on. One that is among the dead as well was over for a moment: the flows that it had
    /// then stay dead.
    pub born: Vec<Pair>,
}

impl Plan {
    /// Mappings that really change.
    pub fn changed(&self) -> usize {
        self.after.len()
    }
}

impl State {
    /// What `change` comes to. The error names the mapping that this datapath cannot hold.
    pub fn plan(&self, change: &Change, now: u64) -> Result<Plan, String> {
        let mut after: BTreeMap<SocketAddr, Option<Listener>> = BTreeMap::new();
        for (address, leaving) in &change.remove {
            if let Some(listener) = self.listeners.get(address) {
                after.insert(*address, removed(listener, *leaving, now));
            }
        }
        for mapping in &change.set {
            check(mapping)?;
            let address = mapping.listener;
            let before = after.get(&address).map_or_else(|| self.listeners.get(&address), Option::as_ref);
            let next = mapped(before, mapping, now);
            after.insert(address, Some(next));
        }
        after.retain(|address, listener| self.listeners.get(address) != listener.as_ref());
        Ok(self.transition(after, now))
    }

    /// The way from this state to the one in which the listeners of `after` are as it says.
    pub(super) fn transition(&self, after: BTreeMap<SocketAddr, Option<Listener>>, now: u64) -> Plan {
        let (mut dead, mut born) = (Vec::new(), Vec::new());
        for (listener, next) in &after {
            let had = self.listeners.get(listener).map(Listener::live).unwrap_or_default();
            let has = next.as_ref().map(Listener::live).unwrap_or_default();
            let pair = |backend: &SocketAddr| Pair { listener: *listener, backend: *backend };
            // What was over and lives on is another pair of the same two.
            let goes_on = |backend: &SocketAddr| {
                had.get(backend).zip(has.get(backend)).is_some_and(|(old, new)| !is_over(*old, now) || old == new)
            };
            dead.extend(had.keys().filter(|backend| !goes_on(backend)).map(pair));
            born.extend(has.keys().filter(|backend| !goes_on(backend)).map(pair));
        }
        Plan { after, dead, born }
    }

    /// The state that a committed plan leads to.
    pub fn commit(&mut self, plan: Plan) {
        for (address, listener) in plan.after {
            self.put(address, listener);
        }
    }
}

/// `None`: nothing of it is left.
fn removed(before: &Listener, leaving: Leaving, now: u64) -> Option<Listener> {
    let former = former(Some(before), |_| false, leaving, now);
    (!former.is_empty()).then(|| Listener {
        cluster: before.cluster.clone(),
        source: Source::Client,
        road: Road::Removed,
        former,
        spared: None,
        lease: None,
        allow: Vec::new(),
        limit: None,
        limit_per_source: None,
    })
}

fn mapped(before: Option<&Listener>, mapping: &Mapping, now: u64) -> Listener {
    let staying = mapping.route.backends();
    let stays = |backend| staying.contains(&backend) || mapping.spared == Some(backend);
    let mut next = Listener {
        cluster: mapping.cluster.to_string(),
        source: match &mapping.snat {
            Snat::None => Source::Client,
            Snat::Masquerade => Source::Masquerade,
            Snat::Pool(ranges) => Source::Pool(ranges.clone()),
        },
        allow: IpNet::aggregate(&mapping.admission.allow),
        road: road(before.map(|before| &before.road), &mapping.route, now),
        former: former(before, stays, mapping.leaving, now),
        spared: mapping.spared,
        lease: None,
        limit: mapping.admission.limit,
        limit_per_source: mapping.admission.limit_per_source,
    };
    let leads = !mapping.route.is_fenced() || mapping.spared.is_some();
    if let Some(span) = mapping.lease.map(nanoseconds).filter(|_| leads) {
        let running = before.and_then(|before| before.lease);
        next.lease = running.filter(|lease| lease.span == span && !lease.has_run_out(now));
        if next.lease.is_none() || before != Some(&next) {
            next.lease = Some(Lease::new(span, now));
        }
    }
    next
}

fn road(before: Option<&Road>, route: &Route, now: u64) -> Road {
    match (route, before) {
        (Route::Single(address), _) => Road::Lead(vec![shunt_core::mapping::Weighted { address: *address, weight: 1 }]),
        (Route::Spread(backends), _) => Road::Lead(backends.clone()),
        (Route::Refuse, _) => Road::Refuse,
        (Route::Hold(span), _) if span.is_zero() => Road::Refuse,
        // The timer of a hold that is already there runs on.
        (Route::Hold(span), Some(Road::Hold { span: running, until })) if *running == nanoseconds(*span) => {
            Road::Hold { span: *running, until: *until }
        }
        (Route::Hold(span), _) => {
            let span = nanoseconds(*span);
            Road::Hold { span, until: now.saturating_add(span) }
        }
    }
}

/// What becomes of backends that pass now and do not stay. The latest word can shorten what an earlier one granted, never
/// lengthen it: a drain that is repeated keeps its deadline, a sever ends it.
fn former(
    before: Option<&Listener>,
    stays: impl Fn(SocketAddr) -> bool,
    leaving: Leaving,
    now: u64,
) -> BTreeMap<SocketAddr, u64> {
    let Some(before) = before else { return BTreeMap::new() };
    // A lease's deadline only says whether they live: a drain outlives the agent.
    let alive = before.lease.is_none_or(|lease| !lease.has_run_out(now));
    let serving =
        before.road.backends().into_iter().chain(before.spared).filter(|_| alive).map(|backend| (backend, FOR_EVER));
    serving
        .chain(before.former.iter().map(|(backend, until)| (*backend, *until)))
        .filter(|(backend, _)| !stays(*backend))
        .filter_map(|(backend, until)| match leaving {
            Leaving::Sever => None,
            Leaving::Drain(span) if span.is_zero() => None,
            Leaving::Drain(span) => Some((backend, until.min(now.saturating_add(nanoseconds(span))))),
            Leaving::Keep => Some((backend, until)),
        })
        .collect()
}
