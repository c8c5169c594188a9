//! What time alone changes: drains that are over, kept pairs and removed listeners whose flows have ended.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::Instant;

use super::plan::Plan;
use super::{Listener, Road, State, gone};
use crate::element::Pair;

/// The flows that conntrack still knows, of those that [`State::upkeep`] needs to know about.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Remaining {
    pub listeners: BTreeSet<SocketAddr>,
    pub pairs: BTreeSet<Pair>,
}

impl State {
    /// Does [`Self::upkeep`] need to look at conntrack?
    pub fn awaits_the_end_of_flows(&self) -> bool {
        self.listeners.values().any(Listener::awaits_the_end_of_flows)
    }

    /// The listeners and pairs whose flows that is about.
    pub fn awaited(&self) -> (BTreeSet<SocketAddr>, BTreeSet<Pair>) {
        let removed = self.listeners.iter().filter(|(_, l)| l.road == Road::Removed).map(|(listener, _)| *listener);
        let kept = self.listeners.iter().flat_map(|(listener, l)| {
            let kept = l.former.iter().filter(|(_, until)| until.is_none());
            kept.map(|(backend, _)| Pair { listener: *listener, backend: *backend })
        });
        (removed.collect(), kept.collect())
    }

    /// Takes out drains that are over, and nothing whose end conntrack would have to tell.
    pub fn end_drains(&self, now: Instant) -> Plan {
        let (listeners, pairs) = self.awaited();
        self.upkeep(&Remaining { listeners, pairs }, now)
    }

    /// Takes out what is over. Pairs whose drain has ended are among the plan's dead.
    pub fn upkeep(&self, remaining: &Remaining, now: Instant) -> Plan {
        let mut after: BTreeMap<SocketAddr, Option<Listener>> = BTreeMap::new();
        for (address, listener) in &self.listeners {
            let former: BTreeMap<_, _> = listener
                .former
                .iter()
                .filter(|(backend, until)| match until {
                    Some(_) => !gone(**until, now),
                    None => remaining.pairs.contains(&Pair { listener: *address, backend: **backend }),
                })
                .map(|(backend, until)| (*backend, *until))
                .collect();
            let over = listener.road == Road::Removed && former.is_empty() && !remaining.listeners.contains(address);
            if over {
                after.insert(*address, None);
            } else if former.len() != listener.former.len() {
                after.insert(*address, Some(Listener { former, ..listener.clone() }));
            }
        }
        self.transition(after, now)
    }
}

impl Listener {
    fn awaits_the_end_of_flows(&self) -> bool {
        self.road == Road::Removed || self.former.values().any(Option::is_none)
    }
}
