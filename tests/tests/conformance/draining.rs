//! Promise 5: a drained pair stays live for its established flows until a deadline that the kernel keeps, and takes no
//! new ones.

use std::thread;
use std::time::{Duration, Instant};

use shunt_core::mapping::{Leaving, Mapping, Route};
use shunt_tests::star::{CLIENT, End};

use crate::lab::{Lab, eventually, remove, set};

const DRAIN: Duration = Duration::from_secs(2);
/// The kernel's clock ticks a little differently from ours.
const GRACE: Duration = Duration::from_millis(100);

fn drained(lab: &Lab, db: u8) -> Mapping {
    Mapping { leaving: Leaving::Drain(DRAIN), ..lab.to(db) }
}

pub fn p05_a_drained_flow_goes_on_until_the_kernels_deadline(lab: &Lab) {
    let mut datapath = lab.mapped();
    let old = lab.call();
    let begin = Instant::now();
    set(&mut *datapath, drained(lab, 1));
    assert_eq!(lab.call().server, "db2", "a draining pair takes no new flows");
    // The agent does nothing meanwhile.
    eventually("the end of the drain", || old.echo().is_err());
    assert!(begin.elapsed() + GRACE >= DRAIN, "{:?}", begin.elapsed());
    assert_eq!(datapath.reconcile().unwrap(), [], "an expired pair is no drift");
}

pub fn p05_a_drain_ends_though_the_agent_is_gone(lab: &Lab) {
    let mut datapath = lab.mapped();
    let old = lab.call();
    set(&mut *datapath, drained(lab, 1));
    drop(datapath);
    old.echo().unwrap();
    eventually("the end of the drain", || old.echo().is_err());
    assert_eq!(lab.call().server, "db2");
}

pub fn p05_idle_flows_of_a_drain_that_is_over_end_at_both_ends(lab: &Lab) {
    let mut datapath = lab.mapped();
    let old = lab.call();
    set(&mut *datapath, drained(lab, 1));
    thread::sleep(DRAIN / 2);
    assert!(!old.has_ended() && lab.server(0).end_of(old.seen_as).is_none());
    eventually("the end at both ends", || {
        // As the agent does every second.
        datapath.upkeep().unwrap();
        old.has_ended() && lab.server(0).end_of(old.seen_as) == Some(End::Reset)
    });
    assert_eq!(datapath.reconcile().unwrap(), []);
}

pub fn p05_a_backend_that_returns_while_it_drains_keeps_its_flows(lab: &Lab) {
    let mut datapath = lab.mapped();
    let old = lab.call();
    set(&mut *datapath, drained(lab, 1));
    set(&mut *datapath, drained(lab, 0));
    let begin = Instant::now();
    while begin.elapsed() < DRAIN + DRAIN / 2 {
        old.echo().unwrap();
        thread::sleep(Duration::from_millis(50));
    }
    assert_eq!(datapath.reconcile().unwrap(), []);
}

pub fn p05_a_fence_can_drain(lab: &Lab) {
    let mut datapath = lab.mapped();
    let old = lab.call();
    set(&mut *datapath, Mapping { leaving: Leaving::Drain(DRAIN), ..lab.mapping(Route::Refuse) });
    old.echo().unwrap();
    assert!(lab.dial(CLIENT, lab.listener()).is_err());
    old.echo().unwrap();
    eventually("the end of the drain", || old.echo().is_err());
}

pub fn p05_kept_flows_go_on_until_they_end_by_themselves(lab: &Lab) {
    let mut datapath = lab.mapped();
    let old = lab.call();
    set(&mut *datapath, Mapping { leaving: Leaving::Keep, ..lab.to(1) });
    assert_eq!(lab.call().server, "db2");
    datapath.upkeep().unwrap();
    assert_eq!(datapath.reconcile().unwrap(), []);
    old.echo().unwrap();
    // The latest word counts.
    set(&mut *datapath, lab.mapping(Route::Refuse));
    eventually("the end", || old.has_ended());
}

pub fn p05_a_removed_listener_keeps_its_flows_guarded(lab: &Lab) {
    let mut datapath = lab.mapped();
    let old = lab.call();
    remove(&mut *datapath, lab.listener(), Leaving::Keep);
    assert_eq!(datapath.committed(), []);
    old.echo().unwrap();
    assert!(lab.dial(CLIENT, lab.listener()).is_err());
    assert_eq!(datapath.reconcile().unwrap(), []);
    old.echo().unwrap();
    remove(&mut *datapath, lab.listener(), Leaving::Sever);
    assert!(old.is_reset());
}
