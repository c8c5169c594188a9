use super::*;
use crate::ends::tuple;

fn at(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

const LISTENER: &str = "10.1.0.1:3306";
const BACKEND: &str = "10.2.0.1:3306";

/// An established connection, of which both ends have heard everything.
fn flow(port: u16) -> Both {
    let (client, seen_as) = (SocketAddr::from(([192, 0, 2, 7], port)), SocketAddr::from(([10, 2, 0, 9], port)));
    let (key, rewritten) = (tuple(client, at(LISTENER)), tuple(seen_as, at(BACKEND)));
    let base = Flow { pair: 3, generation: 4, opened: 5, packets: 9, state: state::ACKNOWLEDGED, ..Flow::default() };
    let from_client = state::FROM_CLIENT | state::ACKNOWLEDGED;
    Both {
        tuple: key,
        client: Flow { rewritten, state: from_client, next: 1000, acknowledged: 2000, ..base },
        server: Some(Flow { rewritten: key.reversed(), next: 2000, acknowledged: 1000, ..base }),
    }
}

fn sequences(packets: &[Packet], to: SocketAddr) -> Vec<u32> {
    let reset = |packet: &Packet| match packet {
        Packet::Reset { way, sequence } if way.1 == to => Some(*sequence),
        _ => None,
    };
    packets.iter().filter_map(reset).collect()
}

fn answers(plan: &mut Plan, flow: &Both, end: End, now: Instant) {
    let (from, to) = sender(flow, end);
    plan.heard(from, to, now);
}

#[test]
fn each_end_is_sent_the_number_that_it_expects_and_a_question() {
    let (now, flow) = (Instant::now(), flow(1));
    let mut plan = Plan::default();
    assert_eq!(plan.add(&flow, now, now), []);
    assert_eq!(plan.due(now), [flow.tuple]);
    let packets = plan.packets(&flow.tuple, Some(flow.client), flow.server, now);
    assert_eq!(sequences(&packets, ends::client(&flow)), [2000]);
    assert_eq!(sequences(&packets, ends::backend(&flow)), [1000]);
    let asked: Vec<_> = packets
        .iter()
        .filter_map(|packet| match packet {
            Packet::Question { way, sequence, acknowledgement } => Some((*way, *sequence, *acknowledgement)),
            Packet::Reset { .. } => None,
        })
        .collect();
    let (client, backend) = (ends::client(&flow), ends::backend(&flow));
    assert_eq!(
        asked,
        [((at(LISTENER), client), 1999, 1000), ((ends::seen_as(&flow), backend), 999, 2000)],
        "from whom each end believes to speak to"
    );
}

#[test]
fn an_end_that_had_more_to_acknowledge_is_sent_both_numbers() {
    let now = Instant::now();
    let mut flow = flow(1);
    flow.server = flow.server.map(|server| Flow { next: 2500, ..server });
    let mut plan = Plan::default();
    plan.add(&flow, now, now);
    plan.due(now);
    let packets = plan.packets(&flow.tuple, Some(flow.client), flow.server, now);
    assert_eq!(sequences(&packets, ends::client(&flow)), [2000, 2500]);
}

#[test]
fn a_flow_is_done_when_both_of_its_ends_have_answered() {
    let begin = Instant::now();
    let mut plan = Plan::default();
    for port in [1, 2] {
        plan.add(&flow(port), begin, begin);
    }
    plan.due(begin);
    let answer = begin + Duration::from_millis(7);
    answers(&mut plan, &flow(1), End::Client, answer);
    assert_eq!(plan.take_done(), []);
    answers(&mut plan, &flow(1), End::Backend, answer);
    assert_eq!(plan.take_done(), [flow(1)]);
    assert_eq!(plan.take_finished(), [], "the pair has another one");
    // Nobody is told twice who has answered.
    answers(&mut plan, &flow(2), End::Client, answer);
    assert_eq!(plan.due(begin + Duration::from_millis(100)), [flow(2).tuple]);
    let packets = plan.packets(&flow(2).tuple, Some(flow(2).client), flow(2).server, answer);
    assert_eq!(sequences(&packets, ends::client(&flow(2))), []);
    answers(&mut plan, &flow(2), End::Backend, answer);
    let (listener, backend, took) = (at(LISTENER), at(BACKEND), Duration::from_millis(7));
    assert_eq!(plan.take_finished(), [Severed { listener, backend, flows: 2, unanswered: 0, took }]);
    assert!(plan.is_empty() && plan.next_deadline().is_none());
}

#[test]
fn an_end_that_does_not_answer_is_given_up_and_counted() {
    let begin = Instant::now();
    let mut plan = Plan::default();
    plan.add(&flow(1), begin, begin);
    answers(&mut plan, &flow(1), End::Client, begin);
    let mut rounds = 0;
    while let Some(deadline) = plan.next_deadline() {
        rounds += plan.due(deadline).len();
    }
    assert_eq!(rounds, ROUNDS.len() - 1);
    assert_eq!(plan.take_done(), [flow(1)]);
    let told = plan.take_finished();
    assert_eq!((told[0].flows, told[0].unanswered), (1, 1));
}

#[test]
fn a_client_that_is_still_connecting_is_not_told() {
    let now = Instant::now();
    let mut flow = flow(1);
    flow.client.state = state::FROM_CLIENT;
    let mut plan = Plan::default();
    let packets = plan.add(&flow, now, now);
    assert_eq!(sequences(&packets, ends::client(&flow)), []);
    assert_eq!(sequences(&packets, ends::backend(&flow)), [1000]);
    assert_eq!(plan.take_done(), [flow]);
    assert_eq!(plan.take_finished(), []);
}

#[test]
fn whoever_has_begun_anew_is_left_alone() {
    let now = Instant::now();
    let old = flow(1);
    let mut plan = Plan::default();
    plan.add(&old, now, now);
    plan.due(now);
    let new = Flow { opened: 6, ..old.client };
    let packets = plan.packets(&old.tuple, Some(new), old.server, now);
    assert_eq!(sequences(&packets, ends::client(&old)), []);
    assert_eq!(sequences(&packets, ends::backend(&old)), [1000]);
    // Its former backend has no entry any more: nobody hears of its answer.
    assert_eq!(plan.packets(&old.tuple, Some(new), None, now), []);
    let told = plan.take_finished();
    assert_eq!((told[0].flows, told[0].unanswered), (1, 1));
}

#[test]
fn what_was_over_before_is_only_cleared() {
    let now = Instant::now();
    let mut flow = flow(1);
    flow.client.state |= state::CLOSED;
    let mut plan = Plan::default();
    assert_eq!(plan.add(&flow, now, now), []);
    assert_eq!((plan.take_done(), plan.take_finished()), (vec![flow], Vec::new()));
    assert!(plan.is_empty());
}
