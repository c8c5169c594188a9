//! Held connections, and flows that are blocked: what their clients send is kept, and played again.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::SocketAddr;
use std::os::fd::AsFd as _;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use shunt_ebpf::common::flow::{Tuple, state};
use shunt_ebpf::common::manage::{Command, what};
use shunt_ebpf::common::mapping::{Way, kind};
use shunt_ebpf::common::tally::Event;
use shunt_tests::eventually;
use shunt_tests::star::{CLIENT, Conversation, Counters, DBS, PATIENCE, PORT, PROXY};
use socket2::{Domain, Protocol, Socket, Type};

use crate::lab::{LISTENER, Lab, fence, on_both};

/// The star's hosts repeat a SYN after 1, 3 and 7 seconds: who knocked for so long and is in so soon was played again.
const KNOCKED: Duration = Duration::from_millis(3500);
const SOON: Duration = Duration::from_secs(2);

fn hold(lab: &mut Lab<'_>, way: Way) {
    let mut change = lab.tables.begin();
    change.lead(LISTENER, way);
    change.commit();
}

/// A client's socket that has sent its SYN and waits.
fn knock(lab: &Lab<'_>, host: &str) -> Result<Socket> {
    let listener: SocketAddr = lab.listener();
    lab.star.inside(host, || {
        let socket = Socket::new(Domain::for_address(listener), Type::STREAM, Some(Protocol::TCP))?;
        socket.set_nonblocking(true)?;
        let waits = socket.connect(&listener.into()).map_err(|error| error.raw_os_error());
        ensure!(waits == Err(Some(libc::EINPROGRESS)), "{waits:?}");
        Ok(socket)
    })
}

fn is_answered(socket: &Socket, limit: Duration) -> Result<bool> {
    let mut fds = [PollFd::new(socket.as_fd(), PollFlags::POLLOUT)];
    Ok(poll(&mut fds, PollTimeout::try_from(limit)?)? > 0)
}

fn greeted(socket: Socket) -> Result<Conversation> {
    socket.set_nonblocking(false)?;
    Ok(Conversation::greeted(socket.into(), PATIENCE)?)
}

fn is_played_again_from(test: &str, host: &'static str) -> Result<()> {
    on_both(test, |mut lab| {
        lab.attach()?;
        lab.lead(0)?;
        hold(&mut lab, fence(kind::HOLDS));
        let waiting = knock(&lab, host)?;
        ensure!(!is_answered(&waiting, KNOCKED)?, "it is held");
        assert_eq!(lab.tables.tally(LISTENER).waiting, 1);
        lab.lead(1)?;
        let held = lab.tables.take_held(LISTENER)?;
        assert_eq!((held.len(), lab.tables.tally(LISTENER).waiting), (1, 0));
        ensure!(lab.object.replay(&held[0])?, "the kernel would not have it");
        ensure!(is_answered(&waiting, SOON)?, "{}", lab.counts());
        let call = greeted(waiting)?;
        assert_eq!(call.server, DBS[1]);
        call.echo()?;
        ensure!(lab.tables.tally(LISTENER).count(Event::Held) >= 3);
        assert_eq!(lab.tables.take_held(LISTENER)?.len(), 0);
        Ok(())
    })
}

#[test]
fn a_held_client_is_let_in_before_it_knocks_again() -> Result<()> {
    is_played_again_from("holding::a_held_client_is_let_in", CLIENT)
}

#[test]
fn a_held_client_on_the_proxy_is_let_in_before_it_knocks_again() -> Result<()> {
    is_played_again_from("holding::a_held_client_on_the_proxy", PROXY)
}

#[test]
fn a_hold_that_is_over_refuses() -> Result<()> {
    on_both("holding::a_hold_that_is_over", |mut lab| {
        lab.attach()?;
        lab.lead(0)?;
        // One nanosecond after the boot.
        hold(&mut lab, Way { until: 1, ..fence(kind::HOLDS) });
        let refused = lab.star.dial(CLIENT, lab.listener()).map(drop).map_err(|error| error.kind());
        assert_eq!(refused, Err(ErrorKind::ConnectionRefused));
        assert_eq!(lab.tables.tally(LISTENER).count(Event::Fenced), 1);
        Ok(())
    })
}

fn clients_key(lab: &Lab<'_>) -> Result<Tuple> {
    let flows = lab.flows()?;
    Ok(flows.iter().find(|(_, flow)| flow.state & state::FROM_CLIENT != 0).context("no client's")?.0)
}

fn order(lab: &mut Lab<'_>, flow: Tuple, what: u32) -> Result<u32> {
    Ok(lab.object.manage(&[Command { flow, unseen_since: 0, what, mapping: 0 }])?)
}

fn is_blocked_from(test: &str, host: &'static str) -> Result<()> {
    on_both(test, |mut lab| {
        lab.attach()?;
        lab.lead(0)?;
        let call = lab.star.dial(host, lab.listener())?;
        call.echo()?;
        let flow = clients_key(&lab)?;
        // It is spared: its pair lives, while new connections are held.
        hold(&mut lab, fence(kind::HOLDS));
        let to = format!("tcp dport {PORT} tcp flags & psh != 0x0");
        let mut spoken = Counters::incoming(lab.star.host(DBS[0]), &[("spoken", &to)])?;
        assert_eq!(order(&mut lab, flow, what::BLOCK)?, 1);
        assert_eq!(order(&mut lab, flow.reversed(), what::BLOCK)?, 0, "no such flow");
        for words in ["one\n", "two\n"] {
            (&call.stream).write_all(words.as_bytes())?;
        }
        // What the server says passes.
        lab.star.server(0).say(call.seen_as, "unasked")?;
        let mut heard = [0; 8];
        (&call.stream).read_exact(&mut heard)?;
        assert_eq!(&heard, b"unasked\n");
        let kept = eventually("both words", PATIENCE, || {
            let kept = lab.tables.take_kept(&[flow].into())?;
            let both = kept.len() >= 2;
            Ok(both.then_some(kept))
        })?;
        assert_eq!(spoken.read()?["spoken"], 0);
        assert_eq!(order(&mut lab, flow, what::UNBLOCK)?, 1);
        for frame in &kept {
            ensure!(lab.object.replay(frame)?, "the kernel would not have it");
        }
        let mut heard = [0; 8];
        (&call.stream).read_exact(&mut heard)?;
        assert_eq!(&heard, b"one\ntwo\n");
        call.echo()?;
        Ok(())
    })
}

#[test]
fn what_a_blocked_client_sent_arrives_when_it_goes_on_and_not_before() -> Result<()> {
    is_blocked_from("holding::what_a_blocked_client_sent", CLIENT)
}

#[test]
fn a_blocked_client_on_the_proxy_goes_on() -> Result<()> {
    is_blocked_from("holding::a_blocked_client_on_the_proxy", PROXY)
}
