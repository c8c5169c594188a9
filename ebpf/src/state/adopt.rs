//! The state that the maps tell of. Pure.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use ipnet::IpNet;
use shunt_core::mapping::Weighted;
use shunt_ebpf_common::flow::Endpoint;
use shunt_ebpf_common::mapping::{MAX_CHOICES, Way, kind, source};
use shunt_ebpf_common::note::Note;

use super::lease::Lease;
use super::{Listener, Pair, Road, Source, State};
use crate::socket_address;

/// What is in the maps.
#[derive(Clone, Debug, Default)]
pub struct Found {
    /// By listener: its slot, where it leads, and what was noted.
    pub mappings: BTreeMap<SocketAddr, (u32, Way, Note)>,
    /// By slot: pairs that are live, or were when they were last heard of, and until when.
    pub pairs: BTreeMap<u32, (Pair, u64)>,
    /// By number: the networks of allow-lists; by slot: the ranges of pools.
    pub lists: BTreeMap<u32, Vec<IpNet>>,
    pub pools: BTreeMap<u32, Vec<(IpAddr, IpAddr)>>,
}

impl State {
    /// Listeners of which nothing is left are not among them.
    pub fn adopt(found: &Found) -> Self {
        let mut pairs: BTreeMap<SocketAddr, BTreeMap<SocketAddr, u64>> = BTreeMap::new();
        for (pair, until) in found.pairs.values() {
            pairs.entry(pair.listener).or_default().insert(pair.backend, *until);
        }
        let mut state = Self::default();
        for (address, (_, way, note)) in &found.mappings {
            let live = pairs.remove(address).unwrap_or_default();
            let listener = listener(found, way, note, live);
            if listener.road != Road::Removed || !listener.former.is_empty() {
                state.put(*address, Some(listener));
            }
        }
        state
    }
}

fn listener(found: &Found, way: &Way, note: &Note, mut live: BTreeMap<SocketAddr, u64>) -> Listener {
    let road = match way.kind {
        kind::LEADS => Road::Lead(backends(found, way)),
        kind::HOLDS => Road::Hold { span: note.hold, until: way.until },
        kind::REFUSES => Road::Refuse,
        _ => Road::Removed,
    };
    let spared = (note.spared != Endpoint::default()).then(|| socket_address(&note.spared));
    let serving: Vec<SocketAddr> = road.backends().into_iter().chain(spared).collect();
    // They are renewed together, so the first to end is as good as any. One that is not there any more has ended.
    let until = serving.iter().map(|backend| live.remove(backend).unwrap_or(0)).min().unwrap_or(0);
    let lease = (note.lease != 0 && !serving.is_empty()).then_some(Lease { span: note.lease, until });
    let end = note.cluster.iter().position(|byte| *byte == 0).unwrap_or(note.cluster.len());
    Listener {
        cluster: String::from_utf8_lossy(&note.cluster[..end]).into_owned(),
        source: match way.source {
            source::MASQUERADE => Source::Masquerade,
            source::POOL => Source::Pool(found.pools.get(&way.pool).cloned().unwrap_or_default()),
            _ => Source::Client,
        },
        allow: IpNet::aggregate(&found.lists.get(&way.allow).cloned().unwrap_or_default()),
        road,
        former: live,
        spared,
        lease,
        limit: (way.limit != 0).then_some(way.limit),
        limit_per_source: (way.limit_per_source != 0).then_some(way.limit_per_source),
    }
}

fn backends(found: &Found, way: &Way) -> Vec<Weighted> {
    let mut before = 0;
    let mut all = Vec::new();
    for choice in way.choices.iter().take((way.backends as usize).min(MAX_CHOICES)) {
        if let Some((pair, _)) = found.pairs.get(&choice.pair) {
            all.push(Weighted { address: pair.backend, weight: choice.upto.saturating_sub(before) });
        }
        before = choice.upto;
    }
    all
}
