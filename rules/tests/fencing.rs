//! What a listener without a backend does with connections, with real packets between namespaces.

mod lab;

use std::io::ErrorKind;
use std::net::UdpSocket;
use std::thread;
use std::time::{Duration, Instant};

use lab::{BOTH, CLIENT, Ip, Lab, PROXY, db, eventually, listener, mapping, set};
use shunt_core::datapath::{Change, Datapath as _};
use shunt_core::mapping::{Leaving, Mapping, Route};

const HOLD: Duration = Duration::from_secs(3);

#[test]
fn a_refusing_listener_refuses_at_once() {
    let Some(lab) = Lab::new("a_refusing_listener_refuses_at_once") else { return };
    for ip in BOTH {
        let mut datapath = lab.open();
        set(&mut datapath, mapping(ip, Route::Refuse));
        for host in [CLIENT, PROXY] {
            let refused = lab.dial(host, listener(ip)).unwrap_err();
            assert_eq!(refused.kind(), ErrorKind::ConnectionRefused, "{ip:?} from {host}");
        }
        datapath.purge().unwrap();
    }
}

#[test]
fn a_held_connection_is_refused_when_the_hold_is_over() {
    let Some(lab) = Lab::new("a_held_connection_is_refused_when_the_hold_is_over") else { return };
    for ip in BOTH {
        let mut datapath = lab.open();
        let begin = Instant::now();
        set(&mut datapath, mapping(ip, Route::Hold(HOLD)));
        // The client's SYN is repeated after 1, 3 and 7 seconds; the agent does nothing meanwhile.
        let refused = lab.dial(CLIENT, listener(ip)).unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::ConnectionRefused, "{ip:?}");
        assert!(begin.elapsed() + Duration::from_millis(100) >= HOLD, "{:?}", begin.elapsed());
        assert_eq!(lab.dial(CLIENT, listener(ip)).unwrap_err().kind(), ErrorKind::ConnectionRefused);
        assert_eq!(datapath.reconcile().unwrap(), [], "a hold that is over is no drift");
        // The same hold again is the same fence, not another one.
        let again = Change { set: vec![mapping(ip, Route::Hold(HOLD))], remove: Vec::new() };
        assert_eq!(datapath.apply(&again).unwrap().changed, 0);
        assert_eq!(lab.dial(CLIENT, listener(ip)).unwrap_err().kind(), ErrorKind::ConnectionRefused);
        datapath.purge().unwrap();
    }
}

#[test]
fn a_held_connection_comes_about_when_the_listener_opens() {
    let Some(lab) = Lab::new("a_held_connection_comes_about_when_the_listener_opens") else { return };
    for ip in BOTH {
        for host in [CLIENT, PROXY] {
            let mut datapath = lab.open();
            set(&mut datapath, mapping(ip, Route::Hold(Duration::from_secs(60))));
            thread::scope(|scope| {
                let held = scope.spawn(|| lab.dial(host, listener(ip)));
                eventually("the first SYN", || {
                    let fence = lab.on_proxy(&["nft", "list", "chain", "inet", "shunt", "fence"]);
                    fence.lines().any(|line| line.contains("\"held\"") && !line.contains("packets 0 "))
                });
                set(&mut datapath, mapping(ip, Route::Single(db(ip, 1))));
                assert_eq!(held.join().unwrap().unwrap().server, "db2", "{ip:?} from {host}");
            });
            datapath.purge().unwrap();
        }
    }
}

#[test]
fn a_fence_severs_what_was_established() {
    let Some(lab) = Lab::new("a_fence_severs_what_was_established") else { return };
    for ip in BOTH {
        let mut datapath = lab.mapped(ip);
        let old = lab.dial(CLIENT, listener(ip)).unwrap();
        set(&mut datapath, mapping(ip, Route::Hold(Duration::from_secs(60))));
        assert!(old.echo().is_err());
        assert_eq!(datapath.committed()[0].backends, []);
        datapath.purge().unwrap();
    }
}

#[test]
fn a_hold_can_be_cut_short_and_begun_anew() {
    let Some(lab) = Lab::new("a_hold_can_be_cut_short_and_begun_anew") else { return };
    let ip = Ip::V4;
    let mut datapath = lab.open();
    set(&mut datapath, mapping(ip, Route::Hold(Duration::from_secs(60))));
    let waits = |lab: &Lab| {
        let failed = lab.dial_for(CLIENT, listener(ip), Duration::from_secs(2)).unwrap_err();
        failed.kind() == ErrorKind::TimedOut
    };
    assert!(waits(&lab));
    set(&mut datapath, mapping(ip, Route::Refuse));
    assert_eq!(lab.dial(CLIENT, listener(ip)).unwrap_err().kind(), ErrorKind::ConnectionRefused);
    set(&mut datapath, mapping(ip, Route::Hold(Duration::from_secs(50))));
    assert!(waits(&lab));
    set(&mut datapath, mapping(ip, Route::Hold(Duration::from_secs(40))));
    assert!(waits(&lab));
    assert_eq!(datapath.reconcile().unwrap(), []);
}

#[test]
fn a_syn_to_a_dead_backend_finds_the_new_one_when_it_is_repeated() {
    let Some(lab) = Lab::new("a_syn_to_a_dead_backend_finds_the_new_one_when_it_is_repeated") else { return };
    for ip in BOTH {
        let mut datapath = lab.mapped(ip);
        // The first database's host is gone without a word.
        lab.on(lab::DBS[0], &["ip", "link", "set", "eth0", "down"]);
        thread::scope(|scope| {
            let waiting = scope.spawn(|| lab.dial(CLIENT, listener(ip)));
            eventually("the first SYN", || !lab.entries(listener(ip)).is_empty());
            set(&mut datapath, mapping(ip, Route::Single(db(ip, 1))));
            assert_eq!(waiting.join().unwrap().unwrap().server, "db2", "{ip:?}");
        });
        lab.revive(0);
        datapath.purge().unwrap();
    }
}

#[test]
fn a_removed_listener_is_guarded_until_its_flows_have_ended() {
    let Some(lab) = Lab::new("a_removed_listener_is_guarded_until_its_flows_have_ended") else { return };
    for ip in BOTH {
        let mut datapath = lab.mapped(ip);
        let old = lab.dial(CLIENT, listener(ip)).unwrap();
        let remove = |leaving| Change { set: Vec::new(), remove: vec![(listener(ip), leaving)] };
        assert_eq!(datapath.apply(&remove(Leaving::Keep)).unwrap().changed, 1);
        assert_eq!(datapath.committed(), []);
        old.echo().unwrap();
        assert_eq!(lab.dial(CLIENT, listener(ip)).unwrap_err().kind(), ErrorKind::ConnectionRefused);
        assert_eq!(datapath.reconcile().unwrap(), []);
        old.echo().unwrap();
        // The latest word counts: now it is severed.
        assert_eq!(datapath.apply(&remove(Leaving::Sever)).unwrap().changed, 1);
        assert!(old.echo().is_err());
        let set = if ip == Ip::V4 { "listeners4" } else { "listeners6" };
        eventually("the end of the guard", || {
            assert_eq!(datapath.reconcile().unwrap(), []);
            !lab.on_proxy(&["nft", "list", "set", "inet", "shunt", set]).contains("elements")
        });
        assert_eq!(datapath.apply(&remove(Leaving::Sever)).unwrap().changed, 0);
        datapath.purge().unwrap();
    }
}

#[test]
fn a_listener_on_an_address_that_is_only_routed_here_is_fenced_and_served() {
    let Some(lab) = Lab::new("a_listener_on_an_address_that_is_only_routed_here_is_fenced_and_served") else { return };
    let ip = Ip::V4;
    let mut datapath = lab.open();
    let elsewhere = Mapping { listener: "10.77.99.1:3306".parse().unwrap(), ..mapping(ip, Route::Refuse) };
    // A route that leads on, as on a router: the address is nobody's here.
    lab.on_proxy(&["ip", "route", "add", "10.77.99.0/24", "via", "10.77.3.2"]);
    set(&mut datapath, elsewhere.clone());
    let refused = lab.dial(CLIENT, elsewhere.listener).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::ConnectionRefused);
    set(&mut datapath, Mapping { route: Route::Single(db(ip, 0)), ..elsewhere.clone() });
    let served = lab.dial(CLIENT, elsewhere.listener).unwrap();
    assert_eq!(served.server, "db1");
    set(&mut datapath, elsewhere);
    assert!(served.echo().is_err());
}

#[test]
fn what_is_not_ours_passes_untouched() {
    let Some(lab) = Lab::new("what_is_not_ours_passes_untouched") else { return };
    for ip in BOTH {
        let mut datapath = lab.open();
        set(&mut datapath, mapping(ip, Route::Refuse));
        // Straight through the proxy to a database that is nobody's backend now.
        let conversation = lab.dial(CLIENT, db(ip, 0)).unwrap();
        assert_eq!(conversation.seen_as.ip(), conversation.stream.local_addr().unwrap().ip());
        conversation.echo().unwrap();
        // UDP to the listener's own port: the host says by ICMP that nobody is there.
        let unspecified = if ip == Ip::V4 { "0.0.0.0:0" } else { "[::]:0" };
        let socket = lab.in_host(CLIENT, || UdpSocket::bind(unspecified)).unwrap();
        socket.set_read_timeout(Some(lab::PATIENCE)).unwrap();
        socket.connect(listener(ip)).unwrap();
        socket.send(b"anybody?").unwrap();
        assert_eq!(socket.recv(&mut [0; 1]).unwrap_err().kind(), ErrorKind::ConnectionRefused);
        datapath.purge().unwrap();
    }
}
