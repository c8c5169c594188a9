//! Promise 6, holding: a SYN to a held listener stays unanswered for a bounded time, and its client need not knock again
//! when the listener opens.
//!
//! The clients here repeat a SYN after 1, 3, 7 and 15 seconds (see the star), so one that knocked 3.5 seconds ago
//! and is in 2 seconds later was let in by the datapath's memory of its SYN.

use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::os::fd::AsFd as _;
use std::thread;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use shunt_core::datapath::Datapath;
use shunt_core::mapping::Route;
use shunt_tests::star::{CLIENT, Conversation, PATIENCE, PROXY};
use socket2::{Domain, Protocol, Socket, Type};

use crate::lab::{Lab, set};

/// Longer than any test.
pub const LONG: Duration = Duration::from_secs(600);
const KNOCKED: Duration = Duration::from_millis(3500);
const SOON: Duration = Duration::from_secs(2);

/// A client's socket that has sent its SYN and waits.
pub struct Knocking(Socket);

impl Knocking {
    /// Made in the namespace of the calling thread.
    pub fn at(listener: SocketAddr) -> io::Result<Self> {
        let socket = Socket::new(Domain::for_address(listener), Type::STREAM, Some(Protocol::TCP))?;
        socket.set_nonblocking(true)?;
        match socket.connect(&listener.into()) {
            Err(error) if error.raw_os_error() == Some(libc::EINPROGRESS) => Ok(Self(socket)),
            other => Err(other.err().unwrap_or_else(|| io::Error::other("it did not have to wait"))),
        }
    }

    /// The conversation that it becomes within this time, or how it fails.
    pub fn let_in(self, limit: Duration) -> io::Result<Conversation> {
        if !self.is_answered(limit)? {
            return Err(ErrorKind::TimedOut.into());
        }
        if let Some(error) = self.0.take_error()? {
            return Err(error);
        }
        self.0.set_nonblocking(false)?;
        Conversation::greeted(self.0.into(), PATIENCE)
    }

    pub fn is_answered(&self, limit: Duration) -> io::Result<bool> {
        let mut fds = [PollFd::new(self.0.as_fd(), PollFlags::POLLOUT)];
        let limit = PollTimeout::try_from(limit).map_err(io::Error::other)?;
        Ok(poll(&mut fds, limit)? > 0)
    }
}

pub fn p06_a_held_connection_is_refused_when_the_hold_is_over(lab: &Lab) {
    const HOLD: Duration = Duration::from_secs(2);
    let mut datapath = lab.open();
    let begin = Instant::now();
    set(&mut *datapath, lab.mapping(Route::Hold(HOLD)));
    // The agent does nothing meanwhile.
    let refused = lab.dial(CLIENT, lab.listener()).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::ConnectionRefused);
    assert!(begin.elapsed() + Duration::from_millis(100) >= HOLD, "{:?}", begin.elapsed());
    assert_eq!(lab.dial(CLIENT, lab.listener()).unwrap_err().kind(), ErrorKind::ConnectionRefused);
    assert_eq!(datapath.reconcile().unwrap(), [], "a hold that is over is no drift");
    // The same hold again is the same fence, not another one.
    crate::lab::set_all(&mut *datapath, vec![lab.mapping(Route::Hold(HOLD))]);
    assert_eq!(lab.dial(CLIENT, lab.listener()).unwrap_err().kind(), ErrorKind::ConnectionRefused);
}

pub fn p06_a_hold_can_be_cut_short_and_begun_anew(lab: &Lab) {
    let mut datapath = lab.open();
    let waits = || !lab.inside(CLIENT, || Knocking::at(lab.listener()).unwrap().is_answered(SOON).unwrap());
    set(&mut *datapath, lab.mapping(Route::Hold(LONG)));
    assert!(waits());
    set(&mut *datapath, lab.mapping(Route::Refuse));
    assert_eq!(lab.dial(CLIENT, lab.listener()).unwrap_err().kind(), ErrorKind::ConnectionRefused);
    set(&mut *datapath, lab.mapping(Route::Hold(LONG)));
    assert!(waits());
    assert_eq!(datapath.reconcile().unwrap(), []);
}

fn is_let_in_soon(lab: &Lab, datapath: &mut dyn Datapath, host: &str) {
    set(datapath, lab.mapping(Route::Hold(LONG)));
    let knocking = lab.inside(host, || Knocking::at(lab.listener())).unwrap();
    assert!(!knocking.is_answered(KNOCKED).unwrap());
    set(datapath, lab.to(1));
    let conversation = knocking.let_in(SOON).expect("the held connection");
    assert_eq!(conversation.server, "db2");
    conversation.echo().unwrap();
}

pub fn p06_a_held_client_is_let_in_before_it_knocks_again(lab: &Lab) {
    is_let_in_soon(lab, &mut *lab.open(), CLIENT);
}

pub fn p06_a_held_client_on_the_proxy_itself_is_let_in_before_it_knocks_again(lab: &Lab) {
    is_let_in_soon(lab, &mut *lab.open(), PROXY);
}

pub fn p06_a_client_that_was_held_under_a_former_agent_is_let_in(lab: &Lab) {
    let mut datapath = lab.open();
    set(&mut *datapath, lab.mapping(Route::Hold(LONG)));
    drop(datapath);
    let knocking = lab.inside(CLIENT, || Knocking::at(lab.listener())).unwrap();
    let mut datapath = lab.open();
    set(&mut *datapath, lab.to(1));
    assert_eq!(knocking.let_in(PATIENCE).unwrap().server, "db2");
}

pub fn p06_two_hundred_held_clients_are_all_let_in(lab: &Lab) {
    let mut datapath = lab.open();
    set(&mut *datapath, lab.mapping(Route::Hold(LONG)));
    let begin = Instant::now();
    let knocking: Vec<_> =
        lab.inside(CLIENT, || (0..200).map(|_| Knocking::at(lab.listener())).collect::<io::Result<_>>()).unwrap();
    thread::sleep(KNOCKED.saturating_sub(begin.elapsed()));
    set(&mut *datapath, lab.to(0));
    let opened = Instant::now();
    for one in knocking {
        let conversation = one.let_in(SOON.saturating_sub(opened.elapsed())).expect("a held connection");
        assert_eq!(conversation.server, "db1");
        conversation.echo().unwrap();
    }
}

pub fn p06_a_held_client_that_gave_up_leaves_nothing_at_the_server(lab: &Lab) {
    let mut datapath = lab.open();
    set(&mut *datapath, lab.mapping(Route::Hold(LONG)));
    let gone = lab.inside(CLIENT, || Knocking::at(lab.listener())).unwrap();
    thread::sleep(Duration::from_millis(200));
    drop(gone);
    set(&mut *datapath, lab.to(0));
    // Its host refuses the server's answer, so the server never accepts it.
    lab.call().echo().unwrap();
    assert_eq!(lab.server(0).accepted(), 1);
}
