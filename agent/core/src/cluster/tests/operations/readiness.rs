//! Everybody is examined in quiet times, so that what a failover would stumble over is known before it is needed.

use super::super::db;
use super::bench::{Bench, SERVERS, promoting};
use crate::cluster::{AlarmKind, Event};
use crate::config::{ClusterConfig, FailoverMode, Promotion, Salvage};
use crate::operation::{Cause, Kind, Obstacle, Task};
use std::time::Duration;

fn started(config: ClusterConfig) -> Bench {
    let mut bench = Bench::with(config);
    for _ in 0..4 {
        bench.round();
    }
    bench
}

fn examined(bench: &mut Bench) -> Vec<Task> {
    std::mem::take(&mut bench.asked)
}

fn unready(bench: &Bench) -> Vec<String> {
    let alarms = bench.machine.operation_alarms().into_iter();
    alarms.filter(|alarm| alarm.kind == AlarmKind::NotReady).map(|alarm| alarm.message).collect()
}

fn everybody() -> Vec<Task> {
    (1..=SERVERS).map(|n| Task::Examine { server: db(n) }).collect()
}

#[test]
fn everybody_is_examined_once_a_minute() {
    let mut bench = started(promoting());
    assert_eq!(examined(&mut bench), everybody());
    bench.tick();
    assert_eq!(examined(&mut bench), []);
    bench.now = bench.now + Duration::from_secs(60);
    assert!(bench.machine.next_deadline().is_some_and(|at| at <= bench.now), "the machine asks to be woken for it");
    bench.event(Event::Deadline);
    assert_eq!(examined(&mut bench), everybody());
}

#[test]
fn whoever_could_not_be_promoted_is_named_with_what_it_lacks_until_it_is_mended() {
    let mut config = promoting();
    config.servers[3].promotion = Promotion::MustNot;
    let mut bench = Bench::with(config);
    let grant = || Obstacle::MissingGrant("GRANT REPLICATION SLAVE ADMIN ON *.* TO `shunt`".to_owned());
    bench.fake(3).obstacles = vec![Obstacle::NoReplicaUpdates, grant()];
    bench.fake(4).obstacles = vec![grant()];
    for _ in 0..4 {
        bench.round();
    }
    assert_eq!(
        unready(&bench),
        [
            "db3 could not be made primary: log_replica_updates is off; the agent's user may not do what is needed there (run: \
          GRANT REPLICATION SLAVE ADMIN ON *.* TO `shunt`)"
        ],
        "db4 must not be promoted anyway"
    );
    bench.fake(3).obstacles.clear();
    bench.now = bench.now + Duration::from_secs(60);
    bench.event(Event::Deadline);
    bench.answer_all();
    assert_eq!(unready(&bench), Vec::<String>::new());
}

#[test]
fn what_applying_salvaged_transactions_lacks_is_told_where_they_are_to_be_applied() {
    for (salvage, told) in [(Salvage::Apply, 1), (Salvage::Keep, 0)] {
        let mut config = promoting();
        config.promoting.salvage = salvage;
        let mut bench = Bench::with(config);
        bench.fake(2).cannot_apply = vec!["GRANT REPLICATION_APPLIER ON *.* TO `shunt`".to_owned()];
        for _ in 0..4 {
            bench.round();
        }
        let unready = unready(&bench);
        assert_eq!(unready.len(), told, "{unready:?}");
        assert!(unready.iter().all(|why| why.starts_with("db2") && why.contains("REPLICATION_APPLIER")), "{unready:?}");
    }
}

#[test]
fn what_cannot_be_examined_is_not_known_any_more() {
    let mut bench = Bench::with(promoting());
    bench.fake(3).obstacles = vec![Obstacle::NoBinlog];
    for _ in 0..4 {
        bench.round();
    }
    assert_eq!(unready(&bench).len(), 1);
    bench.now = bench.now + Duration::from_secs(60);
    bench.event(Event::Deadline);
    for order in bench.orders.keys().copied().collect::<Vec<_>>() {
        bench.fail(order, Cause::Unknown);
    }
    assert_eq!(unready(&bench), Vec::<String>::new());
}

#[test]
fn a_server_that_is_back_is_examined_at_once() {
    let mut bench = started(promoting());
    bench.kill(3);
    (0..3).for_each(|_| bench.tick());
    examined(&mut bench);
    bench.fake(3).fails = None;
    bench.tick();
    assert_eq!(examined(&mut bench), [Task::Examine { server: db(3) }]);
}

#[test]
fn nobody_is_examined_while_an_operation_lasts_and_everybody_after_it() {
    let mut bench = started(promoting());
    bench.event(Event::Operate(Bench::intent(Kind::Switchover)));
    examined(&mut bench);
    bench.now = bench.now + Duration::from_secs(61);
    bench.event(Event::Deadline);
    assert_eq!(examined(&mut bench), [], "what the precheck asks waits for the journal");
    bench.write();
    examined(&mut bench);
    for order in bench.orders.keys().copied().collect::<Vec<_>>() {
        bench.fail(order, Cause::Refused);
    }
    assert_eq!(bench.step(), None);
    assert_eq!(examined(&mut bench), everybody());
}

#[test]
fn where_shunt_does_not_promote_nobody_is_examined() {
    for mode in [FailoverMode::Follow, FailoverMode::Off] {
        let mut config = promoting();
        config.failover = mode;
        let mut bench = started(config);
        assert_eq!(examined(&mut bench), [], "{mode:?}");
    }
}
