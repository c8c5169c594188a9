//! Leases: live and spared pairs that the kernel forgets unless the agent says again, in time, that they live.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use super::plan::Plan;
use super::{Listener, Road, State};

/// How long the pairs of a listener live unless they are renewed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lease {
    pub span: Duration,
    pub until: Instant,
}

/// A listener whose lease has run out holds new connections for so long, or until somebody decides.
const HOLD: Duration = Duration::from_secs(30);

/// From so long before its end on a lease counts as run out: the kernel could forget its elements before our transaction
/// gets there, and a pair that was dead for a moment has flows that think they are alive.
const MARGIN: Duration = Duration::from_millis(20);

impl Lease {
    pub fn new(span: Duration, now: Instant) -> Self {
        Self { span, until: now + span }
    }

    pub fn has_run_out(&self, now: Instant) -> bool {
        now + MARGIN >= self.until
    }
}

impl Listener {
    /// The same listener, fenced because its lease ran out.
    pub(super) fn lapsed(&self, now: Instant) -> Self {
        let road = match &self.road {
            // What it holds already it holds as long as it would have.
            fence @ (Road::Hold { .. } | Road::Refuse) => fence.clone(),
            _ => Road::Hold { span: HOLD, until: now + HOLD },
        };
        Self { road, spared: None, blocked: BTreeSet::new(), lease: None, ..self.clone() }
    }
}

impl State {
    /// Renews what can be renewed and fences the rest; the listeners that were fenced.
    pub fn renew(&self, now: Instant) -> (Plan, Vec<SocketAddr>) {
        let mut after: BTreeMap<SocketAddr, Option<Listener>> = BTreeMap::new();
        let mut lapsed = Vec::new();
        for (address, listener) in &self.listeners {
            let Some(lease) = listener.lease else { continue };
            let next = if lease.has_run_out(now) {
                lapsed.push(*address);
                listener.lapsed(now)
            } else {
                Listener { lease: Some(Lease::new(lease.span, now)), ..listener.clone() }
            };
            after.insert(*address, Some(next));
        }
        (self.transition(after, now), lapsed)
    }
}
