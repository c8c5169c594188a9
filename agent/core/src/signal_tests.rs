use super::*;

fn pair() -> Signals {
    Signals {
        place: 2,
        life: 1,
        listener: "10.0.0.2:3306".parse().unwrap(),
        backend: "10.0.0.11:3306".parse().unwrap(),
        awaited: None,
        counts: Counts::default(),
    }
}

/// What traffic does to the record of a pair.
type Happening = fn(&mut Signals);

/// The signs at these moments, in milliseconds; each line says what has changed by then.
fn signs(story: &[(u64, Happening)]) -> Vec<(u64, Sign)> {
    let (mut watch, mut told) = (Watch::default(), pair());
    let mut found = Vec::new();
    for (at, change) in story {
        change(&mut told);
        found.extend(watch.look(&told, Mono::from_millis(*at)).map(|suspicion| (*at, suspicion.sign)));
    }
    found
}

fn awaited(told: &mut Signals, ms: u64) {
    told.awaited = Some(Duration::from_millis(ms));
}

/// What may happen, and what is thought of it.
type Row = (&'static str, &'static [(u64, fn(&mut Signals))], &'static [(u64, Sign)]);

#[test]
fn only_what_a_healthy_server_does_not_do_is_a_sign() {
    let table: &[Row] = &[
        ("an idle pair", &[(0, |_| {}), (50, |_| {}), (600, |_| {}), (5_000, |_| {})], &[]),
        (
            "a statement that takes long: its receipt is acknowledged, then nothing is asked",
            &[(0, |t| awaited(t, 40)), (50, |t| t.awaited = None), (100, |_| {}), (5_000, |_| {})],
            &[],
        ),
        (
            "an acknowledgement that takes its time",
            &[(0, |_| {}), (50, |t| awaited(t, 149)), (100, |t| t.awaited = None)],
            &[],
        ),
        (
            "silence is told once, however long it lasts",
            &[
                (0, |t| awaited(t, 100)),
                (50, |t| awaited(t, 150)),
                (100, |t| awaited(t, 200)),
                (1_000, |t| awaited(t, 1_100)),
                (60_000, |t| awaited(t, 60_100)),
            ],
            &[(50, Sign::Silence)],
        ),
        (
            "silence is told again when something was heard in between",
            &[(0, |t| awaited(t, 150)), (50, |t| t.awaited = None), (550, |_| {}), (700, |t| awaited(t, 150))],
            &[(0, Sign::Silence), (700, Sign::Silence)],
        ),
        ("a refusal", &[(0, |_| {}), (50, |t| (t.counts.syns, t.counts.refused) = (1, 1))], &[(50, Sign::Refusals)]),
        (
            "a server that keeps refusing is asked once for it",
            &[
                (0, |_| {}),
                (50, |t| t.counts.refused = 1),
                (600, |t| t.counts.refused = 50),
                (1_000, |t| t.counts.refused = 60),
                (1_500, |t| t.counts.refused = 70),
            ],
            &[(50, Sign::Refusals)],
        ),
        (
            "a SYN that had to be sent again while others are answered",
            &[(0, |_| {}), (50, |t| (t.counts.syns, t.counts.syn_acks) = (9, 8)), (1_050, |t| t.counts.syns_again = 1)],
            &[(1_050, Sign::UnansweredSyns)],
        ),
        (
            "connections that come and go",
            &[
                (0, |_| {}),
                (50, |t| (t.counts.syns, t.counts.syn_acks) = (5_000, 5_000)),
                (100, |t| t.counts.resets = 4),
            ],
            &[],
        ),
        (
            "data that are sent again as often as ever",
            &[
                (0, |_| {}),
                (100, |t| t.counts.data_again = 4),
                (500, |_| {}),
                (900, |t| t.counts.data_again = 14),
                (1_000, |_| {}),
                (1_400, |t| t.counts.data_again = 34),
            ],
            &[],
        ),
        (
            "data that are sent again more and more",
            &[(0, |_| {}), (500, |t| t.counts.data_again = 2), (900, |t| t.counts.data_again = 12)],
            &[(900, Sign::Retransmissions)],
        ),
        ("resets more and more", &[(0, |_| {}), (200, |t| t.counts.resets = 5)], &[(200, Sign::Resets)]),
        (
            "what is graver is told although the lighter was, and not too soon after it",
            &[
                (0, |_| {}),
                (200, |t| t.counts.data_again = 5),
                (250, |t| awaited(t, 160)),
                (650, |t| awaited(t, 560)),
                (700, |t| awaited(t, 610)),
                (750, |t| awaited(t, 660)),
            ],
            &[(200, Sign::Retransmissions), (700, Sign::Silence)],
        ),
        (
            "what was counted before anybody looked is no news",
            &[(0, |t| (t.counts.refused, t.counts.syns_again) = (7, 7)), (50, |_| {})],
            &[],
        ),
        (
            "another pair in the same place begins anew",
            &[(0, |t| t.counts.refused = 7), (50, |t| (t.life, t.counts.refused) = (2, 9)), (100, |_| {})],
            &[],
        ),
    ];
    for (what, story, expected) in table {
        assert_eq!(signs(story), *expected, "{what}");
    }
}

#[test]
fn a_flood_of_signals_over_many_listeners_asks_a_server_twice_a_second_at_most() {
    let mut watch = Watch::default();
    let mut asked = Vec::new();
    for step in 0..200_u64 {
        for place in 0..20_u16 {
            let mut told = pair();
            (told.place, told.listener) = (place.into(), SocketAddr::from(([10, 0, 0, 2], 3_000 + place)));
            // Another pair each time, so that nothing was noticed before.
            (told.life, told.awaited) = (step as u32, Some(Duration::from_secs(1)));
            asked.extend(watch.look(&told, Mono::from_millis(step * 50)).map(|_| step * 50));
        }
    }
    assert_eq!(asked.len(), 20);
    assert!(asked.windows(2).all(|two| two[1] - two[0] >= 500), "{asked:?}");
}

#[test]
fn one_servers_suspicion_does_not_keep_another_from_being_asked() {
    let mut watch = Watch::default();
    let mut told = pair();
    awaited(&mut told, 200);
    assert!(watch.look(&told, Mono::ZERO).is_some());
    (told.place, told.backend) = (3, "10.0.0.12:3306".parse().unwrap());
    assert!(watch.look(&told, Mono::ZERO).is_some());
}

#[test]
fn a_suspicion_says_whose_clients_wait_and_for_how_long() {
    let mut watch = Watch::default();
    let mut told = pair();
    awaited(&mut told, 210);
    let said = watch.look(&told, Mono::ZERO).unwrap().to_string();
    assert_eq!(said, "clients get no answer from 10.0.0.11:3306 through 10.0.0.2:3306 for 210 ms");
}
