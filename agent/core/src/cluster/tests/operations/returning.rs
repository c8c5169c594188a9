//! Servers that were cast out and come back: read-only first, then compared, then a replica again or in quarantine.

use super::super::db;
use super::bench::{Bench, SERVERS, made_by, promoting};
use super::events::go;
use super::settle;
use crate::cluster::{AlarmKind, Event};
use crate::config::{ClusterConfig, Salvage};
use crate::gtid::History;
use crate::observation::PromoterLock;
use crate::operation::{Cause, Kind, OrderId, Quarantine, Step, Task};
use std::time::Duration;

/// db1 died, db2 was promoted, everybody else follows it.
fn failed_over(config: ClusterConfig) -> Bench {
    let mut bench = Bench::healthy(config);
    bench.kill(1);
    settle(&mut bench);
    assert_eq!((bench.step(), bench.leads_to()), (None, Some(db(2))), "{:?}", bench.told("stuck"));
    assert_eq!(bench.outcasts.len(), 1);
    bench.asked.clear();
    bench
}

/// db1 is back as it may be after a crash: it takes writes.
fn comes_back(bench: &mut Bench, with: History) {
    let fake = bench.fake(1);
    (fake.fails, fake.writable, fake.executed) = (None, true, with.clone());
    fake.received = with;
    bench.ask(1);
}

fn only_order(bench: &Bench) -> (OrderId, Task) {
    let mut orders = bench.orders.iter().filter(|(_, task)| task.server() != Some(db(3)));
    let (id, task) =
        orders.find(|(_, t)| !matches!(t, Task::Examine { server } if *server == db(1))).expect("an order");
    (*id, task.clone())
}

fn quarantine(bench: &Bench) -> &Quarantine {
    bench.outcasts[0].quarantine.as_ref().expect("db1 is in quarantine")
}

/// The tasks that change servers, since the last time.
fn changes(bench: &mut Bench) -> Vec<Task> {
    std::mem::take(&mut bench.asked).into_iter().filter(|task| !matches!(task, Task::Examine { .. })).collect()
}

#[test]
fn a_former_primary_is_made_read_only_before_anything_else_and_follows_if_it_has_nothing_of_its_own() {
    let mut bench = failed_over(promoting());
    comes_back(&mut bench, made_by(1, 98));
    let (order, task) = only_order(&bench);
    assert_eq!(task, Task::MakeReadOnly { server: db(1), end_sessions: true });
    bench.answer(order);
    let (order, task) = only_order(&bench);
    assert_eq!(task, Task::Examine { server: db(2) }, "the primary is asked what it has, after that");
    bench.answer(order);
    let (order, task) = only_order(&bench);
    assert_eq!(task, Task::Follow { server: db(1), source: db(2), semi_sync: true });
    bench.answer(order);
    assert!(bench.outcasts.is_empty());
    assert_eq!(bench.told("rejoined"), ["db1 follows db2 again: the primary has everything that it has"]);
    assert!(bench.notices.iter().any(|notice| notice.event == "rejoined"));
    assert_eq!(bench.leads_to(), Some(db(2)));
}

#[test]
fn what_the_new_primary_lacks_is_kept_and_the_server_is_in_quarantine() {
    let mut bench = failed_over(promoting());
    comes_back(&mut bench, made_by(1, 100));
    settle(&mut bench);
    let lacking = made_by(1, 100).minus(&made_by(1, 98));
    let salvage = Task::Salvage { from: db(1), lacking: lacking.clone(), into: None };
    assert_eq!(changes(&mut bench), [Task::MakeReadOnly { server: db(1), end_sessions: true }, salvage]);
    let found = quarantine(&bench);
    let reason = "it has 2 transactions that the primary lacks; they are kept in salvage/1.binlog";
    assert_eq!((found.reason.as_str(), found.errant.clone()), (reason, lacking.to_string()));
    assert!(found.salvaged.is_some());
    let alarms = bench.machine.operation_alarms();
    assert!(alarms.iter().any(|a| a.kind == AlarmKind::Quarantined && a.message == format!("db1: {reason}")));
    assert!(bench.notices.iter().any(|notice| notice.event == "quarantined"));
}

#[test]
fn what_is_salvaged_is_applied_to_the_primary_where_that_is_wanted() {
    let mut config = promoting();
    config.promoting.salvage = Salvage::Apply;
    let mut bench = failed_over(config);
    comes_back(&mut bench, made_by(1, 100));
    settle(&mut bench);
    assert!(quarantine(&bench).reason.ends_with("they are kept in salvage/1.binlog and applied to the primary"));
    assert_eq!(bench.fakes[&db(2)].executed, made_by(1, 100));
}

#[test]
fn what_cannot_be_salvaged_is_named_and_the_server_is_in_quarantine_all_the_same() {
    let mut bench = failed_over(promoting());
    comes_back(&mut bench, made_by(1, 100));
    for _ in 0..2 {
        let (order, _) = only_order(&bench);
        bench.answer(order);
    }
    let (order, task) = only_order(&bench);
    assert!(matches!(task, Task::Salvage { .. }), "{task:?}");
    bench.fail(order, Cause::Unknown);
    let found = quarantine(&bench);
    assert_eq!(found.reason, "it has transactions that the primary lacks, and they could not be fetched: on purpose");
    assert_eq!((found.errant.is_empty(), &found.salvaged), (false, &None));
}

#[test]
fn where_rejoin_is_off_it_waits_for_an_operator() {
    let mut config = promoting();
    config.promoting.rejoin = false;
    let mut bench = failed_over(config);
    comes_back(&mut bench, made_by(1, 98));
    settle(&mut bench);
    assert_eq!(changes(&mut bench), [Task::MakeReadOnly { server: db(1), end_sessions: true }]);
    let found = quarantine(&bench);
    assert_eq!(found.reason, "it has nothing that the primary lacks, and `rejoin` is off");
    assert!(found.errant.is_empty());

    bench.event(Event::Rejoin { server: db(1), by: "ann".to_owned() });
    settle(&mut bench);
    assert!(bench.outcasts.is_empty());
    assert_eq!(bench.fakes[&db(1)].source, Some(db(2)));
    assert_eq!(bench.told("rejoin"), ["db1 is compared with the primary: ann"]);
}

#[test]
fn an_operator_cannot_make_a_replica_of_one_that_has_transactions_of_its_own() {
    let mut bench = failed_over(promoting());
    comes_back(&mut bench, made_by(1, 100));
    settle(&mut bench);
    changes(&mut bench);
    bench.event(Event::Rejoin { server: db(1), by: "ann".to_owned() });
    assert!(bench.outcasts[0].quarantine.is_none(), "it is compared anew");
    settle(&mut bench);
    assert!(!changes(&mut bench).iter().any(|task| matches!(task, Task::Follow { .. })));
    assert!(!quarantine(&bench).errant.is_empty());
}

#[test]
fn the_primary_and_strangers_cannot_be_asked_to_rejoin() {
    let mut bench = failed_over(promoting());
    for server in [db(2), db(9)] {
        bench.event(Event::Rejoin { server, by: "ann".to_owned() });
    }
    assert!(bench.told("rejoin").is_empty());
    assert_eq!(bench.outcasts.len(), 1);
}

#[test]
fn what_an_operator_clears_is_left_alone() {
    let mut bench = failed_over(promoting());
    comes_back(&mut bench, made_by(1, 100));
    settle(&mut bench);
    changes(&mut bench);
    bench.event(Event::Clear { server: db(1), by: "ann".to_owned() });
    settle(&mut bench);
    assert_eq!((bench.outcasts.len(), changes(&mut bench)), (0, Vec::new()));
    assert_eq!(bench.told("cleared"), ["db1 is cast out no more: ann"]);
    bench.event(Event::Clear { server: db(1), by: "ann".to_owned() });
    assert_eq!(bench.told("cleared").len(), 1, "it was cleared before");
}

#[test]
fn one_in_quarantine_is_made_read_only_again_when_somebody_makes_it_writable_and_not_compared() {
    let mut bench = failed_over(promoting());
    comes_back(&mut bench, made_by(1, 100));
    settle(&mut bench);
    changes(&mut bench);
    bench.fake(1).writable = true;
    settle(&mut bench);
    assert_eq!(changes(&mut bench), [Task::MakeReadOnly { server: db(1), end_sessions: true }]);
    assert!(!bench.fakes[&db(1)].writable);
    assert!(!quarantine(&bench).errant.is_empty());
}

#[test]
fn one_that_turns_itself_writable_all_the_time_is_not_told_all_the_time() {
    let mut bench = failed_over(promoting());
    comes_back(&mut bench, made_by(1, 100));
    settle(&mut bench);
    changes(&mut bench);
    for _ in 0..40 {
        bench.fake(1).writable = true;
        bench.round();
    }
    assert_eq!(changes(&mut bench).len(), 1, "four seconds are less than its rest");
    assert_eq!(bench.leads_to(), Some(db(2)));
}

#[test]
fn one_that_cannot_be_made_read_only_is_tried_again_and_told_of_once() {
    let mut bench = failed_over(promoting());
    comes_back(&mut bench, made_by(1, 98));
    for _ in 0..3 {
        let (order, task) = only_order(&bench);
        assert!(matches!(task, Task::MakeReadOnly { .. }), "{task:?}");
        bench.fail(order, Cause::Refused);
        bench.now = bench.now + Duration::from_secs(6);
        bench.event(Event::Deadline);
        (1..=SERVERS).for_each(|n| bench.ask(n));
    }
    assert_eq!(bench.told("returning"), ["db1 could not be taken in yet: on purpose"]);
    settle(&mut bench);
    assert!(bench.outcasts.is_empty(), "it was taken in as soon as it could be");
}

#[test]
fn nobody_is_touched_on_its_return_without_the_lock() {
    let mut bench = failed_over(promoting());
    for n in 1..=SERVERS {
        bench.fake(n).lock = PromoterLock::Theirs;
    }
    (1..=SERVERS).for_each(|n| bench.ask(n));
    comes_back(&mut bench, made_by(1, 98));
    settle(&mut bench);
    assert_eq!(changes(&mut bench), []);
    assert!(bench.outcasts[0].quarantine.is_none());
}

#[test]
fn the_next_operation_leaves_alone_what_is_in_quarantine() {
    let mut bench = failed_over(promoting());
    comes_back(&mut bench, made_by(1, 100));
    settle(&mut bench);
    changes(&mut bench);
    bench.event(Event::Operate(Bench::intent(Kind::Switchover)));
    settle(&mut bench);
    assert_eq!(bench.leads_to(), Some(db(3)), "{:?}", bench.told("operation"));
    let follows = |task: &Task| matches!(task, Task::Follow { server, .. } if *server == db(1));
    assert!(!changes(&mut bench).iter().any(follows));
    assert_eq!(bench.broken, Vec::<String>::new());
}

#[test]
fn a_replica_with_transactions_of_its_own_follows_nobody_whether_or_not_the_agent_was_restarted() {
    for (step, restarted) in [(Step::Open, false), (Step::Open, true), (Step::Repoint, true)] {
        let mut bench = Bench::healthy(promoting());
        bench.fake(4).executed = made_by(1, 90).union(&made_by(4, 2));
        bench.kill(1);
        while bench.step().is_none() {
            bench.tick();
        }
        go(&mut bench, Kind::Failover, step, true);
        if restarted {
            bench.restart();
        }
        settle(&mut bench);
        assert_eq!(bench.leads_to(), Some(db(2)));
        assert_eq!(bench.broken, Vec::<String>::new(), "{step}, restarted: {restarted}");
        let quarantined: Vec<_> = bench.outcasts.iter().filter(|o| o.quarantine.is_some()).map(|o| o.server).collect();
        assert_eq!(quarantined, [db(4)], "{step}, restarted: {restarted}");
    }
}
