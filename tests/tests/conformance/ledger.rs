//! What is promised about what is committed, without a packet. The in-memory datapath is held to it as well.

use std::net::SocketAddr;
use std::time::Duration;

use shunt_core::datapath::{Change, Datapath, DatapathError, Held};
use shunt_core::flow::Tuple;
use shunt_core::mapping::{Leaving, Mapping, Route};
use shunt_tests::star::Ip;

use crate::lab::{mapping, remove, set, spread};

/// A datapath, its end and another beginning, and the time that it goes by.
pub trait Ledger {
    fn datapath(&mut self) -> &mut dyn Datapath;

    /// Lets the datapath go and opens it again on the same kernel.
    fn reopen(&mut self);

    /// Lets time pass.
    fn pass(&mut self, span: Duration);
}

const LEASE: Duration = Duration::from_secs(2);

fn listener(ip: Ip, port: u16) -> SocketAddr {
    (ip.listener().ip(), port).into()
}

fn to(ip: Ip, port: u16, db: u8) -> Mapping {
    mapping(listener(ip, port), Route::Single(ip.db(db)))
}

fn held(ip: Ip, port: u16, db: u8) -> Held {
    Held { listener: listener(ip, port), backends: vec![ip.db(db)] }
}

fn other(ip: Ip) -> Ip {
    if ip == Ip::V4 { Ip::V6 } else { Ip::V4 }
}

pub fn p02_a_change_is_taken_whole_or_not_at_all(ledger: &mut dyn Ledger, ip: Ip) {
    let datapath = ledger.datapath();
    set(datapath, to(ip, 1, 0));
    let crossed = mapping(listener(ip, 3), Route::Single(other(ip).db(0)));
    let change =
        Change { set: vec![to(ip, 1, 1), to(ip, 2, 1), crossed], remove: vec![(listener(ip, 1), Leaving::Sever)] };
    let error = datapath.apply(&change).unwrap_err();
    assert!(matches!(error, DatapathError::Unsupported(_)), "{error:?}");
    assert!(error.to_string().contains(&listener(ip, 3).to_string()), "the mapping is not named: {error}");
    assert_eq!(datapath.committed(), [held(ip, 1, 0)]);
    assert_eq!(datapath.reconcile().unwrap(), []);
}

pub fn p02_a_change_touches_only_what_it_names(ledger: &mut dyn Ledger, ip: Ip) {
    let datapath = ledger.datapath();
    let all = (1..=20).map(|port| to(ip, port, 0)).collect();
    assert_eq!(datapath.apply(&Change { set: all, remove: Vec::new() }).unwrap().changed, 20);
    let change = Change { set: vec![to(ip, 7, 1)], remove: vec![(listener(ip, 9), Leaving::Sever)] };
    assert_eq!(datapath.apply(&change).unwrap().changed, 2);
    let expected: Vec<Held> =
        (1..=20).filter(|port| *port != 9).map(|port| held(ip, port, u8::from(port == 7))).collect();
    assert_eq!(datapath.committed(), expected);
    assert_eq!(datapath.reconcile().unwrap(), []);
}

pub fn p02_what_is_already_so_is_no_change(ledger: &mut dyn Ledger, ip: Ip) {
    let datapath = ledger.datapath();
    let hold = Route::Hold(Duration::from_secs(60));
    let all = vec![
        to(ip, 1, 0),
        mapping(listener(ip, 2), spread([(ip.db(0), 2), (ip.db(1), 1)])),
        mapping(listener(ip, 3), hold),
        mapping(listener(ip, 4), Route::Refuse),
    ];
    let change = Change { set: all, remove: vec![(listener(ip, 5), Leaving::Sever)] };
    assert_eq!(datapath.apply(&change).unwrap().changed, 4);
    assert_eq!(datapath.apply(&change).unwrap().changed, 0);
}

pub fn p02_a_removed_listener_is_committed_no_more(ledger: &mut dyn Ledger, ip: Ip) {
    let datapath = ledger.datapath();
    set(datapath, to(ip, 1, 0));
    set(datapath, to(ip, 2, 0));
    remove(datapath, listener(ip, 1), Leaving::Sever);
    assert_eq!(datapath.committed(), [held(ip, 2, 0)]);
    assert_eq!(datapath.reconcile().unwrap(), []);
}

pub fn p06_a_fenced_listener_has_no_backend(ledger: &mut dyn Ledger, ip: Ip) {
    let datapath = ledger.datapath();
    for route in [Route::Hold(Duration::from_secs(60)), Route::Refuse] {
        set(datapath, to(ip, 1, 0));
        set(datapath, mapping(listener(ip, 1), route));
        assert_eq!(datapath.committed(), [Held { listener: listener(ip, 1), backends: Vec::new() }]);
    }
}

pub fn p07_a_lease_that_is_renewed_stays(ledger: &mut dyn Ledger, ip: Ip) {
    set(ledger.datapath(), Mapping { lease: Some(LEASE), ..to(ip, 1, 0) });
    for _ in 0..4 {
        ledger.pass(LEASE / 3);
        assert_eq!(ledger.datapath().renew().unwrap(), []);
        assert_eq!(ledger.datapath().reconcile().unwrap(), []);
    }
    assert_eq!(ledger.datapath().committed(), [held(ip, 1, 0)]);
}

pub fn p07_a_lease_that_ran_out_is_told_once_and_leaves_a_fence(ledger: &mut dyn Ledger, ip: Ip) {
    let leased = Mapping { lease: Some(LEASE), ..to(ip, 1, 0) };
    set(ledger.datapath(), leased.clone());
    set(ledger.datapath(), to(ip, 2, 0));
    ledger.pass(LEASE + LEASE / 2);
    let datapath = ledger.datapath();
    assert_eq!(datapath.renew().unwrap(), [listener(ip, 1)]);
    assert_eq!(datapath.committed(), [Held { listener: listener(ip, 1), backends: Vec::new() }, held(ip, 2, 0)]);
    assert_eq!(datapath.renew().unwrap(), []);
    assert_eq!(datapath.reconcile().unwrap(), []);
    // Somebody has decided anew.
    set(datapath, leased);
    assert_eq!(datapath.committed(), [held(ip, 1, 0), held(ip, 2, 0)]);
    assert_eq!(datapath.renew().unwrap(), []);
}

pub fn p08_a_reopened_datapath_adopts_what_was_committed(ledger: &mut dyn Ledger, ip: Ip) {
    let all: Vec<Mapping> = vec![
        to(ip, 1, 0),
        mapping(listener(ip, 2), spread([(ip.db(0), 2), (ip.db(1), 1)])),
        mapping(listener(ip, 3), Route::Hold(Duration::from_secs(60))),
        mapping(listener(ip, 4), Route::Refuse),
        Mapping { lease: Some(Duration::from_secs(60)), ..to(ip, 5, 1) },
    ];
    ledger.datapath().apply(&Change { set: all.clone(), remove: Vec::new() }).unwrap();
    let before = ledger.datapath().committed();
    ledger.reopen();
    let datapath = ledger.datapath();
    assert_eq!(datapath.committed(), before);
    assert_eq!(datapath.apply(&Change { set: all, remove: Vec::new() }).unwrap().changed, 0);
    assert_eq!(datapath.reconcile().unwrap(), []);
    assert_eq!(datapath.renew().unwrap(), []);
}

pub fn p13_a_purged_datapath_holds_nothing_and_can_begin_anew(ledger: &mut dyn Ledger, ip: Ip) {
    let datapath = ledger.datapath();
    set(datapath, to(ip, 1, 0));
    datapath.purge().unwrap();
    assert_eq!(datapath.committed(), []);
    datapath.purge().unwrap();
    set(datapath, to(ip, 1, 1));
    assert_eq!(datapath.committed(), [held(ip, 1, 1)]);
}

fn sparing(ip: Ip, port: u16) -> Mapping {
    Mapping { spared: Some(ip.db(0)), ..mapping(listener(ip, port), Route::Hold(Duration::from_secs(60))) }
}

pub fn p15_a_fence_that_spares_a_backend_leads_nowhere_and_is_adopted(ledger: &mut dyn Ledger, ip: Ip) {
    set(ledger.datapath(), to(ip, 1, 0));
    set(ledger.datapath(), sparing(ip, 1));
    assert_eq!(ledger.datapath().committed(), [Held { listener: listener(ip, 1), backends: Vec::new() }]);
    ledger.reopen();
    let datapath = ledger.datapath();
    assert_eq!(datapath.apply(&Change { set: vec![sparing(ip, 1)], remove: Vec::new() }).unwrap().changed, 0);
    assert_eq!(datapath.reconcile().unwrap(), []);
    set(datapath, Mapping { spared: None, ..sparing(ip, 1) });
    assert_eq!(datapath.reconcile().unwrap(), []);
}

pub fn p15_only_a_fence_spares(ledger: &mut dyn Ledger, ip: Ip) {
    let open = Mapping { spared: Some(ip.db(0)), ..to(ip, 1, 1) };
    let crossed = Mapping { spared: Some(other(ip).db(0)), ..sparing(ip, 1) };
    for mapping in [open, crossed] {
        let error = ledger.datapath().apply(&Change { set: vec![mapping], remove: Vec::new() }).unwrap_err();
        assert!(matches!(error, DatapathError::Unsupported(_)), "{error:?}");
    }
    assert_eq!(ledger.datapath().committed(), []);
}

pub fn p15_only_flows_of_a_spared_backend_are_blocked(ledger: &mut dyn Ledger, ip: Ip) {
    let flow = |port| Tuple { client: (ip.client(), 40_000).into(), listener: listener(ip, port) };
    let datapath = ledger.datapath();
    set(datapath, sparing(ip, 1));
    set(datapath, to(ip, 2, 0));
    datapath.block(&[flow(1)]).unwrap();
    datapath.block(&[flow(1)]).unwrap();
    for flows in [&[flow(2)][..], &[flow(1), flow(3)]] {
        let error = datapath.block(flows).unwrap_err();
        assert!(matches!(error, DatapathError::Unsupported(_)), "{error:?}");
    }
    datapath.unblock(&[flow(1), flow(2), flow(3)]).unwrap();
    assert_eq!(datapath.reconcile().unwrap(), []);
}

pub fn p15_a_lapsed_lease_ends_a_sparing(ledger: &mut dyn Ledger, ip: Ip) {
    let leased = Mapping { lease: Some(LEASE), ..sparing(ip, 1) };
    set(ledger.datapath(), leased.clone());
    for _ in 0..4 {
        ledger.pass(LEASE / 3);
        assert_eq!(ledger.datapath().renew().unwrap(), []);
    }
    ledger.pass(LEASE + LEASE / 2);
    assert_eq!(ledger.datapath().renew().unwrap(), [listener(ip, 1)]);
    assert_eq!(ledger.datapath().renew().unwrap(), []);
    let flow = Tuple { client: (ip.client(), 40_000).into(), listener: listener(ip, 1) };
    assert!(ledger.datapath().block(&[flow]).is_err());
    set(ledger.datapath(), leased);
    ledger.datapath().block(&[flow]).unwrap();
}
