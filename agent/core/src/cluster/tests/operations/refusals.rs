//! What an operator is told instead of an operation, and what is begun all the same when nobody asked before.

use super::super::{db, writer};
use super::bench::{Bench, SERVERS, promoting};
use super::settle;
use crate::cluster::{Cluster, Event, Refusal, Remembered};
use crate::config::FailoverMode;
use crate::observation::{GroupView, PromoterLock, ReplicationGroup};
use crate::operation::{Intent, Kind, Obstacle, Outcome, Step};
use crate::{Epoch, Mono};
use std::collections::BTreeSet;
use std::net::SocketAddr;

fn refused(bench: &Bench, intent: &Intent) -> Refusal {
    bench.machine.refusal(intent, bench.now).expect("it is refused")
}

fn to(kind: Kind, server: SocketAddr) -> Intent {
    Intent { to: Some(server), ..Bench::intent(kind) }
}

fn tick_until_seen(bench: &mut Bench) {
    for _ in 0..4 {
        bench.tick();
    }
}

#[test]
fn nothing_stands_against_it_in_quiet_times() {
    let bench = Bench::healthy(promoting());
    for kind in [Kind::Failover, Kind::Switchover] {
        assert_eq!(bench.machine.refusal(&Bench::intent(kind), bench.now), None);
        assert_eq!(bench.machine.refusal(&to(kind, db(3)), bench.now), None);
    }
}

#[test]
fn a_cluster_that_is_only_followed_is_never_changed() {
    let mut config = promoting();
    config.failover = FailoverMode::Follow;
    let bench = Bench::healthy(config);
    let refusal = refused(&bench, &Bench::intent(Kind::Switchover));
    assert_eq!(refusal.error, "shunt follows orders and changes none of its servers");
    let hint = "let whoever manages the cluster do it, or set failover = \"promote\" or \"off\"";
    assert_eq!(refusal.hint.as_deref(), Some(hint));
}

#[test]
fn one_operation_at_a_time() {
    let mut bench = Bench::healthy(promoting());
    bench.event(Event::Operate(Bench::intent(Kind::Switchover)));
    bench.write();
    let refusal = refused(&bench, &Bench::intent(Kind::Failover));
    assert_eq!(refusal.error, "switchover 1 of orders is under way: step precheck, begun 0 s ago");
    assert_eq!(bench.machine.busy(bench.now), Some(refusal));
    let later = bench.now + std::time::Duration::from_secs(12);
    assert!(bench.machine.busy(later).is_some_and(|busy| busy.error.ends_with("begun 12 s ago")));
}

#[test]
fn what_cannot_be_read_must_be_looked_at_first() {
    let remembered = Remembered {
        epoch: Epoch(3),
        primary: Some(db(1)),
        unreadable: Some("it is of a newer version".to_owned()),
        ..Remembered::default()
    };
    let (machine, _) = Cluster::new(promoting(), remembered, Mono::ZERO);
    let refusal = machine.refusal(&Bench::intent(Kind::Failover), Mono::ZERO).expect("it is refused");
    assert_eq!(refusal.error, "an earlier operation cannot be read: it is of a newer version");
}

#[test]
fn a_group_chooses_its_primary_by_itself() {
    let mut bench = Bench::healthy(promoting());
    bench.group = Some(GroupView::Replication(ReplicationGroup::default()));
    bench.ask(3);
    let refusal = refused(&bench, &Bench::intent(Kind::Switchover));
    assert_eq!(refusal.error, "the servers are a group, which chooses its primary by itself; shunt follows");
}

#[test]
fn without_a_primary_there_is_nothing_to_change_from() {
    let bench = Bench::with(promoting());
    let refusal = refused(&bench, &Bench::intent(Kind::Failover));
    assert_eq!(refusal.error, "orders has no primary that is known, so there is nothing to change it from");
    assert_eq!(refusal.hint.as_deref(), Some("`shunt pin orders SERVER` says which server is the primary"));
}

#[test]
fn the_primary_cannot_take_over_from_itself() {
    let bench = Bench::healthy(promoting());
    let refusal = refused(&bench, &to(Kind::Switchover, db(1)));
    assert_eq!(refusal.error, "db1 is the primary already");
    assert!(refusal.is_misuse);
}

#[test]
fn a_server_that_cannot_take_over_is_named_with_its_reason() {
    let mut bench = Bench::healthy(promoting());
    bench.kill(3);
    tick_until_seen(&mut bench);
    assert_eq!(refused(&bench, &to(Kind::Failover, db(3))).error, "db3 cannot take over: it does not answer");

    bench.event(Event::Rejoin { server: db(4), by: "ann".to_owned() });
    let cast_out =
        "db4 cannot take over: it was cast out by an earlier operation and has not been compared with the primary";
    assert_eq!(refused(&bench, &to(Kind::Failover, db(4))).error, cast_out);
}

#[test]
fn a_server_that_was_found_unready_is_refused_with_its_obstacles() {
    let mut bench = Bench::with(promoting());
    bench.fake(3).obstacles = vec![Obstacle::NoReplicaUpdates, Obstacle::NoBinlog];
    for _ in 0..4 {
        bench.round();
    }
    let refusal = refused(&bench, &to(Kind::Switchover, db(3)));
    assert_eq!(refusal.error, "db3 cannot take over: log_replica_updates is off; it has no binary log");
}

#[test]
fn a_pin_stands_above_every_operation() {
    let mut bench = Bench::healthy(promoting());
    bench.event(Event::Pin { listener: Some(writer()), server: db(1) });
    let refusal = refused(&bench, &Bench::intent(Kind::Switchover));
    assert_eq!(refusal.error, "something of the cluster is pinned, and a pin stands above every other decision");
    assert_eq!(refusal.hint.as_deref(), Some("`shunt unpin orders` first"));
}

#[test]
fn without_the_lock_another_agent_may_be_in_charge() {
    let mut bench = Bench::healthy(promoting());
    for n in 2..=4 {
        bench.fake(n).lock = PromoterLock::Theirs;
    }
    tick_until_seen(&mut bench);
    let refusal = refused(&bench, &Bench::intent(Kind::Switchover));
    let error = "another agent may be in charge: the lock `shunt.promoter` is ours on 2 of 5 servers only";
    assert_eq!(refusal.error, error);
}

#[test]
fn a_reload_takes_the_lock_for_lost_only_where_the_connection_was_given_up() {
    let mut bench = Bench::healthy(promoting());
    bench.machine.reconfigure(promoting(), &BTreeSet::new(), bench.now);
    assert_eq!(bench.machine.refusal(&Bench::intent(Kind::Switchover), bench.now), None);
    bench.machine.reconfigure(promoting(), &BTreeSet::from([db(1), db(2), db(3)]), bench.now);
    let refusal = refused(&bench, &Bench::intent(Kind::Switchover));
    let error = "another agent may be in charge: the lock `shunt.promoter` is ours on 2 of 5 servers only";
    assert_eq!(refusal.error, error);
}

#[test]
fn a_switchover_needs_a_living_primary() {
    let mut bench = Bench::healthy(promoting());
    bench.event(Event::Pause { until: None, reason: "test".to_owned() });
    bench.kill(1);
    tick_until_seen(&mut bench);
    let refusal = refused(&bench, &Bench::intent(Kind::Switchover));
    assert_eq!(refusal.error, "db1 does not answer, and a switchover needs both servers");
    assert_eq!(refusal.hint.as_deref(), Some("`shunt failover orders` does without the old primary"));
    assert_eq!(bench.machine.refusal(&Bench::intent(Kind::Failover), bench.now), None, "semi-sync proves enough");
}

#[test]
fn a_failover_that_may_lose_something_wants_to_be_told_so() {
    let mut bench = Bench::healthy(promoting());
    bench.event(Event::Pause { until: None, reason: "test".to_owned() });
    // Nobody acknowledges any more, so nothing proves anything.
    for n in 2..=SERVERS {
        bench.fake(n).source = None;
    }
    tick_until_seen(&mut bench);
    bench.kill(1);
    tick_until_seen(&mut bench);
    let refusal = refused(&bench, &Bench::intent(Kind::Failover));
    let error = "data_loss is \"forbid\", and nothing proves that every acknowledged transaction is on a replica";
    assert_eq!(refusal.error, error);
    assert_eq!(refusal.hint.as_deref(), Some("`shunt failover orders --allow-data-loss` does it all the same"));
    let all_the_same = Intent { allow_loss: true, ..Bench::intent(Kind::Failover) };
    assert_eq!(bench.machine.refusal(&all_the_same, bench.now), None);
}

#[test]
fn what_is_refused_is_not_begun_by_whoever_did_not_ask() {
    let mut bench = Bench::healthy(promoting());
    bench.event(Event::Operate(to(Kind::Switchover, db(1))));
    assert_eq!((bench.step(), bench.told("refused")), (None, vec!["switchover refused: db1 is the primary already"]));
}

#[test]
fn a_dry_run_examines_everybody_and_changes_nobody() {
    for kind in [Kind::Failover, Kind::Switchover] {
        let mut bench = Bench::healthy(promoting());
        bench.asked.clear();
        bench.event(Event::Operate(Intent { dry_run: true, ..Bench::intent(kind) }));
        assert_eq!(bench.step(), Some(Step::Precheck));
        settle(&mut bench);
        let changes: Vec<_> =
            bench.asked.iter().map(crate::operation::Task::word).filter(|w| *w != "examine").collect();
        assert_eq!((changes, bench.endings.clone()), (Vec::new(), vec![Outcome::Done]));
        assert_eq!(bench.leads_to(), Some(db(1)));
        assert!(bench.told("plan").len() > 8, "{:?}", bench.told("plan"));
        assert!(bench.notices.is_empty(), "nobody is woken for a dry run");
    }
}

#[test]
fn that_sessions_cannot_be_seen_is_said_before_anybody_is_held() {
    for dry_run in [false, true] {
        let mut bench = Bench::healthy(promoting());
        bench.fake(1).hides_sessions = true;
        bench.event(Event::Operate(Intent { dry_run, ..Bench::intent(Kind::Switchover) }));
        assert!(bench.told("sessions_hidden").is_empty());
        settle(&mut bench);
        let told = bench.told(if dry_run { "plan" } else { "sessions_hidden" });
        assert!(told.iter().any(|words| words.contains("cannot be seen")), "{told:?}");
        assert_eq!(bench.endings, [Outcome::Done]);
    }
}
