//! A promotion that is taken up anew, when another agent was in charge meanwhile and made the old primary writable again.

use std::net::SocketAddr;

use super::super::db;
use super::bench::{Bench, SERVERS, promoting};
use super::events::go;
use super::settle;
use crate::cluster::{AlarmKind, Event};
use crate::observation::{IoThread, PromoterLock};
use crate::operation::{Kind, Outcome, Step, Task};

/// The agent has ended in the middle of a promotion, and the old primary, db1, takes writes again.
fn restarted_in_promote() -> Bench {
    let mut bench = Bench::healthy(promoting());
    bench.kill(1);
    while bench.step().is_none() {
        bench.tick();
    }
    go(&mut bench, Kind::Failover, Step::Promote, true);
    let old = bench.fake(1);
    (old.fails, old.writable, old.source) = (None, true, None);
    bench.asked.clear();
    bench.restart();
    bench
}

fn of(task: &Task) -> (&'static str, Option<SocketAddr>) {
    (task.word(), task.server())
}

#[test]
fn an_old_primary_that_takes_writes_again_is_made_read_only_before_anybody_is_promoted() {
    let mut bench = restarted_in_promote();
    settle(&mut bench);
    let asked: Vec<_> = bench.asked.iter().map(of).collect();
    let position = |wanted| asked.iter().position(|task| *task == wanted).unwrap_or_else(|| panic!("{asked:?}"));
    assert!(position(("make read-only", Some(db(1)))) < position(("promote", Some(db(2)))), "{asked:?}");
    assert_eq!((bench.leads_to(), bench.endings.clone()), (Some(db(2)), vec![Outcome::Done]));
    assert_eq!(bench.broken, Vec::<String>::new());
}

#[test]
fn an_agent_gives_way_to_the_one_that_led_back_and_leads_back_itself_when_an_operator_says_so() {
    let mut bench = restarted_in_promote();
    for n in 1..=SERVERS {
        let fake = bench.fake(n);
        fake.lock = PromoterLock::Theirs;
        if n != 1 {
            (fake.source, fake.io) = (Some(db(1)), IoThread::Connected);
        }
    }
    settle(&mut bench);
    assert_eq!((bench.leads_to(), bench.endings.clone()), (None, vec![Outcome::Failed]));
    assert!(bench.asked.iter().all(|task| task.word() == "examine"), "{:?}", bench.asked);
    let alarms = bench.machine.status(bench.now).alarms;
    assert!(alarms.iter().any(|alarm| alarm.kind == AlarmKind::PrimaryCastOut), "{alarms:?}");
    // An operator's word, as a pin is.
    bench.pinned = true;
    bench.event(Event::Clear { server: db(1), by: "ann".to_owned() });
    settle(&mut bench);
    assert_eq!(bench.leads_to(), Some(db(1)));
    assert_eq!(bench.broken, Vec::<String>::new());
}
