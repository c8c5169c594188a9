use std::collections::BTreeMap as Map;
use std::net::SocketAddr;

use shunt_core::mapping::Admission;

use super::*;
use crate::element::Pair;
use crate::state::{Listener, Road, Source, State};

fn at(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

/// A state with a primary, a hold and a drain, and the table just as it should be.
fn stage(now: Instant) -> (Elements, Snapshot) {
    let listener = |road| Listener {
        cluster: "orders".to_owned(),
        source: Source::Masquerade,
        road,
        former: Map::new(),
        spared: None,
        blocked: std::collections::BTreeSet::new(),
        admission: Admission::default(),
        lease: None,
    };
    let deadline = now + Duration::from_secs(30);
    let draining = Listener {
        former: Map::from([(at("10.0.0.9:1"), Some(deadline))]),
        ..listener(Road::Single(at("10.0.0.1:1")))
    };
    let hold = Road::Hold { span: Duration::from_secs(30), until: deadline };
    let state = State::new(Map::from([(at("10.1.0.1:1"), draining), (at("10.1.0.2:1"), listener(hold))]));
    let found = Snapshot {
        comment: Some(table_comment()),
        chains: chains(&Layout::of("shunt"))
            .iter()
            .map(|c| (c.name.to_owned(), c.hook.as_ref().map(FoundHook::of)))
            .collect(),
        rules: our_wording(&Layout::of("shunt")),
        sets: SetId::all().map(|set| (set.name().to_owned(), Definition::of(set))).collect(),
        elements: state.elements(),
        strange: Vec::new(),
    };
    (state.elements(), found)
}

fn words(found: &Snapshot, expected: &Elements, now: Instant) -> Vec<String> {
    let comparison = compare("shunt", found, expected, &our_wording(&Layout::of("shunt")), now);
    comparison.drift.into_iter().map(|drift| drift.what).collect()
}

#[test]
fn a_table_as_it_should_be_shows_no_drift_and_needs_no_repair() {
    let now = Instant::now();
    let (expected, found) = stage(now);
    assert_eq!(compare("shunt", &found, &expected, &our_wording(&Layout::of("shunt")), now), Comparison::default());
    assert_eq!(repair(&found.elements, &expected, now), []);
}

#[test]
fn an_element_that_ran_out_a_little_early_is_no_drift() {
    let now = Instant::now();
    let (expected, mut found) = stage(now);
    let draining = Key::Live(Pair { listener: at("10.1.0.1:1"), backend: at("10.0.0.9:1") });
    found.elements.remove(&draining);
    found.elements.remove(&Key::Hold(at("10.1.0.2:1")));
    for late in [Duration::from_secs(30).saturating_sub(GRACE), Duration::from_secs(40)] {
        assert_eq!(words(&found, &expected, now + late), [""; 0]);
        assert_eq!(repair(&found.elements, &expected, now + late), []);
    }
    assert_eq!(words(&found, &expected, now).len(), 2);
    assert_eq!(repair(&found.elements, &expected, now).len(), 2);
}

#[test]
fn each_kind_of_meddling_with_elements_is_named_and_repaired() {
    let now = Instant::now();
    let primary = Key::Primary(at("10.1.0.1:1"));
    let live = Key::Live(Pair { listener: at("10.1.0.1:1"), backend: at("10.0.0.1:1") });
    let hold = Key::Hold(at("10.1.0.2:1"));
    let check = |meddle: &dyn Fn(&mut Elements), word: &str, ops: usize| {
        let (expected, mut found) = stage(now);
        meddle(&mut found.elements);
        assert_eq!(words(&found, &expected, now), [word]);
        assert_eq!(repair(&found.elements, &expected, now).len(), ops, "{word}");
    };
    check(&|e| drop(e.remove(&live)), "element 10.1.0.1:1 → 10.0.0.1:1 of set live4 is missing", 1);
    let other = Key::Listener(at("10.9.9.9:9"));
    check(&|e| drop(e.insert(other, Value::default())), "element 10.9.9.9:9 of set listeners4 is not shunt's", 1);
    check(
        &|e| e.get_mut(&primary).unwrap().backend = Some(at("10.0.0.8:1")),
        "element 10.1.0.1:1 of map primary4 leads to 10.0.0.8:1 instead of 10.0.0.1:1",
        2,
    );
    let soon = now + Duration::from_secs(5);
    check(
        &|e| e.get_mut(&live).unwrap().deadline = Some(soon),
        "element 10.1.0.1:1 → 10.0.0.1:1 of set live4 has a timeout",
        2,
    );
    check(&|e| e.get_mut(&hold).unwrap().deadline = None, "element 10.1.0.2:1 of set hold4 has no timeout", 2);
    check(
        &|e| e.get_mut(&hold).unwrap().deadline = Some(now + Duration::from_secs(300)),
        "element 10.1.0.2:1 of set hold4 has another timeout",
        2,
    );
    check(&|e| e.get_mut(&primary).unwrap().note = None, "element 10.1.0.1:1 of map primary4 has another comment", 2);
}

#[test]
fn another_definition_wants_a_new_table_and_other_rules_only_their_chain() {
    let now = Instant::now();
    let (expected, found) = stage(now);
    let compared = |found: &Snapshot| compare("shunt", found, &expected, &our_wording(&Layout::of("shunt")), now);

    let mut changed = found.clone();
    changed.rules.get_mut("fence").unwrap().pop();
    let comparison = compared(&changed);
    assert_eq!((comparison.rebuild, comparison.chains), (false, vec!["fence"]));

    let mut gone = found.clone();
    gone.sets.remove("live6");
    assert!(compared(&gone).rebuild);
    let mut other = found.clone();
    other.chains.insert("input".to_owned(), None);
    assert!(compared(&other).rebuild);
    let mut older = found.clone();
    older.comment = Some("shunt schema 0".to_owned());
    assert!(compared(&older).rebuild);
    let strange = Snapshot { strange: vec!["a catch-all element in map primary4".to_owned()], ..found.clone() };
    assert_eq!(compared(&strange).drift[0].what, "a catch-all element in map primary4");
}

#[test]
fn a_flood_of_drift_is_counted() {
    let now = Instant::now();
    let (expected, mut found) = stage(now);
    for host in 0..50u8 {
        found.elements.insert(Key::Listener(SocketAddr::from(([10, 8, 0, host], 1))), Value::default());
    }
    let words = words(&found, &expected, now);
    assert_eq!((words.len(), words.last().unwrap().as_str()), (NAMED + 1, "and 30 more elements"));
}
