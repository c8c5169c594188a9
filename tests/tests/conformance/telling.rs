//! Promise 12: who is who.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::ops::ControlFlow;

use shunt_core::config::Snat;
use shunt_core::datapath::Meter;
use shunt_core::flow::{Flow, FlowFilter, Phase, Tuple};
use shunt_core::mapping::{Mapping, Route};
use shunt_tests::star::{CLIENT, Conversation, DBS, PROXY};

use crate::lab::{Lab, eventually, mapping, set, spread};

fn told(meter: &mut dyn Meter, listeners: &[SocketAddr], source_port: Option<u16>) -> Vec<Flow> {
    let mut all = Vec::new();
    let filter = FlowFilter { listeners: listeners.iter().copied().collect(), source_port };
    let mut each = |flow| {
        all.push(flow);
        ControlFlow::Continue(())
    };
    meter.flows(&filter, &mut each).unwrap();
    all
}

/// Who is who, as the ends themselves know it.
fn known(lab: &Lab, listener: SocketAddr, conversation: &Conversation) -> (Tuple, (SocketAddr, SocketAddr)) {
    let backend = lab.db(u8::from(conversation.server == DBS[1]));
    (Tuple { client: conversation.local().unwrap(), listener }, (conversation.seen_as, backend))
}

pub fn p12_every_flow_is_told_with_its_client_its_backend_and_whom_that_sees(lab: &Lab) {
    let mut datapath = lab.open();
    let direct = lab.listener_at(4000);
    set(&mut *datapath, lab.mapping(spread([(lab.db(0), 1), (lab.db(1), 1)])));
    set(&mut *datapath, Mapping { snat: Snat::None, ..mapping(direct, Route::Single(lab.db(1))) });
    let mut conversations: Vec<(SocketAddr, Conversation)> =
        lab.calls(20).into_iter().map(|conversation| (lab.listener(), conversation)).collect();
    for (host, listener) in [(PROXY, lab.listener()), (DBS[0], lab.listener()), (CLIENT, direct)] {
        conversations.push((listener, lab.dial(host, listener).unwrap()));
    }
    let expected: BTreeMap<_, _> =
        conversations.iter().map(|(listener, conversation)| known(lab, *listener, conversation)).collect();
    let mut meter = lab.meter(&mut *datapath);
    let both = [lab.listener(), direct];
    let found: BTreeMap<_, _> =
        told(&mut *meter, &both, None).into_iter().map(|flow| (flow.tuple, (flow.seen_as, flow.backend))).collect();
    assert_eq!(found, expected);
    assert!(told(&mut *meter, &both, None).iter().all(|flow| flow.phase == Phase::Established));
    assert_eq!(told(&mut *meter, &[direct], None).len(), 1);
    assert_eq!(told(&mut *meter, &[lab.listener_at(4001)], None), []);
    let counted = meter.connections(&both).unwrap();
    assert_eq!((counted[&lab.listener()], counted[&direct]), (22, 1));
}

pub fn p12_a_flow_is_found_by_the_port_that_its_backend_sees(lab: &Lab) {
    let mut datapath = lab.mapped();
    let conversations = lab.calls(20);
    let mut meter = lab.meter(&mut *datapath);
    let ports: BTreeSet<u16> = conversations.iter().map(|conversation| conversation.seen_as.port()).collect();
    assert_eq!(ports.len(), 20);
    for conversation in &conversations {
        let found = told(&mut *meter, &[lab.listener()], Some(conversation.seen_as.port()));
        let (tuple, who) = known(lab, lab.listener(), conversation);
        assert_eq!(
            found.iter().map(|flow| (flow.tuple, (flow.seen_as, flow.backend))).collect::<Vec<_>>(),
            [(tuple, who)]
        );
    }
    let unused = (1024..2000).find(|port| !ports.contains(port)).unwrap();
    assert_eq!(told(&mut *meter, &[lab.listener()], Some(unused)), []);
}

pub fn p12_flows_are_found_by_whom_their_backend_sees(lab: &Lab) {
    let mut datapath = lab.open();
    let direct = lab.listener_at(4000);
    set(&mut *datapath, lab.to(0));
    set(&mut *datapath, Mapping { snat: Snat::None, ..mapping(direct, Route::Single(lab.db(0))) });
    let conversations: Vec<_> = [(CLIENT, lab.listener()), (PROXY, lab.listener()), (CLIENT, direct)]
        .map(|(host, listener)| (listener, lab.dial(host, listener).unwrap()))
        .into();
    // Somebody who passes the proxy and none of its listeners.
    let passing = lab.dial(CLIENT, lab.db(0)).unwrap();
    let seen_as: Vec<_> = conversations.iter().map(|(_, one)| one.seen_as).chain([passing.seen_as]).collect();
    let mut meter = lab.meter(&mut *datapath);
    let mut found = |listeners: &[SocketAddr], db, clients: &[SocketAddr]| {
        let flows = meter.flows_seen_as(listeners, lab.db(db), clients).unwrap();
        flows.into_iter().map(|flow| (flow.tuple, (flow.seen_as, flow.backend))).collect::<BTreeMap<_, _>>()
    };
    let expected: BTreeMap<_, _> = conversations.iter().map(|(listener, one)| known(lab, *listener, one)).collect();
    assert_eq!(found(&[lab.listener(), direct], 0, &seen_as), expected);
    assert_eq!(found(&[direct], 0, &seen_as).len(), 1);
    assert_eq!(found(&[lab.listener(), direct], 0, &seen_as[..1]).len(), 1);
    assert_eq!(found(&[lab.listener(), direct], 1, &seen_as).len(), 0);
}

pub fn p12_the_telling_can_be_broken_off_and_begun_again(lab: &Lab) {
    let mut datapath = lab.mapped();
    let _conversations = lab.calls(20);
    let mut meter = lab.meter(&mut *datapath);
    let filter = FlowFilter { listeners: [lab.listener()].into(), source_port: None };
    for _ in 0..3 {
        let mut count = 0;
        let mut each = |_| {
            count += 1;
            if count == 3 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        };
        meter.flows(&filter, &mut each).unwrap();
        assert_eq!(count, 3);
    }
    assert_eq!(told(&mut *meter, &[lab.listener()], None).len(), 20);
}

pub fn p12_the_phases_and_bytes_of_a_flow_are_told(lab: &Lab) {
    let mut datapath = lab.mapped();
    let conversation = lab.call();
    conversation.order("linger").unwrap();
    for _ in 0..100 {
        conversation.echo().unwrap();
    }
    let mut meter = lab.meter(&mut *datapath);
    let only = |meter: &mut dyn Meter| {
        let all = told(meter, &[lab.listener()], None);
        assert_eq!(all.len(), 1, "{all:?}");
        all[0]
    };
    let flow = only(&mut *meter);
    // What a kernel does not count cannot be told; what it counts has a header for each packet.
    assert!(flow.traffic.is_none_or(|traffic| traffic.to_backend > 500 && traffic.to_client > 500), "{flow:?}");
    assert!(flow.idle.is_none_or(|idle| idle.as_secs() < 60), "{flow:?}");
    conversation.stream.shutdown(std::net::Shutdown::Write).unwrap();
    eventually("the phase of closing", || only(&mut *meter).phase == Phase::Closing);
}

pub fn p12_how_full_the_tables_are_is_told(lab: &Lab) {
    let mut datapath = lab.mapped();
    let conversations = lab.calls(10);
    let usage = lab.meter(&mut *datapath).usage(&[lab.listener()]).unwrap();
    assert!((10..1000).contains(&usage.flows) && usage.flows < usage.flows_max, "{usage:?}");
    let source = conversations[0].seen_as.ip();
    let taken: Vec<_> = usage.ports.iter().filter(|one| one.source == source && one.backend == lab.db(0)).collect();
    assert_eq!(taken.iter().map(|one| one.taken).collect::<Vec<_>>(), [10], "{usage:?}");
}
