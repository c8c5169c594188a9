use super::*;
use crate::conntrack::entry::Tuple as Direction;

const ESTABLISHED: u8 = 3;
const CLOSE: u8 = 8;
const TIME_WAIT: u8 = 7;
const SYN_RECV: u8 = 2;
const ASSURED: u32 = 1 << 2;

fn at(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

fn pair() -> Pair {
    Pair { listener: at("10.0.0.2:3306"), backend: at("10.0.0.11:3306") }
}

/// The flow of a client's port; the backend sees it with the same one.
fn entry(port: u16, tcp_state: u8) -> Entry {
    let (client, seen_as) = (SocketAddr::from(([10, 0, 0, 9], port)), SocketAddr::from(([10, 0, 0, 2], port)));
    Entry {
        original: Direction { source: client, destination: pair().listener },
        reply: Direction { source: pair().backend, destination: seen_as },
        tcp_state: Some(tcp_state),
        status: ASSURED,
        id: u32::from(port),
        zone: None,
    }
}

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

/// A plan with one pair that died just now, and the flows that the first look found.
fn stage(entries: &[Entry]) -> (Plan, Instant) {
    let (mut plan, now) = (Plan::default(), Instant::now());
    plan.pair(pair(), 1, now);
    assert_eq!(plan.looks_due(now), [pair()]);
    plan.found(entries.to_vec(), now);
    (plan, now)
}

/// Both ends answer, as the guard sees it.
fn answer(plan: &mut Plan, port: u16, now: Instant) {
    let entry = entry(port, ESTABLISHED);
    plan.heard(entry.original.source, entry.reply.source, Sign::Open, now);
    plan.heard(entry.reply.source, entry.original.source, Sign::Open, now);
}

fn finish(plan: &mut Plan, now: Instant) -> Vec<Severed> {
    for at in [200, 400] {
        plan.looks_due(now + ms(at));
    }
    plan.take_finished().iter().map(|finished| finished.severed).collect()
}

#[test]
fn both_ends_are_asked_clients_first_and_the_entry_goes_when_both_have_answered() {
    let (mut plan, now) = stage(&[entry(1, ESTABLISHED), entry(2, ESTABLISHED)]);
    let questions = plan.questions_due(now);
    let asked: Vec<_> = questions.iter().map(|question| (question.from, question.to)).collect();
    assert_eq!(questions.len(), 4);
    assert!(asked[..2].contains(&(pair().listener, at("10.0.0.9:1"))));
    assert!(asked[2..].contains(&(at("10.0.0.2:1"), pair().backend)));
    assert!(plan.questions_due(now).is_empty(), "one round at a time");
    answer(&mut plan, 1, now + ms(3));
    assert_eq!(plan.take_done().iter().map(|entry| entry.id).collect::<Vec<_>>(), [1]);
    assert_eq!(questions.iter().filter(|question| plan.is_open(question)).count(), 2);
    answer(&mut plan, 2, now + ms(5));
    let severed = Severed { listener: pair().listener, backend: pair().backend, flows: 2, unanswered: 0, took: ms(5) };
    assert_eq!(finish(&mut plan, now), [severed]);
    assert_eq!(plan.next_deadline(), None);
}

#[test]
fn an_end_that_does_not_answer_is_asked_again_and_given_up_at_last() {
    let (mut plan, now) = stage(&[entry(1, ESTABLISHED)]);
    let entry = entry(1, ESTABLISHED);
    plan.questions_due(now);
    plan.heard(entry.original.source, entry.reply.source, Sign::Open, now);
    let mut asked = 0;
    for at in (100..=5000).step_by(100) {
        let questions = plan.questions_due(now + ms(at));
        assert!(questions.iter().all(|question| question.to == pair().backend), "the client has answered");
        asked += questions.len();
    }
    assert_eq!(asked, ROUNDS.len() - 2, "all rounds but the first and the last, which gives it up");
    assert_eq!(plan.take_done().len(), 1);
    let finished = finish(&mut plan, now);
    assert_eq!((finished[0].flows, finished[0].unanswered, finished[0].took), (1, 1, ms(0)));
}

#[test]
fn what_the_guard_has_reset_already_counts_only_if_the_other_end_was_open() {
    let (mut plan, now) = stage(&[entry(1, CLOSE), entry(2, CLOSE), entry(3, TIME_WAIT)]);
    assert_eq!(plan.take_done().len(), 1, "nobody is there to tell of what is over");
    assert_eq!(plan.questions_due(now).len(), 4);
    answer(&mut plan, 1, now);
    let closed = entry(2, CLOSE);
    plan.heard(closed.original.source, closed.original.destination, Sign::Closed, now);
    plan.heard(closed.reply.source, closed.reply.destination, Sign::Closed, now);
    let finished = finish(&mut plan, now);
    assert_eq!((finished[0].flows, finished[0].unanswered), (1, 0));
}

#[test]
fn a_flow_that_a_later_look_finds_is_asked_at_once() {
    let (mut plan, now) = stage(&[entry(1, ESTABLISHED)]);
    plan.questions_due(now);
    answer(&mut plan, 1, now);
    assert_eq!(plan.looks_due(now + ms(200)), [pair()]);
    plan.found(vec![entry(2, ESTABLISHED)], now + ms(201));
    assert_eq!(plan.questions_due(now + ms(201)).len(), 2);
    answer(&mut plan, 2, now + ms(202));
    assert_eq!(finish(&mut plan, now)[0].flows, 2);
}

#[test]
fn single_flows_end_without_a_look_and_their_backend_is_told_twice() {
    let (mut plan, now) = (Plan::default(), Instant::now());
    plan.flows(pair(), vec![entry(1, ESTABLISHED)], now);
    assert!(plan.looks_due(now).is_empty());
    assert_eq!(plan.questions_due(now).len(), 2);
    let told = entry(1, ESTABLISHED);
    plan.heard(told.original.source, told.original.destination, Sign::Open, now);
    assert_eq!(plan.questions_due(now + ms(100)).len(), 1);
    let finished = plan.take_finished();
    assert_eq!((finished.len(), finished[0].severed.flows, finished[0].order), (1, 1, None));
}

#[test]
fn when_a_pair_returns_its_entries_go_first_and_its_flows_are_told_all_the_same() {
    let (mut plan, now) = stage(&[entry(1, ESTABLISHED), entry(2, ESTABLISHED)]);
    assert!(plan.has_looked_for(&pair()));
    answer(&mut plan, 1, now);
    assert_eq!(plan.take_done().len(), 1);
    assert_eq!(plan.entries_of(&pair()).iter().map(|entry| entry.id).collect::<Vec<_>>(), [2]);
    plan.returns(pair());
    assert!(plan.looks_due(now + ms(1000)).is_empty(), "what is found from now on is of the new time");
    assert_eq!(plan.questions_due(now).len(), 2);
    answer(&mut plan, 2, now);
    assert_eq!(plan.take_done(), [], "it is deleted already");
    assert_eq!(plan.take_finished().iter().map(|finished| finished.severed.flows).sum::<u64>(), 2);
}

#[test]
fn the_entry_of_a_client_that_is_still_connecting_goes_before_it_is_asked() {
    let connecting = Entry { status: 0, ..entry(1, SYN_RECV) };
    let (mut plan, now) = stage(&[connecting]);
    assert_eq!(plan.take_done(), [connecting]);
    assert_eq!(plan.questions_due(now).len(), 2);
    // It connects to another backend, and knows nothing of our flow.
    assert_eq!(plan.questions_due(now + ms(100)).len(), 2);
    assert_eq!(plan.take_done(), [], "not twice");
    let finished = finish(&mut plan, now);
    assert_eq!((finished[0].flows, finished[0].unanswered), (0, 0));
}

#[test]
fn the_entry_of_a_port_that_is_used_again_goes_without_waiting_for_the_backend() {
    let (mut plan, now) = stage(&[entry(1, ESTABLISHED)]);
    plan.questions_due(now);
    let old = entry(1, ESTABLISHED);
    plan.heard(old.original.source, old.reply.source, Sign::Anew, now);
    assert_eq!(plan.take_done(), [old]);
    assert_eq!(plan.questions_due(now + ms(100)).len(), 1, "the backend is still told");
    assert_eq!(finish(&mut plan, now)[0].unanswered, 0);
    assert_eq!(plan.take_done(), [], "not twice");
}

#[test]
fn whoever_stood_still_asks_before_it_gives_up() {
    let (mut plan, now) = stage(&[entry(1, ESTABLISHED)]);
    let later = now + Duration::from_secs(60);
    for after in [0, 100, 300] {
        assert_eq!(plan.questions_due(later + ms(after)).len(), 2);
        assert!(plan.questions_due(later + ms(after)).is_empty(), "the time to answer begins with the question");
    }
    assert!(plan.take_done().is_empty());
}

#[test]
fn a_look_that_failed_is_due_again() {
    let (mut plan, now) = (Plan::default(), Instant::now());
    plan.pair(pair(), 1, now);
    assert_eq!(plan.looks_due(now), [pair()]);
    plan.look_failed(&[pair()]);
    assert!(!plan.has_looked_for(&pair()));
    assert_eq!(plan.looks_due(now), [pair()]);
    assert!(plan.has_looked_for(&pair()));
}

#[test]
fn a_pair_that_dies_again_before_it_returned_is_one_job() {
    let (mut plan, now) = stage(&[entry(1, ESTABLISHED)]);
    plan.pair(pair(), 2, now);
    assert_eq!(plan.looks_due(now), [pair()]);
    plan.found(vec![entry(1, ESTABLISHED), entry(2, ESTABLISHED)], now);
    assert_eq!(plan.entries_of(&pair()).len(), 2, "both must go before it returns");
}
