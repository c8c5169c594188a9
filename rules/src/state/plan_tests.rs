use std::collections::BTreeSet;

use shunt_core::ClusterName;
use shunt_core::config::Snat;
use shunt_core::mapping::{Admission, Weighted};

use super::*;
use crate::state::upkeep::Remaining;

fn at(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

const L: &str = "10.1.0.1:3306";
const A: &str = "10.0.0.1:3306";
const B: &str = "10.0.0.2:3306";

fn mapping(route: Route, leaving: Leaving) -> Mapping {
    Mapping {
        listener: at(L),
        cluster: ClusterName::new("orders").unwrap(),
        route,
        snat: Snat::Masquerade,
        leaving,
        admission: Admission::default(),
        lease: None,
        spared: None,
    }
}

fn to(backend: &str) -> Route {
    Route::Single(at(backend))
}

fn set(mapping: Mapping) -> Change {
    Change { set: vec![mapping], remove: Vec::new() }
}

/// A state, and the clock it is looked at with.
struct Stage {
    state: State,
    now: Instant,
}

impl Stage {
    fn new() -> Self {
        Self { state: State::default(), now: Instant::now() }
    }

    fn wait(&mut self, seconds: u64) {
        self.now += Duration::from_secs(seconds);
    }

    fn apply(&mut self, change: &Change) -> Plan {
        let plan = self.state.plan(change, self.now).unwrap();
        self.state.commit(plan.clone());
        plan
    }

    fn leads(&mut self, backend: &str, leaving: Leaving) -> Plan {
        self.apply(&set(mapping(to(backend), leaving)))
    }

    fn listener(&self) -> &Listener {
        &self.state.listeners[&at(L)]
    }
}

fn words(plan: &Plan) -> Vec<String> {
    let word = |op: &Op| match op {
        Op::Delete { key, .. } => format!("- {key}"),
        Op::Add(key, value) if value.deadline.is_some() => format!("+ {key} for a time"),
        Op::Add(key, _) => format!("+ {key}"),
    };
    plan.ops.iter().map(word).collect()
}

fn pair(backend: &str) -> Pair {
    Pair { listener: at(L), backend: at(backend) }
}

#[test]
fn a_new_mapping_adds_its_elements_and_nothing_else() {
    let plan = Stage::new().leads(A, Leaving::Sever);
    assert_eq!(
        words(&plan),
        [
            "+ element 10.1.0.1:3306 of map primary4",
            "+ element 10.1.0.1:3306 → 10.0.0.1:3306 of set live4",
            "+ element 10.1.0.1:3306 of set listeners4",
            "+ element 10.1.0.1:3306 of set masq4",
            "+ element 10.0.0.1:3306 of set backends4",
        ]
    );
    assert_eq!((plan.changed, plan.dead, plan.born), (1, vec![], vec![pair(A)]));
}

#[test]
fn a_swap_touches_six_elements_however_many_mappings_there_are() {
    let mut stage = Stage::new();
    let many = (1..=200u8).map(|host| Mapping {
        listener: SocketAddr::from(([10, 2, 0, host], 3306)),
        ..mapping(Route::Single(SocketAddr::from(([10, 3, 0, host], 3306))), Leaving::Sever)
    });
    stage.apply(&Change { set: many.collect(), remove: Vec::new() });
    stage.leads(A, Leaving::Sever);
    let plan = stage.leads(B, Leaving::Sever);
    assert_eq!(
        words(&plan),
        [
            "- element 10.1.0.1:3306 of map primary4",
            "- element 10.1.0.1:3306 → 10.0.0.1:3306 of set live4",
            "- element 10.0.0.1:3306 of set backends4",
            "+ element 10.1.0.1:3306 of map primary4",
            "+ element 10.1.0.1:3306 → 10.0.0.2:3306 of set live4",
            "+ element 10.0.0.2:3306 of set backends4",
        ]
    );
    assert_eq!((plan.dead, plan.born), (vec![pair(A)], vec![pair(B)]));
}

#[test]
fn the_same_mapping_again_is_no_change() {
    let weights = vec![Weighted { address: at(A), weight: 1 }, Weighted { address: at(B), weight: 2 }];
    for route in [to(A), Route::Refuse, Route::Hold(Duration::from_secs(9)), Route::Spread(weights)] {
        let mut stage = Stage::new();
        let change = set(mapping(route, Leaving::Drain(Duration::from_secs(3))));
        assert_eq!(stage.apply(&change).changed, 1);
        stage.wait(1);
        let again = stage.apply(&change);
        assert_eq!((again.changed, again.ops), (0, vec![]));
    }
}

#[test]
fn a_backend_that_two_listeners_share_stays_known_until_both_left_it() {
    let mut stage = Stage::new();
    let other = Mapping { listener: at("10.1.0.2:3306"), ..mapping(to(A), Leaving::Sever) };
    stage.apply(&Change { set: vec![mapping(to(A), Leaving::Sever), other.clone()], remove: Vec::new() });
    let known = |plan: &Plan| plan.ops.contains(&Op::Delete { key: Key::Backend(at(A)), timed: false });
    assert!(!known(&stage.leads(B, Leaving::Sever)));
    let gone = Change { set: Vec::new(), remove: vec![(other.listener, Leaving::Sever)] };
    assert!(known(&stage.apply(&gone)));
    assert_eq!(State::new(stage.state.listeners.clone()), stage.state, "the count is what it would be from scratch");
}

#[test]
fn a_drained_pair_gets_a_deadline_that_only_shrinks() {
    let mut stage = Stage::new();
    let begin = stage.now;
    stage.leads(A, Leaving::Sever);
    let plan = stage.leads(B, Leaving::Drain(Duration::from_secs(30)));
    assert!(words(&plan).contains(&"+ element 10.1.0.1:3306 → 10.0.0.1:3306 of set live4 for a time".to_owned()));
    assert_eq!(plan.dead, []);
    stage.wait(10);
    assert_eq!(stage.leads(B, Leaving::Drain(Duration::from_secs(30))).changed, 0);
    assert_eq!(stage.leads(B, Leaving::Keep).changed, 0);
    assert_eq!(stage.listener().former[&at(A)], Some(begin + Duration::from_secs(30)));
    stage.leads(B, Leaving::Drain(Duration::from_secs(5)));
    assert_eq!(stage.listener().former[&at(A)], Some(begin + Duration::from_secs(15)));
    let severed = stage.leads(B, Leaving::Sever);
    assert_eq!(severed.dead, [pair(A)]);
    assert_eq!(stage.listener().former, BTreeMap::new());
}

#[test]
fn a_backend_that_returns_is_fully_live_again() {
    let mut stage = Stage::new();
    stage.leads(A, Leaving::Sever);
    stage.leads(B, Leaving::Drain(Duration::from_secs(30)));
    let back = stage.leads(A, Leaving::Drain(Duration::from_secs(30)));
    let words = words(&back);
    assert!(words.contains(&"- element 10.1.0.1:3306 → 10.0.0.1:3306 of set live4".to_owned()), "{words:?}");
    assert!(words.contains(&"+ element 10.1.0.1:3306 → 10.0.0.1:3306 of set live4".to_owned()), "{words:?}");
    assert_eq!((back.dead, back.born), (vec![], vec![]));
}

#[test]
fn what_has_expired_is_not_deleted_again() {
    let mut stage = Stage::new();
    stage.leads(A, Leaving::Sever);
    stage.leads(B, Leaving::Drain(Duration::from_secs(3)));
    stage.wait(4);
    let back = stage.leads(A, Leaving::Sever);
    let delete = Op::Delete { key: Key::Live(pair(A)), timed: true };
    assert!(!back.ops.contains(&delete));
    stage.apply(&set(mapping(Route::Hold(Duration::from_secs(3)), Leaving::Sever)));
    stage.wait(4);
    let opened = stage.leads(A, Leaving::Sever);
    assert!(opened.ops.iter().all(|op| !matches!(op, Op::Delete { key: Key::Hold(_), .. })));
    assert!(opened.ops.contains(&Op::Delete { key: Key::Fenced(at(L)), timed: false }));
}

#[test]
fn a_fence_holds_or_refuses_and_leads_nowhere() {
    for (route, held) in
        [(Route::Refuse, false), (Route::Hold(Duration::from_secs(5)), true), (Route::Hold(Duration::ZERO), false)]
    {
        let mut stage = Stage::new();
        stage.leads(A, Leaving::Sever);
        let plan = stage.apply(&set(mapping(route, Leaving::Sever)));
        assert_eq!(plan.dead, [pair(A)]);
        let elements = stage.state.elements();
        assert!(elements.contains_key(&Key::Fenced(at(L))));
        assert_eq!(elements.contains_key(&Key::Hold(at(L))), held);
        assert!(elements.keys().all(|key| !matches!(key, Key::Primary(_) | Key::Spread(..) | Key::Live(_))));
    }
}

#[test]
fn a_removed_listener_keeps_its_guard_and_loses_everything_else() {
    let mut stage = Stage::new();
    stage.leads(A, Leaving::Sever);
    let plan = stage.apply(&Change { set: Vec::new(), remove: vec![(at(L), Leaving::Sever)] });
    assert_eq!((plan.changed, plan.dead), (1, vec![pair(A)]));
    let left: Vec<Key> = stage.state.elements().into_keys().collect();
    assert_eq!(left, [Key::Listener(at(L)), Key::Fenced(at(L))]);
    let upkeep = stage.state.upkeep(&Remaining::default(), stage.now);
    stage.state.commit(upkeep);
    assert_eq!(stage.state, State::default());
}

#[test]
fn upkeep_ends_drains_and_forgets_kept_pairs_without_flows() {
    let mut stage = Stage::new();
    stage.leads(A, Leaving::Sever);
    stage.leads(B, Leaving::Drain(Duration::from_secs(3)));
    let nothing = Remaining::default();
    assert_eq!(stage.state.upkeep(&nothing, stage.now).changed, 0);
    stage.wait(4);
    assert_eq!(stage.state.upkeep(&nothing, stage.now).dead, [pair(A)]);

    let mut stage = Stage::new();
    stage.leads(A, Leaving::Sever);
    stage.leads(B, Leaving::Keep);
    assert_eq!(stage.state.awaited().1, BTreeSet::from([pair(A)]));
    let flows = Remaining { pairs: BTreeSet::from([pair(A)]), ..Default::default() };
    assert_eq!(stage.state.upkeep(&flows, stage.now).changed, 0);
    assert_eq!(stage.state.upkeep(&nothing, stage.now).dead, [pair(A)]);
}

#[test]
fn what_nftables_cannot_hold_is_refused_by_name() {
    let plan = |mapping: Mapping| Stage::new().state.plan(&set(mapping), Instant::now()).map(drop).unwrap_err();
    let pool = |first: &str, last: &str| Snat::Pool(vec![(first.parse().unwrap(), last.parse().unwrap())]);
    let pooled = |snat| plan(Mapping { snat, ..mapping(to(A), Leaving::Sever) });
    assert!(pooled(pool("10.0.0.1", "10.0.0.121")).starts_with("listener 10.1.0.1:3306: an SNAT pool has 1 to 120"));
    assert!(pooled(pool("fd00::1", "fd00::2")).contains("fd00::1 is of another address family"));
    let admission = Admission { allow: vec!["fd00::/8".parse().unwrap()], ..Admission::default() };
    let admitting = Mapping { admission, ..mapping(to(A), Leaving::Sever) };
    assert!(plan(admitting).contains("network fd00::/8 is of another address family"));
    assert!(plan(mapping(to("[fd00::1]:3306"), Leaving::Sever)).contains("[fd00::1]:3306"));
    assert!(plan(mapping(Route::Spread(Vec::new()), Leaving::Sever)).contains("0 backends"));
    let any = Mapping { listener: at("0.0.0.0:3306"), ..mapping(to(A), Leaving::Sever) };
    assert!(plan(any).contains("exact addresses"));
}

fn sparing() -> Mapping {
    Mapping { spared: Some(at(A)), ..mapping(Route::Hold(Duration::from_secs(60)), Leaving::Sever) }
}

fn flow(client: &str) -> Tuple {
    Tuple { client: at(client), listener: at(L) }
}

#[test]
fn a_spared_pair_takes_no_new_connections_and_does_not_die() {
    let mut stage = Stage::new();
    stage.leads(A, Leaving::Sever);
    let plan = stage.apply(&set(sparing()));
    assert_eq!((&plan.dead[..], &plan.born[..], &plan.left[..]), (&[][..], &[][..], &[pair(A)][..]));
    let elements = stage.state.elements();
    assert!(elements.contains_key(&Key::Sparing(pair(A))) && elements.contains_key(&Key::Backend(at(A))));
    assert!(!elements.contains_key(&Key::Live(pair(A))));
    assert_eq!(stage.apply(&set(sparing())).changed, 0, "it is so already");
    let plan = stage.apply(&set(mapping(Route::Refuse, Leaving::Sever)));
    assert_eq!((&plan.dead[..], &plan.left[..]), (&[pair(A)][..], &[][..]));
}

#[test]
fn a_spared_backend_that_leads_again_keeps_its_flows_and_none_is_blocked() {
    let mut stage = Stage::new();
    stage.leads(A, Leaving::Sever);
    stage.apply(&set(sparing()));
    let plan = stage.state.block(&[flow("192.0.2.1:1"), flow("192.0.2.1:2")], stage.now).unwrap();
    stage.state.commit(plan);
    assert_eq!(stage.state.blocked().len(), 2);
    let plan = stage.leads(A, Leaving::Sever);
    assert_eq!((&plan.dead[..], &plan.born[..]), (&[][..], &[][..]));
    assert_eq!(plan.unblocked, [flow("192.0.2.1:1"), flow("192.0.2.1:2")]);
    assert!(!stage.state.elements().keys().any(|key| matches!(key, Key::Blocked(_) | Key::Sparing(_))));
}

#[test]
fn blocking_and_unblocking_touch_the_flows_alone() {
    let mut stage = Stage::new();
    stage.leads(A, Leaving::Sever);
    assert!(stage.state.block(&[flow("192.0.2.1:1")], stage.now).is_err(), "its listener spares nobody");
    stage.apply(&set(sparing()));
    let plan = stage.state.block(&[flow("192.0.2.1:1")], stage.now).unwrap();
    assert_eq!(plan.ops, [Op::Add(Key::Blocked(flow("192.0.2.1:1")), Value::default())]);
    stage.state.commit(plan);
    assert_eq!(stage.state.block(&[flow("192.0.2.1:1")], stage.now).unwrap().changed, 0);
    assert_eq!(stage.apply(&set(sparing())).changed, 0, "it is no part of the mapping");
    let both = [flow("192.0.2.1:1"), flow("192.0.2.1:2")];
    let plan = stage.state.unblock(&both, stage.now);
    assert_eq!(plan.ops, [Op::Delete { key: Key::Blocked(both[0]), timed: false }]);
    assert_eq!(plan.unblocked, [both[0]]);
}

#[test]
fn flows_that_are_spared_no_more_drain_if_their_mapping_says_so() {
    let mut stage = Stage::new();
    stage.leads(A, Leaving::Sever);
    stage.apply(&set(sparing()));
    let plan = stage.leads(B, Leaving::Drain(Duration::from_secs(5)));
    assert_eq!(plan.dead, []);
    assert_eq!(stage.listener().former, BTreeMap::from([(at(A), Some(stage.now + Duration::from_secs(5)))]));
    assert_eq!(stage.listener().spared, None);
}

#[test]
fn a_fence_has_a_lease_only_while_it_spares_somebody_and_loses_both_when_that_runs_out() {
    let mut stage = Stage::new();
    let leased = |mapping| Mapping { lease: Some(Duration::from_secs(5)), ..mapping };
    stage.apply(&set(leased(mapping(to(A), Leaving::Sever))));
    stage.apply(&set(leased(sparing())));
    let deadline = stage.state.elements()[&Key::Sparing(pair(A))].deadline;
    assert_eq!(deadline, Some(stage.now + Duration::from_secs(5)));
    stage.wait(2);
    let (plan, lapsed) = stage.state.renew(stage.now);
    assert_eq!((plan.changed, lapsed), (1, Vec::new()));
    stage.state.commit(plan);
    stage.wait(5);
    let (plan, lapsed) = stage.state.renew(stage.now);
    assert_eq!((&plan.dead[..], &lapsed[..]), (&[pair(A)][..], &[at(L)][..]));
    stage.state.commit(plan);
    assert_eq!((stage.listener().spared, stage.listener().lease), (None, None));
    stage.apply(&set(leased(mapping(Route::Refuse, Leaving::Sever))));
    assert_eq!(stage.listener().lease, None);
}

#[test]
fn only_a_fence_spares() {
    let stage = Stage::new();
    let open = Mapping { spared: Some(at(A)), ..mapping(to(B), Leaving::Sever) };
    assert!(stage.state.plan(&set(open), stage.now).is_err());
}
