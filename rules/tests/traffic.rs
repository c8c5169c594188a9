//! Where connections go, with real packets between namespaces, over IPv4 and IPv6.

mod lab;

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use lab::{BOTH, CLIENT, DBS, Ip, Lab, PATIENCE, PROXY, db, eventually, listener, mapping, set};
use shunt_core::config::Snat;
use shunt_core::datapath::{Change, Datapath as _};
use shunt_core::mapping::{Leaving, Mapping, Route, Weighted};
use shunt_rules::NftDatapath;

/// Ends with the error that a reset brings.
fn is_reset(stream: &TcpStream) -> bool {
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let reset = |kind| matches!(kind, ErrorKind::ConnectionReset | ErrorKind::BrokenPipe);
    if let Err(error) = (&*stream).write_all(b"ping\n") {
        return reset(error.kind());
    }
    // An echo that was on its way may come before the end. The kernel tells of a reset once, and at the server's end to
    // whichever thread reads first; the other sees an end, but a socket that only its peer had closed would still take bytes.
    match (&*stream).read_exact(&mut [0; 64]).map_err(|error| error.kind()) {
        Err(ErrorKind::UnexpectedEof) => (&*stream).write_all(b"ping\n").is_err_and(|error| reset(error.kind())),
        Err(kind) => reset(kind),
        Ok(()) => false,
    }
}

#[test]
fn a_connection_reaches_the_backend_from_the_proxys_address() {
    let Some(lab) = Lab::new("a_connection_reaches_the_backend_from_the_proxys_address") else { return };
    let mut datapath = lab.open();
    for ip in BOTH {
        set(&mut datapath, mapping(ip, Route::Single(db(ip, 0))));
        let conversation = lab.dial(CLIENT, listener(ip)).unwrap();
        assert_eq!(conversation.server, "db1");
        let proxys = if ip == Ip::V4 { "10.77.2.1" } else { "fd77:2::1" };
        assert_eq!(conversation.seen_as.ip().to_string(), proxys);
        conversation.echo().unwrap();
        let borrowed = &mut datapath;
        let mut counter = lab.in_host(PROXY, move || borrowed.meter()).unwrap();
        assert_eq!(counter.connections(&[listener(ip)]).unwrap()[&listener(ip)], 1);
    }
}

#[test]
fn without_snat_the_backend_sees_the_client() {
    let Some(lab) = Lab::new("without_snat_the_backend_sees_the_client") else { return };
    let mut datapath = lab.open();
    for ip in BOTH {
        set(&mut datapath, Mapping { snat: Snat::None, ..mapping(ip, Route::Single(db(ip, 0))) });
        let conversation = lab.dial(CLIENT, listener(ip)).unwrap();
        assert_eq!(conversation.seen_as.ip(), conversation.stream.local_addr().unwrap().ip());
    }
}

#[test]
fn a_swap_moves_new_connections_and_resets_old_ones_at_the_clients_next_packet() {
    let Some(lab) = Lab::new("a_swap_moves_new_connections_and_resets_old_ones_at_the_clients_next_packet") else {
        return;
    };
    for ip in BOTH {
        let mut datapath = lab.mapped(ip);
        let old = lab.dial(CLIENT, listener(ip)).unwrap();
        assert_eq!(old.server, "db1");
        set(&mut datapath, mapping(ip, Route::Single(db(ip, 1))));
        assert!(is_reset(&old.stream), "{ip:?}");
        assert_eq!(lab.dial(CLIENT, listener(ip)).unwrap().server, "db2");
        datapath.purge().unwrap();
    }
}

#[test]
fn a_swap_resets_old_connections_at_the_servers_next_packet() {
    let Some(lab) = Lab::new("a_swap_resets_old_connections_at_the_servers_next_packet") else { return };
    for ip in BOTH {
        let mut datapath = lab.mapped(ip);
        let old = lab.dial(CLIENT, listener(ip)).unwrap();
        assert_eq!(old.server, "db1");
        set(&mut datapath, mapping(ip, Route::Single(db(ip, 1))));
        let server = lab.servers[0].latest();
        eventually("the reset of the server's end", || is_reset(&server));
        datapath.purge().unwrap();
    }
}

#[test]
fn after_a_swap_no_packet_reaches_the_old_backend() {
    let Some(lab) = Lab::new("after_a_swap_no_packet_reaches_the_old_backend") else { return };
    for ip in BOTH {
        let mut datapath = lab.mapped(ip);
        let old: Vec<_> = (0..8).map(|_| lab.dial(CLIENT, listener(ip)).unwrap()).collect();
        thread::scope(|scope| {
            // All of them busy while the swap happens.
            for conversation in &old {
                scope.spawn(|| while conversation.echo().is_ok() {});
            }
            eventually("traffic", || lab.servers[0].accepted() >= 8);
            set(&mut datapath, mapping(ip, Route::Single(db(ip, 1))));
            lab.count_packets(0);
        });
        for _ in 0..20 {
            assert_eq!(lab.dial(CLIENT, listener(ip)).unwrap().server, "db2");
        }
        assert_eq!(lab.packets_at(0), 0, "{ip:?}");
        lab.on(DBS[0], &["nft", "delete", "table", "inet", "counting"]);
        datapath.purge().unwrap();
    }
}

#[test]
fn the_entries_of_severed_flows_are_deleted() {
    let Some(lab) = Lab::new("the_entries_of_severed_flows_are_deleted") else { return };
    for ip in BOTH {
        let mut datapath = lab.mapped(ip);
        let _old: Vec<_> = (0..5).map(|_| lab.dial(CLIENT, listener(ip)).unwrap()).collect();
        assert_eq!(lab.entries(listener(ip)).len(), 5);
        set(&mut datapath, mapping(ip, Route::Single(db(ip, 1))));
        eventually("the deletion", || lab.entries(listener(ip)).is_empty());
        let mut severed = 0;
        eventually("the count", || {
            severed += datapath.severed().iter().map(|severed| severed.flows).sum::<u64>();
            severed == 5
        });
        datapath.purge().unwrap();
    }
}

#[test]
fn many_pairs_die_at_once_and_their_entries_go() {
    let Some(lab) = Lab::new("many_pairs_die_at_once_and_their_entries_go") else { return };
    let mut datapath = lab.open();
    let many = |number: u8| -> Vec<Mapping> {
        (0..20)
            .map(|port| {
                let mut mapping = mapping(Ip::V4, Route::Single(db(Ip::V4, number)));
                mapping.listener.set_port(4000 + port);
                mapping
            })
            .collect()
    };
    datapath.apply(&Change { set: many(0), remove: Vec::new() }).unwrap();
    let old: Vec<_> = many(0).iter().map(|mapping| lab.dial(CLIENT, mapping.listener).unwrap()).collect();
    datapath.apply(&Change { set: many(1), remove: Vec::new() }).unwrap();
    let mut severed = 0;
    eventually("the severing", || {
        severed += datapath.severed().iter().map(|severed| severed.flows).sum::<u64>();
        severed == 20
    });
    assert!(old.iter().all(|conversation| is_reset(&conversation.stream)));
}

#[test]
fn clients_on_the_proxy_itself_are_served_and_severed() {
    let Some(lab) = Lab::new("clients_on_the_proxy_itself_are_served_and_severed") else { return };
    for ip in BOTH {
        let mut datapath = lab.mapped(ip);
        let old = lab.dial(PROXY, listener(ip)).unwrap();
        assert_eq!(old.server, "db1");
        old.echo().unwrap();
        set(&mut datapath, mapping(ip, Route::Single(db(ip, 1))));
        assert!(is_reset(&old.stream), "{ip:?}");
        assert_eq!(lab.dial(PROXY, listener(ip)).unwrap().server, "db2");
        datapath.apply(&Change { set: vec![mapping(ip, Route::Refuse)], remove: vec![] }).unwrap();
        let refused = lab.dial(PROXY, listener(ip)).unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::ConnectionRefused);
        datapath.purge().unwrap();
    }
}

#[test]
fn a_backend_that_is_its_own_client_is_served() {
    let Some(lab) = Lab::new("a_backend_that_is_its_own_client_is_served") else { return };
    for ip in BOTH {
        let mut datapath = lab.mapped(ip);
        let conversation = lab.dial(DBS[0], listener(ip)).unwrap();
        assert_eq!(conversation.server, "db1");
        conversation.echo().unwrap();
        datapath.purge().unwrap();
    }
}

#[test]
fn connections_spread_as_the_weights_say() {
    let Some(lab) = Lab::new("connections_spread_as_the_weights_say") else { return };
    for ip in BOTH {
        let mut datapath = lab.open();
        let weighted = |number, weight| Weighted { address: db(ip, number), weight };
        set(&mut datapath, mapping(ip, Route::Spread(vec![weighted(0, 3), weighted(1, 1)])));
        let total = 400;
        let first = (0..total).filter(|_| lab.dial(CLIENT, listener(ip)).unwrap().server == "db1").count();
        // 300 are expected; six standard deviations of that are 52.
        assert!((248..=352).contains(&first), "{first} of {total} went to the backend with weight 3 of 4");
        datapath.purge().unwrap();
    }
}

#[test]
fn a_spread_loses_only_the_flows_of_the_backend_that_left() {
    let Some(lab) = Lab::new("a_spread_loses_only_the_flows_of_the_backend_that_left") else { return };
    let ip = Ip::V4;
    let mut datapath = lab.open();
    let both = (0..2).map(|number| Weighted { address: db(ip, number), weight: 1 }).collect();
    set(&mut datapath, mapping(ip, Route::Spread(both)));
    let all: Vec<_> = (0..40).map(|_| lab.dial(CLIENT, listener(ip)).unwrap()).collect();
    let rest = vec![Weighted { address: db(ip, 1), weight: 1 }];
    set(&mut datapath, mapping(ip, Route::Spread(rest)));
    for conversation in &all {
        match conversation.server.as_str() {
            "db1" => assert!(is_reset(&conversation.stream)),
            _ => conversation.echo().unwrap(),
        }
    }
    assert!((0..20).all(|_| lab.dial(CLIENT, listener(ip)).unwrap().server == "db2"));
}

#[test]
fn a_drained_flow_goes_on_until_the_kernels_deadline_and_new_ones_go_elsewhere() {
    let Some(lab) = Lab::new("a_drained_flow_goes_on_until_the_kernels_deadline_and_new_ones_go_elsewhere") else {
        return;
    };
    for ip in BOTH {
        let mut datapath = lab.mapped(ip);
        let old = lab.dial(CLIENT, listener(ip)).unwrap();
        let drain = Duration::from_secs(3);
        let begin = Instant::now();
        let leaving = Leaving::Drain(drain);
        set(&mut datapath, Mapping { leaving, ..mapping(ip, Route::Single(db(ip, 1))) });
        old.echo().unwrap();
        assert_eq!(lab.dial(CLIENT, listener(ip)).unwrap().server, "db2");
        // The agent does nothing meanwhile.
        eventually("the end of the drain", || old.echo().is_err());
        assert!(begin.elapsed() + Duration::from_millis(100) >= drain, "{:?}", begin.elapsed());
        assert_eq!(datapath.reconcile().unwrap(), [], "an expired pair is no drift");
        datapath.purge().unwrap();
    }
}

#[test]
fn a_backend_that_returns_while_it_drains_keeps_its_flows() {
    let Some(lab) = Lab::new("a_backend_that_returns_while_it_drains_keeps_its_flows") else { return };
    let ip = Ip::V4;
    let mut datapath = lab.mapped(ip);
    let old = lab.dial(CLIENT, listener(ip)).unwrap();
    let leaving = Leaving::Drain(Duration::from_secs(2));
    set(&mut datapath, Mapping { leaving, ..mapping(ip, Route::Single(db(ip, 1))) });
    set(&mut datapath, Mapping { leaving, ..mapping(ip, Route::Single(db(ip, 0))) });
    let begin = Instant::now();
    while begin.elapsed() < Duration::from_secs(3) {
        old.echo().unwrap();
        thread::sleep(Duration::from_millis(100));
    }
    assert_eq!(datapath.reconcile().unwrap(), []);
}

#[test]
fn kept_flows_go_on_and_their_pair_goes_when_they_have_ended() {
    let Some(lab) = Lab::new("kept_flows_go_on_and_their_pair_goes_when_they_have_ended") else { return };
    let ip = Ip::V4;
    let mut datapath = lab.mapped(ip);
    let old = lab.dial(CLIENT, listener(ip)).unwrap();
    set(&mut datapath, Mapping { leaving: Leaving::Keep, ..mapping(ip, Route::Single(db(ip, 1))) });
    assert_eq!(datapath.reconcile().unwrap(), []);
    old.echo().unwrap();
    assert!(lab.on_proxy(&["nft", "list", "set", "inet", "shunt", "live4"]).contains("10.77.2.2"));
    drop(old);
    lab.on_proxy(&["conntrack", "-F"]);
    assert_eq!(datapath.reconcile().unwrap(), []);
    assert!(!lab.on_proxy(&["nft", "list", "set", "inet", "shunt", "live4"]).contains("10.77.2.2"));
}

#[test]
fn a_flow_that_conntrack_forgot_is_reset_at_both_ends() {
    let Some(lab) = Lab::new("a_flow_that_conntrack_forgot_is_reset_at_both_ends") else { return };
    for ip in BOTH {
        let mut datapath = lab.mapped(ip);
        let talkative = lab.dial(CLIENT, listener(ip)).unwrap();
        lab.on_proxy(&["conntrack", "-F"]);
        assert!(is_reset(&talkative.stream), "{ip:?}: client");
        let _silent = lab.dial(CLIENT, listener(ip)).unwrap();
        let server = lab.servers[0].latest();
        lab.on_proxy(&["conntrack", "-F"]);
        assert!(is_reset(&server), "{ip:?}: server");
        datapath.purge().unwrap();
    }
}

#[test]
fn no_client_is_refused_while_its_listener_is_swapped_and_held_and_opened() {
    let Some(lab) = Lab::new("no_client_is_refused_while_its_listener_is_swapped_and_held_and_opened") else { return };
    for ip in BOTH {
        let mut datapath = lab.mapped(ip);
        let done = AtomicBool::new(false);
        thread::scope(|scope| {
            let clients: Vec<_> = (0..4)
                .map(|_| {
                    scope.spawn(|| {
                        let mut served = 0;
                        while !done.load(Ordering::Relaxed) {
                            // Only that the connection comes about: a swap may sever it the next moment.
                            match lab.in_host(CLIENT, || TcpStream::connect_timeout(&listener(ip), PATIENCE)) {
                                Ok(_) => served += 1,
                                Err(error) => assert_eq!(error.kind(), ErrorKind::ConnectionReset),
                            }
                        }
                        served
                    })
                })
                .collect();
            let held = Route::Hold(Duration::from_secs(60));
            for turn in 0..150 {
                let route = if turn % 3 == 1 { held.clone() } else { Route::Single(db(ip, turn % 2)) };
                datapath.apply(&Change { set: vec![mapping(ip, route)], remove: Vec::new() }).unwrap();
                thread::sleep(Duration::from_millis(10));
            }
            set_any(&mut datapath, mapping(ip, Route::Single(db(ip, 0))));
            done.store(true, Ordering::Relaxed);
            let served: u32 = clients.into_iter().map(|client| client.join().unwrap()).sum();
            assert!(served > 0);
        });
        datapath.purge().unwrap();
    }
}

fn set_any(datapath: &mut NftDatapath, mapping: Mapping) {
    datapath.apply(&Change { set: vec![mapping], remove: Vec::new() }).unwrap();
}

#[test]
fn a_restarted_agent_deletes_the_entries_of_flows_that_were_severed_meanwhile() {
    let Some(lab) = Lab::new("a_restarted_agent_deletes_the_entries_of_flows_that_were_severed_meanwhile") else {
        return;
    };
    for ip in BOTH {
        let mut datapath = lab.mapped(ip);
        let _old = lab.dial(CLIENT, listener(ip)).unwrap();
        let leaving = Leaving::Drain(Duration::from_secs(1));
        set(&mut datapath, Mapping { leaving, ..mapping(ip, Route::Single(db(ip, 1))) });
        drop(datapath);
        let fresh = lab.dial(CLIENT, listener(ip)).unwrap();
        let live = if ip == Ip::V4 { "live4" } else { "live6" };
        eventually("the end of the drain", || {
            !lab.on_proxy(&["nft", "list", "set", "inet", "shunt", live]).contains("expires")
        });
        assert_eq!(lab.entries(listener(ip)).len(), 2);
        let mut datapath = lab.open();
        eventually("the deletion", || lab.entries(listener(ip)).len() == 1);
        fresh.echo().unwrap();
        datapath.purge().unwrap();
    }
}
