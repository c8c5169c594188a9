//! Held connections: copies of their SYNs wait here, and go back into the stack when their listener opens.
//!
//! A client whose SYN was not answered sends it again after 1, 3, 7, 15 … seconds. Somebody who has waited for 20 s would
//! so wait for another 11 after the opening. The guard therefore copies each SYN that it leaves unanswered; put back
//! through a raw socket it takes the way of the host's own packets, output NAT included, and what conntrack makes of it is
//! the client's connection like any other. SYNs that were overtaken by a change on their way through the chains are put
//! back, too. When a hold is over, those who still wait are refused in the same way and need not find out by themselves.

mod room;

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use shunt_core::datapath::DatapathError;

use crate::element::Pair;
use crate::nflog::Copies;
use crate::schema::Groups;
use crate::thread::{Shared, Thread};
use room::Room;
use shunt_wire::packet::Segment;
use shunt_wire::raw::Raw;

pub struct Hold {
    thread: Thread<State>,
}

#[derive(Default)]
struct State {
    room: Room,
    /// Listeners that have opened, or refuse from now on.
    released: Vec<SocketAddr>,
}

impl Hold {
    /// The thread works in the network namespace of the caller.
    pub fn start(groups: Groups) -> Result<Self, DatapathError> {
        let copies = Copies::subscribe(groups.syns)?;
        let raw = Raw::open(None)?;
        let starting = "start the thread that holds connections";
        let thread = Thread::start("shunt-hold", starting, move |shared| shared.run(copies, &raw))?;
        Ok(Self { thread })
    }

    /// These listeners hold new connections, until then. To be called before the kernel begins to.
    pub fn hold(&self, listeners: &[(SocketAddr, Instant)]) {
        if listeners.is_empty() {
            return;
        }
        let mut state = self.thread.lock();
        for (listener, until) in listeners {
            state.room.hold(*listener, *until);
        }
        drop(state);
        self.thread.wake();
    }

    /// These pairs may pass no more. To be called before the kernel ceases to let them.
    pub fn left(&self, pairs: &[Pair]) {
        if !pairs.is_empty() {
            self.thread.lock().room.left(pairs, Instant::now());
        }
    }

    /// These listeners hold nobody any more. To be called after the kernel has ceased to.
    pub fn release(&self, listeners: &[SocketAddr]) {
        if listeners.is_empty() {
            return;
        }
        self.thread.lock().released.extend(listeners);
        self.thread.wake();
    }
}

impl Shared<State> {
    fn run(&self, mut copies: Copies, raw: &Raw) {
        loop {
            if self.is_over() {
                return;
            }
            let released = std::mem::take(&mut self.lock().released);
            // SYNs that were dropped before the opening are among the copies that wait to be read.
            self.read(&mut copies);
            let (syns, deadline) = {
                let mut state = self.lock();
                let now = Instant::now();
                let mut syns: Vec<_> =
                    released.into_iter().flat_map(|listener| state.room.release(listener, now)).collect();
                syns.extend(state.room.due(now));
                (syns, state.room.next_deadline())
            };
            put_back(raw, syns);
            self.wake.wait(Some(&copies), deadline);
        }
    }

    /// Takes the copies in.
    fn read(&self, copies: &mut Copies) {
        let now = Instant::now();
        let read = copies.read(|segment| {
            if segment.is_syn() {
                self.lock().room.came(segment, now);
            }
        });
        if let Err(error) = read {
            tracing::warn!(%error, "cannot read the SYNs of held connections");
        }
    }
}

/// SYNs that go back at once, before the next ones: a server's queue of connections to accept is not endless.
const BURST: usize = 64;
const BETWEEN_BURSTS: Duration = Duration::from_micros(500);

fn put_back(raw: &Raw, syns: Vec<Segment>) {
    let total = syns.len();
    let mut failure = None;
    for (number, syn) in (1..).zip(syns) {
        match raw.send(syn) {
            // EPERM: our own fence refuses it, and its client is told.
            Err(error) if error.raw_os_error() != Some(libc::EPERM) => failure = Some(error),
            Ok(()) | Err(_) => {}
        }
        if number % BURST == 0 {
            std::thread::sleep(BETWEEN_BURSTS);
        }
    }
    match failure {
        Some(error) => tracing::warn!(%error, "a held connection waits for its client's next SYN"),
        None if total > 0 => tracing::debug!(total, "put SYNs of held connections back"),
        None => {}
    }
}
