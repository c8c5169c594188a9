//! Promise 4: severing ends a flow at both of its ends, though neither of them sends anything, and tells of it.
//!
//! Whether a socket has been told is asked of the socket, without writing to it or reading from it.

use std::io;
use std::net::{SocketAddr, TcpStream};
use std::os::fd::AsRawFd as _;
use std::sync::atomic::AtomicBool;
use std::thread;
use std::time::{Duration, Instant};

use shunt_core::config::Snat;
use shunt_core::datapath::Datapath;
use shunt_core::flow::Tuple;
use shunt_core::mapping::{Leaving, Mapping, Route};
use shunt_tests::star::{CLIENT, Conversation, DBS, End, PATIENCE, PROXY};
use socket2::{Domain, Protocol, Socket, Type};

use crate::lab::{Lab, SetOnDrop, eventually, remove, set, severed, talk};

/// Waits until both ends of each have been told, and asserts that the server was told by a reset.
fn both_ends_end(lab: &Lab, conversations: &[Conversation]) {
    for conversation in conversations {
        let seen_as = conversation.seen_as;
        eventually(&format!("the end of the client that is seen as {seen_as}"), || conversation.has_ended());
        let server = lab.server(usize::from(conversation.server == DBS[1]));
        eventually(&format!("the end of the server's socket for {seen_as}"), || server.end_of(seen_as).is_some());
        assert_eq!(server.end_of(seen_as), Some(End::Reset));
    }
}

/// What was told of severed flows comes to this many of the first database's, and all of them answered.
fn are_told(lab: &Lab, datapath: &mut dyn Datapath, flows: u64) {
    let told = severed(datapath, flows);
    assert_eq!(told.iter().map(|severed| severed.flows).sum::<u64>(), flows, "{told:?}");
    assert!(told.iter().all(|severed| severed.listener == lab.listener() && severed.backend == lab.db(0)), "{told:?}");
    assert!(told.iter().all(|severed| severed.unanswered == 0), "{told:?}");
}

pub fn p04_a_swap_ends_idle_flows_at_both_ends(lab: &Lab) {
    let mut datapath = lab.mapped();
    let idle = lab.calls(5);
    set(&mut *datapath, lab.to(1));
    both_ends_end(lab, &idle);
    are_told(lab, &mut *datapath, 5);
    assert_eq!(lab.call().server, "db2");
}

pub fn p04_a_fence_ends_idle_flows_at_both_ends(lab: &Lab) {
    let mut datapath = lab.mapped();
    let idle = lab.calls(2);
    set(&mut *datapath, lab.mapping(Route::Hold(crate::holding::LONG)));
    both_ends_end(lab, &idle);
    are_told(lab, &mut *datapath, 2);
}

pub fn p04_a_removal_ends_idle_flows_at_both_ends(lab: &Lab) {
    let mut datapath = lab.mapped();
    let idle = lab.calls(2);
    remove(&mut *datapath, lab.listener(), Leaving::Sever);
    both_ends_end(lab, &idle);
    are_told(lab, &mut *datapath, 2);
    assert!(lab.dial(CLIENT, lab.listener()).is_err());
}

pub fn p04_flows_without_snat_end_at_both_ends(lab: &Lab) {
    let mut datapath = lab.open();
    set(&mut *datapath, Mapping { snat: Snat::None, ..lab.to(0) });
    let idle = lab.calls(2);
    set(&mut *datapath, Mapping { snat: Snat::None, ..lab.to(1) });
    both_ends_end(lab, &idle);
    are_told(lab, &mut *datapath, 2);
}

pub fn p04_flows_of_clients_on_the_proxy_itself_end_at_both_ends(lab: &Lab) {
    let mut datapath = lab.mapped();
    let idle = [lab.dial(PROXY, lab.listener()).unwrap()];
    idle[0].echo().unwrap();
    set(&mut *datapath, lab.to(1));
    both_ends_end(lab, &idle);
    are_told(lab, &mut *datapath, 1);
}

pub fn p04_flows_of_a_backend_that_is_its_own_client_end_at_both_ends(lab: &Lab) {
    let mut datapath = lab.mapped();
    let idle = [lab.dial(DBS[0], lab.listener()).unwrap()];
    set(&mut *datapath, lab.to(1));
    both_ends_end(lab, &idle);
    are_told(lab, &mut *datapath, 1);
}

pub fn p04_flows_that_the_client_has_half_closed_end_at_both_ends(lab: &Lab) {
    let mut datapath = lab.mapped();
    let half = [lab.call()];
    half[0].order("linger").unwrap();
    half[0].echo().unwrap();
    half[0].stream.shutdown(std::net::Shutdown::Write).unwrap();
    set(&mut *datapath, lab.to(1));
    both_ends_end(lab, &half);
    are_told(lab, &mut *datapath, 1);
}

pub fn p04_flows_that_the_server_has_half_closed_end_at_both_ends(lab: &Lab) {
    use std::io::Read as _;
    let mut datapath = lab.mapped();
    let half = [lab.call()];
    half[0].order("half-close").unwrap();
    assert_eq!((&half[0].stream).read(&mut [0; 1]).unwrap(), 0);
    set(&mut *datapath, lab.to(1));
    both_ends_end(lab, &half);
    are_told(lab, &mut *datapath, 1);
}

pub fn p04_a_flood_of_busy_and_idle_flows_ends_at_both_ends(lab: &Lab) {
    const BUSY: usize = 50;
    const IDLE: usize = 250;
    let mut datapath = lab.mapped();
    let (busy, idle) = (lab.calls(BUSY), lab.calls(IDLE));
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        let _done = SetOnDrop(&done);
        for conversation in &busy {
            scope.spawn(|| talk(conversation, &done));
        }
        set(&mut *datapath, lab.to(1));
        both_ends_end(lab, &idle);
        both_ends_end(lab, &busy);
    });
    // A busy flow may have ended before anybody got round to it.
    let told = severed(&mut *datapath, IDLE as u64);
    assert!(told.iter().map(|severed| severed.flows).sum::<u64>() <= (BUSY + IDLE) as u64, "{told:?}");
}

pub fn p04_flows_of_many_pairs_end_at_both_ends_and_each_pair_is_told_of(lab: &Lab) {
    let mut datapath = lab.open();
    let listeners: Vec<_> = (4000..4020).map(|port| lab.listener_at(port)).collect();
    let all = |db| listeners.iter().map(|listener| crate::lab::mapping(*listener, Route::Single(lab.db(db)))).collect();
    crate::lab::set_all(&mut *datapath, all(0));
    let idle: Vec<_> = listeners.iter().map(|listener| lab.dial(CLIENT, *listener).unwrap()).collect();
    crate::lab::set_all(&mut *datapath, all(1));
    both_ends_end(lab, &idle);
    let mut told: Vec<_> = severed(&mut *datapath, 20).into_iter().map(|told| (told.listener, told.flows)).collect();
    told.sort_unstable();
    assert_eq!(told, listeners.iter().map(|listener| (*listener, 1)).collect::<Vec<_>>());
}

pub fn p04_an_end_that_is_gone_does_not_keep_the_other_from_ending(lab: &Lab) {
    let mut datapath = lab.mapped();
    let idle = lab.calls(2);
    lab.unplug(0).unwrap();
    set(&mut *datapath, lab.to(1));
    for conversation in &idle {
        eventually("the client's end", || conversation.has_ended());
    }
    let told = severed(&mut *datapath, 2);
    assert_eq!(told.iter().map(|severed| severed.unanswered).sum::<u64>(), 2, "{told:?}");
    // The server's host comes back and is told at its next packet.
    lab.plug(0).unwrap();
    for conversation in &idle {
        let seen_as = conversation.seen_as;
        eventually("the end of the server's socket", || {
            let _ = lab.server(0).say(seen_as, "is anybody there?");
            lab.server(0).end_of(seen_as) == Some(End::Reset)
        });
    }
}

pub fn p04_a_server_that_speaks_to_a_severed_client_is_reset(lab: &Lab) {
    let mut datapath = lab.mapped();
    let old = lab.call();
    thread::scope(|scope| {
        let server = scope.spawn(|| {
            eventually("the end of the server's socket", || {
                let _ = lab.server(0).say(old.seen_as, "anything new?");
                lab.server(0).end_of(old.seen_as) == Some(End::Reset)
            });
        });
        set(&mut *datapath, lab.to(1));
        server.join().unwrap();
    });
    eventually("the client's end", || old.has_ended());
}

pub fn p04_single_flows_are_severed_and_the_others_of_their_pair_are_not(lab: &Lab) {
    let mut datapath = lab.mapped();
    let mut all = lab.calls(10);
    let chosen = all.split_off(7);
    let tuple = |conversation: &Conversation| Tuple { client: conversation.local().unwrap(), listener: lab.listener() };
    let mut tuples: Vec<Tuple> = chosen.iter().map(tuple).collect();
    // And one that there is not.
    tuples.push(Tuple { client: (lab.ip.client(), 1).into(), listener: lab.listener() });
    datapath.sever(&tuples).unwrap();
    both_ends_end(lab, &chosen);
    are_told(lab, &mut *datapath, 3);
    for conversation in &all {
        conversation.echo().unwrap();
    }
    assert_eq!(lab.call().server, "db1");
}

pub fn p04_a_client_that_uses_the_port_of_a_severed_flow_again_is_let_in(lab: &Lab) {
    let mut datapath = lab.mapped();
    let source = SocketAddr::new(lab.ip.client(), 45_678);
    let from_there = || {
        let socket = Socket::new(Domain::for_address(source), Type::STREAM, Some(Protocol::TCP))?;
        socket.set_reuse_address(true)?;
        socket.bind(&source.into())?;
        socket.connect_timeout(&lab.listener().into(), PATIENCE)?;
        socket.set_nonblocking(false)?;
        Ok::<TcpStream, io::Error>(socket.into())
    };
    let old = Conversation::greeted(lab.inside(CLIENT, from_there).unwrap(), PATIENCE).unwrap();
    assert_eq!(old.server, "db1");
    // The client forgets it without a word, as a host that lost its power does, and the old server's host is dead.
    forget(old.stream);
    lab.unplug(0).unwrap();
    set(&mut *datapath, lab.to(1));
    let begin = Instant::now();
    let new = Conversation::greeted(lab.inside(CLIENT, from_there).unwrap(), PATIENCE).unwrap();
    assert_eq!(new.server, "db2");
    assert!(begin.elapsed() < Duration::from_secs(5), "{:?}", begin.elapsed());
}

/// A socket in repair mode is closed without a packet (TCP_REPAIR).
fn forget(stream: TcpStream) {
    let on: libc::c_int = 1;
    // SAFETY: the pointer and length are those of `on`, which outlives the call.
    let set = unsafe {
        libc::setsockopt(
            stream.as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_REPAIR,
            (&raw const on).cast(),
            size_of::<libc::c_int>() as libc::socklen_t,
        )
    };
    assert_eq!(set, 0, "{}", io::Error::last_os_error());
}
