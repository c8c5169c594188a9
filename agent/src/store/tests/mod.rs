//! What is kept is read back, also by the next agent; what must be refused is refused.

mod disk;
mod killed;
mod operations;

use std::net::SocketAddr;
use std::path::Path;

use serde_json::json;
use shunt_core::{ClusterName, Epoch};
use tempfile::TempDir;

use super::{Event, Health, Limits, Pause, Pin, Store, StoreError};

fn folder() -> TempDir {
    TempDir::new().expect("a temporary folder")
}

fn open(dir: &TempDir) -> Store {
    Store::open(dir.path()).expect("a store")
}

fn cluster(name: &str) -> ClusterName {
    ClusterName::new(name).expect("a name")
}

fn address(text: &str) -> SocketAddr {
    text.parse().expect("an address")
}

fn event(message: &str) -> Event {
    Event {
        at_ms: 1_763_700_000_000,
        cluster: Some(cluster("orders")),
        kind: "verdict".into(),
        message: message.into(),
        data: json!({ "verdict": "dead", "took_ms": 12 }),
    }
}

fn sql(dir: &Path, statement: &str) {
    let db = rusqlite::Connection::open(dir.join("shunt.db")).expect("the database");
    db.execute_batch(statement).expect(statement);
}

#[test]
fn an_epoch_outlives_the_store() {
    let dir = folder();
    let orders = cluster("orders");
    let db1 = Some(address("10.0.0.11:3306"));
    let mut store = open(&dir);
    store.advance(&orders, Epoch(1), db1).unwrap();
    store.advance(&orders, Epoch(4), None).unwrap();
    store.advance(&cluster("pay"), Epoch(2), Some(address("[fd00::1]:3306"))).unwrap();
    drop(store);
    let epochs = open(&dir).epochs().unwrap();
    assert_eq!(epochs[&orders], (Epoch(4), None));
    assert_eq!(epochs[&cluster("pay")], (Epoch(2), Some(address("[fd00::1]:3306"))));
}

#[test]
fn an_epoch_neither_goes_back_nor_changes_its_primary() {
    let dir = folder();
    let orders = cluster("orders");
    let (db1, db2) = (Some(address("10.0.0.11:3306")), Some(address("10.0.0.12:3306")));
    let mut store = open(&dir);
    store.advance(&orders, Epoch(5), None).unwrap();
    store.advance(&orders, Epoch(5), db1).unwrap();
    store.advance(&orders, Epoch(5), db1).unwrap();
    let back = store.advance(&orders, Epoch(4), db2).unwrap_err();
    assert!(matches!(back, StoreError::EpochWentBack { stored: Epoch(5), asked: Epoch(4), .. }), "{back}");
    for other in [db2, None] {
        let taken = store.advance(&orders, Epoch(5), other).unwrap_err();
        assert!(matches!(taken, StoreError::EpochTaken { .. }), "{taken}");
    }
    assert_eq!(store.epochs().unwrap()[&orders], (Epoch(5), db1));
    assert!(store.advance(&orders, Epoch(u64::MAX), db1).is_err());
}

#[test]
fn pins_are_kept_by_cluster_and_listener_until_unpinned() {
    let dir = folder();
    let mut store = open(&dir);
    let whole = Pin {
        cluster: cluster("orders"),
        listener: None,
        server: address("10.0.0.11:3306"),
        since_ms: 7,
        by: "root".into(),
    };
    let one = Pin { listener: Some(address("10.0.0.2:3307")), server: address("10.0.0.12:3306"), ..whole.clone() };
    store.pin(&Pin { server: address("10.0.0.99:1"), ..whole.clone() }).unwrap();
    store.pin(&one).unwrap();
    store.pin(&whole).unwrap();
    drop(store);
    let mut store = open(&dir);
    assert_eq!(store.pins().unwrap(), [whole.clone(), one.clone()]);
    assert!(store.unpin(&whole.cluster, None).unwrap());
    assert!(!store.unpin(&whole.cluster, None).unwrap());
    assert_eq!(store.pins().unwrap(), [one]);
}

#[test]
fn a_pause_is_kept_until_it_is_resumed() {
    let dir = folder();
    let mut store = open(&dir);
    let pause = Pause {
        cluster: cluster("orders"),
        until_ms: Some(1000),
        reason: "upgrade".into(),
        since_ms: 1,
        by: "root".into(),
    };
    store.pause(&pause).unwrap();
    let forever = Pause { until_ms: None, ..pause.clone() };
    store.pause(&forever).unwrap();
    assert_eq!(store.pauses().unwrap(), [forever]);
    assert!(store.resume(&pause.cluster).unwrap());
    assert!(!store.resume(&pause.cluster).unwrap());
    assert!(store.pauses().unwrap().is_empty());
}

#[test]
fn events_come_back_in_order_by_cluster_and_after_a_number() {
    let dir = folder();
    let mut store = open(&dir);
    let agents = Event { cluster: None, ..event("started") };
    let pay = Event { cluster: Some(cluster("pay")), ..event("pay") };
    let first = store.record(&agents).unwrap();
    let last = store.record_all(&[event("one"), pay.clone(), event("two")]).unwrap();
    assert_eq!(last, first + 3);
    let messages = |events: Vec<super::RecordedEvent>| {
        events.into_iter().map(|recorded| recorded.event.message).collect::<Vec<_>>()
    };
    assert_eq!(messages(store.events(0, None, 100).unwrap()), ["started", "one", "pay", "two"]);
    assert_eq!(messages(store.events(first, None, 2).unwrap()), ["one", "pay"]);
    assert_eq!(messages(store.events(0, Some(&cluster("orders")), 100).unwrap()), ["one", "two"]);
    assert_eq!(messages(store.latest_events(None, 2).unwrap()), ["pay", "two"]);
    assert_eq!(messages(store.latest_events(Some(&cluster("orders")), 1).unwrap()), ["two"]);
    assert_eq!(store.events(first + 1, None, 1).unwrap()[0].event, pay);
}

#[test]
fn only_the_newest_events_are_kept_and_numbers_go_on() {
    let dir = folder();
    let limits = Limits { events: 50, ..Limits::default() };
    let mut store = Store::open_with(dir.path(), limits).unwrap();
    for _ in 0..21 {
        store.record_all(&vec![event("x"); 100]).unwrap();
    }
    let kept = store.events(0, None, 10_000).unwrap();
    assert!((50..1150).contains(&kept.len()), "{}", kept.len());
    assert_eq!(kept.last().unwrap().id, 2100);
    drop(store);
    let mut store = Store::open_with(dir.path(), limits).unwrap();
    let kept = store.events(0, None, 10_000).unwrap();
    assert_eq!((kept.len(), kept[0].id), (50, 2051));
    assert_eq!(store.record(&event("next")).unwrap(), 2101);
}

#[test]
fn the_folder_and_its_files_are_made_for_the_agent_alone() {
    use std::os::unix::fs::PermissionsExt;
    let dir = folder();
    let state = dir.path().join("lib/shunt");
    let store = Store::open(&state).unwrap();
    assert_eq!(store.health(), Health::Good);
    for (name, mode) in [("", 0o750), ("shunt.db", 0o640), ("lock", 0o640), ("reserve", 0o600)] {
        let found = std::fs::metadata(state.join(name)).unwrap().permissions().mode() & 0o777;
        assert_eq!(found & !mode, 0, "{name} has mode {found:o}");
    }
    assert_eq!(std::fs::metadata(state.join("reserve")).unwrap().len(), 1 << 20);
}

#[test]
fn a_second_agent_on_the_same_folder_is_told_the_pid_of_the_first() {
    let dir = folder();
    let store = open(&dir);
    let error = Store::open(dir.path()).unwrap_err();
    assert!(matches!(&error, StoreError::InUse { pid: Some(pid), .. } if *pid as u32 == std::process::id()), "{error}");
    assert!(error.to_string().contains(&format!("(pid {})", std::process::id())));
    drop(store);
    open(&dir);
}

#[test]
fn a_damaged_database_is_named_and_never_replaced() {
    let dir = folder();
    let path = dir.path().join("shunt.db");
    let mut store = open(&dir);
    store.record_all(&vec![event("x"); 500]).unwrap();
    drop(store);
    let good = std::fs::read(&path).unwrap();

    let mut holed = good.clone();
    holed[5000..20_000].fill(0xee);
    for bad in [&b""[..], b"not a database, but long enough to look like one", &good[..4096], &holed] {
        std::fs::write(&path, bad).unwrap();
        let error = Store::open(dir.path()).unwrap_err();
        assert!(matches!(error, StoreError::Corrupt { .. }), "{error:?}");
        assert!(error.to_string().contains(&*path.to_string_lossy()), "{error}");
        assert!(error.hint().is_some());
        assert_eq!(std::fs::read(&path).unwrap(), bad, "it is left as it was found");
    }
    std::fs::write(&path, &good).unwrap();
    assert_eq!(open(&dir).events(0, None, 1000).unwrap().len(), 500);
}

#[test]
fn a_log_without_its_database_is_damage_and_not_a_fresh_start() {
    let dir = folder();
    std::fs::write(dir.path().join("shunt.db-wal"), b"frames").unwrap();
    let error = Store::open(dir.path()).unwrap_err();
    assert!(matches!(error, StoreError::Corrupt { .. }), "{error}");
    assert!(!dir.path().join("shunt.db").exists());
}

#[test]
fn a_half_made_database_of_a_crashed_first_start_is_made_anew() {
    let dir = folder();
    std::fs::write(dir.path().join("shunt.db.new"), b"half").unwrap();
    assert!(open(&dir).epochs().unwrap().is_empty());
    assert!(!dir.path().join("shunt.db.new").exists());
}

#[test]
fn a_database_of_a_newer_version_is_left_alone() {
    let dir = folder();
    drop(open(&dir));
    sql(dir.path(), "PRAGMA user_version = 99");
    let error = Store::open(dir.path()).unwrap_err();
    assert!(matches!(error, StoreError::Newer { found: 99, .. }), "{error}");
}

#[test]
fn values_that_somebody_else_wrote_into_the_database_are_damage() {
    let dir = folder();
    drop(open(&dir));
    sql(
        dir.path(),
        "INSERT INTO clusters VALUES ('a', -1, NULL); INSERT INTO pins VALUES ('b c', NULL, 'x', 0, '');
         INSERT INTO events (at_ms, kind, message, data) VALUES (0, '', '', 'no json')",
    );
    let store = open(&dir);
    assert!(matches!(store.epochs().unwrap_err(), StoreError::Corrupt { .. }));
    assert!(matches!(store.pins().unwrap_err(), StoreError::Corrupt { .. }));
    assert!(matches!(store.events(0, None, 9).unwrap_err(), StoreError::Corrupt { .. }));
}

#[test]
fn a_folder_that_cannot_be_made_is_a_clear_error() {
    let dir = folder();
    std::fs::write(dir.path().join("file"), "").unwrap();
    let error = Store::open(&dir.path().join("file/state")).unwrap_err();
    let StoreError::Io { what, path, .. } = &error else { panic!("{error:?}") };
    assert_eq!((*what, path.ends_with("file/state")), ("create the state folder", true));
    assert!(error.hint().is_some());
}
