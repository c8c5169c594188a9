//! Which slot of the maps is whose.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use super::Pair;

#[derive(Clone, Debug)]
pub struct Slots {
    listeners: BTreeMap<SocketAddr, u32>,
    pairs: BTreeMap<Pair, u32>,
    free_listeners: Free,
    free_pairs: Free,
}

/// Slots that are nobody's.
#[derive(Clone, Debug)]
struct Free {
    returned: Vec<u32>,
    /// From here on none was ever given away.
    next: u32,
    len: u32,
}

impl Free {
    fn beside(used: impl Iterator<Item = u32>, len: u32) -> Self {
        let mut used: Vec<u32> = used.collect();
        used.sort_unstable();
        let next = used.last().map_or(0, |last| last + 1);
        let returned = (0..next).filter(|slot| used.binary_search(slot).is_err()).collect();
        Self { returned, next, len }
    }

    fn left(&self) -> usize {
        self.returned.len() + (self.len - self.next) as usize
    }

    fn take(&mut self) -> Option<u32> {
        self.returned.pop().or_else(|| {
            let slot = self.next;
            (slot < self.len).then(|| {
                self.next += 1;
                slot
            })
        })
    }
}

impl Slots {
    /// Of maps with room for so many listeners and pairs, of which these are taken.
    pub fn new(room: (u32, u32), listeners: BTreeMap<SocketAddr, u32>, pairs: BTreeMap<Pair, u32>) -> Self {
        let free_listeners = Free::beside(listeners.values().copied(), room.0);
        let free_pairs = Free::beside(pairs.values().copied(), room.1);
        Self { listeners, pairs, free_listeners, free_pairs }
    }

    pub fn listener(&self, listener: SocketAddr) -> Option<u32> {
        self.listeners.get(&listener).copied()
    }

    pub fn pair(&self, pair: Pair) -> Option<u32> {
        self.pairs.get(&pair).copied()
    }

    /// Whether there is room for so many more.
    pub fn has_room(&self, listeners: usize, pairs: usize) -> bool {
        listeners <= self.free_listeners.left() && pairs <= self.free_pairs.left()
    }

    /// A slot for a listener that has none.
    pub fn seat(&mut self, listener: SocketAddr) -> Option<u32> {
        let slot = self.free_listeners.take()?;
        self.listeners.insert(listener, slot);
        Some(slot)
    }

    /// A slot for a pair; the one that it had is not given back by this.
    pub fn pair_up(&mut self, pair: Pair) -> Option<u32> {
        let slot = self.free_pairs.take()?;
        self.pairs.insert(pair, slot);
        Some(slot)
    }

    pub fn unseat(&mut self, listener: SocketAddr) {
        self.free_listeners.returned.extend(self.listeners.remove(&listener));
    }

    /// The pair has no slot any more. The slot is nobody's once it is given back.
    pub fn part(&mut self, pair: Pair) -> Option<u32> {
        self.pairs.remove(&pair)
    }

    /// Slots of pairs that are dead in both versions, and of which no program thinks that they were another's.
    pub fn give_back(&mut self, slots: impl IntoIterator<Item = u32>) {
        self.free_pairs.returned.extend(slots);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slot_is_given_away_once_and_comes_back() {
        let at = |port: u16| SocketAddr::from(([10, 0, 0, 1], port));
        let pair = |port| Pair { listener: at(1), backend: at(port) };
        let taken = BTreeMap::from([(pair(1), 0), (pair(2), 2)]);
        let mut slots = Slots::new((1, 4), BTreeMap::new(), taken);
        assert!(slots.has_room(1, 2) && !slots.has_room(2, 0) && !slots.has_room(0, 3));
        let mut given = [3, 4].map(|port| slots.pair_up(pair(port)).unwrap());
        given.sort_unstable();
        assert_eq!(given, [1, 3]);
        assert_eq!(slots.pair_up(pair(5)), None);
        let freed = slots.part(pair(1)).unwrap();
        assert_eq!(slots.pair_up(pair(5)), None, "not before it is given back");
        slots.give_back([freed]);
        assert_eq!(slots.pair_up(pair(5)), Some(0));
        assert_eq!((slots.seat(at(9)), slots.seat(at(8))), (Some(0), None));
        slots.unseat(at(9));
        assert_eq!(slots.seat(at(8)), Some(0));
    }
}
