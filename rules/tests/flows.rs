//! What the meter tells of flows, and of how full the tables are: with real packets, over IPv4 and IPv6.

mod lab;

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::net::SocketAddr;
use std::ops::ControlFlow;
use std::time::Duration;

use lab::{BOTH, CLIENT, Ip, Lab, PATIENCE, PROXY, db, eventually, listener, mapping, run, set};
use shunt_core::config::Snat;
use shunt_core::datapath::{Datapath as _, Meter, PortUse};
use shunt_core::flow::{Flow, FlowFilter, Phase};
use shunt_core::mapping::{Mapping, Route};
use shunt_rules::NftDatapath;

fn meter(lab: &Lab, datapath: &mut NftDatapath) -> Box<dyn Meter> {
    lab.in_host(PROXY, move || datapath.meter()).unwrap()
}

fn through(listeners: impl IntoIterator<Item = SocketAddr>) -> FlowFilter {
    FlowFilter { listeners: listeners.into_iter().collect(), source_port: None }
}

fn list(meter: &mut dyn Meter, filter: &FlowFilter) -> Vec<Flow> {
    let mut flows = Vec::new();
    meter
        .flows(filter, &mut |flow| {
            flows.push(flow);
            ControlFlow::Continue(())
        })
        .unwrap();
    flows
}

fn sysctl(lab: &Lab, name: &str, value: u32) {
    lab.in_host(PROXY, || std::fs::write(format!("/proc/sys/net/netfilter/{name}"), value.to_string()).unwrap());
}

/// Puts established flows through the listener into conntrack's table, without a packet: client, source port as seen, backend.
fn pretend(lab: &Lab, flows: impl Iterator<Item = (SocketAddr, u16, SocketAddr)>) {
    let mut commands = String::new();
    for (client, port, backend) in flows {
        let listener = listener(Ip::V4);
        let (source, destination) = (client.ip(), listener.ip());
        writeln!(
            commands,
            "-A -p tcp -s {source} -d {destination} --sport {} --dport {} --state ESTABLISHED -t 400000 \
             --dst-nat {backend} --src-nat {destination}:{port}",
            client.port(),
            listener.port(),
        )
        .unwrap();
    }
    run("ip", &["netns", "exec", &lab.name(PROXY), "conntrack", "-R", "-"], &commands);
}

#[test]
fn a_flow_says_who_is_who_at_both_ends() {
    let Some(lab) = Lab::new("a_flow_says_who_is_who_at_both_ends") else { return };
    let mut datapath = lab.open();
    for ip in BOTH {
        set(&mut datapath, mapping(ip, Route::Single(db(ip, 0))));
    }
    let mut meter = meter(&lab, &mut datapath);
    sysctl(&lab, "nf_conntrack_acct", 1);
    sysctl(&lab, "nf_conntrack_timestamp", 1);
    for ip in BOTH {
        let conversation = lab.dial(CLIENT, listener(ip)).unwrap();
        let other = lab.dial(CLIENT, listener(ip)).unwrap();
        conversation.echo().unwrap();
        assert_eq!(list(&mut *meter, &through(BOTH.map(listener))).iter().filter(|f| same(f, ip)).count(), 2);

        let port = conversation.seen_as.port();
        let found = list(&mut *meter, &FlowFilter { source_port: Some(port), ..through([listener(ip)]) });
        let [flow] = found[..] else { panic!("{ip:?}: port {port} is one flow's: {found:?}") };
        assert_eq!(flow.tuple.client, conversation.stream.local_addr().unwrap());
        assert_eq!(flow.tuple.listener, listener(ip));
        assert_eq!(flow.backend, db(ip, 0));
        assert_eq!(flow.seen_as, conversation.seen_as);
        assert_eq!(flow.phase, Phase::Established);
        let traffic = flow.traffic.unwrap();
        // The handshake and five bytes, with their headers.
        assert!(traffic.to_backend > 100 && traffic.to_client > 100, "{traffic:?}");
        assert!(flow.age.unwrap() < PATIENCE, "{:?}", flow.age);
        assert!(flow.idle.unwrap() < PATIENCE, "{:?}", flow.idle);
        drop((conversation, other));
    }
    assert_eq!(list(&mut *meter, &through([])), [], "nobody asked for any");
}

fn same(flow: &Flow, ip: Ip) -> bool {
    flow.tuple.listener == listener(ip)
}

#[test]
fn what_the_kernel_does_not_keep_is_not_made_up() {
    let Some(lab) = Lab::new("what_the_kernel_does_not_keep_is_not_made_up") else { return };
    let mut datapath = lab.mapped(Ip::V4);
    sysctl(&lab, "nf_conntrack_acct", 0);
    sysctl(&lab, "nf_conntrack_timestamp", 0);
    let mut meter = meter(&lab, &mut datapath);
    let conversation = lab.dial(CLIENT, listener(Ip::V4)).unwrap();
    conversation.echo().unwrap();
    let before = list(&mut *meter, &through([listener(Ip::V4)]))[0];
    assert_eq!((before.traffic, before.age), (None, None));
    assert!(before.idle.is_some());
    // Until the last acknowledgement, which may be delayed, another and shorter time counts.
    eventually("the last acknowledgement", || {
        let remaining = |entry: &String| entry.split_whitespace().nth(2)?.parse::<u32>().ok();
        lab.entries(listener(Ip::V4)).iter().filter_map(remaining).any(|seconds| seconds > 1000)
    });
    // Whoever turns the setting down makes what remains longer than it: the old entries tell nothing then.
    sysctl(&lab, "nf_conntrack_tcp_timeout_established", 1000);
    assert_eq!(list(&mut *meter, &through([listener(Ip::V4)]))[0].idle, None);
}

#[test]
fn a_flow_that_closes_is_told_apart() {
    let Some(lab) = Lab::new("a_flow_that_closes_is_told_apart") else { return };
    let mut datapath = lab.mapped(Ip::V4);
    let mut meter = meter(&lab, &mut datapath);
    let conversation = lab.dial(CLIENT, listener(Ip::V4)).unwrap();
    conversation.stream.shutdown(std::net::Shutdown::Write).unwrap();
    eventually("the flow's closing", || {
        let flow = list(&mut *meter, &through([listener(Ip::V4)]))[0];
        flow.phase == Phase::Closing && flow.idle.is_none()
    });
}

#[test]
fn a_list_that_is_broken_off_leaves_the_meter_usable() {
    let Some(lab) = Lab::new("a_list_that_is_broken_off_leaves_the_meter_usable") else { return };
    let mut datapath = lab.mapped(Ip::V4);
    let mut meter = meter(&lab, &mut datapath);
    let client: SocketAddr = "10.77.1.2:0".parse().unwrap();
    pretend(&lab, (2000..7000).map(|port| (SocketAddr::new(client.ip(), port), port, db(Ip::V4, 0))));
    let filter = through([listener(Ip::V4)]);
    for _ in 0..3 {
        let mut told = 0;
        meter
            .flows(&filter, &mut |_| {
                told += 1;
                if told == 10 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
            })
            .unwrap();
        assert_eq!(told, 10);
    }
    assert_eq!(meter.connections(&[listener(Ip::V4)]).unwrap()[&listener(Ip::V4)], 5000);
    assert_eq!(list(&mut *meter, &filter).len(), 5000);
    assert_eq!(list(&mut *meter, &FlowFilter { source_port: Some(2345), ..filter }).len(), 1);
}

#[test]
fn every_flow_of_a_large_table_is_told_once() {
    const FLOWS: u32 = 100_000;
    let Some(lab) = Lab::new("every_flow_of_a_large_table_is_told_once") else { return };
    let mut datapath = lab.mapped(Ip::V4);
    let mut meter = meter(&lab, &mut datapath);
    let room = meter.usage(&[]).unwrap().flows_max;
    if room < u64::from(FLOWS) * 2 {
        lab::skipped("every_flow_of_a_large_table_is_told_once", &format!("conntrack takes only {room} entries"));
        return;
    }
    // Each backend sees every port once.
    let one = |n: u32| {
        let port = 10_000 + (n / 2) as u16;
        let client = SocketAddr::new([10, 80 + (n >> 16) as u8, (n >> 8) as u8, n as u8].into(), port);
        (client, port, db(Ip::V4, (n % 2) as u8))
    };
    pretend(&lab, (0..FLOWS).map(one));
    let mut seen = BTreeSet::new();
    let filter = through([listener(Ip::V4)]);
    let mut told = 0;
    meter
        .flows(&filter, &mut |flow| {
            told += 1;
            seen.insert((flow.seen_as, flow.backend));
            ControlFlow::Continue(())
        })
        .unwrap();
    assert_eq!((told, seen.len()), (FLOWS, FLOWS as usize));
    let usage = meter.usage(&[listener(Ip::V4)]).unwrap();
    assert_eq!(usage.flows, u64::from(FLOWS));
    assert_eq!(usage.ports.iter().map(|p| p.taken).collect::<Vec<_>>(), [50_000, 50_000]);
    assert!(usage.ports.iter().all(|p| p.source == listener(Ip::V4).ip()));
}

#[test]
fn usage_counts_the_ports_that_rewritten_sources_take() {
    let Some(lab) = Lab::new("usage_counts_the_ports_that_rewritten_sources_take") else { return };
    let mut datapath = lab.open();
    set(&mut datapath, mapping(Ip::V4, Route::Single(db(Ip::V4, 0))));
    set(&mut datapath, Mapping { snat: Snat::None, ..mapping(Ip::V6, Route::Single(db(Ip::V6, 0))) });
    let mut meter = meter(&lab, &mut datapath);
    assert_eq!(meter.usage(&BOTH.map(listener)).unwrap().ports, []);
    let kept: Vec<_> = [Ip::V4, Ip::V4, Ip::V6].map(|ip| lab.dial(CLIENT, listener(ip)).unwrap()).into();
    let usage = meter.usage(&BOTH.map(listener)).unwrap();
    assert_eq!(usage.ports, [PortUse { source: kept[0].seen_as.ip(), backend: db(Ip::V4, 0), taken: 2 }]);
    assert_eq!((usage.flows, usage.turned_away), (3, 0));
    assert!(usage.flows_max > usage.flows);
}

#[test]
fn usage_counts_flows_that_find_no_free_port() {
    let Some(lab) = Lab::new("usage_counts_flows_that_find_no_free_port") else { return };
    let mut datapath = lab.mapped(Ip::V4);
    let mut meter = meter(&lab, &mut datapath);
    let seen_as = "10.77.2.1";
    // Every port of the proxy towards the backend is somebody's.
    let mut commands = String::new();
    for port in 1024..=u16::MAX {
        let backend = db(Ip::V4, 0);
        writeln!(
            commands,
            "-A -p tcp -s {seen_as} -d {} --sport {port} --dport {} --state ESTABLISHED -t 400000 -u SEEN_REPLY",
            backend.ip(),
            backend.port(),
        )
        .unwrap();
    }
    run("ip", &["netns", "exec", &lab.name(PROXY), "conntrack", "-R", "-"], &commands);
    lab.dial_for(CLIENT, listener(Ip::V4), Duration::from_secs(2)).expect_err("no port is left");
    assert!(meter.usage(&[listener(Ip::V4)]).unwrap().turned_away > 0);
}
