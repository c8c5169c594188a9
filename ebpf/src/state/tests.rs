use std::collections::BTreeMap;
use std::time::Duration;

use shunt_core::ClusterName;
use shunt_core::config::Snat;
use shunt_core::datapath::Change;
use shunt_core::mapping::{Admission, Leaving, Mapping, Route};

use super::adopt::Found;
use super::plan::Plan;
use super::slots::Slots;
use super::*;
use crate::clock::nanoseconds;

const SECOND: u64 = 1_000_000_000;
const NOW: u64 = 1000 * SECOND;

fn at(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

fn listener() -> SocketAddr {
    at("10.1.0.1:3306")
}

fn backend(number: u8) -> SocketAddr {
    SocketAddr::from(([10, 2, 0, number], 3306))
}

fn to(number: u8) -> Mapping {
    Mapping {
        listener: listener(),
        cluster: ClusterName::new("orders").unwrap(),
        route: Route::Single(backend(number)),
        snat: Snat::Masquerade,
        leaving: Leaving::Sever,
        admission: Admission::default(),
        lease: None,
        spared: None,
    }
}

fn fenced(route: Route) -> Mapping {
    Mapping { route, ..to(0) }
}

fn pair(number: u8) -> Pair {
    Pair { listener: listener(), backend: backend(number) }
}

/// Applies a change at a time, and returns what it came to.
fn set(state: &mut State, mapping: Mapping, now: u64) -> Plan {
    let plan = state.plan(&Change { set: vec![mapping], remove: Vec::new() }, now).unwrap();
    state.commit(plan.clone());
    plan
}

fn remove(state: &mut State, leaving: Leaving, now: u64) -> Plan {
    let plan = state.plan(&Change { set: Vec::new(), remove: vec![(listener(), leaving)] }, now).unwrap();
    state.commit(plan.clone());
    plan
}

fn live(state: &State) -> BTreeMap<SocketAddr, u64> {
    state.listeners.get(&listener()).map(Listener::live).unwrap_or_default()
}

#[test]
fn a_swap_ends_one_pair_and_begins_another() {
    let mut state = State::default();
    assert_eq!(set(&mut state, to(1), NOW).born, [pair(1)]);
    let plan = set(&mut state, to(2), NOW);
    assert_eq!((plan.dead, plan.born), (vec![pair(1)], vec![pair(2)]));
    assert_eq!(set(&mut state, to(2), NOW), Plan::default());
    assert_eq!(live(&state), BTreeMap::from([(backend(2), FOR_EVER)]));
}

#[test]
fn a_drain_lives_until_its_deadline_which_is_never_put_off() {
    let mut state = State::default();
    set(&mut state, to(1), NOW);
    let drain = |seconds| Leaving::Drain(Duration::from_secs(seconds));
    assert_eq!(set(&mut state, Mapping { leaving: drain(10), ..to(2) }, NOW).dead, []);
    set(&mut state, Mapping { leaving: drain(60), ..to(3) }, NOW + SECOND);
    let expected = [(backend(1), NOW + 10 * SECOND), (backend(2), NOW + 61 * SECOND), (backend(3), FOR_EVER)];
    assert_eq!(live(&state), expected.into());
    assert_eq!(state.end_drains(NOW + 9 * SECOND).changed(), 0);
    let over = state.end_drains(NOW + 10 * SECOND);
    assert_eq!(over.dead, [pair(1)]);
    state.commit(over);
    assert_eq!(live(&state).len(), 2);
}

#[test]
fn a_backend_that_returns_keeps_its_flows_only_while_it_lives() {
    for (seconds, keeps) in [(9, true), (10, false), (11, false)] {
        let mut state = State::default();
        set(&mut state, to(1), NOW);
        set(&mut state, Mapping { leaving: Leaving::Drain(Duration::from_secs(10)), ..to(2) }, NOW);
        let plan = set(&mut state, to(1), NOW + seconds * SECOND);
        // Over for a moment: another slot, or its dead flows would live again.
        assert_eq!((plan.dead.contains(&pair(1)), plan.born.contains(&pair(1))), (!keeps, !keeps), "{seconds}");
        assert_eq!(live(&state), BTreeMap::from([(backend(1), FOR_EVER)]));
    }
}

#[test]
fn a_removed_listener_is_held_no_more_and_guards_what_it_keeps() {
    let mut state = State::default();
    set(&mut state, to(1), NOW);
    assert_eq!(remove(&mut state, Leaving::Keep, NOW).dead, []);
    assert_eq!((state.held(), live(&state)), (Vec::new(), BTreeMap::from([(backend(1), FOR_EVER)])));
    assert_eq!(state.kept().collect::<Vec<_>>(), [pair(1)]);
    assert_eq!(state.settle(&[pair(1)].into(), NOW).changed(), 0);
    assert_eq!(state.settle(&[].into(), NOW).dead, [pair(1)]);
    assert_eq!(remove(&mut state, Leaving::Sever, NOW).dead, [pair(1)]);
    assert_eq!(state, State::default());
    assert_eq!(remove(&mut state, Leaving::Sever, NOW).changed(), 0);
}

#[test]
fn a_lease_is_renewed_in_time_or_not_at_all() {
    let lease = Some(Duration::from_secs(5));
    let mut state = State::default();
    set(&mut state, Mapping { lease, ..to(1) }, NOW);
    assert_eq!(set(&mut state, Mapping { lease, ..to(1) }, NOW + SECOND).changed(), 0);
    assert_eq!(live(&state)[&backend(1)], NOW + 5 * SECOND);
    let (plan, lapsed) = state.renew(NOW + 2 * SECOND);
    assert_eq!((lapsed.len(), plan.dead.len(), plan.born.len()), (0, 0, 0));
    state.commit(plan);
    assert_eq!(live(&state)[&backend(1)], NOW + 7 * SECOND);
    assert_eq!(state.lapse(NOW + 6 * SECOND), (Plan::default(), Vec::new()));
    // A little before the end: the kernel may be there first.
    let (plan, lapsed) = state.renew(NOW + 7 * SECOND - 1);
    assert_eq!((plan.dead.clone(), lapsed), (vec![pair(1)], vec![listener()]));
    state.commit(plan);
    assert_eq!((state.held()[0].backends.len(), live(&state).len()), (0, 0));
    assert_eq!(state.renew(NOW + 8 * SECOND), (Plan::default(), Vec::new()));
}

#[test]
fn whoever_decides_anew_after_a_lease_ran_out_gets_another_pair() {
    let lease = Some(Duration::from_secs(5));
    let mut state = State::default();
    set(&mut state, Mapping { lease, ..to(1) }, NOW);
    let plan = set(&mut state, Mapping { lease, ..to(1) }, NOW + 6 * SECOND);
    assert_eq!((plan.dead, plan.born), (vec![pair(1)], vec![pair(1)]));
    assert_eq!(live(&state)[&backend(1)], NOW + 11 * SECOND);
    // And a drain does not revive what was over.
    let plan = set(&mut state, Mapping { leaving: Leaving::Keep, ..to(2) }, NOW + 20 * SECOND);
    assert_eq!(plan.dead, [pair(1)]);
    assert_eq!(live(&state), BTreeMap::from([(backend(2), FOR_EVER)]));
}

#[test]
fn a_fence_spares_and_a_hold_runs_on() {
    let hold = Route::Hold(Duration::from_secs(30));
    let mut state = State::default();
    set(&mut state, to(1), NOW);
    let sparing = Mapping { spared: Some(backend(1)), ..fenced(hold.clone()) };
    let plan = set(&mut state, sparing.clone(), NOW);
    assert_eq!((plan.dead, plan.born), (Vec::new(), Vec::new()));
    assert_eq!(state.held()[0].backends, []);
    assert_eq!(set(&mut state, sparing, NOW + SECOND).changed(), 0);
    assert_eq!(set(&mut state, fenced(hold), NOW + SECOND).dead, [pair(1)]);
    let road = &state.listeners[&listener()].road;
    assert_eq!(*road, Road::Hold { span: nanoseconds(Duration::from_secs(30)), until: NOW + 30 * SECOND });
}

/// What the maps hold for a state.
fn found(state: &State) -> Found {
    let mut slots = Slots::new((100, 100), BTreeMap::new(), BTreeMap::new());
    let mut found = Found::default();
    for (address, one) in &state.listeners {
        for (backend, until) in one.live() {
            let pair = Pair { listener: *address, backend };
            found.pairs.insert(slots.pair_up(pair).unwrap(), (pair, until));
        }
        let mut way = one.way(|backend| slots.pair(Pair { listener: *address, backend }).unwrap());
        if !one.allow.is_empty() {
            way.allow = 7;
            found.lists.insert(7, one.allow.clone());
        }
        if let Source::Pool(ranges) = &one.source {
            way.pool = 3;
            found.pools.insert(3, ranges.clone());
        }
        found.mappings.insert(*address, (slots.seat(*address).unwrap(), way, one.note()));
    }
    found
}

#[test]
fn what_is_adopted_is_what_was_committed() {
    let mut state = State::default();
    let elsewhere = |port| SocketAddr::new(listener().ip(), port);
    let spread = [(1, 3), (2, 1), (3, 7)];
    let spread = spread.map(|(number, weight)| Weighted { address: backend(number), weight }).to_vec();
    let hold = Route::Hold(Duration::from_secs(30));
    let lease = Some(Duration::from_secs(5));
    let all = [
        Mapping { lease, ..to(1) },
        Mapping { listener: elsewhere(1), snat: Snat::None, route: Route::Spread(spread), ..to(1) },
        Mapping { listener: elsewhere(2), spared: Some(backend(1)), lease, ..fenced(hold) },
        Mapping { listener: elsewhere(3), ..fenced(Route::Refuse) },
        Mapping { listener: elsewhere(4), ..to(1) },
        Mapping { listener: elsewhere(4), leaving: Leaving::Drain(Duration::from_secs(9)), ..to(2) },
        Mapping { listener: elsewhere(5), ..to(1) },
        Mapping {
            listener: elsewhere(6),
            snat: Snat::Pool(vec![(backend(1).ip(), backend(2).ip())]),
            admission: Admission {
                allow: vec!["10.0.0.0/8".parse().unwrap(), "10.1.0.0/16".parse().unwrap()],
                limit: Some(10),
                limit_per_source: Some(3),
            },
            ..to(1)
        },
    ];
    for mapping in all {
        set(&mut state, mapping, NOW);
    }
    let change = Change { set: Vec::new(), remove: vec![(elsewhere(5), Leaving::Keep)] };
    let plan = state.plan(&change, NOW).unwrap();
    state.commit(plan);
    assert_eq!(State::adopt(&found(&state)), state);
}

#[test]
fn a_lease_whose_pair_is_no_more_has_run_out_when_it_is_adopted() {
    let mut state = State::default();
    set(&mut state, Mapping { lease: Some(Duration::from_secs(5)), ..to(1) }, NOW);
    let adopted = State::adopt(&found(&state));
    let (_, lapsed) = adopted.lapse(NOW + 5 * SECOND);
    assert_eq!(lapsed, [listener()]);
}

#[test]
fn what_this_datapath_cannot_hold_is_refused_by_name() {
    let admission = Admission { limit: Some(0), ..Admission::default() };
    let net = Admission { allow: vec!["fd00::/8".parse().unwrap()], ..Admission::default() };
    let heavy = [1, 2].map(|number| Weighted { address: backend(number), weight: u32::MAX }).to_vec();
    let many = (0..=MAX_CHOICES as u8).map(|number| Weighted { address: backend(number), weight: 1 }).collect();
    let refused = [
        Mapping { snat: Snat::Pool(vec![(backend(2).ip(), backend(1).ip())]), ..to(1) },
        Mapping { admission, ..to(1) },
        Mapping { admission: net, ..to(1) },
        Mapping { route: Route::Single(at("[fd00::1]:1")), ..to(1) },
        Mapping { spared: Some(backend(2)), ..to(1) },
        Mapping { route: Route::Spread(heavy), ..to(1) },
        Mapping { route: Route::Spread(many), ..to(1) },
        Mapping { route: Route::Spread(Vec::new()), ..to(1) },
    ];
    for mapping in refused {
        let error = State::default().plan(&Change { set: vec![mapping], remove: Vec::new() }, NOW).unwrap_err();
        assert!(error.contains("10.1.0.1:3306"), "{error}");
    }
}
