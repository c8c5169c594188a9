//! A restarted agent's state, from the elements that it found.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use shunt_core::mapping::Weighted;

use super::{Elements, Listener, Road, State, slots};
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
                Key::Listener(listener) => found.entry(*listener).or_default().note.clone_from(&value.note),
                Key::Hold(listener) => found.entry(*listener).or_default().hold = value.deadline,
                Key::Masquerade(listener) => found.entry(*listener).or_default().masquerade = true,
                // The listener's note says it, too.
                Key::Fenced(_) | Key::Backend(_) => {}
            }
        }
        Self::new(found.into_iter().map(|(address, found)| (address, found.listener(now))).collect())
    }
}

/// What the sets say of one listener.
#[derive(Default)]
struct Found {
    note: Option<String>,
    primary: Option<SocketAddr>,
    slots: Vec<Option<SocketAddr>>,
    live: BTreeMap<SocketAddr, Option<Instant>>,
    hold: Option<Instant>,
    masquerade: bool,
}

impl Found {
    fn listener(self, now: Instant) -> Listener {
        let note = self.note.clone().unwrap_or_default();
        let mut words = note.split(' ');
        let cluster = words.next().unwrap_or_default().to_owned();
        let road = match (words.next(), words.next().and_then(|ms| ms.parse().ok())) {
            (Some("hold"), Some(ms)) => {
                // A hold that is over has left no element: its listener refuses, and goes on to.
                Road::Hold { span: Duration::from_millis(ms), until: self.hold.unwrap_or(now) }
            }
            (Some("refuse"), _) => Road::Refuse,
            (Some("removed"), _) => Road::Removed,
            _ => self.open_road(),
        };
        let open = road.backends();
        let former = self.live.into_iter().filter(|(backend, _)| !open.contains(backend)).collect();
        Listener { cluster, masquerade: self.masquerade, road, former }
    }

    fn open_road(&self) -> Road {
        if let Some(backend) = self.primary {
            return Road::Single(backend);
        }
        let mut weights: BTreeMap<SocketAddr, u32> = BTreeMap::new();
        for backend in self.slots.iter().flatten() {
            *weights.entry(*backend).or_default() += 1;
        }
        if weights.is_empty() {
            return Road::Refuse;
        }
        let weights: Vec<_> = weights.into_iter().map(|(address, weight)| Weighted { address, weight }).collect();
        Road::Spread(slots::fill(&self.slots, &weights))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::element::{Pair, Value};

    fn at(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    fn listener(road: Road) -> Listener {
        Listener { cluster: "orders".to_owned(), masquerade: true, road, former: BTreeMap::new() }
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
            (at("10.1.0.4:1"), Listener { masquerade: false, ..listener(Road::Refuse) }),
            (
                at("[fd00::1]:1"),
                Listener {
                    former: BTreeMap::from([(at("[fd00::2]:1"), Some(later)), (at("[fd00::3]:1"), None)]),
                    ..listener(Road::Single(at("[fd00::4]:1")))
                },
            ),
            (at("10.1.0.6:1"), Listener { masquerade: false, ..listener(Road::Removed) }),
        ]);
        let state = State::new(listeners);
        assert_eq!(State::adopt(&state.elements(), now), state);
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
