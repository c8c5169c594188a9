//! Where the SYNs of held connections wait. Pure: the clock is an argument.

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use shunt_core::flow::Tuple;

use crate::element::Pair;
use shunt_wire::packet::Segment;

/// SYNs that wait at a time, over all listeners; some 200 bytes each. Whoever finds no room is not worse off than without
/// it: its own next SYN opens the connection.
const CAPACITY: usize = 16_384;

/// Of these, at most so many for one listener: a flood on one of them shall not take the room of all.
const SHARE: usize = CAPACITY / 4;

/// A SYN that was overtaken by a change is put back at once, but not for ever: so often within so long.
const REPEATS: u8 = 3;
const REPEATED_WITHIN: Duration = Duration::from_secs(10);

/// A packet is through the chains in far less.
const OVERTAKEN_WITHIN: Duration = Duration::from_secs(1);

const PRUNE_EVERY: Duration = Duration::from_secs(1);

/// A SYN that was mapped to a backend that left goes back so much later: there may be a conntrack entry for it, which the
/// severing thread is about to delete, and which would lead it to the old backend again.
const LATER: Duration = Duration::from_millis(10);

/// The kernel begins to count a hold a little later than we do.
const AFTER: Duration = Duration::from_millis(50);

#[derive(Default)]
pub struct Room {
    /// Until when each listener holds.
    held: BTreeMap<SocketAddr, Instant>,
    /// By listener and client, with the order in which clients came.
    waiting: BTreeMap<(SocketAddr, SocketAddr), (u64, Segment)>,
    /// How many wait for each listener.
    shares: BTreeMap<SocketAddr, usize>,
    arrivals: u64,
    repeated: HashMap<Tuple, (u8, Instant)>,
    /// When those that are long past were last taken out.
    pruned: Option<Instant>,
    /// Pairs that have just ended: a SYN to such a backend was mapped before that and came to the guard after it.
    left: Vec<(Pair, Instant)>,
    /// Listeners that have just opened.
    opened: Vec<(SocketAddr, Instant)>,
    /// SYNs to be put back a little later.
    later: Vec<(Instant, Segment)>,
}

impl Room {
    /// The listener holds new connections until then; also when it did already.
    pub fn hold(&mut self, listener: SocketAddr, until: Instant) {
        self.held.insert(listener, until);
    }

    /// A SYN was not answered. The newest of a client is kept while its listener holds; one that was overtaken by a change
    /// goes back soon.
    pub fn came(&mut self, syn: Segment, now: Instant) {
        let Some(listener) = self.dialled(syn.destination(), now) else { return };
        let overtaken_by_a_swap = listener != syn.destination();
        let Some(syn) = syn.to(listener) else { return };
        let flow = Tuple { client: syn.source(), listener };
        if self.held.contains_key(&listener) {
            let place = (listener, flow.client);
            if let Some((_, waiting)) = self.waiting.get_mut(&place) {
                *waiting = syn;
            } else if self.waiting.len() < CAPACITY {
                let share = self.shares.entry(listener).or_default();
                if *share < SHARE {
                    *share += 1;
                    self.arrivals += 1;
                    self.waiting.insert(place, (self.arrivals, syn));
                }
            }
            return;
        }
        if self.pruned.is_none_or(|when| now.saturating_duration_since(when) >= PRUNE_EVERY) {
            self.pruned = Some(now);
            self.repeated.retain(|_, (_, first)| now.saturating_duration_since(*first) < REPEATED_WITHIN);
        }
        if self.repeated.len() >= CAPACITY {
            return;
        }
        let (times, _) = self.repeated.entry(flow).or_insert((0, now));
        *times += 1;
        if *times <= REPEATS {
            let when = if overtaken_by_a_swap { now + LATER * u32::from(*times) } else { now };
            self.later.push((when, syn));
        }
    }

    /// These pairs may pass no more.
    pub fn left(&mut self, pairs: &[Pair], now: Instant) {
        self.left.retain(|(_, when)| now.saturating_duration_since(*when) < OVERTAKEN_WITHIN);
        self.left.extend(pairs.iter().map(|pair| (*pair, now)));
    }

    /// Whom the client of a SYN dialled, if the SYN may go back there: a listener that holds, one that has just opened, or
    /// the one that has just left the backend to which the SYN was mapped. It must be one alone. What is put back to
    /// anything else would not be guarded.
    fn dialled(&self, destination: SocketAddr, now: Instant) -> Option<SocketAddr> {
        let recent = |when: Instant| now.saturating_duration_since(when) < OVERTAKEN_WITHIN;
        let just_opened = || self.opened.iter().any(|(listener, when)| *listener == destination && recent(*when));
        if self.held.contains_key(&destination) || just_opened() {
            return Some(destination);
        }
        let left = self.left.iter().filter(|(pair, when)| pair.backend == destination && recent(*when));
        let mut listeners: Vec<_> = left.map(|(pair, _)| pair.listener).collect();
        listeners.sort_unstable();
        listeners.dedup();
        match listeners[..] {
            [listener] => Some(listener),
            _ => None,
        }
    }

    /// The listener holds no longer: its SYNs, in the order in which their clients came.
    pub fn release(&mut self, listener: SocketAddr, now: Instant) -> Vec<Segment> {
        self.opened.retain(|(_, when)| now.saturating_duration_since(*when) < OVERTAKEN_WITHIN);
        self.opened.push((listener, now));
        self.held.remove(&listener);
        self.shares.remove(&listener);
        let places: Vec<_> = self
            .waiting
            .keys()
            .skip_while(|(l, _)| *l < listener)
            .take_while(|(l, _)| *l == listener)
            .copied()
            .collect();
        let mut syns: Vec<_> = places.iter().filter_map(|place| self.waiting.remove(place)).collect();
        syns.sort_unstable_by_key(|(arrival, _)| *arrival);
        syns.into_iter().map(|(_, syn)| syn).collect()
    }

    /// The SYNs that go back now: of listeners whose hold is over, to be refused, and those that were overtaken.
    pub fn due(&mut self, now: Instant) -> Vec<Segment> {
        let over: Vec<_> =
            self.held.iter().filter(|(_, until)| **until + AFTER <= now).map(|(listener, _)| *listener).collect();
        let mut syns: Vec<_> = over.into_iter().flat_map(|listener| self.release(listener, now)).collect();
        let (due, later) = std::mem::take(&mut self.later).into_iter().partition(|(when, _)| *when <= now);
        self.later = later;
        syns.extend(Vec::into_iter(due).map(|(_, syn)| syn));
        syns
    }

    /// When there is something to put back.
    pub fn next_deadline(&self) -> Option<Instant> {
        let holds = self.held.values().map(|until| *until + AFTER);
        holds.chain(self.later.iter().map(|(when, _)| *when)).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    fn flow(listener: u16, client: u16) -> Tuple {
        Tuple {
            client: SocketAddr::from(([10, 0, 0, 9], client)),
            listener: SocketAddr::from(([10, 0, 0, 2], listener)),
        }
    }

    fn syn(flow: Tuple) -> Segment {
        Segment::question(flow.client, flow.listener, 1, 0).unwrap()
    }

    fn clients(syns: &[Segment]) -> Vec<u16> {
        syns.iter().map(|syn| syn.source().port()).collect()
    }

    #[test]
    fn released_syns_come_in_the_order_of_their_clients_and_once() {
        let (mut room, now) = (Room::default(), Instant::now());
        let until = now + Duration::from_secs(30);
        room.hold(at("10.0.0.2:1"), until);
        room.hold(at("10.0.0.2:2"), until);
        for client in [30, 10, 20, 30] {
            room.came(syn(flow(1, client)), now);
            room.came(syn(flow(2, client)), now);
            assert_eq!(room.due(now), []);
        }
        assert_eq!(clients(&room.release(at("10.0.0.2:1"), now)), [30, 10, 20]);
        assert_eq!(room.release(at("10.0.0.2:1"), now), []);
        assert_eq!(room.release(at("10.0.0.2:2"), now).len(), 3);
    }

    #[test]
    fn a_syn_that_comes_too_late_to_be_held_is_put_back_but_not_for_ever() {
        let (mut room, now) = (Room::default(), Instant::now());
        room.came(syn(flow(1, 7)), now);
        assert_eq!(room.due(now), [], "nothing is known of whom it is for");
        room.release(flow(1, 0).listener, now);
        for turn in 0..5 {
            room.came(syn(flow(1, 7)), now);
            assert_eq!(room.due(now).len(), usize::from(turn < 3));
        }
        room.release(flow(1, 0).listener, now + REPEATED_WITHIN);
        room.came(syn(flow(1, 7)), now + REPEATED_WITHIN);
        assert_eq!(room.due(now + REPEATED_WITHIN).len(), 1);
    }

    #[test]
    fn when_a_hold_is_over_its_syns_go_back_to_be_refused() {
        let (mut room, now) = (Room::default(), Instant::now());
        let until = now + Duration::from_secs(3);
        room.hold(at("10.0.0.2:1"), until);
        room.came(syn(flow(1, 7)), now);
        assert_eq!(room.next_deadline(), Some(until + AFTER));
        assert_eq!(room.due(until), []);
        assert_eq!(clients(&room.due(until + AFTER)), [7]);
        assert_eq!(room.next_deadline(), None);
    }

    #[test]
    fn a_flood_takes_no_more_than_its_listeners_share_and_drives_nobody_out() {
        let (mut room, now) = (Room::default(), Instant::now());
        room.hold(at("10.0.0.2:1"), now + Duration::from_secs(30));
        room.came(syn(flow(1, 7)), now);
        for number in 0..CAPACITY as u32 * 2 {
            let client = SocketAddr::from(((0x0b00_0000 + number).to_be_bytes(), 1000));
            let flow = Tuple { client, ..flow(1, 0) };
            room.came(syn(flow), now);
        }
        let released = room.release(at("10.0.0.2:1"), now);
        assert_eq!(released.len(), SHARE, "there is room left for others");
        assert_eq!(clients(&released[..1]), [7]);
    }

    #[test]
    fn a_syn_that_was_mapped_before_the_swap_goes_back_to_whom_its_client_dialled() {
        let (mut room, now) = (Room::default(), Instant::now());
        let backend = at("10.0.0.11:3306");
        let mapped = || syn(Tuple { listener: backend, ..flow(0, 7) });
        let left = |port| Pair { listener: flow(port, 0).listener, backend };
        room.left(&[left(1)], now);
        room.came(mapped(), now);
        assert_eq!(room.due(now), [], "its entry is still there");
        assert_eq!(room.next_deadline(), Some(now + LATER));
        assert_eq!(room.due(now + LATER)[0].destination(), flow(1, 0).listener);
        room.left(&[left(2)], now);
        room.came(mapped(), now);
        assert_eq!(room.next_deadline(), None, "either of two may have been meant");
        let later = now + OVERTAKEN_WITHIN;
        room.came(mapped(), later);
        assert_eq!(room.next_deadline(), None, "to the backend itself nothing is ever put back");
    }
}
