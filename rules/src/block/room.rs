//! Where packets of blocked flows wait. Pure: the clock is an argument.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use shunt_core::flow::Tuple;

use shunt_wire::packet::Whole;

/// Bytes and packets that wait at a time, of one flow and of all. A statement is seldom longer; of one that is, the client
/// sends the rest again.
const OF_ONE: usize = 128 << 10;
const PACKETS_OF_ONE: usize = 128;
const OF_ALL: usize = 16 << 20;

/// A packet is through the chains in far less, and its copy read.
const LATE_WITHIN: Duration = Duration::from_secs(1);

#[derive(Default)]
pub struct Room {
    flows: BTreeMap<Tuple, Kept>,
    /// The listeners of the flows whose packets look the same: the guard meets them after they were mapped. Of two flows
    /// of one client port to one backend nothing is kept.
    looks: BTreeMap<(SocketAddr, SocketAddr), Vec<SocketAddr>>,
    bytes: usize,
}

struct Kept {
    backend: SocketAddr,
    packets: Vec<Whole>,
    bytes: usize,
    /// When the flow went on; `None`: it is blocked.
    released: Option<Instant>,
}

impl Room {
    /// The flow's client is not heard from now on; also when it was not heard already.
    pub fn block(&mut self, flow: Tuple, backend: SocketAddr) {
        if self.flows.get(&flow).is_some_and(|kept| kept.backend == backend && kept.released.is_none()) {
            return;
        }
        self.forget(flow);
        self.flows.insert(flow, Kept { backend, packets: Vec::new(), bytes: 0, released: None });
        self.looks.entry((flow.client, backend)).or_default().push(flow.listener);
    }

    /// A client was not heard. Returns the packet, and where its client sent it to, if it is to go on at once.
    pub fn came(&mut self, packet: Whole, now: Instant) -> Option<(SocketAddr, Whole)> {
        let client = packet.head.source();
        let [listener] = self.looks.get(&(client, packet.head.destination()))?[..] else { return None };
        let kept = self.flows.get_mut(&Tuple { client, listener })?;
        if let Some(released) = kept.released {
            let is_late = now.saturating_duration_since(released) < LATE_WITHIN;
            return is_late.then_some((listener, packet));
        }
        let len = packet.carries();
        let full = kept.packets.len() >= PACKETS_OF_ONE || kept.bytes + len > OF_ONE || self.bytes + len > OF_ALL;
        if !full && !kept.packets.iter().any(|other| packet.repeats(other)) {
            kept.bytes += len;
            self.bytes += len;
            kept.packets.push(packet);
        }
        None
    }

    /// The flow goes on: its packets in the order in which they came, and where its client sent them to.
    pub fn release(&mut self, flow: Tuple, now: Instant) -> Vec<(SocketAddr, Whole)> {
        let over = |kept: &Kept| kept.released.is_some_and(|when| now.saturating_duration_since(when) >= LATE_WITHIN);
        let past: Vec<_> = self.flows.iter().filter(|(_, kept)| over(kept)).map(|(flow, _)| *flow).collect();
        for flow in past {
            self.forget(flow);
        }
        let Some(kept) = self.flows.get_mut(&flow).filter(|kept| kept.released.is_none()) else { return Vec::new() };
        kept.released = Some(now);
        self.bytes -= std::mem::take(&mut kept.bytes);
        std::mem::take(&mut kept.packets).into_iter().map(|packet| (flow.listener, packet)).collect()
    }

    /// The flow is none of ours any more.
    pub fn forget(&mut self, flow: Tuple) {
        let Some(kept) = self.flows.remove(&flow) else { return };
        self.bytes -= kept.bytes;
        let look = (flow.client, kept.backend);
        if let Some(listeners) = self.looks.get_mut(&look) {
            listeners.retain(|listener| *listener != flow.listener);
            if listeners.is_empty() {
                self.looks.remove(&look);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use shunt_wire::packet::Segment;

    fn at(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    const BACKEND: &str = "10.0.0.1:3306";

    fn flow(listener: u16, client: u16) -> Tuple {
        Tuple { client: ([10, 0, 0, 9], client).into(), listener: ([10, 0, 0, 2], listener).into() }
    }

    /// As the guard meets it: mapped.
    fn packet(client: u16, sequence: u32) -> Whole {
        let bytes = Segment::question(flow(1, client).client, at(BACKEND), sequence, 0).unwrap().bytes().unwrap();
        Whole::parse(&bytes).unwrap()
    }

    #[test]
    fn what_a_blocked_client_sent_comes_back_once_and_in_its_order() {
        let (mut room, now) = (Room::default(), Instant::now());
        room.block(flow(1, 7), at(BACKEND));
        room.block(flow(1, 8), at(BACKEND));
        for (client, sequence) in [(7, 5), (8, 1), (7, 6), (7, 5)] {
            assert_eq!(room.came(packet(client, sequence), now), None);
        }
        room.block(flow(1, 7), at(BACKEND));
        let to = flow(1, 7).listener;
        assert_eq!(room.release(flow(1, 7), now), [(to, packet(7, 5)), (to, packet(7, 6))]);
        assert_eq!(room.release(flow(1, 7), now), []);
        assert_eq!(room.release(flow(1, 8), now).len(), 1);
    }

    #[test]
    fn what_was_copied_late_goes_on_at_once_but_not_for_ever() {
        let (mut room, now) = (Room::default(), Instant::now());
        assert_eq!(room.came(packet(7, 1), now), None, "of nobody whom we know");
        room.block(flow(1, 7), at(BACKEND));
        room.release(flow(1, 7), now);
        assert_eq!(room.came(packet(7, 1), now), Some((flow(1, 7).listener, packet(7, 1))));
        assert_eq!(room.came(packet(7, 1), now + LATE_WITHIN), None);
        room.block(flow(1, 8), at(BACKEND));
        room.release(flow(1, 8), now + LATE_WITHIN);
        assert_eq!(room.flows.len(), 1, "the first is forgotten");
    }

    #[test]
    fn of_flows_that_look_the_same_nothing_is_kept_until_one_of_them_has_gone() {
        let (mut room, now) = (Room::default(), Instant::now());
        room.block(flow(1, 7), at(BACKEND));
        room.block(flow(2, 7), at(BACKEND));
        room.came(packet(7, 1), now);
        assert_eq!(room.release(flow(1, 7), now), []);
        room.forget(flow(1, 7));
        room.came(packet(7, 1), now);
        assert_eq!(room.release(flow(2, 7), now).len(), 1);
    }

    #[test]
    fn there_is_no_more_room_than_there_is() {
        let (mut room, now) = (Room::default(), Instant::now());
        room.block(flow(1, 7), at(BACKEND));
        (0..1000).for_each(|sequence| drop(room.came(packet(7, sequence), now)));
        assert_eq!(room.release(flow(1, 7), now).len(), PACKETS_OF_ONE);
        assert_eq!(room.bytes, 0);
    }
}
