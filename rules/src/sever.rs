//! Ends the flows of dead pairs at both of their ends, in a thread of its own so that no commit waits for it.
//!
//! The commit has already ended the pairs: the guard answers each of their packets with a RST. But an end that says
//! nothing would never know. So each end is asked a question, a bare ACK that it does not expect; it answers with an ACK
//! that carries its exact numbers (RFC 9293, 3.10.7.4), the guard answers that with a RST that these numbers make
//! acceptable (RFC 5961, 3.2), and hands us a copy of the answer, by which we know that the end is closed. Then the
//! conntrack entry goes, which gives back its port. Questions are untracked, or they would look like the flow's own.
//!
//! A flow whose pair is live is severed by the same questions, after its entry was deleted: what either end says then is
//! mid-stream and without a flow, which is answered with a RST, too.

mod work;

pub mod plan;

use std::collections::BTreeMap;
use std::io;
use std::sync::mpsc::{self, SyncSender};
use std::time::Instant;

use shunt_core::datapath::{DatapathError, Severed};

use crate::conntrack::Conntrack;
use crate::conntrack::entry::Entry;
use crate::element::Pair;
use crate::nflog::Copies;
use crate::schema::{Groups, TICKLE_MARK};
use crate::thread::Thread;
use crate::transaction::kernel;
use shunt_wire::raw::Raw;

pub struct Severer {
    thread: Thread<State>,
}

#[derive(Default)]
struct State {
    orders: Vec<Order>,
    /// Pairs that are being severed, with the number of the order: a pair can die, come back and die again.
    severing: BTreeMap<Pair, u64>,
    numbers: u64,
    finished: Vec<Severed>,
}

enum Order {
    /// The pair may pass no more, since then.
    Pair { pair: Pair, number: u64, since: Instant },
    /// These pairs are about to pass again, and somebody waits for their entries to be gone.
    Return { pairs: Vec<Pair>, done: SyncSender<io::Result<()>> },
    /// These flows of the pair, which passes, have lost their entries.
    Flows { pair: Pair, entries: Vec<Entry>, since: Instant },
}

impl Severer {
    /// The thread works in the network namespace of the caller.
    pub fn start(groups: Groups) -> Result<Self, DatapathError> {
        let conntrack = Conntrack::open().map_err(kernel("open a netlink socket for conntrack"))?;
        let copies = Copies::subscribe(groups.resets)?;
        let raw = Raw::open(Some(TICKLE_MARK))?;
        let work = move |shared| work::Worker::new(shared, conntrack, copies, raw).run();
        Ok(Self { thread: Thread::start("shunt-sever", "start the thread that ends flows", work)? })
    }

    /// These pairs may pass no more: end their flows.
    pub fn sever(&self, pairs: impl IntoIterator<Item = Pair>) {
        let since = Instant::now();
        let mut state = self.thread.lock();
        for pair in pairs {
            state.numbers += 1;
            let number = state.numbers;
            state.severing.insert(pair, number);
            state.orders.push(Order::Pair { pair, number, since });
        }
        drop(state);
        self.thread.wake();
    }

    /// These pairs are about to pass again. Of those that are being severed the entries go first, or flows of the time
    /// before would live on; their ends are told all the same.
    pub fn make_way(&self, pairs: &[Pair]) -> io::Result<()> {
        let (done, answer) = mpsc::sync_channel(1);
        let returning: Vec<Pair> = {
            let mut state = self.thread.lock();
            let returning: Vec<_> = pairs.iter().filter(|pair| state.severing.contains_key(pair)).copied().collect();
            if returning.is_empty() {
                return Ok(());
            }
            state.orders.push(Order::Return { pairs: returning.clone(), done });
            returning
        };
        self.thread.wake();
        answer.recv().unwrap_or_else(|_| Err(io::Error::other("the thread that ends flows is gone")))?;
        let mut state = self.thread.lock();
        state.severing.retain(|pair, _| !returning.contains(pair));
        Ok(())
    }

    /// These flows of a pair that is live, whose entries are deleted, end at both ends.
    pub fn finish_without_entries(&self, pair: Pair, entries: Vec<Entry>) {
        self.thread.lock().orders.push(Order::Flows { pair, entries, since: Instant::now() });
        self.thread.wake();
    }

    /// What was finished since this was last asked.
    pub fn finished(&self) -> Vec<Severed> {
        std::mem::take(&mut self.thread.lock().finished)
    }
}
