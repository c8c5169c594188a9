//! A restarted agent's state, from the elements that it found.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::Instant;

use ipnet::IpNet;
use shunt_core::mapping::{Admission, Weighted};

use super::lease::Lease;
use super::note::{Note, Stance};
use super::{Elements, Listener, Road, Source, State, slots};
use crate::element::Key;
use crate::schema::SLOTS;

impl State {
    /// What `elements` say. A listener's own note decides whether it is fenced, so a route that somebody slipped into the
    /// maps meanwhile is drift and not adopted.
    pub fn adopt(elements: &Elements, now: Instant) -> Self {
        let mut found: BTreeMap<SocketAddr, Found> = BTreeMap::new();
        for (key, value) in elements {
            match key {
                Key::Primary(listener) => found.entry(*listener).or_default().primary = value.backend,
                Key::Spread(listener, slot) => {
                    let slots = &mut found.entry(*listener).or_default().slots;
                    slots.resize(SLOTS as usize, None);
                    if let Some(place) = slots.get_mut(*slot as usize) {
                        *place = value.backend;
                    }
                }
                Key::Live(pair) => {
                    found.entry(pair.listener).or_default().live.insert(pair.backend, value.deadline);
                }
                Key::Sparing(pair) => {
                    found.entry(pair.listener).or_default().sparing = Some((pair.backend, value.deadline));
                }
                Key::Blocked(flow) => {
                    found.entry(flow.listener).or_default().blocked.insert(flow.client);
                }
                Key::Listener(listener) => found.entry(*listener).or_default().note.clone_from(&value.note),
                Key::Hold(listener) => found.entry(*listener).or_default().hold = value.deadline,
                Key::Masquerade(listener) => found.entry(*listener).or_default().masquerade = true,
                Key::Pool(listener, slot) => {
                    let pool = &mut found.entry(*listener).or_default().pool;
                    pool.resize(SLOTS as usize, None);
                    if let Some(place) = pool.get_mut(*slot as usize) {
                        *place = value.backend;
                    }
                }
                Key::Allow(listener, network) => found.entry(*listener).or_default().allow.push(*network),
                // The listener's note says it, too.
                Key::Fenced(_)
                | Key::Backend(_)
                | Key::Restricted(_)
                | Key::Limited(_)
                | Key::PerSource(..)
                | Key::Refused(..) => {}
            }
        }
        Self::new(found.into_iter().map(|(address, found)| (address, found.listener(now))).collect())
    }

    /// The listeners that were adopted as fenced though `elements` have them open under a lease: it ran out.
    pub fn lapsed(&self, elements: &Elements) -> Vec<SocketAddr> {
        let was_leased = |note: &Note| note.lease.is_some();
        let listeners = elements.iter().filter_map(|(key, value)| match key {
            Key::Listener(listener) if was_leased(&Note::parse(value.note.as_deref().unwrap_or_default())) => {
                Some(*listener)
            }
            _ => None,
        });
        listeners.filter(|listener| self.listeners.get(listener).is_some_and(|l| l.lease.is_none())).collect()
    }
}

/// What the sets say of one listener.
#[derive(Default)]
struct Found {
    note: Option<String>,
    primary: Option<SocketAddr>,
    slots: Vec<Option<SocketAddr>>,
    live: BTreeMap<SocketAddr, Option<Instant>>,
    sparing: Option<(SocketAddr, Option<Instant>)>,
    blocked: BTreeSet<SocketAddr>,
    hold: Option<Instant>,
    masquerade: bool,
    pool: Vec<Option<SocketAddr>>,
    allow: Vec<IpNet>,
}

impl Found {
    fn listener(self, now: Instant) -> Listener {
        let note = Note::parse(self.note.as_deref().unwrap_or_default());
        let road = match note.stance {
            // A hold that is over has left no element: its listener refuses, and goes on to.
            Stance::Hold(span) => Road::Hold { span, until: self.hold.unwrap_or(now) },
            Stance::Refuse => Road::Refuse,
            Stance::Removed => Road::Removed,
            Stance::Open => self.open_road(),
        };
        let open = road.backends();
        // A listener that leads somewhere spares nobody; what says otherwise was slipped in.
        let sparing = self.sparing.filter(|_| matches!(road, Road::Hold { .. } | Road::Refuse));
        // Only what leads somewhere or spares somebody has one. Without an element it ran out.
        let lease = note.lease.map(|span| {
            let until = |backend| self.live.get(backend).map_or(now, |until| until.unwrap_or(now + span));
            let spared = sparing.map(|(_, until)| until.unwrap_or(now + span));
            Lease { span, until: open.iter().map(until).chain(spared).min().unwrap_or(now) }
        });
        let spared = sparing.map(|(backend, _)| backend);
        let blocked = if spared.is_some() { self.blocked } else { BTreeSet::new() };
        let source = match (self.masquerade, weigh(&self.pool)) {
            (true, _) => Source::Masquerade,
            (false, pool) if pool.is_empty() => Source::Client,
            (false, pool) => Source::Pool(slots::fill(&self.pool, &pool)),
        };
        let former = self.live.into_iter().filter(|(backend, _)| !open.contains(backend)).collect();
        let admission = Admission {
            allow: IpNet::aggregate(&self.allow),
            limit: note.limit,
            limit_per_source: note.limit_per_source,
        };
        let listener = Listener { cluster: note.cluster, source, road, former, spared, blocked, admission, lease };
        // Nobody renewed it: whether the backend is still the right one is for somebody to find out.
        if lease.is_some_and(|lease| lease.has_run_out(now)) { listener.lapsed(now) } else { listener }
    }

    fn open_road(&self) -> Road {
        if let Some(backend) = self.primary {
            return Road::Single(backend);
        }
        let weights = weigh(&self.slots);
        if weights.is_empty() {
            return Road::Refuse;
        }
        Road::Spread(slots::fill(&self.slots, &weights))
    }
}

/// Whoever has slots, and how many.
fn weigh(slots: &[Option<SocketAddr>]) -> Vec<Weighted> {
    let mut weights: BTreeMap<SocketAddr, u32> = BTreeMap::new();
    for address in slots.iter().flatten() {
        *weights.entry(*address).or_default() += 1;
    }
    weights.into_iter().map(|(address, weight)| Weighted { address, weight }).collect()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::element::{Pair, Value};

    fn at(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    fn listener(road: Road) -> Listener {
        Listener {
            cluster: "orders".to_owned(),
            source: Source::Masquerade,
            road,
            former: BTreeMap::new(),
            spared: None,
            blocked: BTreeSet::new(),
            admission: Admission::default(),
            lease: None,
        }
    }

    #[test]
    fn every_state_is_adopted_as_it_was_left() {
        let now = Instant::now();
        let later = now + Duration::from_secs(5);
        let weights =
            [Weighted { address: at("10.0.0.1:1"), weight: 2 }, Weighted { address: at("10.0.0.2:1"), weight: 1 }];
        let listeners = BTreeMap::from([
            (at("10.1.0.1:1"), listener(Road::Single(at("10.0.0.1:1")))),
            (at("10.1.0.2:1"), listener(Road::Spread(slots::fill(&[], &weights)))),
            (at("10.1.0.3:1"), listener(Road::Hold { span: Duration::from_millis(7500), until: later })),
            (at("10.1.0.4:1"), Listener { source: Source::Client, ..listener(Road::Refuse) }),
            (
                at("[fd00::1]:1"),
                Listener {
                    former: BTreeMap::from([(at("[fd00::2]:1"), Some(later)), (at("[fd00::3]:1"), None)]),
                    ..listener(Road::Single(at("[fd00::4]:1")))
                },
            ),
            (
                at("10.1.0.8:1"),
                Listener {
                    spared: Some(at("10.0.0.1:1")),
                    blocked: BTreeSet::from([at("192.0.2.7:40000"), at("192.0.2.8:40000")]),
                    lease: Some(Lease::new(Duration::from_secs(5), now)),
                    ..listener(Road::Hold { span: Duration::from_secs(5), until: later })
                },
            ),
            (at("10.1.0.9:1"), Listener { spared: Some(at("10.0.0.1:1")), ..listener(Road::Refuse) }),
            (at("10.1.0.6:1"), Listener { source: Source::Client, ..listener(Road::Removed) }),
            (
                at("10.1.0.7:1"),
                Listener {
                    source: Source::Pool(slots::fill(&[], &[Weighted { address: at("10.9.0.1:0"), weight: 1 }])),
                    admission: Admission {
                        allow: vec!["10.0.0.0/8".parse().unwrap(), "192.0.2.7/32".parse().unwrap()],
                        limit: Some(1000),
                        limit_per_source: Some(10),
                    },
                    lease: Some(Lease::new(Duration::from_secs(5), now)),
                    ..listener(Road::Single(at("10.0.0.1:1")))
                },
            ),
        ]);
        let state = State::new(listeners);
        assert_eq!(State::adopt(&state.elements(), now), state);
    }

    #[test]
    fn a_listener_whose_lease_ran_out_is_adopted_fenced() {
        let now = Instant::now();
        let lease = Some(Lease::new(Duration::from_secs(5), now));
        let leased = Listener { lease, ..listener(Road::Single(at("10.0.0.1:1"))) };
        let state = State::new(BTreeMap::from([(at("10.1.0.1:1"), leased)]));
        let mut elements = state.elements();
        let later = now + Duration::from_secs(5);
        assert_eq!(State::adopt(&elements, now).lapsed(&elements), []);
        assert_eq!(State::adopt(&elements, later).held()[0].backends, [], "about to be forgotten");
        assert_eq!(State::adopt(&elements, later).lapsed(&elements), [at("10.1.0.1:1")]);
        elements.retain(|key, _| !matches!(key, Key::Live(_)));
        assert_eq!(State::adopt(&elements, now).held()[0].backends, [], "forgotten");
    }

    #[test]
    fn a_listener_whose_lease_ran_out_spares_nobody_when_it_is_adopted() {
        let now = Instant::now();
        let leased = Listener {
            lease: Some(Lease::new(Duration::from_secs(5), now)),
            spared: Some(at("10.0.0.1:1")),
            blocked: BTreeSet::from([at("192.0.2.7:40000")]),
            ..listener(Road::Refuse)
        };
        let state = State::new(BTreeMap::from([(at("10.1.0.1:1"), leased)]));
        let mut elements = state.elements();
        assert_eq!(State::adopt(&elements, now).lapsed(&elements), []);
        let later = now + Duration::from_secs(5);
        elements.retain(|key, _| !matches!(key, Key::Sparing(_)));
        for (elements, now) in [(&state.elements(), later), (&elements, now)] {
            let adopted = State::adopt(elements, now);
            let found = &adopted.listeners[&at("10.1.0.1:1")];
            assert_eq!((found.spared, found.blocked.len(), &found.road), (None, 0, &Road::Refuse));
            assert_eq!(adopted.lapsed(elements), [at("10.1.0.1:1")]);
        }
    }

    #[test]
    fn a_route_slipped_in_while_the_listener_was_fenced_is_not_adopted() {
        let now = Instant::now();
        let state = State::new(BTreeMap::from([(at("10.1.0.4:1"), listener(Road::Refuse))]));
        let mut elements = state.elements();
        let backend = Some(at("10.0.0.9:1"));
        elements.insert(Key::Primary(at("10.1.0.4:1")), Value { backend, ..Value::default() });
        assert_eq!(State::adopt(&elements, now), state);
    }

    #[test]
    fn a_spread_that_lost_a_slot_is_adopted_whole() {
        let now = Instant::now();
        let weights =
            [Weighted { address: at("10.0.0.1:1"), weight: 1 }, Weighted { address: at("10.0.0.2:1"), weight: 1 }];
        let state =
            State::new(BTreeMap::from([(at("10.1.0.2:1"), listener(Road::Spread(slots::fill(&[], &weights))))]));
        let mut elements = state.elements();
        elements.remove(&Key::Spread(at("10.1.0.2:1"), 7));
        let adopted = State::adopt(&elements, now);
        assert_eq!(adopted.held(), state.held());
        assert_eq!(adopted.elements().len(), state.elements().len());
    }

    #[test]
    fn a_pair_that_passes_without_a_route_is_kept_until_its_flows_end() {
        let now = Instant::now();
        let pair = Pair { listener: at("10.1.0.1:1"), backend: at("10.0.0.3:1") };
        let state = State::adopt(&Elements::from([(Key::Live(pair), Value::default())]), now);
        assert_eq!(state.listeners[&pair.listener].former, BTreeMap::from([(pair.backend, None)]));
        assert_eq!(state.held()[0].backends, []);
    }
}
