//! The ways to each step, and what may happen there.

use std::net::SocketAddr;
use std::time::Duration;

use super::super::{db, writer};
use super::bench::{Bench, SERVERS, made_by, promoting};
use crate::cluster::{Event, Stage};
use crate::observation::{IoThread, PromoterLock};
use crate::operation::{Cause, Kind, OrderId, Report, Step, Task};

/// A bench with an operation at that step: it is written down, its tasks are started, and nothing of it has come back;
/// or, not `written`, it is about to be written down.
pub fn bring(kind: Kind, to: Step, written: bool) -> Bench {
    let mut bench = Bench::healthy(promoting());
    // What can be taken back needs a living primary; everything else of a failover has a dead one.
    if kind == Kind::Switchover || matches!(to, Step::Precheck | Step::Undo | Step::Reopen) {
        bench.event(Event::Operate(Bench::intent(kind)));
    } else {
        bench.kill(1);
        while bench.step().is_none() {
            bench.tick();
        }
    }
    go(&mut bench, kind, to, written);
    bench
}

/// On to that step of the operation under way.
pub fn go(bench: &mut Bench, kind: Kind, to: Step, written: bool) {
    for _ in 0..100 {
        if bench.step() == Some(to) && bench.writing.is_some() != written {
            return;
        }
        if bench.writing.is_some() {
            bench.write();
        } else if bench.in_flight.is_some() {
            bench.commit();
        } else {
            on_the_way(bench, kind, to);
        }
    }
    panic!("{} never comes to {to}: it is at {:?}, {:?}", kind.word(), bench.step(), bench.told("stuck"));
}

fn on_the_way(bench: &mut Bench, kind: Kind, to: Step) {
    if to == Step::Recheck {
        // A primary that the probe has just seen refusing is not asked again.
        bench.now = bench.now + Duration::from_millis(200);
    }
    let Some((&order, task)) = bench.orders.first_key_value() else { panic!("nothing is under way to {to}") };
    let back = matches!(to, Step::Undo | Step::Reopen);
    match task {
        Task::MakeReadOnly { .. } if back => bench.fail(order, Cause::Refused),
        Task::StopReceiving { .. } if back && kind == Kind::Failover => bench.fail(order, Cause::Refused),
        // It was slow rather than gone, but it cannot be replicated from.
        Task::MakeReadOnly { .. } if to == Step::Salvage => {
            bench.fake(1).fails = None;
            bench.answer(order);
        }
        Task::CatchUp { .. } if to == Step::Salvage => bench.fail(order, Cause::Refused),
        _ => bench.answer(order),
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Happened {
    Yes,
    /// It waits for nothing of that kind at this step.
    CannotBe,
}

/// What may happen, under the words that stand in the tables.
type Happening = (&'static str, fn(&mut Bench) -> Happened);

/// What may happen at any step.
pub const EVENTS: [Happening; 32] = [
    ("answered", answered),
    ("refused", |b| failed(b, Cause::Refused)),
    ("unknown", |b| failed(b, Cause::Unknown)),
    ("unreachable", |b| failed(b, Cause::Unreachable)),
    ("not written", |b| yes(b, Bench::fail_to_write)),
    ("kernel refuses", |b| not_committed(b, Stage::Datapath)),
    ("epoch not written", |b| not_committed(b, Stage::State)),
    ("old is read-only", |b| old_is_back(b, false)),
    ("old is writable", |b| old_is_back(b, true)),
    ("old dies", |b| dies(b, 1)),
    ("candidate dies", |b| dies(b, 2)),
    ("another dies", |b| dies(b, 3)),
    ("stranger writable", |b| yes(b, stranger)),
    ("lock lost", |b| yes(b, lock_lost)),
    ("another promotes 2", |b| yes(b, |b| another_agent_promotes(b, 2))),
    ("another promotes 3", |b| yes(b, |b| another_agent_promotes(b, 3))),
    ("stale answer", |b| yes(b, stale_answer)),
    ("stale begun", |b| yes(b, |b| b.event(Event::Begun { serial: 9_999 }))),
    ("operate", |b| yes(b, |b| b.event(Event::Operate(Bench::intent(Kind::Switchover))))),
    ("abort", |b| yes(b, abort)),
    ("pin to old", |b| pin(b, None)),
    ("pin listener to old", |b| pin(b, Some(writer()))),
    ("pause", |b| yes(b, |b| b.event(Event::Pause { until: None, reason: "test".to_owned() }))),
    ("rejoin old", |b| rejoin(b, db(1))),
    ("rejoin candidate", |b| rejoin(b, db(2))),
    ("clear old", |b| yes(b, |b| b.event(Event::Clear { server: db(1), by: "ann".to_owned() }))),
    ("lease lapsed", |b| yes(b, Bench::lapse)),
    ("restarted before", |b| yes(b, Bench::restart)),
    ("restarted after", |b| yes(b, restarted_after)),
    ("restarted, no lock", restarted_without_lock),
    ("restarted, too late", |b| yes(b, restarted_too_late)),
    ("an hour later", |b| yes(b, an_hour_later)),
];

fn yes(bench: &mut Bench, happen: impl FnOnce(&mut Bench)) -> Happened {
    happen(bench);
    Happened::Yes
}

/// What the step waits for: the kernel, or every order.
fn answered(bench: &mut Bench) -> Happened {
    if bench.in_flight.is_some() {
        bench.commit();
    } else {
        bench.answer_all();
    }
    Happened::Yes
}

fn failed(bench: &mut Bench, cause: Cause) -> Happened {
    if bench.orders.is_empty() {
        return Happened::CannotBe;
    }
    for order in bench.orders.keys().copied().collect::<Vec<_>>() {
        bench.fail(order, cause);
    }
    Happened::Yes
}

fn not_committed(bench: &mut Bench, stage: Stage) -> Happened {
    if bench.in_flight.is_none() {
        return Happened::CannotBe;
    }
    bench.fail_to_commit(stage);
    Happened::Yes
}

fn old_is_back(bench: &mut Bench, writable: bool) -> Happened {
    (bench.fake(1).fails, bench.fake(1).writable) = (None, writable);
    bench.ask(1);
    bench.ask(1);
    Happened::Yes
}

fn dies(bench: &mut Bench, n: u8) -> Happened {
    bench.kill(n);
    for _ in 0..3 {
        (1..=SERVERS).for_each(|n| bench.ask(n));
    }
    bench.break_orders_of(n);
    Happened::Yes
}

/// db5, that nobody but an outsider can have made writable, with a transaction of its own.
fn stranger(bench: &mut Bench) {
    let fake = bench.fake(5);
    (fake.writable, fake.source, fake.io) = (true, None, IoThread::Stopped);
    fake.executed = fake.executed.union(&made_by(5, 1));
    bench.ask(5);
}

fn lock_lost(bench: &mut Bench) {
    for n in 1..=SERVERS {
        bench.fake(n).lock = PromoterLock::Theirs;
    }
    (1..=SERVERS).for_each(|n| bench.ask(n));
}

/// Another agent has taken the lock and done it all: the others follow the server that it has chosen.
fn another_agent_promotes(bench: &mut Bench, n: u8) {
    let all = bench.fakes[&db(3)].received.clone();
    for other in 1..=SERVERS {
        let fake = bench.fake(other);
        fake.lock = PromoterLock::Theirs;
        if other == 1 {
            fake.writable = false;
            continue;
        }
        (fake.writable, fake.source, fake.io) = (other == n, (other != n).then(|| db(n)), IoThread::Connected);
        fake.executed = fake.executed.union(&all);
    }
    (1..=SERVERS).for_each(|n| bench.ask(n));
}

/// Another agent was faster: db3 is the primary when this one is back.
fn restarted_too_late(bench: &mut Bench) {
    another_agent_promotes(bench, 3);
    bench.restart();
}

/// The answer to an order that this agent never gave.
fn stale_answer(bench: &mut Bench) {
    let standing = bench.standing(db(2));
    let result = Ok(Report::Standing(Box::new(crate::operation::Standing { read_only: false, ..standing })));
    bench.event(Event::TaskDone { order: OrderId(u64::MAX), result });
}

fn abort(bench: &mut Bench) {
    bench.event(Event::Abort { by: "ann".to_owned() });
}

fn pin(bench: &mut Bench, listener: Option<SocketAddr>) -> Happened {
    bench.pinned = true;
    bench.event(Event::Pin { listener, server: db(1) });
    Happened::Yes
}

fn rejoin(bench: &mut Bench, server: SocketAddr) -> Happened {
    bench.event(Event::Rejoin { server, by: "ann".to_owned() });
    Happened::Yes
}

/// What was ordered was done, and nobody heard of it.
fn restarted_after(bench: &mut Bench) {
    for task in bench.orders.values().cloned().collect::<Vec<_>>() {
        drop(bench.perform(&task));
    }
    bench.restart();
}

/// Another agent has taken the lock when this one is back.
fn restarted_without_lock(bench: &mut Bench) -> Happened {
    for n in 1..=SERVERS {
        bench.fake(n).lock = PromoterLock::Theirs;
    }
    bench.restart();
    Happened::Yes
}

/// Nothing came back for an hour, but the clock did not stand still.
fn an_hour_later(bench: &mut Bench) {
    bench.now = bench.now + Duration::from_secs(3600);
    bench.event(Event::Deadline);
}
