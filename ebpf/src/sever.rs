//! Ends flows at both of their ends, in a thread of its own so that no commit waits for it.
//!
//! The commit has already ended the pairs: the programs answer each packet of theirs with an RST. But an end that says
//! nothing would never know. What each end expects next stands in the flow table, so it is sent the RST that it takes at
//! its word (RFC 5961, 3.2), and right behind it a question, an ACK that means nothing: a socket that is closed answers it
//! with an RST, by which we know. One that is not, because what was in the table came too early, answers with an ACK of
//! exact numbers, for which the programs send it the RST that ends it, and the next question finds it closed.
//!
//! The programs have no part in what we send: it leaves by the host's own stack, from the listener's address or the one
//! that the backend sees, and neither direction has an entry.

mod ears;
mod plan;
mod work;

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Instant;

use shunt_core::datapath::{DatapathError, Severed};
use shunt_ebpf_common::flow::Tuple;
use shunt_wire::kernel;
use shunt_wire::raw::Raw;
use shunt_wire::wake::Wake;

use crate::flows::FlowTable;
use crate::live::Liveness;

pub struct Severer {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

struct Shared {
    state: Mutex<State>,
    wake: Wake,
}

#[derive(Default)]
struct State {
    orders: Vec<Order>,
    finished: Vec<Severed>,
    stop: bool,
}

enum Order {
    /// Pairs may pass no more, since then: look for flows whose pair is dead.
    Look { since: Instant },
    /// These flows may pass no more, since then; the keys of their clients' directions.
    Flows { flows: Vec<Tuple>, since: Instant },
}

impl Severer {
    /// The thread works in the network namespace of the caller.
    pub fn start(table: FlowTable, live: Liveness) -> Result<Self, DatapathError> {
        let raw = Raw::open(None)?;
        let shared = Arc::new(Shared { state: Mutex::default(), wake: Wake::new()? });
        let worker = work::Worker::new(Arc::clone(&shared), table, live, raw);
        let thread = std::thread::Builder::new()
            .name("shunt-sever".to_owned())
            .spawn(move || worker.run())
            .map_err(kernel("start the thread that ends flows"))?;
        Ok(Self { shared, thread: Some(thread) })
    }

    /// End the flows of every pair that may pass no more.
    pub fn look(&self, since: Instant) {
        self.order(Order::Look { since });
    }

    /// End these flows, whose entries say that they are dead.
    pub fn flows(&self, flows: Vec<Tuple>, since: Instant) {
        self.order(Order::Flows { flows, since });
    }

    /// What was finished since this was last asked.
    pub fn finished(&self) -> Vec<Severed> {
        std::mem::take(&mut self.shared.lock().finished)
    }

    fn order(&self, order: Order) {
        self.shared.lock().orders.push(order);
        self.shared.wake.wake();
    }
}

impl Drop for Severer {
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
}

/// From one socket to another.
type Direction = (SocketAddr, SocketAddr);
