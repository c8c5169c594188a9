//! An operator takes back what is under way; and what an operation that was taken back leaves behind.

use std::net::SocketAddr;

use super::super::db;
use super::bench::{Bench, SERVERS, promoting};
use super::events::bring;
use super::{listeners, settle};
use crate::cluster::{Cluster, Event, Refusal, Remembered};
use crate::operation::{Cause, Kind, Outcome, Step, Task};
use crate::{Epoch, Mono};

fn abort(bench: &mut Bench) {
    bench.event(Event::Abort { by: "ann".to_owned() });
}

fn refused(bench: &Bench) -> Refusal {
    bench.machine.abort_refusal().expect("it is refused")
}

fn pause(bench: &Bench) -> Option<&str> {
    bench.machine.pause.as_ref().map(|pause| pause.reason.as_str())
}

#[test]
fn where_nothing_is_under_way_there_is_nothing_to_take_back() {
    let mut bench = Bench::healthy(promoting());
    assert_eq!(refused(&bench).error, "nothing is under way in orders, so there is nothing to take back");
    abort(&mut bench);
    assert_eq!((bench.told("refused").len(), pause(&bench)), (1, None));
}

#[test]
fn after_the_promotion_began_there_is_only_onward() {
    for step in [Step::Promote, Step::Open, Step::Repoint] {
        let mut bench = bring(Kind::Failover, step, true);
        let why = "failover 1 of orders can only go on: the promotion of db2 has begun, and to lead to db1 again could make \
                   two primaries";
        assert_eq!(refused(&bench).error, why);
        assert!(refused(&bench).hint.is_some());
        assert!(!bench.machine.is_sealed());
        abort(&mut bench);
        assert_eq!((bench.step(), pause(&bench)), (Some(step), None));
        settle(&mut bench);
        assert_eq!((bench.leads_to(), bench.endings.last()), (Some(db(2)), Some(&Outcome::Done)));
    }
}

#[test]
fn what_a_verdict_began_is_not_begun_again_until_the_cluster_is_resumed() {
    let mut bench = bring(Kind::Failover, Step::Disarm, true);
    assert!(bench.machine.pauses_on_abort());
    abort(&mut bench);
    assert_eq!((pause(&bench), bench.endings.clone()), (Some("aborted by ann"), vec![Outcome::Failed]));
    // No cooldown lasts that long.
    bench.now = bench.now + bench.config.cooldown;
    settle(&mut bench);
    assert_eq!((bench.step(), bench.leads_to()), (None, None));
    assert!((2..=SERVERS).all(|n| !bench.fakes[&db(n)].writable));
    bench.event(Event::Resume);
    settle(&mut bench);
    assert_eq!((bench.leads_to(), bench.broken.clone()), (Some(db(2)), Vec::new()));
}

#[test]
fn what_an_operator_began_on_a_living_primary_needs_no_pause() {
    for kind in [Kind::Failover, Kind::Switchover] {
        let mut bench = Bench::healthy(promoting());
        bench.event(Event::Operate(Bench::intent(kind)));
        assert!(!bench.machine.pauses_on_abort());
        abort(&mut bench);
        settle(&mut bench);
        assert_eq!(
            (bench.leads_to(), pause(&bench), bench.endings.clone()),
            (Some(db(1)), None, vec![Outcome::Undone])
        );
    }
}

#[test]
fn a_pause_that_ends_by_itself_does_not_keep_what_was_aborted_from_beginning_again() {
    let mut bench = bring(Kind::Failover, Step::Disarm, true);
    bench.event(Event::Pause { until: Some(bench.now + AN_HOUR), reason: "a new disk".to_owned() });
    assert!(bench.machine.pauses_on_abort());
    bench.event(Event::Pause { until: None, reason: "a new disk".to_owned() });
    assert!(!bench.machine.pauses_on_abort());
    abort(&mut bench);
    assert_eq!(pause(&bench), Some("a new disk"));
}

const AN_HOUR: std::time::Duration = std::time::Duration::from_secs(3_600);

#[test]
fn sessions_go_on_where_no_server_was_changed_yet() {
    let mut bench = bring(Kind::Switchover, Step::Sessions, true);
    assert_eq!(listeners(&bench), "fence but db1");
    abort(&mut bench);
    assert!(bench.orders.is_empty(), "nobody ends sessions any more: {:?}", bench.orders);
    bench.write();
    bench.commit();
    assert_eq!((bench.leads_to(), bench.endings.clone()), (Some(db(1)), vec![Outcome::Undone]));
    assert!(bench.asked.iter().all(|task| !matches!(task, Task::MakeWritable { .. })));
}

#[test]
fn what_is_being_taken_back_is_given_up_only_if_that_does_not_get_on() {
    let mut bench = bring(Kind::Switchover, Step::Undo, true);
    assert_eq!(refused(&bench).error, "switchover 1 of orders is being taken back already: step undo");
    let order = *bench.orders.first_key_value().expect("it is being made writable").0;
    bench.fail(order, Cause::Refused);
    assert!(bench.is_stuck());
    assert_eq!(bench.machine.abort_refusal(), None);
    abort(&mut bench);
    assert_eq!((bench.endings.clone(), bench.leads_to()), (vec![Outcome::Failed], None));
}

#[test]
fn what_cannot_be_read_is_put_aside_and_nothing_opens_by_itself() {
    let remembered = Remembered {
        epoch: Epoch(3),
        primary: Some(db(1)),
        unreadable: Some("it is of a newer version".to_owned()),
        ..Remembered::default()
    };
    let (mut machine, _) = Cluster::new(promoting(), remembered, Mono::ZERO);
    assert!(machine.is_sealed() && machine.pauses_on_abort());
    assert_eq!(machine.abort_refusal(), None);
    machine.handle(Event::Abort { by: "ann".to_owned() }, Mono::ZERO);
    assert!(!machine.is_sealed() && !machine.is_open());
    assert_eq!(machine.pause.as_ref().map(|pause| pause.reason.as_str()), Some("aborted by ann"));
}

/// Who was told to follow db1, each time.
fn sent_back(bench: &Bench) -> Vec<SocketAddr> {
    let to_old = |task: &Task| match task {
        Task::Follow { server, source, .. } if *source == db(1) => Some(*server),
        _ => None,
    };
    bench.asked.iter().filter_map(to_old).collect()
}

/// A failover of a living primary that is being taken back, after its replicas were stopped.
fn undoing() -> Bench {
    let mut bench = bring(Kind::Failover, Step::Undo, true);
    assert_eq!(sent_back(&bench), (2..=SERVERS).map(db).collect::<Vec<_>>());
    bench.asked.clear();
    bench
}

fn order_of(bench: &Bench, wanted: impl Fn(&Task) -> bool) -> crate::operation::OrderId {
    *bench.orders.iter().find(|(_, task)| wanted(task)).expect("it is under way").0
}

#[test]
fn while_it_is_being_taken_back_every_replica_is_sent_back_once_unless_that_fails() {
    let mut bench = undoing();
    for _ in 0..3 {
        let order = order_of(&bench, |task| matches!(task, Task::MakeWritable { .. }));
        bench.fail(order, Cause::Unknown);
        for _ in 0..6 {
            bench.tick();
        }
    }
    assert_eq!(sent_back(&bench), Vec::new());
    let (order, writable) = (
        order_of(&bench, |task| task.server() == Some(db(3))),
        order_of(&bench, |task| matches!(task, Task::MakeWritable { .. })),
    );
    bench.fail(order, Cause::Unreachable);
    bench.fail(writable, Cause::Unknown);
    for _ in 0..6 {
        bench.tick();
    }
    assert_eq!(sent_back(&bench), [db(3)]);
}

/// It was taken back, and its replicas are still on their way.
fn taken_back() -> Bench {
    let mut bench = undoing();
    let order = order_of(&bench, |task| matches!(task, Task::MakeWritable { .. }));
    bench.answer(order);
    bench.write();
    bench.commit();
    assert_eq!(bench.endings, [Outcome::Undone]);
    bench
}

fn on_their_way(bench: &Bench) -> usize {
    bench.orders.values().filter(|task| matches!(task, Task::Follow { source, .. } if *source == db(1))).count()
}

#[test]
fn replicas_on_the_way_back_get_there_though_the_operation_is_over() {
    let mut bench = taken_back();
    assert_eq!(on_their_way(&bench), 4);
    bench.answer_all();
    assert_eq!(bench.machine.lingering_count(), 0);
}

#[test]
fn no_order_of_an_earlier_operation_meets_the_next_one() {
    let mut bench = taken_back();
    bench.event(Event::Operate(Bench::intent(Kind::Switchover)));
    assert_eq!((bench.step(), on_their_way(&bench)), (Some(Step::Precheck), 0));
}

#[test]
fn nobody_is_sent_back_to_a_primary_that_is_none_any_more_nor_without_the_lock() {
    let mut bench = taken_back();
    bench.event(Event::Pin { listener: None, server: db(2) });
    assert_eq!(on_their_way(&bench), 0);

    let mut bench = taken_back();
    for n in 1..=SERVERS {
        bench.fake(n).lock = crate::observation::PromoterLock::Theirs;
        bench.ask(n);
    }
    assert_eq!(on_their_way(&bench), 0);

    let mut bench = taken_back();
    bench.event(Event::Rejoin { server: db(3), by: "ann".to_owned() });
    bench.tick();
    assert_eq!(on_their_way(&bench), 3, "db3 is to be compared first");
}

#[test]
fn a_step_that_did_not_come_to_its_end_is_told_as_failed_with_the_reason() {
    let mut bench = bring(Kind::Switchover, Step::Disarm, true);
    abort(&mut bench);
    let steps: Vec<_> = bench.history.iter().filter(|entry| entry.kind == "step").collect();
    let ended = steps.iter().rfind(|entry| entry.data.iter().any(|(key, _)| *key == "took_ms")).expect("one has ended");
    let value = |key| ended.data.iter().find(|(k, _)| *k == key).map(|(_, value)| value.as_str());
    assert_eq!(
        (value("step"), value("state"), value("reason")),
        (Some("disarm"), Some("failed"), Some("aborted by ann"))
    );
    settle(&mut bench);
    let last = bench.history.iter().rfind(|entry| entry.kind == "step").expect("a step");
    assert!(last.data.contains(&("state", "done".to_owned())), "{last:?}");
}
