//! Weighted backends as a fixed number of slots, of which the kernel draws one at random per connection.
//!
//! Slots move only when they must: a listener with three replicas that loses one rewrites a third of its slots.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use shunt_core::mapping::Weighted;

use crate::schema::SLOTS;

/// The backend of each slot.
pub type Slots = Vec<SocketAddr>;

/// Fills the slots in proportion to the weights and leaves as many as possible as they were in `previous`.
/// Wants at least one and at most [`SLOTS`] backends; each gets a slot.
pub fn fill(previous: &[Option<SocketAddr>], backends: &[Weighted]) -> Slots {
    let mut missing = shares(backends);
    let mut slots: Vec<Option<SocketAddr>> = (0..SLOTS as usize)
        .map(|slot| {
            let backend = previous.get(slot).copied().flatten()?;
            let left = missing.get_mut(&backend).filter(|left| **left > 0)?;
            *left -= 1;
            Some(backend)
        })
        .collect();
    let mut fresh = missing.into_iter().flat_map(|(backend, left)| std::iter::repeat_n(backend, left));
    for slot in slots.iter_mut().filter(|slot| slot.is_none()) {
        *slot = fresh.next();
    }
    slots.into_iter().flatten().collect()
}

/// How many slots each backend gets: largest remainders, and never none.
fn shares(backends: &[Weighted]) -> BTreeMap<SocketAddr, usize> {
    let slots = u64::from(SLOTS);
    let total = backends.iter().map(|b| u64::from(b.weight.max(1))).sum::<u64>().max(1);
    let mut parts: Vec<(SocketAddr, u64, u64)> = backends
        .iter()
        .map(|b| {
            let exact = u64::from(b.weight.max(1)) * slots;
            (b.address, (exact / total).max(1), exact % total)
        })
        .collect();
    parts.sort_by_key(|(address, _, remainder)| (std::cmp::Reverse(*remainder), *address));
    let mut given: u64 = parts.iter().map(|(_, share, _)| share).sum();
    for (_, share, _) in &mut parts {
        if given >= slots {
            break;
        }
        *share += 1;
        given += 1;
    }
    // The rule of at least one slot can give too many: the largest shares pay for it.
    while given > slots {
        let Some(largest) = parts.iter_mut().max_by_key(|(_, share, _)| *share).filter(|(_, share, _)| *share > 1)
        else {
            break;
        };
        largest.1 -= 1;
        given -= 1;
    }
    parts.into_iter().map(|(address, share, _)| (address, share as usize)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn weighted(weights: &[u32]) -> Vec<Weighted> {
        (1..)
            .zip(weights)
            .map(|(host, weight)| Weighted { address: SocketAddr::from(([10, 0, 0, host], 3306)), weight: *weight })
            .collect()
    }

    fn count(slots: &Slots, host: u8) -> usize {
        slots.iter().filter(|slot| **slot == SocketAddr::from(([10, 0, 0, host], 3306))).count()
    }

    fn known(slots: &Slots) -> Vec<Option<SocketAddr>> {
        slots.iter().copied().map(Some).collect()
    }

    fn moved(a: &Slots, b: &Slots) -> usize {
        a.iter().zip(b).filter(|(a, b)| a != b).count()
    }

    #[test]
    fn slots_follow_the_weights() {
        let slots = fill(&[], &weighted(&[1, 1, 2]));
        assert_eq!((count(&slots, 1), count(&slots, 2), count(&slots, 3)), (30, 30, 60));
        let slots = fill(&[], &weighted(&[1, 1, 1, 1, 1, 1, 1]));
        assert_eq!(slots.len(), 120);
        assert!((1..=7).all(|host| (17..=18).contains(&count(&slots, host))));
    }

    #[test]
    fn the_same_weights_move_no_slot() {
        for weights in [&[1u32, 1, 1][..], &[5, 3, 1], &[100, 1], &[7]] {
            let slots = fill(&[], &weighted(weights));
            assert_eq!(fill(&known(&slots), &weighted(weights)), slots);
        }
    }

    #[test]
    fn a_backend_that_leaves_moves_only_its_own_slots() {
        let before = fill(&[], &weighted(&[1, 1, 1]));
        let after = fill(&known(&before), &weighted(&[1, 1]));
        assert_eq!((moved(&before, &after), count(&after, 1), count(&after, 2)), (40, 60, 60));
    }

    #[test]
    fn the_smallest_weight_has_a_slot_and_the_sum_is_always_right() {
        let slots = fill(&[], &weighted(&[1, 1_000_000, u32::MAX]));
        assert_eq!((slots.len(), count(&slots, 1), count(&slots, 2)), (120, 1, 1));
        let many = fill(&[], &weighted(&[1; 120]));
        assert!((1..=120).all(|host| count(&many, host) == 1));
    }
}
