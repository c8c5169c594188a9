//! Replica listeners: connections follow the weights, and a backend that leaves loses only its own flows.

use shunt_core::mapping::Mapping;
use shunt_tests::star::{CLIENT, Conversation, DBS, End, PATIENCE};

use crate::lab::{Lab, eventually, set, severed, spread};

pub fn p14_ten_thousand_connections_follow_the_weights(lab: &Lab) {
    const TOTAL: usize = 10_000;
    let mut datapath = lab.open();
    set(&mut *datapath, lab.mapping(spread([(lab.db(0), 3), (lab.db(1), 2)])));
    let call = || {
        let conversation = Conversation::open(lab.listener(), PATIENCE).unwrap();
        let is_first = conversation.server == DBS[0];
        conversation.abort().unwrap();
        is_first
    };
    let first = lab.inside(CLIENT, || (0..TOTAL).filter(|_| call()).count());
    // If each is drawn by itself, 5 % of the smaller share are four standard deviations.
    for (name, got, due) in [(DBS[0], first, TOTAL * 3 / 5), (DBS[1], TOTAL - first, TOTAL * 2 / 5)] {
        assert!(got.abs_diff(due) * 20 <= due, "{name} got {got} connections instead of {due}");
    }
}

pub fn p14_a_backend_that_leaves_loses_only_its_own_flows(lab: &Lab) {
    let mut datapath = lab.open();
    set(&mut *datapath, lab.mapping(spread([(lab.db(0), 1), (lab.db(1), 1)])));
    let (leaving, staying): (Vec<_>, Vec<_>) = lab.calls(60).into_iter().partition(|one| one.server == DBS[0]);
    assert!(!leaving.is_empty() && !staying.is_empty());
    set(&mut *datapath, lab.mapping(spread([(lab.db(1), 1)])));
    for conversation in &leaving {
        eventually("the client's end", || conversation.has_ended());
        eventually("the server's end", || lab.server(0).end_of(conversation.seen_as) == Some(End::Reset));
    }
    let told = severed(&mut *datapath, leaving.len() as u64);
    assert!(told.iter().all(|severed| severed.backend == lab.db(0)), "{told:?}");
    assert!(staying.iter().all(|conversation| conversation.echo().is_ok()));
    assert!(lab.calls(20).iter().all(|conversation| conversation.server == DBS[1]));
}

pub fn p14_flows_do_not_notice_that_a_backend_joins_or_weights_change(lab: &Lab) {
    let mut datapath = lab.open();
    set(&mut *datapath, lab.mapping(spread([(lab.db(1), 1)])));
    let mut all = lab.calls(10);
    for weights in [[1, 1], [5, 1], [1, 9]] {
        let backends = [(lab.db(0), weights[0]), (lab.db(1), weights[1])];
        set(&mut *datapath, Mapping { ..lab.mapping(spread(backends)) });
        all.extend(lab.calls(10));
        assert!(all.iter().all(|conversation| conversation.echo().is_ok()), "weights {weights:?}");
    }
}
