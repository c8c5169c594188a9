//! Promise 15: a fence can spare one backend. It gets no new connections, and the flows that it has go on, can be blocked
//! and unblocked one by one without losing a byte, and severed.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::os::fd::AsRawFd as _;
use std::thread;
use std::time::Duration;

use shunt_core::flow::Tuple;
use shunt_core::mapping::{Mapping, Route};
use shunt_tests::star::{CLIENT, Conversation, Counters, DBS, End, PORT, PROXY};

use crate::lab::{Lab, eventually, set, severed};

const LONG: Duration = Duration::from_secs(60);
/// How long something is awaited that must not come about.
const A_WHILE: Duration = Duration::from_millis(700);

/// The listener, holding, while the flows of the first database go on.
fn sparing(lab: &Lab) -> Mapping {
    Mapping { spared: Some(lab.db(0)), ..lab.mapping(Route::Hold(LONG)) }
}

fn flow(conversation: &Conversation, lab: &Lab) -> Tuple {
    Tuple { client: conversation.local().unwrap(), listener: lab.listener() }
}

fn say(conversation: &Conversation, words: &str) {
    (&conversation.stream).write_all(words.as_bytes()).unwrap();
}

/// Reads what has come back, and asserts that it is this.
fn hears(conversation: &Conversation, words: &str) {
    let mut heard = vec![0; words.len()];
    (&conversation.stream).read_exact(&mut heard).unwrap();
    assert!(heard == words.as_bytes(), "something else came back");
}

/// Whether nothing comes back for a while.
fn is_silent(conversation: &Conversation) -> bool {
    let before = conversation.stream.read_timeout().unwrap();
    conversation.stream.set_read_timeout(Some(A_WHILE)).unwrap();
    let heard = (&conversation.stream).read(&mut [0; 1]);
    conversation.stream.set_read_timeout(before).unwrap();
    heard.is_err_and(|error| error.kind() == std::io::ErrorKind::WouldBlock)
}

/// The segments that the client's TCP has sent again, of this connection.
fn repetitions(stream: &TcpStream) -> u32 {
    // SAFETY: plain numbers, for which zero is a value; the kernel fills in as much of them as it knows.
    let mut info: libc::tcp_info = unsafe { std::mem::zeroed() };
    let mut len = size_of::<libc::tcp_info>() as libc::socklen_t;
    // SAFETY: `info` is `len` bytes long, and both outlive the call.
    let done = unsafe {
        libc::getsockopt(stream.as_raw_fd(), libc::IPPROTO_TCP, libc::TCP_INFO, (&raw mut info).cast(), &raw mut len)
    };
    assert_eq!(done, 0, "TCP_INFO: {}", std::io::Error::last_os_error());
    info.tcpi_total_retrans
}

pub fn p15_spared_flows_go_on_while_new_ones_are_held(lab: &Lab) {
    let mut datapath = lab.mapped();
    let flows = lab.calls(4);
    let local = lab.dial(PROXY, lab.listener()).unwrap();
    let before = lab.server(0).accepted();
    set(&mut *datapath, sparing(lab));
    for conversation in flows.iter().chain([&local]) {
        conversation.echo().unwrap();
        lab.server(0).say(conversation.seen_as, "unasked").unwrap();
        hears(conversation, "unasked\n");
    }
    assert!(lab.dial_for(CLIENT, lab.listener(), A_WHILE).is_err());
    assert!(lab.dial_for(PROXY, lab.listener(), A_WHILE).is_err());
    assert_eq!(lab.server(0).accepted(), before, "a new connection reached the spared backend");
    assert_eq!(datapath.reconcile().unwrap(), []);
    // Its client closes one, and the port is used again: that is a new connection.
    let held = lab.inside(CLIENT, || {
        let again = flows[0].local().unwrap();
        drop(flows);
        Conversation::open_from(again.ip(), lab.listener(), A_WHILE)
    });
    assert!(held.is_err());
}

pub fn p15_spared_flows_go_on_while_new_ones_are_refused(lab: &Lab) {
    let mut datapath = lab.mapped();
    let old = lab.call();
    set(&mut *datapath, Mapping { route: Route::Refuse, ..sparing(lab) });
    old.echo().unwrap();
    let refused = lab.dial(CLIENT, lab.listener()).unwrap_err();
    assert_eq!(refused.kind(), std::io::ErrorKind::ConnectionRefused);
    old.echo().unwrap();
}

pub fn p15_a_blocked_flows_bytes_arrive_after_it_is_unblocked_and_not_before(lab: &Lab) {
    let mut datapath = lab.mapped();
    let (blocked, other) = (lab.call(), lab.call());
    set(&mut *datapath, sparing(lab));
    let to = format!("tcp dport {PORT} tcp flags & psh != 0x0");
    let mut counters = Counters::incoming(lab.host(DBS[0]), &[("spoken", &to)]).unwrap();
    datapath.block(&[flow(&blocked, lab)]).unwrap();
    counters.reset().unwrap();
    for words in ["one\n", "two\n", "three\n"] {
        say(&blocked, words);
    }
    assert!(is_silent(&blocked));
    assert_eq!(counters.read().unwrap()["spoken"], 0);
    other.echo().unwrap();
    datapath.unblock(&[flow(&blocked, lab)]).unwrap();
    hears(&blocked, "one\ntwo\nthree\n");
    blocked.echo().unwrap();
    assert_eq!(datapath.reconcile().unwrap(), []);
}

pub fn p15_a_client_that_was_blocked_for_a_moment_need_not_send_again(lab: &Lab) {
    let mut datapath = lab.mapped();
    let client = lab.call();
    set(&mut *datapath, sparing(lab));
    // A machine that is busy elsewhere may keep everybody waiting for longer than TCP does; not every time.
    let unrepeated = (0..20).any(|_| {
        let before = repetitions(&client.stream);
        datapath.block(&[flow(&client, lab)]).unwrap();
        say(&client, "ping\n");
        thread::sleep(Duration::from_millis(5));
        datapath.unblock(&[flow(&client, lab)]).unwrap();
        hears(&client, "ping\n");
        repetitions(&client.stream) == before
    });
    assert!(unrepeated, "what was stopped was not put back; its client had to send it again each time");
}

pub fn p15_a_client_on_the_proxy_that_was_blocked_goes_on(lab: &Lab) {
    let mut datapath = lab.mapped();
    let client = lab.dial(PROXY, lab.listener()).unwrap();
    set(&mut *datapath, sparing(lab));
    datapath.block(&[flow(&client, lab)]).unwrap();
    say(&client, "ping\n");
    assert!(is_silent(&client));
    datapath.unblock(&[flow(&client, lab)]).unwrap();
    hears(&client, "ping\n");
    client.echo().unwrap();
}

pub fn p15_a_statement_of_many_packets_survives_being_blocked_whole(lab: &Lab) {
    let mut datapath = lab.mapped();
    let client = lab.call();
    set(&mut *datapath, sparing(lab));
    let statement = format!("{}\n", "insert ".repeat(60_000));
    for _ in 0..3 {
        datapath.block(&[flow(&client, lab)]).unwrap();
        thread::scope(|scope| {
            scope.spawn(|| say(&client, &statement));
            thread::sleep(Duration::from_millis(20));
            datapath.unblock(&[flow(&client, lab)]).unwrap();
            hears(&client, &statement);
        });
    }
}

pub fn p15_what_the_server_sends_reaches_a_blocked_client(lab: &Lab) {
    let mut datapath = lab.mapped();
    let client = lab.call();
    set(&mut *datapath, sparing(lab));
    datapath.block(&[flow(&client, lab)]).unwrap();
    lab.server(0).say(client.seen_as, "the result").unwrap();
    hears(&client, "the result\n");
    datapath.unblock(&[flow(&client, lab)]).unwrap();
    client.echo().unwrap();
}

pub fn p15_a_blocked_flow_can_be_severed_and_the_others_go_on(lab: &Lab) {
    let mut datapath = lab.mapped();
    let (silent, speaker, other, spared) = (lab.call(), lab.call(), lab.call(), lab.call());
    set(&mut *datapath, sparing(lab));
    datapath.block(&[flow(&silent, lab), flow(&speaker, lab), flow(&other, lab)]).unwrap();
    say(&speaker, "ping\n");
    let to = format!("tcp dport {PORT} tcp flags & psh != 0x0");
    let mut counters = Counters::incoming(lab.host(DBS[0]), &[("spoken", &to)]).unwrap();
    datapath.sever(&[flow(&silent, lab), flow(&speaker, lab)]).unwrap();
    for ended in [&silent, &speaker] {
        eventually("the end of the client's socket", || ended.has_ended());
        eventually("the end of the server's", || lab.server(0).end_of(ended.seen_as) == Some(End::Reset));
    }
    assert_eq!(severed(&mut *datapath, 2).iter().map(|severed| severed.flows).sum::<u64>(), 2);
    assert_eq!(counters.read().unwrap()["spoken"], 0, "a blocked statement reached the server");
    spared.echo().unwrap();
    datapath.unblock(&[flow(&other, lab)]).unwrap();
    other.echo().unwrap();
    assert_eq!(datapath.reconcile().unwrap(), []);
}

pub fn p15_withdrawing_the_sparing_severs_what_is_left(lab: &Lab) {
    let mut datapath = lab.mapped();
    let (idle, blocked) = (lab.call(), lab.call());
    set(&mut *datapath, sparing(lab));
    datapath.block(&[flow(&blocked, lab)]).unwrap();
    say(&blocked, "ping\n");
    set(&mut *datapath, Mapping { spared: None, ..sparing(lab) });
    for ended in [&idle, &blocked] {
        eventually("the end of the client's socket", || ended.has_ended());
        eventually("the end of the server's", || lab.server(0).end_of(ended.seen_as) == Some(End::Reset));
    }
    assert_eq!(severed(&mut *datapath, 2).iter().map(|severed| severed.flows).sum::<u64>(), 2);
    assert_eq!(datapath.reconcile().unwrap(), []);
}

pub fn p15_a_backend_that_leads_again_has_its_flows_unblocked(lab: &Lab) {
    let mut datapath = lab.mapped();
    let (spared, blocked) = (lab.call(), lab.call());
    set(&mut *datapath, sparing(lab));
    datapath.block(&[flow(&blocked, lab)]).unwrap();
    say(&blocked, "ping\n");
    set(&mut *datapath, lab.to(0));
    hears(&blocked, "ping\n");
    spared.echo().unwrap();
    blocked.echo().unwrap();
    assert_eq!(lab.call().server, DBS[0]);
    assert_eq!(datapath.reconcile().unwrap(), []);
}

pub fn p15_nothing_of_it_survives_leading_elsewhere(lab: &Lab) {
    let mut datapath = lab.mapped();
    let (idle, blocked) = (lab.call(), lab.call());
    set(&mut *datapath, sparing(lab));
    datapath.block(&[flow(&blocked, lab)]).unwrap();
    say(&blocked, "ping\n");
    let spoken = format!("tcp dport {PORT} tcp flags & psh != 0x0");
    let counted = [("spoken", spoken.as_str())];
    let mut counters = DBS.map(|db| Counters::incoming(lab.host(db), &counted).unwrap());
    set(&mut *datapath, lab.to(1));
    for ended in [&idle, &blocked] {
        eventually("the end of the client's socket", || ended.has_ended());
        eventually("the end of the server's", || lab.server(0).end_of(ended.seen_as) == Some(End::Reset));
    }
    for counters in &mut counters {
        assert_eq!(counters.read().unwrap()["spoken"], 0, "what was blocked reached a server");
    }
    assert_eq!(lab.call().server, DBS[1]);
    assert_eq!(lab.remains_of_sparing(), "");
    assert_eq!(datapath.reconcile().unwrap(), []);
}

pub fn p15_no_flow_notices_a_restart_while_it_is_spared(lab: &Lab) {
    let mut datapath = lab.mapped();
    let (spared, blocked) = (lab.call(), lab.call());
    set(&mut *datapath, sparing(lab));
    datapath.block(&[flow(&blocked, lab)]).unwrap();
    drop(datapath);
    spared.echo().unwrap();
    say(&blocked, "one\n");
    let mut datapath = lab.open();
    assert_eq!(datapath.reconcile().unwrap(), []);
    say(&blocked, "two\n");
    assert!(is_silent(&blocked), "it is blocked, whoever drives the datapath");
    spared.echo().unwrap();
    datapath.unblock(&[flow(&blocked, lab)]).unwrap();
    hears(&blocked, "one\ntwo\n");
    drop(datapath);
    let mut datapath = lab.open();
    blocked.echo().unwrap();
    set(&mut *datapath, lab.to(0));
    spared.echo().unwrap();
}

pub fn p15_a_lease_that_runs_out_ends_spared_flows(lab: &Lab) {
    let lease = Some(Duration::from_secs(2));
    let mut datapath = lab.open();
    set(&mut *datapath, Mapping { lease, ..lab.to(0) });
    let (busy, idle, blocked) = (lab.call(), lab.call(), lab.call());
    set(&mut *datapath, Mapping { lease, ..sparing(lab) });
    datapath.block(&[flow(&blocked, lab)]).unwrap();
    for _ in 0..5 {
        thread::sleep(Duration::from_millis(600));
        assert_eq!(datapath.renew().unwrap(), []);
        busy.echo().unwrap();
    }
    // The datapath is there all the while, like that of an agent that is stopped.
    eventually("the end of the lease", || busy.echo().is_err());
    assert!(idle.echo().is_err());
    assert_eq!(datapath.renew().unwrap(), [lab.listener()]);
    for ended in [&busy, &idle, &blocked] {
        eventually("the end of the client's socket", || ended.has_ended());
    }
    assert_eq!(datapath.reconcile().unwrap(), []);
}

pub fn p15_what_somebody_took_out_is_put_back(lab: &Lab) {
    let mut datapath = lab.mapped();
    let (spared, blocked) = (lab.call(), lab.call());
    set(&mut *datapath, sparing(lab));
    datapath.block(&[flow(&blocked, lab)]).unwrap();
    lab.unblock_by_hand();
    assert_eq!(datapath.reconcile().unwrap().len(), 1);
    say(&blocked, "ping\n");
    assert!(is_silent(&blocked));
    // And a change that meets what is not there brings it about all the same.
    lab.unblock_by_hand();
    datapath.unblock(&[flow(&blocked, lab)]).unwrap();
    hears(&blocked, "ping\n");
    spared.echo().unwrap();
}
