//! Held connections: copies of their SYNs wait here, and go back into the stack when their listener opens.
//!
//! A client whose SYN was not answered sends it again after 1, 3, 7, 15 … seconds. Somebody who has waited for 20 s would
//! so wait for another 11 after the opening. The guard therefore copies each SYN that it leaves unanswered; put back
//! through a raw socket it takes the way of the host's own packets, output NAT included, and what conntrack makes of it is
//! the client's connection like any other. SYNs that were overtaken by a change on their way through the chains are put
//! back, too. When a hold is over, those who still wait are refused in the same way and need not find out by themselves.

mod room;

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use shunt_core::datapath::DatapathError;

use crate::element::Pair;
use crate::nflog::Copies;
use crate::schema::Groups;
use crate::transaction::kernel;
use room::Room;
use shunt_wire::packet::Segment;
use shunt_wire::raw::Raw;
use shunt_wire::wake::Wake;

pub struct Hold {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

struct Shared {
    state: Mutex<State>,
    wake: Wake,
}

#[derive(Default)]
struct State {
    room: Room,
    /// Listeners that have opened, or refuse from now on.
    released: Vec<SocketAddr>,
    stop: bool,
}

impl Hold {
    /// The thread works in the network namespace of the caller.
    pub fn start(groups: Groups) -> Result<Self, DatapathError> {
        let copies = Copies::subscribe(groups.syns)?;
        let raw = Raw::open(None)?;
        let shared = Arc::new(Shared { state: Mutex::default(), wake: Wake::new()? });
        let theirs = Arc::clone(&shared);
        let thread = std::thread::Builder::new()
            .name("shunt-hold".to_owned())
            .spawn(move || theirs.run(copies, &raw))
            .map_err(kernel("start the thread that holds connections"))?;
        Ok(Self { shared, thread: Some(thread) })
    }

    /// These listeners hold new connections, until then. To be called before the kernel begins to.
    pub fn hold(&self, listeners: &[(SocketAddr, Instant)]) {
        if listeners.is_empty() {
            return;
        }
        let mut state = self.shared.lock();
        for (listener, until) in listeners {
            state.room.hold(*listener, *until);
        }
        drop(state);
        self.shared.wake.wake();
    }

    /// These pairs may pass no more. To be called before the kernel ceases to let them.
    pub fn left(&self, pairs: &[Pair]) {
        if !pairs.is_empty() {
            self.shared.lock().room.left(pairs, Instant::now());
        }
    }

    /// These listeners hold nobody any more. To be called after the kernel has ceased to.
    pub fn release(&self, listeners: &[SocketAddr]) {
        if listeners.is_empty() {
            return;
        }
        self.shared.lock().released.extend(listeners);
        self.shared.wake.wake();
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        self.shared.lock().stop = true;
        self.shared.wake.wake();
        if let Some(thread) = self.thread.take() {
            // A panic there has been reported already, and there is nobody to hand it on to.
            let _ = thread.join();
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing in the critical sections can leave the state half changed.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn run(&self, mut copies: Copies, raw: &Raw) {
        loop {
            let released = {
                let mut state = self.lock();
                if state.stop {
                    return;
                }
                std::mem::take(&mut state.released)
            };
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
