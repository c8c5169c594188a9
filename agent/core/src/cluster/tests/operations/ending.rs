//! What an operation that comes to nothing leaves: no proof that has grown old, no replica that was told to stop and forgotten,
//! no failover that begins ten times a second, and no promotion that a hook had spoken against.

use std::time::Duration;

use super::super::db;
use super::bench::{Bench, SERVERS, promoting};
use super::events::go;
use super::settle;
use crate::cluster::Event;
use crate::config::DataLoss;
use crate::observation::IoThread;
use crate::operation::{Cause, Hook, Kind, Outcome, Step, Task};

/// Until the primary's death has begun an operation, which has come to that step.
fn dead_at(bench: &mut Bench, step: Step) {
    bench.kill(1);
    while bench.step().is_none() {
        bench.tick();
    }
    go(bench, Kind::Failover, step, true);
}

fn switched_at(bench: &mut Bench, step: Step) {
    bench.event(Event::Operate(Bench::intent(Kind::Switchover)));
    go(bench, Kind::Switchover, step, true);
}

fn promotions(bench: &Bench) -> usize {
    bench.asked.iter().filter(|task| matches!(task, Task::Promote { .. })).count()
}

#[test]
fn what_was_proven_before_sessions_were_spared_proves_nothing_when_they_have_gone_on() {
    for step in [Step::Hold, Step::Sessions] {
        for restarted in [false, true] {
            let mut config = promoting();
            config.data_loss = DataLoss::Forbid;
            let mut bench = Bench::healthy(config);
            switched_at(&mut bench, step);
            // Semi-sync was active when it began, and is no more.
            for n in 2..=SERVERS {
                bench.fake(n).io = IoThread::Stopped;
            }
            (1..=SERVERS).for_each(|n| bench.ask(n));
            bench.asked.clear();
            bench.kill(1);
            if restarted {
                bench.restart();
            }
            settle(&mut bench);
            assert_eq!((promotions(&bench), bench.leads_to()), (0, None), "{step}, restarted: {restarted}");
            assert!(!bench.endings.contains(&Outcome::Done), "{:?}", bench.endings);
            assert_eq!(bench.broken, Vec::<String>::new());
        }
    }
}

#[test]
fn a_hook_that_speaks_against_a_promotion_is_heard_whatever_the_old_primary_says() {
    for hook_first in [true, false] {
        let mut config = promoting();
        config.promoting.before_promote_hook = true;
        let mut bench = Bench::healthy(config);
        switched_at(&mut bench, Step::Recheck);
        let is_hook = |task: &Task| matches!(task, Task::Hook { hook: Hook::BeforePromote, .. });
        let mut orders: Vec<_> = bench.orders.iter().map(|(&order, task)| (order, is_hook(task))).collect();
        assert_eq!(orders.iter().filter(|(_, is_hook)| *is_hook).count(), 1, "{:?}", bench.orders);
        orders.sort_by_key(|&(_, is_hook)| is_hook != hook_first);
        for (order, is_hook) in orders {
            if is_hook { bench.fail(order, Cause::Refused) } else { bench.answer(order) }
        }
        settle(&mut bench);
        assert_eq!((bench.endings.clone(), bench.leads_to()), (vec![Outcome::Undone], Some(db(1))));
        assert_eq!(promotions(&bench), 0, "the hook answers first: {hook_first}");
    }
}

/// A failover that its fence hook has stopped.
fn stopped_by_its_hook(cooldown: Duration) -> Bench {
    let mut config = promoting();
    (config.promoting.fence_hook, config.cooldown) = (true, cooldown);
    let mut bench = Bench::healthy(config);
    dead_at(&mut bench, Step::Disarm);
    for (order, task) in bench.orders.clone() {
        if matches!(task, Task::Hook { .. }) { bench.fail(order, Cause::Refused) } else { bench.answer(order) }
    }
    assert_eq!((bench.endings.clone(), bench.leads_to()), (vec![Outcome::Failed], None));
    bench
}

#[test]
fn replicas_that_were_told_to_stop_receive_again_when_their_primary_is_back() {
    for paused in [false, true] {
        let mut bench = stopped_by_its_hook(Duration::from_secs(600));
        if paused {
            bench.event(Event::Pause { until: None, reason: "test".to_owned() });
        }
        let old = bench.fake(1);
        (old.fails, old.writable) = (None, true);
        for _ in 0..5 {
            bench.round();
        }
        assert_eq!(bench.leads_to(), if paused { None } else { Some(db(1)) });
        let receiving = (2..=SERVERS).filter(|&n| bench.fake(n).io == IoThread::Connected).count();
        let all = usize::from(SERVERS) - 1;
        assert_eq!(receiving, if paused { 0 } else { all });
        bench.event(Event::Resume);
        settle(&mut bench);
        assert!((2..=SERVERS).all(|n| bench.fake(n).io == IoThread::Connected));
        assert_eq!(bench.broken, Vec::<String>::new());
    }
}

#[test]
fn a_failover_that_came_to_nothing_is_not_begun_anew_at_once_without_a_cooldown() {
    let mut bench = stopped_by_its_hook(Duration::ZERO);
    bench.tick();
    assert_eq!(bench.step(), None, "{:?}", bench.endings);
    let since = bench.now;
    while bench.step().is_none() && bench.now.since(since) < Duration::from_secs(60) {
        bench.tick();
    }
    assert!(bench.step().is_some(), "it is tried again: {:?}", bench.machine.status(bench.now).alarms);
}
