//! How old a group member's data are, from two counters: what it has applied, and what it has received beyond that.
//!
//! No member says how many seconds it is behind, and clocks of several hosts cannot tell. But when it has applied as much
//! as it had received at some moment, its data are at least as new as that moment. That needs no clock but the agent's,
//! and holds for a member that never quite empties its queue because there is always something new in it.

use std::collections::VecDeque;

use crate::Mono;
use crate::observation::Backlog;

/// So many moments of a member that falls behind are remembered; the last of them gives way to newer ones, which makes
/// the lag of one that catches up again look longer than it is, never shorter.
const MARKS: usize = 64;

#[derive(Clone, Debug, Default)]
pub(super) struct Freshness {
    /// Moments, and how much had been received by then; both grow.
    marks: VecDeque<(Mono, u64)>,
    applied: u64,
    as_of: Option<Mono>,
}

impl Freshness {
    /// Takes note of a member's counters, which were read no earlier than `asked_at`.
    pub(super) fn note(&mut self, backlog: Option<Backlog>, asked_at: Mono) {
        let Some(Backlog { applied, queued }) = backlog else {
            *self = Self::default();
            return;
        };
        if applied < self.applied {
            // It has joined anew, and counts anew.
            *self = Self::default();
        }
        self.applied = applied;
        let received = applied.saturating_add(queued);
        let is_full = self.marks.len() >= MARKS;
        match self.marks.back_mut() {
            Some(last) if last.1 >= received => {}
            Some(last) if is_full => *last = (asked_at, received),
            _ => self.marks.push_back((asked_at, received)),
        }
        while let Some(&(at, received)) = self.marks.front()
            && received <= applied
        {
            self.as_of = Some(at);
            self.marks.pop_front();
        }
        if queued == 0 {
            self.as_of = Some(asked_at);
        }
    }

    /// The data are at least as new as that.
    pub(super) const fn as_of(&self) -> Option<Mono> {
        self.as_of
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// (second, applied, queued) → seconds behind.
    fn lags(story: &[(u64, u64, u64)]) -> Vec<Option<u64>> {
        let mut freshness = Freshness::default();
        let note = |&(second, applied, queued): &(u64, u64, u64)| {
            let at = Mono::from_millis(second * 1000);
            freshness.note(Some(Backlog { applied, queued }), at);
            freshness.as_of().map(|as_of| at.since(as_of).as_secs())
        };
        story.iter().map(note).collect()
    }

    #[test]
    fn a_member_with_an_empty_queue_is_not_behind() {
        assert_eq!(lags(&[(1, 0, 0), (2, 9, 0), (9, 9, 0)]), [Some(0), Some(0), Some(0)]);
    }

    #[test]
    fn a_member_whose_queue_is_never_empty_is_behind_by_what_it_takes_to_apply_it() {
        let busy = [(1, 100, 10), (2, 200, 10), (3, 300, 10), (4, 400, 10)];
        assert_eq!(lags(&busy), [None, Some(1), Some(1), Some(1)]);
    }

    #[test]
    fn a_member_that_stands_still_falls_behind_and_catches_up() {
        let story = [(1, 100, 0), (2, 100, 5), (3, 100, 9), (9, 100, 20), (10, 105, 20), (11, 120, 5), (12, 125, 0)];
        assert_eq!(lags(&story), [Some(0), Some(1), Some(2), Some(8), Some(8), Some(2), Some(0)]);
    }

    #[test]
    fn a_member_that_joins_anew_counts_anew() {
        assert_eq!(lags(&[(1, 100, 0), (2, 3, 50), (3, 53, 0)]), [Some(0), None, Some(0)]);
    }

    #[test]
    fn what_is_remembered_of_a_member_that_stands_still_for_long_is_bounded_and_never_flatters() {
        let mut freshness = Freshness::default();
        for second in 1..=1000 {
            freshness.note(Some(Backlog { applied: 0, queued: second }), Mono::from_millis(second * 1000));
        }
        assert!(freshness.marks.len() <= MARKS);
        let at = Mono::from_millis(1_001_000);
        freshness.note(Some(Backlog { applied: 500, queued: 500 }), at);
        assert!(freshness.as_of().is_some_and(|as_of| as_of <= Mono::from_millis(500_000)), "{freshness:?}");
    }
}
