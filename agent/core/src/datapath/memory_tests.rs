//! The accounts of the in-memory datapath, on connections that are only numbers.

use std::net::SocketAddr;
use std::time::Duration;

use super::{Memory, Outcome};
use crate::ClusterName;
use crate::config::Snat;
use crate::datapath::{Change, Datapath as _, Meter as _, Refused};
use crate::flow::{FlowFilter, Tuple};
use crate::mapping::{Admission, Leaving, Mapping, Route, Weighted};

const SECOND: Duration = Duration::from_secs(1);

fn at(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

fn listener() -> SocketAddr {
    at("10.0.0.2:3306")
}

fn db(number: u8) -> SocketAddr {
    at(&format!("10.0.0.1{number}:3306"))
}

fn client(port: u16) -> Tuple {
    Tuple { client: (at("10.1.0.1:1").ip(), port).into(), listener: listener() }
}

fn mapping(route: Route) -> Mapping {
    Mapping {
        listener: listener(),
        cluster: ClusterName::new("orders").unwrap(),
        route,
        snat: Snat::None,
        leaving: Leaving::Sever,
        admission: Admission::default(),
        lease: None,
        spared: None,
    }
}

fn holding(mapping: Mapping) -> Memory {
    let mut memory = Memory::default();
    set(&mut memory, mapping);
    memory
}

fn set(memory: &mut Memory, mapping: Mapping) {
    assert_eq!(memory.apply(&Change { set: vec![mapping], remove: Vec::new() }).unwrap().changed, 1);
}

fn reach(memory: &mut Memory, port: u16) -> Tuple {
    let tuple = client(port);
    assert!(matches!(memory.connect(tuple), Outcome::Reached(_)));
    tuple
}

#[test]
fn a_swap_severs_the_flows_of_the_backend_that_left_and_tells_of_them() {
    let mut memory = holding(mapping(Route::Single(db(1))));
    let old = reach(&mut memory, 1);
    set(&mut memory, mapping(Route::Single(db(2))));
    assert!(!memory.passes(old));
    assert_eq!(memory.connect(client(2)), Outcome::Reached(db(2)));
    let severed = memory.severed();
    assert_eq!((severed.len(), severed[0].backend, severed[0].flows), (1, db(1), 1));
    assert_eq!(memory.severed(), []);
}

#[test]
fn a_drained_flow_ends_at_its_deadline_which_a_repetition_does_not_lengthen() {
    let mut memory = holding(mapping(Route::Single(db(1))));
    let old = reach(&mut memory, 1);
    let drain = |route| Mapping { leaving: Leaving::Drain(10 * SECOND), ..mapping(route) };
    set(&mut memory, drain(Route::Single(db(2))));
    memory.advance(6 * SECOND);
    set(&mut memory, drain(Route::Refuse));
    memory.advance(3 * SECOND);
    assert!(memory.passes(old));
    memory.advance(SECOND);
    assert!(!memory.passes(old));
}

#[test]
fn a_backend_that_returns_while_it_drains_keeps_its_flows() {
    let mut memory = holding(mapping(Route::Single(db(1))));
    let old = reach(&mut memory, 1);
    let drain = |route| Mapping { leaving: Leaving::Drain(SECOND), ..mapping(route) };
    set(&mut memory, drain(Route::Single(db(2))));
    set(&mut memory, drain(Route::Single(db(1))));
    memory.advance(10 * SECOND);
    assert!(memory.passes(old));
}

#[test]
fn a_removed_listener_keeps_its_flows_until_they_are_closed() {
    let mut memory = holding(mapping(Route::Single(db(1))));
    let old = reach(&mut memory, 1);
    let remove = |leaving| Change { set: Vec::new(), remove: vec![(listener(), leaving)] };
    assert_eq!(memory.apply(&remove(Leaving::Keep)).unwrap().changed, 1);
    assert_eq!(memory.connect(client(2)), Outcome::Refused);
    assert_eq!(memory.reconcile().unwrap(), []);
    assert!(memory.passes(old));
    memory.close(old);
    assert_eq!(memory.reconcile().unwrap(), []);
    assert_eq!(memory.apply(&remove(Leaving::Sever)).unwrap().changed, 0);
}

#[test]
fn a_hold_becomes_a_refusal_and_is_not_begun_anew_by_a_repetition() {
    let mut memory = holding(mapping(Route::Hold(10 * SECOND)));
    memory.advance(6 * SECOND);
    assert_eq!(memory.connect(client(1)), Outcome::Unanswered);
    let again = Change { set: vec![mapping(Route::Hold(10 * SECOND))], remove: Vec::new() };
    assert_eq!(memory.apply(&again).unwrap().changed, 0);
    memory.advance(4 * SECOND);
    assert_eq!(memory.connect(client(1)), Outcome::Refused);
}

#[test]
fn a_lease_that_runs_out_severs_without_anybody_asking() {
    let mut memory = holding(Mapping { lease: Some(3 * SECOND), ..mapping(Route::Single(db(1))) });
    let old = reach(&mut memory, 1);
    memory.advance(2 * SECOND);
    assert_eq!(memory.renew().unwrap(), []);
    memory.advance(2 * SECOND);
    assert!(memory.passes(old));
    memory.advance(SECOND);
    assert!(!memory.passes(old));
    assert_eq!(memory.connect(client(2)), Outcome::Refused);
}

#[test]
fn a_spread_follows_the_weights_and_loses_only_the_flows_of_the_backend_that_left() {
    let weighted = |number, weight| Weighted { address: db(number), weight };
    let mut memory = holding(mapping(Route::Spread(vec![weighted(1, 3), weighted(2, 1)])));
    let all: Vec<_> = (0..400).map(|port| (client(port), memory.connect(client(port)))).collect();
    assert_eq!(all.iter().filter(|(_, outcome)| *outcome == Outcome::Reached(db(1))).count(), 300);
    set(&mut memory, mapping(Route::Spread(vec![weighted(2, 1)])));
    for (tuple, outcome) in all {
        assert_eq!(memory.passes(tuple), outcome == Outcome::Reached(db(2)));
    }
}

#[test]
fn what_is_refused_is_counted_by_reason_and_a_closed_connection_makes_room() {
    let allow = vec!["10.1.0.0/16".parse().unwrap()];
    let admission = Admission { allow, limit: Some(3), limit_per_source: Some(2) };
    let mut memory = holding(Mapping { admission, ..mapping(Route::Single(db(1))) });
    let from = |address: &str| Tuple { client: at(address), listener: listener() };
    assert_eq!(memory.connect(from("10.2.0.1:1")), Outcome::Refused);
    let first = reach(&mut memory, 1);
    reach(&mut memory, 2);
    assert_eq!(memory.connect(client(3)), Outcome::Refused);
    assert_eq!(memory.connect(from("10.1.0.2:1")), Outcome::Reached(db(1)));
    assert_eq!(memory.connect(from("10.1.0.3:1")), Outcome::Refused);
    let expected = Refused { not_allowed: 1, over_limit: 1, over_source_limit: 1 };
    assert_eq!(memory.refused().unwrap()[&listener()], expected);
    memory.close(first);
    reach(&mut memory, 4);
}

#[test]
fn flows_are_told_by_listener_and_source_port() {
    let mut memory = holding(mapping(Route::Single(db(1))));
    let (one, other) = (reach(&mut memory, 1), reach(&mut memory, 2));
    let told = |memory: &mut Memory, source_port| {
        let mut tuples = Vec::new();
        let filter = FlowFilter { listeners: [listener()].into(), source_port };
        let mut each = |flow: crate::flow::Flow| {
            tuples.push(flow.tuple);
            std::ops::ControlFlow::Continue(())
        };
        memory.flows(&filter, &mut each).unwrap();
        tuples
    };
    assert_eq!(told(&mut memory, None), [one, other]);
    assert_eq!(told(&mut memory, Some(2)), [other]);
    memory.sever(&[one]).unwrap();
    assert_eq!(told(&mut memory, None), [other]);
}

/// The listener, holding new connections while the first database's flows go on.
fn sparing() -> Mapping {
    Mapping { spared: Some(db(1)), ..mapping(Route::Hold(60 * SECOND)) }
}

#[test]
fn spared_flows_go_on_and_new_ones_do_not_reach_the_backend() {
    let mut memory = holding(mapping(Route::Single(db(1))));
    let old = reach(&mut memory, 1);
    set(&mut memory, sparing());
    assert!(memory.passes(old));
    assert_eq!(memory.connect(client(2)), Outcome::Unanswered);
    set(&mut memory, mapping(Route::Single(db(1))));
    assert!(memory.passes(old), "the pair is live again");
    set(&mut memory, sparing());
    set(&mut memory, mapping(Route::Hold(60 * SECOND)));
    assert!(!memory.passes(old), "and spared no more");
}

#[test]
fn a_blocked_flow_is_there_and_does_not_pass_until_it_is_unblocked_or_its_backend_leads_again() {
    let mut memory = holding(mapping(Route::Single(db(1))));
    let (one, other) = (reach(&mut memory, 1), reach(&mut memory, 2));
    assert!(memory.block(&[one]).is_err(), "its backend is not spared");
    set(&mut memory, sparing());
    memory.block(&[one, other]).unwrap();
    assert!(memory.is_blocked(one) && !memory.passes(one));
    memory.unblock(&[one]).unwrap();
    assert!(memory.passes(one) && !memory.passes(other));
    memory = memory.reopened();
    assert!(memory.is_blocked(other), "the kernel blocks it whoever drives it");
    set(&mut memory, mapping(Route::Single(db(1))));
    assert!(memory.passes(other));
}

#[test]
fn a_blocked_flow_can_be_severed_alone() {
    let mut memory = holding(mapping(Route::Single(db(1))));
    let (one, other) = (reach(&mut memory, 1), reach(&mut memory, 2));
    set(&mut memory, sparing());
    memory.block(&[one]).unwrap();
    memory.sever(&[one]).unwrap();
    assert!(!memory.is_blocked(one) && !memory.passes(one) && memory.passes(other));
    assert_eq!(memory.severed()[0].flows, 1);
}

#[test]
fn a_lease_that_runs_out_ends_spared_flows() {
    let leased = |mapping| Mapping { lease: Some(3 * SECOND), ..mapping };
    let mut memory = holding(leased(mapping(Route::Single(db(1)))));
    let old = reach(&mut memory, 1);
    set(&mut memory, leased(sparing()));
    memory.advance(2 * SECOND);
    assert_eq!(memory.renew().unwrap(), []);
    memory.advance(2 * SECOND);
    assert!(memory.passes(old));
    memory.advance(SECOND);
    assert!(!memory.passes(old));
    assert_eq!(memory.renew().unwrap(), [listener()]);
    set(&mut memory, leased(mapping(Route::Hold(60 * SECOND))));
    memory.advance(10 * SECOND);
    assert_eq!(memory.renew().unwrap(), [], "a fence that spares nobody has no lease");
}

#[test]
fn only_a_fence_spares() {
    let open = Mapping { spared: Some(db(1)), ..mapping(Route::Single(db(2))) };
    assert!(Memory::default().apply(&Change { set: vec![open], remove: Vec::new() }).is_err());
}
