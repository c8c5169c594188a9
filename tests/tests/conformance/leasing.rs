//! Promise 7: a leased pair is live for as long as the agent renews it, by the kernel's own clock; without a lease an
//! agent that is gone leaves the mappings forwarding.

use std::thread;
use std::time::{Duration, Instant};

use shunt_core::mapping::Mapping;
use shunt_tests::star::{CLIENT, Counters, DBS, PORT, PROXY};

use crate::lab::{Lab, eventually, set, spread};

const LEASE: Duration = Duration::from_secs(2);

fn leased(lab: &Lab, db: u8) -> Mapping {
    Mapping { lease: Some(LEASE), ..lab.to(db) }
}

pub fn p07_a_lease_that_is_not_renewed_ends_flows_and_takes_no_new_ones(lab: &Lab) {
    let mut datapath = lab.open();
    set(&mut *datapath, leased(lab, 0));
    let busy = lab.call();
    // The datapath is there all the while, like that of an agent that is stopped.
    eventually("the end of the lease", || busy.echo().is_err());
    for host in [CLIENT, PROXY] {
        assert!(lab.dial_for(host, lab.listener(), LEASE).is_err(), "from {host}");
    }
    assert_eq!(datapath.renew().unwrap(), [lab.listener()]);
    assert!(lab.dial_for(CLIENT, lab.listener(), LEASE).is_err());
    // Somebody has decided anew.
    set(&mut *datapath, leased(lab, 0));
    assert_eq!(lab.call().server, "db1");
}

pub fn p07_nothing_reaches_the_backend_once_the_lease_is_over(lab: &Lab) {
    let mut datapath = lab.open();
    set(&mut *datapath, leased(lab, 0));
    let idle = lab.calls(8);
    let end = Instant::now() + LEASE + Duration::from_millis(500);
    drop(datapath);
    thread::sleep(end.saturating_duration_since(Instant::now()));
    let wanted = [("clients", format!("tcp dport {PORT} tcp flags & rst == 0x0"))];
    let wanted = wanted.each_ref().map(|(name, of)| (*name, of.as_str()));
    let mut counters = Counters::incoming(lab.host(DBS[0]), &wanted).unwrap();
    assert!(idle.iter().all(|conversation| conversation.echo().is_err()));
    assert!(lab.dial_for(CLIENT, lab.listener(), LEASE).is_err());
    assert_eq!(counters.read().unwrap()["clients"], 0);
}

pub fn p07_a_lease_of_a_spread_ends_for_all_of_its_backends(lab: &Lab) {
    let mut datapath = lab.open();
    let both = spread([(lab.db(0), 1), (lab.db(1), 1)]);
    set(&mut *datapath, Mapping { lease: Some(LEASE), ..lab.mapping(both) });
    let busy = lab.calls(10);
    for conversation in &busy {
        eventually("the end of the lease", || conversation.echo().is_err());
    }
    assert!(lab.dial_for(CLIENT, lab.listener(), LEASE).is_err());
}

pub fn p07_a_renewed_lease_is_not_noticed(lab: &Lab) {
    let mut datapath = lab.open();
    set(&mut *datapath, leased(lab, 0));
    let busy = lab.call();
    let begin = Instant::now();
    while begin.elapsed() < 2 * LEASE {
        assert_eq!(datapath.renew().unwrap(), []);
        let renewed = Instant::now();
        while renewed.elapsed() < LEASE / 3 {
            busy.echo().unwrap();
            thread::sleep(Duration::from_millis(10));
        }
    }
    assert_eq!(lab.call().server, "db1");
    assert_eq!(datapath.reconcile().unwrap(), []);
}

pub fn p07_without_a_lease_an_agent_that_is_gone_leaves_the_mappings_forwarding(lab: &Lab) {
    let datapath = lab.mapped();
    let old = lab.call();
    drop(datapath);
    thread::sleep(LEASE);
    old.echo().unwrap();
    assert_eq!(lab.call().server, "db1");
}
