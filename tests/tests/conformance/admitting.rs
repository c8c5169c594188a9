//! Promise 9: who may connect, how many at a time, and the count of those who were refused.

use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
use shunt_core::datapath::{Datapath, Refused};
use shunt_core::mapping::{Admission, Mapping, Route};
use shunt_tests::star::{CLIENT, Conversation, DBS, Ip, PATIENCE, PROXY};

use crate::lab::{Lab, eventually, mapping, set};

/// A thousand networks of many lengths, without an address of the star's.
fn thousand(ip: Ip) -> Vec<IpNet> {
    let net = |number: u16| match ip {
        Ip::V4 => {
            let [high, low] = number.to_be_bytes();
            IpNet::new(Ipv4Addr::new(100, 64 + high, low, 0).into(), 24 + (number % 9) as u8).unwrap()
        }
        Ip::V6 => IpNet::new(Ipv6Addr::new(0xfd88, number, 0, 0, 0, 0, 0, 0).into(), 32 + (number % 97) as u8).unwrap(),
    };
    (0..1000).map(net).collect()
}

/// With the default limits, the mapping to the first database.
fn admitting(lab: &Lab, admission: Admission) -> Mapping {
    Mapping { admission, ..lab.to(0) }
}

fn refused(lab: &Lab, datapath: &mut dyn Datapath) -> Refused {
    let told = lab.meter(datapath).refused().unwrap();
    told.get(&lab.listener()).copied().unwrap_or_default()
}

fn host_net(address: IpAddr) -> IpNet {
    IpNet::from(address)
}

pub fn p09_who_is_not_among_a_thousand_networks_is_refused_and_counted(lab: &Lab) {
    let mut datapath = lab.open();
    let allow = thousand(lab.ip);
    set(&mut *datapath, admitting(lab, Admission { allow, ..Admission::default() }));
    for _ in 0..3 {
        let error = lab.dial(CLIENT, lab.listener()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ConnectionRefused);
    }
    assert_eq!(refused(lab, &mut *datapath), Refused { not_allowed: 3, ..Refused::default() });
    assert_eq!(lab.server(0).accepted(), 0);
    assert_eq!(datapath.reconcile().unwrap(), []);
}

pub fn p09_who_is_among_a_thousand_networks_is_served(lab: &Lab) {
    let mut datapath = lab.open();
    let mut allow = thousand(lab.ip);
    allow.push(host_net(lab.ip.client()));
    // Networks within networks and beside each other, and the widest of all for another listener.
    let wide = IpNet::new(lab.ip.address(2, 0), if lab.ip == Ip::V4 { 23 } else { 32 }).unwrap();
    set(&mut *datapath, admitting(lab, Admission { allow, ..Admission::default() }));
    let all = IpNet::new(if lab.ip == Ip::V4 { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() }, 0);
    let admission = Admission { allow: vec![wide, host_net(lab.db(0).ip()), all.unwrap()], ..Admission::default() };
    let open = lab.listener_at(4000);
    set(&mut *datapath, Mapping { admission, ..mapping(open, Route::Single(lab.db(0))) });
    lab.dial_from(lab.ip.client(), lab.listener()).unwrap().echo().unwrap();
    let error = lab.dial_from(lab.ip.second_client(), lab.listener()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConnectionRefused);
    assert!(lab.dial(PROXY, lab.listener()).is_err(), "a client on the proxy itself is no exception");
    for host in [CLIENT, PROXY, DBS[1]] {
        lab.dial(host, open).unwrap().echo().unwrap();
    }
    assert_eq!(refused(lab, &mut *datapath).not_allowed, 2);
    assert_eq!(datapath.reconcile().unwrap(), []);
}

pub fn p09_established_flows_are_not_asked_when_the_list_changes(lab: &Lab) {
    let mut datapath = lab.mapped();
    let old = lab.call();
    set(&mut *datapath, admitting(lab, Admission { allow: thousand(lab.ip), ..Admission::default() }));
    assert!(lab.dial(CLIENT, lab.listener()).is_err());
    old.echo().unwrap();
    set(&mut *datapath, lab.to(0));
    old.echo().unwrap();
    lab.call().echo().unwrap();
}

pub fn p09_a_stranger_is_refused_by_a_listener_that_holds(lab: &Lab) {
    let mut datapath = lab.open();
    let admission = Admission { allow: vec![host_net(lab.ip.second_client())], ..Admission::default() };
    set(&mut *datapath, Mapping { admission, ..lab.mapping(Route::Hold(crate::holding::LONG)) });
    let error = lab.dial_from(lab.ip.client(), lab.listener()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConnectionRefused);
}

/// As many as fit; one more is refused, and gets in when one of them has closed.
fn a_place_is_given_back(lab: &Lab, source: IpAddr, limit: u32) -> Vec<Conversation> {
    let call = || lab.dial_from(source, lab.listener());
    let mut all: Vec<_> = (0..limit).map(|_| call().unwrap()).collect();
    assert_eq!(call().unwrap_err().kind(), ErrorKind::ConnectionRefused);
    drop(all.pop());
    eventually("a free place", || call().map(|conversation| all.push(conversation)).is_ok());
    assert_eq!(call().unwrap_err().kind(), ErrorKind::ConnectionRefused);
    assert!(all.iter().all(|conversation| conversation.echo().is_ok()));
    all
}

pub fn p09_a_listener_takes_so_many_connections_and_one_more_when_one_closes(lab: &Lab) {
    let mut datapath = lab.open();
    set(&mut *datapath, admitting(lab, Admission { limit: Some(5), ..Admission::default() }));
    let _all = a_place_is_given_back(lab, lab.ip.client(), 5);
    assert!(lab.dial_from(lab.ip.second_client(), lab.listener()).is_err(), "the limit is for all sources together");
    let counted = refused(lab, &mut *datapath);
    assert!(counted.over_limit >= 3, "{counted:?}");
    assert_eq!((counted.not_allowed, counted.over_source_limit), (0, 0));
    assert_eq!(lab.meter(&mut *datapath).connections(&[lab.listener()]).unwrap()[&lab.listener()], 5);
}

pub fn p09_a_source_takes_so_many_connections_and_others_take_theirs(lab: &Lab) {
    let mut datapath = lab.open();
    set(&mut *datapath, admitting(lab, Admission { limit_per_source: Some(3), ..Admission::default() }));
    let _one = a_place_is_given_back(lab, lab.ip.client(), 3);
    let _other = a_place_is_given_back(lab, lab.ip.second_client(), 3);
    let counted = refused(lab, &mut *datapath);
    assert!(counted.over_source_limit >= 4, "{counted:?}");
    assert_eq!((counted.not_allowed, counted.over_limit), (0, 0));
}

pub fn p09_severed_connections_give_their_places_back(lab: &Lab) {
    let mut datapath = lab.open();
    let admission = Admission { limit: Some(4), limit_per_source: Some(4), ..Admission::default() };
    set(&mut *datapath, admitting(lab, admission.clone()));
    let _old = lab.calls(4);
    set(&mut *datapath, Mapping { admission, ..lab.to(1) });
    let mut new = Vec::new();
    eventually("four places at the new backend", || {
        new.extend(lab.inside(CLIENT, || Conversation::open(lab.listener(), PATIENCE)));
        new.len() == 4
    });
    assert!(new.iter().all(|conversation| conversation.server == "db2"));
}

pub fn p09_a_listener_without_limits_is_not_limited_by_anothers(lab: &Lab) {
    let mut datapath = lab.mapped();
    let limited = lab.listener_at(4000);
    let admission = Admission { limit: Some(1), limit_per_source: Some(1), ..Admission::default() };
    set(&mut *datapath, Mapping { admission, ..mapping(limited, Route::Single(lab.db(0))) });
    let _only = lab.dial(CLIENT, limited).unwrap();
    assert!(lab.dial(CLIENT, limited).is_err());
    assert_eq!(lab.calls(20).len(), 20);
    assert_eq!(refused(lab, &mut *datapath), Refused::default());
}
