//! Leases and other deadlines. The kernel itself keeps them: a pair is live until then.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::Duration;

use super::plan::Plan;
use super::{Listener, Pair, Road, State};
use crate::clock::nanoseconds;

/// How long the pairs of a listener live unless they are renewed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lease {
    pub span: u64,
    pub until: u64,
}

/// A listener whose lease has run out holds new connections for so long, or until somebody decides.
const HOLD: Duration = Duration::from_secs(30);

/// From so long before it on, a deadline counts as over: the kernel's clock could get there before our store does, and a
/// pair that was dead for a moment has flows that think they are alive.
const MARGIN: u64 = 20_000_000;

pub const fn is_over(until: u64, now: u64) -> bool {
    now.saturating_add(MARGIN) >= until
}

impl Lease {
    pub const fn new(span: u64, now: u64) -> Self {
        Self { span, until: now.saturating_add(span) }
    }

    pub const fn has_run_out(&self, now: u64) -> bool {
        is_over(self.until, now)
    }
}

impl Listener {
    /// The same listener, fenced because its lease ran out.
    fn lapsed(&self, now: u64) -> Self {
        let road = match &self.road {
            // What it holds already it holds as long as it would have.
            fence @ (Road::Hold { .. } | Road::Refuse | Road::Removed) => fence.clone(),
            Road::Lead(_) => Road::Hold { span: nanoseconds(HOLD), until: now + nanoseconds(HOLD) },
        };
        Self { road, spared: None, lease: None, ..self.clone() }
    }

    /// Without the former backends of which `ended` says so; `None`: it was there for them only.
    fn without(&self, ended: impl Fn(SocketAddr, u64) -> bool) -> Option<Self> {
        let mut next = self.clone();
        next.former.retain(|backend, until| !ended(*backend, *until));
        (next.road != Road::Removed || !next.former.is_empty()).then_some(next)
    }
}

impl State {
    /// Renews what can be renewed and fences the rest; the listeners that were fenced.
    pub fn renew(&self, now: u64) -> (Plan, Vec<SocketAddr>) {
        self.renewed(now, true)
    }

    /// Fences what has run out, and leaves the rest as it is.
    pub fn lapse(&self, now: u64) -> (Plan, Vec<SocketAddr>) {
        self.renewed(now, false)
    }

    fn renewed(&self, now: u64, renews: bool) -> (Plan, Vec<SocketAddr>) {
        let mut after: BTreeMap<SocketAddr, Option<Listener>> = BTreeMap::new();
        let mut lapsed = Vec::new();
        for (address, listener) in &self.listeners {
            match listener.lease {
                Some(lease) if lease.has_run_out(now) => {
                    lapsed.push(*address);
                    after.insert(*address, Some(listener.lapsed(now)));
                }
                Some(lease) if renews => {
                    let lease = Some(Lease::new(lease.span, now));
                    after.insert(*address, Some(Listener { lease, ..listener.clone() }));
                }
                _ => {}
            }
        }
        (self.transition(after, now), lapsed)
    }

    /// Ends the drains whose time is over.
    pub fn end_drains(&self, now: u64) -> Plan {
        self.ended(now, |_, until| until <= now)
    }

    /// The same, and what was kept for flows that are no more: for all that are not among `remaining`.
    pub fn settle(&self, remaining: &BTreeSet<Pair>, now: u64) -> Plan {
        self.ended(now, |pair, until| until <= now || !remaining.contains(&pair))
    }

    fn ended(&self, now: u64, ended: impl Fn(Pair, u64) -> bool) -> Plan {
        let mut after = BTreeMap::new();
        for (listener, one) in self.listeners.iter().filter(|(_, one)| !one.former.is_empty()) {
            let next = one.without(|backend, until| ended(Pair { listener: *listener, backend }, until));
            if next.as_ref() != Some(one) {
                after.insert(*listener, next);
            }
        }
        self.transition(after, now)
    }
}
