//! Operations and outcasts: what was written last is what is read back, and what comes too late is refused.

use std::collections::{BTreeMap, BTreeSet};

use shunt_core::Epoch;
use shunt_core::gtid::History;
use shunt_core::observation::Flavour;
use shunt_core::operation::{
    Ending, Kind, OpId, Operation, Outcast, Outcome, Quarantine, Replication, Salvaged, Standing, Step, Trigger,
};

use super::super::{Limits, Stale, StepRecord, Store, StoreError};
use super::{address, cluster, folder, open, sql};

const UUID: &str = "3e11fa47-71ca-11e1-9e33-c80aa9429562";

/// An operation at its first step.
pub(super) fn failover(id: u64) -> Operation {
    let executed = History::parse(Flavour::Mysql, &format!("{UUID}:1-77")).expect("a set");
    let standing = Standing {
        flavour: Flavour::Mysql,
        version: "9.7.4".into(),
        uuid: Some(UUID.into()),
        server_id: 2,
        read_only: true,
        executed: executed.clone(),
        received: executed.clone(),
        replication: Replication { channels: 1, source: "10.0.0.11:3306".into(), ..Replication::default() },
        obstacles: Vec::new(),
        cannot_apply: Vec::new(),
        semi_sync: None,
        in_group: false,
        binlog_format: "ROW".into(),
        shows_sessions: Some(true),
    };
    Operation {
        seen: None,
        id: OpId(id),
        kind: Kind::Failover,
        trigger: Trigger::Verdict,
        reason: "the primary is dead".into(),
        epoch: Epoch(3),
        old: address("10.0.0.11:3306"),
        asked: None,
        allow_loss: false,
        dry_run: false,
        grace_ms: 0,
        step: Step::Precheck,
        serial: 1,
        standings: BTreeMap::from([
            (address("10.0.0.12:3306"), standing.clone()),
            (address("[fd00::1]:3306"), standing),
        ]),
        old_executed: Some(executed.clone()),
        acknowledged_by: Some(1),
        acknowledgers: BTreeSet::from([address("10.0.0.12:3306")]),
        semi_sync: true,
        chosen: Some(address("10.0.0.12:3306")),
        goal: Some(executed),
        suspects: BTreeSet::from([address("10.0.0.11:3306")]),
        disarmed: None,
        left_behind: None,
        promotion_began: false,
        old_origin: shunt_core::operation::Origin::default(),
        followers: BTreeSet::new(),
        salvaged: None,
        left_out: BTreeMap::from([(address("10.0.0.13:3306"), "it has no binary log".into())]),
    }
}

/// The same, a step further.
pub(super) fn at(mut operation: Operation, step: Step) -> Operation {
    operation.step = step;
    operation.serial += 1;
    operation
}

pub(super) fn ending(outcome: Outcome) -> Ending {
    Ending { outcome, message: format!("it is {}", outcome.word()) }
}

fn stale(result: Result<(), StoreError>) -> Stale {
    match result.expect_err("a refusal") {
        StoreError::Stale { why, .. } => why,
        other => panic!("{other:?}"),
    }
}

#[test]
fn an_operation_outlives_the_store_as_it_stood_at_its_newest_step() {
    let dir = folder();
    let orders = cluster("orders");
    let first = failover(7);
    let second = at(first.clone(), Step::Fence);
    let mut third = at(second.clone(), Step::Promote);
    third.disarmed = Some(History::empty(Flavour::Mysql));
    let mut store = open(&dir);
    assert_eq!(store.unfinished(&orders).unwrap(), None);
    assert_eq!(store.last_operation(&orders).unwrap(), OpId(0));
    for (operation, at_ms) in [(&first, 100), (&second, 110), (&third, 120)] {
        store.begin_step(&orders, operation, at_ms).unwrap();
    }
    drop(store);

    let mut store = open(&dir);
    assert_eq!(store.unfinished(&orders).unwrap(), Some(third.clone()));
    assert_eq!(store.unfinished(&cluster("pay")).unwrap(), None);
    let mut last = third.clone();
    last.left_out.clear();
    store.end_operation(&orders, &last, &ending(Outcome::Done), 150).unwrap();
    assert_eq!(store.unfinished(&orders).unwrap(), None);
    drop(store);

    let store = open(&dir);
    assert_eq!(store.last_operation(&orders).unwrap(), OpId(7));
    let record = store.operation(&orders, OpId(7)).unwrap().unwrap();
    assert_eq!((record.operation, record.begun_ms), (last, 100));
    let ended = record.ended.unwrap();
    assert_eq!((ended.at_ms, ended.ending), (150, ending(Outcome::Done)));
    let steps = [(1, Step::Precheck, 100), (2, Step::Fence, 110), (3, Step::Promote, 120)];
    assert_eq!(record.steps, steps.map(|(serial, step, at_ms)| StepRecord { serial, step, at_ms }));
    assert_eq!(store.operation(&orders, OpId(8)).unwrap(), None);
    assert_eq!(store.operation(&cluster("pay"), OpId(7)).unwrap(), None);
}

#[test]
fn a_step_that_is_not_newer_than_what_is_written_down_is_refused() {
    let dir = folder();
    let orders = cluster("orders");
    let mut store = open(&dir);
    let first = failover(1);
    let second = at(first.clone(), Step::Fence);
    store.begin_step(&orders, &first, 1).unwrap();
    store.begin_step(&orders, &second, 2).unwrap();
    assert_eq!(stale(store.begin_step(&orders, &second, 3)), Stale::Serial { stored: 2, asked: 2 });
    assert_eq!(stale(store.begin_step(&orders, &first, 3)), Stale::Serial { stored: 2, asked: 1 });
    assert_eq!(
        stale(store.end_operation(&orders, &first, &ending(Outcome::Undone), 3)),
        Stale::Serial { stored: 2, asked: 1 }
    );
    assert_eq!(store.unfinished(&orders).unwrap(), Some(second));
    assert_eq!(store.operation(&orders, OpId(1)).unwrap().unwrap().steps.len(), 2);
}

#[test]
fn an_operation_that_has_ended_takes_neither_a_step_nor_another_end() {
    let dir = folder();
    let orders = cluster("orders");
    let mut store = open(&dir);
    let first = failover(1);
    store.begin_step(&orders, &first, 1).unwrap();
    store.end_operation(&orders, &first, &ending(Outcome::Failed), 2).unwrap();
    let later = at(first.clone(), Step::Promote);
    assert_eq!(stale(store.begin_step(&orders, &later, 3)), Stale::Ended);
    assert_eq!(stale(store.end_operation(&orders, &later, &ending(Outcome::Done), 3)), Stale::Ended);
    let record = store.operation(&orders, OpId(1)).unwrap().unwrap();
    assert_eq!((record.operation, record.ended.unwrap().ending), (first, ending(Outcome::Failed)));
}

#[test]
fn a_new_operation_begins_only_after_the_last_in_an_epoch_that_is_not_over() {
    let dir = folder();
    let orders = cluster("orders");
    let mut store = open(&dir);
    let never = store.end_operation(&orders, &failover(1), &ending(Outcome::Done), 1);
    assert_eq!(stale(never), Stale::NeverBegun);
    store.advance(&orders, Epoch(4), None).unwrap();
    assert_eq!(stale(store.begin_step(&orders, &failover(2), 1)), Stale::Epoch { stored: 4, asked: 3 });
    let second = Operation { epoch: Epoch(4), ..failover(2) };
    store.begin_step(&orders, &second, 1).unwrap();
    // Its own new primary begins the next epoch while it is under way.
    store.advance(&orders, Epoch(5), Some(address("10.0.0.12:3306"))).unwrap();
    let opened = at(second, Step::Repoint);
    store.begin_step(&orders, &opened, 2).unwrap();
    let third = Operation { epoch: Epoch(5), ..failover(3) };
    assert_eq!(stale(store.begin_step(&orders, &third, 3)), Stale::OtherUnderWay(OpId(2)));
    let first = Operation { epoch: Epoch(5), ..failover(1) };
    assert_eq!(stale(store.begin_step(&orders, &first, 3)), Stale::Overtaken(OpId(2)));
    store.begin_step(&cluster("pay"), &failover(3), 3).unwrap();
    store.end_operation(&orders, &opened, &ending(Outcome::Done), 4).unwrap();
    store.begin_step(&orders, &third, 5).unwrap();
    assert!(store.begin_step(&cluster("web"), &failover(u64::MAX), 5).is_err());
}

#[test]
fn the_cooldown_counts_from_the_last_failover_that_changed_anything() {
    let dir = folder();
    let orders = cluster("orders");
    let mut store = open(&dir);
    let mut id = 0;
    let mut run = |store: &mut Store, change: &dyn Fn(&mut Operation), outcome, ended_ms| {
        id += 1;
        let mut operation = failover(id);
        change(&mut operation);
        store.begin_step(&orders, &operation, ended_ms - 1).unwrap();
        store.end_operation(&orders, &operation, &ending(outcome), ended_ms).unwrap();
        store.last_failover_ended_ms(&orders).unwrap()
    };
    assert_eq!(run(&mut store, &|_| {}, Outcome::Refused, 10), None);
    assert_eq!(run(&mut store, &|op| op.kind = Kind::Switchover, Outcome::Done, 20), None);
    assert_eq!(run(&mut store, &|op| op.dry_run = true, Outcome::Done, 30), None);
    assert_eq!(run(&mut store, &|_| {}, Outcome::Done, 40), Some(40));
    assert_eq!(run(&mut store, &|op| op.trigger = Trigger::Operator("root".into()), Outcome::Failed, 50), Some(50));
    assert_eq!(run(&mut store, &|_| {}, Outcome::Undone, 60), Some(60));
    assert_eq!(run(&mut store, &|_| {}, Outcome::Refused, 70), Some(60));
    assert_eq!(store.last_failover_ended_ms(&cluster("pay")).unwrap(), None);
}

#[test]
fn only_the_newest_operations_are_kept_and_the_last_failover_is_among_them() {
    let dir = folder();
    let limits = Limits { operations: 5, ..Limits::default() };
    let mut store = Store::open_with(dir.path(), limits).unwrap();
    let (orders, pay) = (cluster("orders"), cluster("pay"));
    let mut run = |cluster, id, outcome| {
        store.begin_step(cluster, &failover(id), id.cast_signed()).unwrap();
        store.begin_step(cluster, &at(failover(id), Step::Fence), id.cast_signed()).unwrap();
        store.end_operation(cluster, &at(failover(id), Step::Fence), &ending(outcome), id.cast_signed()).unwrap();
    };
    run(&pay, 1, Outcome::Done);
    for id in 1..=20 {
        run(&orders, id, if id == 3 { Outcome::Done } else { Outcome::Refused });
    }
    let kept: Vec<u64> = (0..=21).filter(|id| store.operation(&orders, OpId(*id)).unwrap().is_some()).collect();
    assert_eq!(kept, [3, 16, 17, 18, 19, 20]);
    assert_eq!(store.last_failover_ended_ms(&orders).unwrap(), Some(3));
    assert_eq!(store.last_operation(&orders).unwrap(), OpId(20));
    assert_eq!(store.last_operation(&pay).unwrap(), OpId(1));
    drop(store);
    let db = rusqlite::Connection::open(dir.path().join("shunt.db")).unwrap();
    let steps: i64 = db.query_row("SELECT count(*) FROM steps", [], |row| row.get(0)).unwrap();
    assert_eq!(steps, 2 * 7);
}

#[test]
fn an_unfinished_operation_that_cannot_be_read_is_an_error_until_it_is_abandoned() {
    let dir = folder();
    let orders = cluster("orders");
    let mut store = open(&dir);
    store.begin_step(&orders, &at(failover(6), Step::Promote), 1).unwrap();
    drop(store);
    for (damage, says) in [
        ("UPDATE operations SET state = substr(state, 1, 40)", "EOF"),
        ("UPDATE operations SET state = '{}'", "missing field `id`"),
        ("UPDATE operations SET format = 2", "its form is 2"),
        ("UPDATE operations SET serial = 9", "contradicts itself"),
        ("UPDATE operations SET step = 'teleport'", "contradicts itself"),
    ] {
        let copy = folder();
        std::fs::copy(dir.path().join("shunt.db"), copy.path().join("shunt.db")).unwrap();
        sql(copy.path(), damage);
        let mut store = open(&copy);
        for error in [store.unfinished(&orders).unwrap_err(), store.operation(&orders, OpId(6)).unwrap_err()] {
            assert!(matches!(error, StoreError::UnreadableOperation { op: OpId(6), .. }), "{error:?}");
            assert!(error.to_string().contains("operation orders/6") && error.to_string().contains(says), "{error}");
            assert!(error.hint().is_some());
        }
        // It is as much under way as any other.
        let next = failover(7);
        assert_eq!(stale(store.begin_step(&orders, &next, 2)), Stale::OtherUnderWay(OpId(6)));
        assert_eq!(store.last_operation(&orders).unwrap(), OpId(6));
        assert_eq!(store.abandon_unfinished(&cluster("pay"), "done by hand", 3).unwrap(), None);
        assert_eq!(store.abandon_unfinished(&orders, "done by hand", 3).unwrap(), Some(OpId(6)));
        assert_eq!(store.abandon_unfinished(&orders, "done by hand", 4).unwrap(), None);
        assert_eq!(store.unfinished(&orders).unwrap(), None);
        assert_eq!(store.last_failover_ended_ms(&orders).unwrap(), Some(3));
        store.begin_step(&orders, &next, 5).unwrap();
    }
}

/// The form in which operations lie in the databases of running agents. If this changes, so that an agent of before and
/// one of after would misread each other, `FORMAT` has to be raised.
#[test]
fn the_form_of_what_is_written_down_changes_only_on_purpose() {
    let mut operation = at(failover(1), Step::CatchUp);
    operation.salvaged = Some(salvaged());
    insta::assert_snapshot!("operation", serde_json::to_string_pretty(&operation).unwrap());
    insta::assert_snapshot!("outcast", serde_json::to_string_pretty(&outcast("10.0.0.11:3306")).unwrap());
}

fn salvaged() -> Salvaged {
    Salvaged {
        stopped: None,
        file: "/var/lib/shunt/salvage/orders-3.binlog".into(),
        gtids: format!("{UUID}:78"),
        transactions: 1,
        tables: vec![("shop.orders".into(), 2)],
        applied: false,
    }
}

fn outcast(server: &str) -> Outcast {
    let errant = format!("{UUID}:78");
    let quarantine =
        Quarantine { reason: "it has a transaction of its own".into(), errant, salvaged: Some(salvaged()) };
    Outcast { server: address(server), epoch: Epoch(3), quarantine: Some(quarantine) }
}

#[test]
fn outcasts_are_kept_all_at_once_and_outlive_the_store() {
    let dir = folder();
    let (orders, pay) = (cluster("orders"), cluster("pay"));
    let one = outcast("10.0.0.11:3306");
    let two = Outcast { quarantine: None, ..outcast("[fd00::1]:3306") };
    let mut store = open(&dir);
    store.keep_outcasts(&pay, std::slice::from_ref(&one)).unwrap();
    store.keep_outcasts(&orders, std::slice::from_ref(&one)).unwrap();
    store.keep_outcasts(&orders, &[one.clone(), two.clone()]).unwrap();
    drop(store);
    let mut store = open(&dir);
    assert_eq!(store.outcasts(&orders).unwrap(), [one.clone(), two]);
    store.keep_outcasts(&orders, &[]).unwrap();
    assert_eq!(store.outcasts(&orders).unwrap(), []);
    assert_eq!(store.outcasts(&pay).unwrap(), [one]);
}

#[test]
fn an_outcast_of_whom_nothing_can_be_read_is_in_quarantine_and_not_forgotten() {
    let dir = folder();
    let orders = cluster("orders");
    let plain = Outcast { quarantine: None, ..outcast("10.0.0.11:3306") };
    open(&dir).keep_outcasts(&orders, &[plain]).unwrap();
    for damage in [
        "UPDATE outcasts SET format = 2",
        "UPDATE outcasts SET format = 1, state = '{'",
        r#"UPDATE outcasts SET state = '{"server":"10.0.0.9:1","epoch":1,"quarantine":null}'"#,
    ] {
        sql(dir.path(), damage);
        let found = open(&dir).outcasts(&orders).unwrap();
        assert_eq!((found.len(), found[0].server), (1, address("10.0.0.11:3306")));
        let quarantine = found[0].quarantine.as_ref().expect("a quarantine");
        assert!(quarantine.reason.contains("cannot be read"), "{}", quarantine.reason);
    }
    sql(dir.path(), "UPDATE outcasts SET server = 'db1'");
    assert!(matches!(open(&dir).outcasts(&orders).unwrap_err(), StoreError::Corrupt { .. }));
}

/// What makes a database of today one of before there were operations.
pub(super) const BEFORE: &str =
    "DROP TABLE operations; DROP TABLE steps; DROP TABLE outcasts; PRAGMA user_version = 1; VACUUM";

#[test]
fn a_database_of_before_there_were_operations_gets_their_tables_and_keeps_the_rest() {
    let dir = folder();
    let orders = cluster("orders");
    let db1 = Some(address("10.0.0.11:3306"));
    let mut store = open(&dir);
    store.advance(&orders, Epoch(3), db1).unwrap();
    store.record(&super::event("before")).unwrap();
    drop(store);
    sql(dir.path(), BEFORE);

    let mut store = open(&dir);
    assert_eq!(store.epochs().unwrap()[&orders], (Epoch(3), db1));
    assert_eq!(store.events(0, None, 9).unwrap()[0].event.message, "before");
    assert_eq!((store.unfinished(&orders).unwrap(), store.outcasts(&orders).unwrap()), (None, Vec::new()));
    store.begin_step(&orders, &failover(1), 1).unwrap();
    drop(store);
    assert_eq!(open(&dir).unfinished(&orders).unwrap(), Some(failover(1)));
}
