//! Promises 1 and 10: a new connection reaches a live backend, from the source that the listener's `snat` says, wherever
//! its client is.

use std::collections::BTreeSet;
use std::net::IpAddr;

use shunt_core::config::Snat;
use shunt_core::mapping::Mapping;
use shunt_core::mapping::Route;
use shunt_tests::star::{CLIENT, DBS, PROXY};

use crate::lab::{Lab, mapping, set};

pub fn p01_a_connection_comes_from_the_proxys_address_when_masqueraded(lab: &Lab) {
    let mut datapath = lab.mapped();
    for (number, name) in (0..).zip(DBS) {
        let conversation = lab.call();
        assert_eq!(conversation.server, name);
        assert_eq!(conversation.seen_as.ip(), lab.ip.address(number + 2, 1));
        conversation.echo().unwrap();
        if number == 0 {
            set(&mut *datapath, lab.to(1));
        }
    }
}

pub fn p01_a_connection_comes_from_a_pool_when_there_is_one(lab: &Lab) {
    let mut datapath = lab.open();
    let at = |host| lab.ip.address(200, host);
    // Two ranges, apart from each other, of addresses that are no host's; the databases answer by way of the proxy.
    let snat = Snat::Pool(vec![(at(1), at(2)), (at(5), at(6))]);
    set(&mut *datapath, Mapping { snat, ..lab.to(0) });
    let conversations = lab.calls(100);
    let seen: BTreeSet<IpAddr> = conversations.iter().map(|conversation| conversation.seen_as.ip()).collect();
    assert!(seen.is_subset(&[1, 2, 5, 6].map(at).into()), "{seen:?}");
    assert!(seen.len() > 1, "all came from {seen:?}");
    assert!(conversations.iter().all(|conversation| conversation.echo().is_ok()));
    // The client on the proxy itself as well.
    let local = lab.dial(PROXY, lab.listener()).unwrap();
    assert!([1, 2, 5, 6].map(at).contains(&local.seen_as.ip()), "{}", local.seen_as);
    local.echo().unwrap();
}

pub fn p01_a_connection_comes_from_the_client_without_snat(lab: &Lab) {
    let mut datapath = lab.open();
    set(&mut *datapath, Mapping { snat: Snat::None, ..lab.to(0) });
    let conversation = lab.call();
    assert_eq!(conversation.seen_as, conversation.local().unwrap());
    conversation.echo().unwrap();
}

pub fn p01_a_listener_need_not_be_an_address_of_the_proxy(lab: &Lab) {
    let mut datapath = lab.open();
    let elsewhere = (lab.ip.address(99, 1), 3306).into();
    let (net, via) = (lab.ip.address(99, 0), lab.ip.address(3, 2));
    let length = if net.is_ipv4() { 24 } else { 64 };
    // A route that leads on, as on a router: the address is nobody's here.
    lab.host(PROXY).ip(&format!("route add {net}/{length} via {via}")).unwrap();
    set(&mut *datapath, mapping(elsewhere, Route::Single(lab.db(0))));
    let conversation = lab.dial(CLIENT, elsewhere).unwrap();
    assert_eq!(conversation.server, "db1");
    conversation.echo().unwrap();
    set(&mut *datapath, mapping(elsewhere, Route::Refuse));
    assert!(conversation.is_reset());
    assert!(lab.dial(CLIENT, elsewhere).is_err());
}

pub fn p10_a_client_on_the_proxy_itself_is_served(lab: &Lab) {
    let mut datapath = lab.mapped();
    let conversation = lab.dial(PROXY, lab.listener()).unwrap();
    assert_eq!(conversation.server, "db1");
    conversation.echo().unwrap();
    set(&mut *datapath, lab.to(1));
    assert_eq!(lab.dial(PROXY, lab.listener()).unwrap().server, "db2");
}

pub fn p10_a_backend_that_is_its_own_client_is_served(lab: &Lab) {
    let _datapath = lab.mapped();
    let conversation = lab.dial(DBS[0], lab.listener()).unwrap();
    assert_eq!(conversation.server, "db1");
    assert_eq!(conversation.seen_as.ip(), lab.ip.address(2, 1));
    conversation.echo().unwrap();
}
