//! The thread that asks, listens and deletes.

use std::collections::hash_map::RandomState;
use std::collections::{BTreeSet, VecDeque};
use std::hash::{BuildHasher as _, Hasher as _};
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::plan::{Plan, Question, Sign};
use super::{Order, State};
use crate::conntrack::Conntrack;
use crate::element::Pair;
use crate::nflog::Copies;
use crate::thread::Shared;
use shunt_wire::packet::Segment;
use shunt_wire::raw::Raw;

/// Questions between two looks at the answers: few enough that the answers fit into the socket's buffer, and that hosts
/// with many connections are not flooded.
const BURST: usize = 128;

/// After a look at conntrack has failed.
const RETRY: Duration = Duration::from_millis(100);

pub struct Worker {
    shared: Arc<Shared<State>>,
    conntrack: Conntrack,
    copies: Copies,
    raw: Raw,
    plan: Plan,
    questions: VecDeque<Question>,
    numbers: Numbers,
}

impl Worker {
    pub fn new(shared: Arc<Shared<State>>, conntrack: Conntrack, copies: Copies, raw: Raw) -> Self {
        let (plan, questions) = (Plan::default(), VecDeque::new());
        Self { shared, conntrack, copies, raw, plan, questions, numbers: Numbers::new() }
    }

    pub fn run(mut self) {
        while self.take_orders() {
            self.look();
            self.delete();
            let now = Instant::now();
            // The answers to what was asked come first.
            if self.questions.is_empty() {
                self.questions.extend(self.plan.questions_due(now));
            }
            self.ask();
            self.listen();
            self.delete();
            self.report();
            if self.questions.is_empty() {
                self.shared.wake.wait(Some(&self.copies), self.plan.next_deadline());
            }
        }
    }

    /// False when the thread shall end.
    fn take_orders(&mut self) -> bool {
        // What was ordered before the end is still looked at.
        let is_over = self.shared.is_over();
        let orders = std::mem::take(&mut self.shared.lock().orders);
        for order in orders {
            match order {
                Order::Pair { pair, number, since } => self.plan.pair(pair, number, since),
                Order::Flows { pair, entries, since } => self.plan.flows(pair, entries, since),
                // Whoever asked may be gone.
                Order::Return { pairs, done } => drop(done.send(self.make_way(&pairs))),
            }
        }
        !is_over
    }

    /// Deletes the entries of these pairs, as far as the first look has found them. What was confirmed later had hardly
    /// begun and, the pair being live again, may go on.
    fn make_way(&mut self, pairs: &[Pair]) -> io::Result<()> {
        let unseen: BTreeSet<_> = pairs.iter().filter(|pair| !self.plan.has_looked_for(pair)).copied().collect();
        if !unseen.is_empty() {
            let entries = self.conntrack.find(&unseen)?;
            self.plan.found(entries, Instant::now());
        }
        let entries: Vec<_> = pairs.iter().flat_map(|pair| self.plan.entries_of(pair)).collect();
        self.conntrack.delete(&entries)?;
        for pair in pairs {
            self.plan.returns(*pair);
        }
        Ok(())
    }

    fn look(&mut self) {
        let due: BTreeSet<_> = self.plan.looks_due(Instant::now()).into_iter().collect();
        if due.is_empty() {
            return;
        }
        match self.conntrack.find(&due) {
            Ok(entries) => self.plan.found(entries, Instant::now()),
            // The guard ends in any case whoever says something.
            Err(error) => {
                tracing::warn!(%error, "cannot look for the flows that are to end");
                self.plan.look_failed(&due);
                std::thread::sleep(RETRY);
            }
        }
    }

    fn ask(&mut self) {
        let mut left = BURST;
        while left > 0 {
            let Some(question) = self.questions.pop_front() else { break };
            if !self.plan.is_open(&question) {
                continue;
            }
            left -= 1;
            let (sequence, acknowledgment) = (self.numbers.next(), self.numbers.next());
            let Some(segment) = Segment::question(question.from, question.to, sequence, acknowledgment) else {
                continue;
            };
            if let Err(error) = self.raw.send(segment) {
                // It is asked again, and reported as unanswered in the end.
                tracing::debug!(%error, from = %question.from, to = %question.to, "a question could not be sent");
            }
        }
    }

    fn listen(&mut self) {
        let now = Instant::now();
        let plan = &mut self.plan;
        let read = self.copies.read(|segment| {
            let sign = match (segment.is_reset(), segment.is_syn()) {
                (true, _) => Sign::Closed,
                (_, true) => Sign::Anew,
                _ => Sign::Open,
            };
            plan.heard(segment.source(), segment.destination(), sign, now);
        });
        match read {
            // What was lost is asked again: a closed end answers that it is.
            Ok(_) => {}
            Err(error) => tracing::warn!(%error, "cannot hear the answers of severed flows"),
        }
    }

    fn delete(&mut self) {
        let done = self.plan.take_done();
        if let Err(error) = self.conntrack.delete(&done) {
            tracing::warn!(%error, "cannot delete the conntrack entries of severed flows");
        }
    }

    fn report(&mut self) {
        let finished = self.plan.take_finished();
        if finished.is_empty() {
            return;
        }
        let mut state = self.shared.lock();
        for job in finished {
            if let Some(order) = job.order {
                state.severing.retain(|_, number| *number != order);
            }
            if job.severed.flows > 0 {
                state.finished.push(job.severed);
            }
        }
    }
}

/// Numbers that nobody can foresee: a question with a number that its receiver expects would be no question.
struct Numbers(RandomState, u64);

impl Numbers {
    fn new() -> Self {
        Self(RandomState::new(), 0)
    }

    fn next(&mut self) -> u32 {
        self.1 += 1;
        let mut hasher = self.0.build_hasher();
        hasher.write_u64(self.1);
        hasher.finish() as u32
    }
}
