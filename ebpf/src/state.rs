//! What was committed, listener by listener. Pure: times are arguments, in nanoseconds of boot time.
//!
//! What a listener's slots hold is a function of its [`Listener`] and of the slots themselves, so a change is the
//! difference of two such functions and costs what changed ([`plan`]), and drift is the difference from what is there.

pub mod adopt;
pub mod check;
pub mod lease;
pub mod lists;
pub mod plan;
pub mod slots;

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use ipnet::IpNet;
use shunt_core::datapath::Held;
use shunt_core::mapping::Weighted;
use shunt_ebpf_common::mapping::{Choice, FOR_EVER, MAX_CHOICES, Way, kind, source};
use shunt_ebpf_common::note::{NAME, Note};

use crate::endpoint;
use lease::Lease;

/// Everything that was committed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct State {
    pub listeners: BTreeMap<SocketAddr, Listener>,
}

/// A listener and a backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Pair {
    pub listener: SocketAddr,
    pub backend: SocketAddr,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listener {
    pub cluster: String,
    pub source: Source,
    pub road: Road,
    /// Backends that take no new connections but may still pass: until then, or [`FOR_EVER`] as their flows last.
    pub former: BTreeMap<SocketAddr, u64>,
    /// Beside a fence: the backend whose flows go on all the same.
    pub spared: Option<SocketAddr>,
    /// Of the pairs with the backends of the road, and with the spared one.
    pub lease: Option<Lease>,
    /// Sources that may connect, none of them within another; empty: anyone.
    pub allow: Vec<IpNet>,
    /// Connections at a time, and from one address.
    pub limit: Option<u32>,
    pub limit_per_source: Option<u32>,
}

/// The source address that backends see.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// The client's own.
    Client,
    /// The one that the host chooses for the way.
    Masquerade,
    /// One of these, first to last.
    Pool(Vec<(IpAddr, IpAddr)>),
}

/// Where new connections go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Road {
    Lead(Vec<Weighted>),
    Hold {
        span: u64,
        until: u64,
    },
    Refuse,
    /// The listener is not ours any more, but flows through it are left.
    Removed,
}

impl Road {
    pub fn backends(&self) -> Vec<SocketAddr> {
        match self {
            Self::Lead(backends) => backends.iter().map(|backend| backend.address).collect(),
            Self::Hold { .. } | Self::Refuse | Self::Removed => Vec::new(),
        }
    }
}

impl Listener {
    /// What stands in the slot of a listener that is no more.
    pub fn absent() -> Self {
        Self {
            cluster: String::new(),
            source: Source::Client,
            road: Road::Removed,
            former: BTreeMap::new(),
            spared: None,
            lease: None,
            allow: Vec::new(),
            limit: None,
            limit_per_source: None,
        }
    }

    /// Backends whose packets pass, and until when.
    pub fn live(&self) -> BTreeMap<SocketAddr, u64> {
        let until = self.lease.map_or(FOR_EVER, |lease| lease.until);
        let serving = self.road.backends().into_iter().chain(self.spared).map(|backend| (backend, until));
        self.former.iter().map(|(backend, until)| (*backend, *until)).chain(serving).collect()
    }

    /// What its mapping says, the pairs being in these slots.
    pub fn way(&self, slot: impl Fn(SocketAddr) -> u32) -> Way {
        let mut way = Way {
            kind: kind::ABSENT,
            source: match &self.source {
                Source::Client => source::CLIENT,
                Source::Masquerade => source::MASQUERADE,
                Source::Pool(_) => source::POOL,
            },
            limit: self.limit.unwrap_or(0),
            limit_per_source: self.limit_per_source.unwrap_or(0),
            choices: [Choice::default(); MAX_CHOICES],
            ..Way::default()
        };
        match &self.road {
            Road::Lead(backends) => {
                way.kind = kind::LEADS;
                for (choice, backend) in way.choices.iter_mut().zip(backends) {
                    way.weight += backend.weight;
                    way.backends += 1;
                    *choice = Choice { pair: slot(backend.address), upto: way.weight };
                }
            }
            Road::Hold { until, .. } => (way.kind, way.until) = (kind::HOLDS, *until),
            Road::Refuse => way.kind = kind::REFUSES,
            Road::Removed => {}
        }
        way
    }

    /// What the next agent cannot tell from the rest.
    pub fn note(&self) -> Note {
        let mut cluster = [0; NAME];
        let name = &self.cluster.as_bytes()[..self.cluster.len().min(NAME)];
        cluster[..name.len()].copy_from_slice(name);
        let hold = if let Road::Hold { span, .. } = self.road { span } else { 0 };
        Note {
            cluster,
            lease: self.lease.map_or(0, |lease| lease.span),
            hold,
            spared: self.spared.map(endpoint).unwrap_or_default(),
            removed: u32::from(self.road == Road::Removed),
        }
    }
}

impl State {
    pub fn held(&self) -> Vec<Held> {
        self.listeners
            .iter()
            .filter(|(_, one)| one.road != Road::Removed)
            .map(|(listener, one)| Held { listener: *listener, backends: one.road.backends() })
            .collect()
    }

    /// Pairs that are kept for as long as their flows last.
    pub fn kept(&self) -> impl Iterator<Item = Pair> {
        self.listeners.iter().flat_map(|(listener, one)| {
            let kept = one.former.iter().filter(|(_, until)| **until == FOR_EVER);
            kept.map(|(backend, _)| Pair { listener: *listener, backend: *backend })
        })
    }

    pub(super) fn put(&mut self, address: SocketAddr, listener: Option<Listener>) {
        match listener {
            Some(listener) => drop(self.listeners.insert(address, listener)),
            None => drop(self.listeners.remove(&address)),
        }
    }
}

#[cfg(test)]
mod tests;
