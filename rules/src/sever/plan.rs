//! Which end is asked when, and what is known of each. Pure: the clock is an argument.

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use shunt_core::datapath::Severed;
use shunt_core::flow::Tuple;

use crate::conntrack::entry::Entry;
use crate::element::Pair;

/// When an end that did not answer is asked again, and at last given up; from the order on. A socket answers what it does
/// not expect at most every 500 ms (net.ipv4.tcp_invalid_ratelimit), and packets get lost.
const ROUNDS: [Duration; 7] = [
    Duration::ZERO,
    Duration::from_millis(100),
    Duration::from_millis(300),
    Duration::from_millis(700),
    Duration::from_millis(1300),
    Duration::from_millis(2500),
    Duration::from_secs(5),
];

/// A packet that was on its way during the commit can confirm an entry after the first look; so we look again.
const LOOKS: [Duration; 3] = [Duration::ZERO, Duration::from_millis(200), Duration::from_millis(400)];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    Client,
    Backend,
}

/// What a packet says of the end that sent it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sign {
    /// It believed in the flow, until the guard answered with a RST.
    Open,
    /// It sent a RST itself.
    Closed,
    /// It begins another connection.
    Anew,
}

/// A question to one end of a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Question {
    flow: Tuple,
    end: End,
    pub from: SocketAddr,
    pub to: SocketAddr,
}

/// All that is being severed.
#[derive(Default)]
pub struct Plan {
    jobs: BTreeMap<u64, Job>,
    next_job: u64,
    /// The job of a pair that passes no more.
    pairs: BTreeMap<Pair, u64>,
    targets: HashMap<Tuple, Target>,
    /// From a packet's source and destination to the flow and the end that sent it. Two flows of one client port, through
    /// two listeners to one backend, look alike here once their packets are mapped; the one that is taken for the other is
    /// asked again, and then says that it is closed.
    senders: HashMap<(SocketAddr, SocketAddr), (Tuple, End)>,
    /// Entries that may go.
    done: Vec<Entry>,
}

struct Job {
    pair: Pair,
    since: Instant,
    /// Its number when it was ordered; `None`: single flows.
    order: Option<u64>,
    /// When the first look was due, and how many there were.
    looking: Instant,
    looks: usize,
    /// When the first round of questions was due, and how many have been asked.
    asking: Instant,
    rounds: usize,
    /// Flows with an end that has not answered.
    open: usize,
    flows: u64,
    unanswered: u64,
    last_answer: Instant,
}

struct Target {
    job: u64,
    entry: Entry,
    /// A flow that was reset before we looked, or whose client is still connecting, counts once an end of it turns out to
    /// be open.
    is_counted: bool,
    /// The entry is deleted. What the ends say then is mid-stream, and what the backend says goes to the host, whose RST
    /// we do not see.
    without_entry: bool,
    client_closed: bool,
    backend_closed: bool,
}

/// A job that has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Finished {
    pub severed: Severed,
    pub order: Option<u64>,
}

impl Plan {
    /// A pair passes no more: look for its flows.
    pub fn pair(&mut self, pair: Pair, order: u64, since: Instant) {
        // Dead already: what it had is still being told.
        if let Some(job) = self.pairs.get(&pair).and_then(|job| self.jobs.get_mut(job)) {
            (job.order, job.looks, job.looking) = (Some(order), 0, since);
            return;
        }
        let job = self.job(pair, Some(order), since);
        self.pairs.insert(pair, job);
    }

    /// Flows of a pair that passes; their entries are gone.
    pub fn flows(&mut self, pair: Pair, entries: Vec<Entry>, since: Instant) {
        let job = self.job(pair, None, since);
        self.add(job, entries, true, since);
    }

    /// Whether what the pair had when it died is known.
    pub fn has_looked_for(&self, pair: &Pair) -> bool {
        self.pairs.get(pair).and_then(|job| self.jobs.get(job)).is_none_or(|job| job.looks > 0)
    }

    /// The entries that must go before the pair passes again.
    pub fn entries_of(&self, pair: &Pair) -> Vec<Entry> {
        let job = self.pairs.get(pair);
        let of_job = self.targets.values().filter(|target| Some(&target.job) == job && !target.without_entry);
        of_job.map(|target| target.entry).collect()
    }

    /// The pair is about to pass again and its entries are gone. Its flows are told all the same.
    pub fn returns(&mut self, pair: Pair) {
        let Some(number) = self.pairs.remove(&pair) else { return };
        if let Some(job) = self.jobs.get_mut(&number) {
            (job.looks, job.order) = (LOOKS.len(), None);
        }
        for target in self.targets.values_mut().filter(|target| target.job == number) {
            target.without_entry = true;
        }
    }

    /// Pairs to look for now.
    pub fn looks_due(&mut self, now: Instant) -> Vec<Pair> {
        let mut due = Vec::new();
        for job in self.jobs.values_mut() {
            if LOOKS.get(job.looks).is_some_and(|after| job.looking + *after <= now) {
                job.looks += 1;
                due.push(job.pair);
            }
        }
        due
    }

    /// The look for these pairs could not be had: it is due again.
    pub fn look_failed<'a>(&mut self, pairs: impl IntoIterator<Item = &'a Pair>) {
        for pair in pairs {
            if let Some(job) = self.pairs.get(pair).and_then(|job| self.jobs.get_mut(job)) {
                job.looks = job.looks.saturating_sub(1);
            }
        }
    }

    /// What the look for pairs has found.
    pub fn found(&mut self, entries: Vec<Entry>, now: Instant) {
        let mut by_job: BTreeMap<u64, Vec<Entry>> = BTreeMap::new();
        for entry in entries {
            if let Some(job) = self.pairs.get(&entry.pair()) {
                by_job.entry(*job).or_default().push(entry);
            }
        }
        for (job, entries) in by_job {
            self.add(job, entries, false, now);
        }
    }

    /// The questions that are due now, those to clients first: they are whom somebody waits for.
    pub fn questions_due(&mut self, now: Instant) -> Vec<Question> {
        let mut due: BTreeMap<u64, bool> = BTreeMap::new();
        for (number, job) in &mut self.jobs {
            let Some(after) = ROUNDS.get(job.rounds).filter(|after| job.asking + **after <= now) else { continue };
            // A round that comes late, because there was much to do or nobody to do it, makes all later ones late: an end
            // is given up only after it had all its time to answer.
            job.asking = now.checked_sub(*after).unwrap_or(now);
            job.rounds += 1;
            due.insert(*number, job.rounds == ROUNDS.len());
        }
        if due.is_empty() {
            return Vec::new();
        }
        let given_up: Vec<Tuple> =
            self.targets.iter().filter(|(_, t)| due.get(&t.job) == Some(&true)).map(|(flow, _)| *flow).collect();
        for flow in given_up {
            self.give_up(flow);
        }
        let mut questions = Vec::new();
        for end in [End::Client, End::Backend] {
            let asked = self.targets.iter().filter(|(_, target)| due.contains_key(&target.job));
            questions.extend(asked.filter(|(_, t)| !t.is_closed(end)).map(|(flow, t)| t.question(*flow, end)));
        }
        self.stop_asking_whom_we_do_not_hear(now);
        questions
    }

    /// After two questions: the backend of a flow without an entry, and the client of a handshake that may have found the
    /// new way by now and answers within that.
    fn stop_asking_whom_we_do_not_hear(&mut self, now: Instant) {
        let jobs = &self.jobs;
        let asked_twice = |target: &Target| jobs.get(&target.job).is_none_or(|job| job.rounds >= 2);
        let told: Vec<(Tuple, bool)> = self
            .targets
            .iter()
            .filter(|(_, target)| target.without_entry && asked_twice(target))
            .map(|(flow, target)| (*flow, target.entry.is_assured()))
            .collect();
        for (flow, connected) in told {
            self.close(flow, End::Backend, now, false);
            if !connected {
                self.close(flow, End::Client, now, false);
            }
        }
    }

    /// Whether it is still worth asking.
    pub fn is_open(&self, question: &Question) -> bool {
        self.targets.get(&question.flow).is_some_and(|target| !target.is_closed(question.end))
    }

    /// A packet of a severed flow came to the guard.
    pub fn heard(&mut self, from: SocketAddr, to: SocketAddr, sign: Sign, now: Instant) {
        let Some((flow, end)) = self.senders.get(&(from, to)).copied() else { return };
        let Some(target) = self.targets.get_mut(&flow) else { return };
        if sign == Sign::Open && !target.is_counted {
            target.is_counted = true;
            if let Some(job) = self.jobs.get_mut(&target.job) {
                job.flows += 1;
            }
        }
        // The port is in use again: the old entry stands in the way of the new connection, whatever the backend says.
        if sign == Sign::Anew && !target.without_entry {
            target.without_entry = true;
            self.done.push(target.entry);
        }
        self.close(flow, end, now, true);
    }

    /// Entries whose ends are both closed, or given up.
    pub fn take_done(&mut self) -> Vec<Entry> {
        std::mem::take(&mut self.done)
    }

    /// Jobs of which nothing is left to do.
    pub fn take_finished(&mut self) -> Vec<Finished> {
        let over: Vec<u64> = self
            .jobs
            .iter()
            .filter(|(_, job)| job.open == 0 && (job.order.is_none() || job.looks >= LOOKS.len()))
            .map(|(number, _)| *number)
            .collect();
        let finished = over.into_iter().filter_map(|number| {
            let job = self.jobs.remove(&number)?;
            if self.pairs.get(&job.pair) == Some(&number) {
                self.pairs.remove(&job.pair);
            }
            let Pair { listener, backend } = job.pair;
            let took = job.last_answer.saturating_duration_since(job.since);
            let severed = Severed { listener, backend, flows: job.flows, unanswered: job.unanswered, took };
            Some(Finished { severed, order: job.order })
        });
        finished.collect()
    }

    /// When there is something to do again; `None`: not before the next order.
    pub fn next_deadline(&self) -> Option<Instant> {
        let deadline = |job: &Job| {
            let look = LOOKS.get(job.looks).map(|after| job.looking + *after);
            let round = ROUNDS.get(job.rounds).filter(|_| job.open > 0).map(|after| job.asking + *after);
            [look, round].into_iter().flatten().min()
        };
        self.jobs.values().filter_map(deadline).min()
    }

    fn job(&mut self, pair: Pair, order: Option<u64>, since: Instant) -> u64 {
        self.next_job += 1;
        let looks = if order.is_some() { 0 } else { LOOKS.len() };
        let job = Job {
            pair,
            since,
            order,
            looking: since,
            looks,
            asking: since,
            rounds: 0,
            open: 0,
            flows: 0,
            unanswered: 0,
            last_answer: since,
        };
        self.jobs.insert(self.next_job, job);
        self.next_job
    }

    fn add(&mut self, number: u64, entries: Vec<Entry>, without_entries: bool, now: Instant) {
        let (mut added, mut counted) = (0, 0);
        for entry in entries {
            let flow = entry.flow();
            match self.targets.get(&flow) {
                Some(target) if target.entry.id == entry.id => continue,
                // The client's port was used again: the flow that we asked about is no more.
                Some(_) => self.give_up(flow),
                None => {}
            }
            if !entry.is_open() && !entry.is_reset() {
                self.done.push(entry);
                continue;
            }
            let is_counted = entry.is_open() && entry.is_assured();
            (added, counted) = (added + 1, counted + u64::from(is_counted));
            self.senders.extend(senders(&entry).map(|(packet, end)| (packet, (flow, end))));
            // A client that is still connecting answers any question with another SYN (Linux does so at once). That must
            // find the new way and not the old entry, which would have it refused: so the entry goes first.
            let without_entry = without_entries || !entry.is_assured();
            if without_entry && !without_entries {
                self.done.push(entry);
            }
            let target =
                Target { job: number, entry, is_counted, without_entry, client_closed: false, backend_closed: false };
            self.targets.insert(flow, target);
        }
        if let Some(job) = self.jobs.get_mut(&number).filter(|_| added > 0) {
            job.flows += counted;
            job.open += added;
            // What a later look finds is asked as soon and as often as all others.
            (job.asking, job.rounds) = (now, 0);
        }
    }

    fn close(&mut self, flow: Tuple, end: End, now: Instant, answered: bool) {
        let Some(target) = self.targets.get_mut(&flow) else { return };
        match end {
            End::Client => target.client_closed = true,
            End::Backend => target.backend_closed = true,
        }
        let (number, closed) = (target.job, target.client_closed && target.backend_closed);
        if let Some(job) = self.jobs.get_mut(&number) {
            if answered {
                job.last_answer = job.last_answer.max(now);
            }
            if closed {
                job.open -= 1;
            }
        }
        if closed {
            self.remove(flow);
        }
    }

    fn give_up(&mut self, flow: Tuple) {
        let Some(target) = self.targets.get(&flow) else { return };
        if let Some(job) = self.jobs.get_mut(&target.job) {
            job.open -= 1;
            job.unanswered += u64::from(target.is_counted);
        }
        self.remove(flow);
    }

    fn remove(&mut self, flow: Tuple) {
        if let Some(target) = self.targets.remove(&flow) {
            for (packet, _) in senders(&target.entry) {
                if self.senders.get(&packet).is_some_and(|(other, _)| *other == flow) {
                    self.senders.remove(&packet);
                }
            }
            if !target.without_entry {
                self.done.push(target.entry);
            }
        }
    }
}

/// How packets of either end look to the guard: mapped, or as they came when conntrack counts them to no flow.
fn senders(entry: &Entry) -> [((SocketAddr, SocketAddr), End); 4] {
    let (client, listener) = (entry.original.source, entry.original.destination);
    let (backend, seen_as) = (entry.reply.source, entry.reply.destination);
    [
        ((client, listener), End::Client),
        ((client, backend), End::Client),
        ((backend, client), End::Backend),
        ((backend, seen_as), End::Backend),
    ]
}

impl Target {
    const fn is_closed(&self, end: End) -> bool {
        match end {
            End::Client => self.client_closed,
            End::Backend => self.backend_closed,
        }
    }

    fn question(&self, flow: Tuple, end: End) -> Question {
        let (from, to) = match end {
            End::Client => (self.entry.original.destination, self.entry.original.source),
            End::Backend => (self.entry.reply.destination, self.entry.reply.source),
        };
        Question { flow, end, from, to }
    }
}

#[cfg(test)]
#[path = "plan_tests.rs"]
mod tests;
