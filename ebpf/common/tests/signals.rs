//! What is written down of questions and answers, as a table.

use proptest::prelude::*;
use shunt_ebpf_common::signal::{BUCKETS, COARSE, Signals, bucket, is_first_to_ask, is_news};

/// As the programs do it.
fn ask(signals: &mut Signals, now: u64) {
    if is_first_to_ask(signals.asked, signals.heard) {
        signals.asked = now;
    }
}

fn answer(signals: &mut Signals, now: u64) {
    if is_news(signals.asked, signals.heard, now) {
        signals.heard = now;
    }
}

#[test]
fn the_first_question_since_the_last_word_is_the_one_that_waits() {
    let mut signals = Signals::default();
    assert_eq!(signals.awaited_since(), None);
    ask(&mut signals, 100);
    ask(&mut signals, 200);
    assert_eq!(signals.awaited_since(), Some(100));
    answer(&mut signals, 300);
    assert_eq!(signals.awaited_since(), None);
    ask(&mut signals, 400);
    assert_eq!(signals.awaited_since(), Some(400));
}

#[test]
fn an_answer_is_written_down_at_once_and_more_words_seldom() {
    let mut signals = Signals { heard: 1000, ..Signals::default() };
    answer(&mut signals, 1000 + COARSE);
    assert_eq!(signals.heard, 1000, "nobody has asked, and it was heard a moment ago");
    ask(&mut signals, 1001 + COARSE);
    answer(&mut signals, 1002 + COARSE);
    assert_eq!(signals.awaited_since(), None, "a client that says nothing more must not look as if it waited");
    answer(&mut signals, 1003 + 2 * COARSE);
    assert_eq!(signals.heard, 1003 + 2 * COARSE);
}

proptest! {
    #[test]
    fn an_answer_is_awaited_if_and_only_if_the_last_packet_that_counts_was_a_question(
        packets in prop::collection::vec((any::<bool>(), 1..3 * COARSE), 0..50),
    ) {
        let (mut signals, mut now, mut since) = (Signals::default(), 0, None);
        for (asks, later) in packets {
            now += later;
            if asks {
                ask(&mut signals, now);
                since = since.or(Some(now));
            } else {
                answer(&mut signals, now);
                since = None;
            }
            prop_assert_eq!(signals.awaited_since(), since);
        }
    }
}

#[test]
fn buckets_double() {
    for (nanoseconds, expected) in [
        (0, 0),
        (999, 0),
        (1_000, 1),
        (1_999, 1),
        (2_000, 2),
        (1_023_999, 10),
        (1_024_000, 11),
        (2_097_151_999, 21),
        (2_097_152_000, 22),
        (u64::MAX, BUCKETS - 1),
    ] {
        assert_eq!(bucket(nanoseconds), expected, "{nanoseconds} ns");
    }
}
