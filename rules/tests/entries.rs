//! What becomes of conntrack's entries and of the table's elements while flows end, with real packets.

mod lab;

use std::fmt::Write as _;
use std::io::{ErrorKind, Write as _};
use std::process::{Command, Stdio};
use std::time::Duration;

use lab::{BOTH, CLIENT, Ip, Lab, PROXY, db, eventually, listener, mapping, set};
use shunt_core::datapath::{Change, Datapath as _};
use shunt_core::mapping::{Leaving, Mapping, Route};
use shunt_tests::star::End;

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
        assert!(talkative.is_reset(), "{ip:?}: client");
        let silent = lab.dial(CLIENT, listener(ip)).unwrap();
        lab.on_proxy(&["conntrack", "-F"]);
        lab.server(0).say(silent.seen_as, "anything new?").unwrap();
        eventually("the reset of the server's end", || lab.server(0).end_of(silent.seen_as) == Some(End::Reset));
        datapath.purge().unwrap();
    }
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
fn when_conntracks_table_is_full_whoever_is_connected_stays_so_and_a_swap_still_ends_it() {
    const TEST: &str = "when_conntracks_table_is_full_whoever_is_connected_stays_so";
    let Some(lab) = Lab::new(TEST) else { return };
    let room: u32 = lab.on_proxy(&["sysctl", "-n", "net.netfilter.nf_conntrack_max"]).trim().parse().unwrap();
    if room > 600_000 {
        return lab::skipped(TEST, &format!("conntrack takes {room} entries, too many to fill it"));
    }
    let mut datapath = lab.mapped(Ip::V4);
    let borrowed = &mut datapath;
    let mut meter = lab.in_host(PROXY, move || borrowed.meter()).unwrap();
    let old = lab.dial(CLIENT, listener(Ip::V4)).unwrap();
    let mut commands = String::new();
    for n in 0..room {
        let [_, high, middle, low] = n.to_be_bytes();
        writeln!(
            commands,
            "-A -p tcp -s 198.18.{middle}.{low} -d 198.19.0.{high} --sport 40000 --dport 80 --state ESTABLISHED \
             -u SEEN_REPLY,ASSURED -t 400000"
        )
        .unwrap();
    }
    // It stops at the first entry that finds no room.
    let mut filling = Command::new("ip");
    filling
        .args(["netns", "exec", &lab.name(PROXY), "conntrack", "-R", "-"])
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    let mut filling = filling.stdin(Stdio::piped()).spawn().unwrap();
    let _ = filling.stdin.take().unwrap().write_all(commands.as_bytes());
    filling.wait().unwrap();
    let usage = meter.usage(&[listener(Ip::V4)]).unwrap();
    assert!(usage.flows >= u64::from(room) && usage.flows_max == u64::from(room), "{usage:?}");

    old.echo().unwrap();
    assert!(lab.dial_for(CLIENT, listener(Ip::V4), Duration::from_secs(2)).is_err(), "there is no room for it");
    assert!(meter.usage(&[]).unwrap().turned_away > usage.turned_away);
    old.echo().unwrap();
    set(&mut datapath, mapping(Ip::V4, Route::Single(db(Ip::V4, 1))));
    eventually("the end of the client's end", || old.has_ended());
    lab.on_proxy(&["conntrack", "-F"]);
    assert_eq!(lab.dial(CLIENT, listener(Ip::V4)).unwrap().server, "db2");
}
