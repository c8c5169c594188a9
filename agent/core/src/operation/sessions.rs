//! How the sessions of a primary that is to hand over are sent home, without cutting a transaction off as long as there is
//! time. The listeners hold new connections and spare those that are established; this says, look by look, which of these
//! to block, to let go on, and to sever.
//!
//! A client can begin a transaction between a look at its session and whatever is done about it. So its flow is blocked
//! first, and severed only if its session is idle still when nothing more can reach it:
//!
//! ```text
//!             idle, or running a statement                    idle
//!   passing ───────────────────────────────────► blocked ───────────► severed
//!      ▲                                          │   ▲                  ▲
//!      └──────────────────────────────────────────┘   │                  │
//!         inside a transaction; or running for long   └─ running         │
//!      └──────────────── the grace is over ──────────────────────────────┘
//! ```
//!
//! Whoever runs one statement after the other would never be seen idle. Blocked while its statement runs, it is, as soon as
//! that was a commit or a transaction of its own; and otherwise it has waited for some milliseconds.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::Duration;

use super::Sessions;
use crate::Mono;
use crate::flow::{Flow, Phase, Tuple};

/// From blocking to the next look: what had passed before is with the server by then, and known to it.
const SETTLE: Duration = Duration::from_millis(3);

/// Between two looks at sessions that are not idle.
const PAUSE: Duration = Duration::from_millis(10);

/// While nothing can be seen but that flows end by themselves.
const BLIND_PAUSE: Duration = Duration::from_millis(100);

/// A statement that takes longer runs on without its client being blocked: it may need it, as LOAD DATA LOCAL does.
const RUNNING: Duration = Duration::from_millis(40);

/// A client that was blocked in vain is left alone for so long.
const REST: Duration = Duration::from_millis(20);

/// A session of the server's list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Session {
    pub peer: Peer,
    pub doing: Doing,
}

/// Where the server says that a session comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Peer {
    Address(SocketAddr),
    /// By name, since the server resolves names: only the port tells.
    Port(u16),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Doing {
    /// Waits for its client, outside of any transaction, and holds nothing.
    Nothing,
    /// Waits for its client, inside a transaction or holding a lock.
    Waiting,
    /// Runs a statement.
    Running,
    /// Logs in, or something that is not known: it needs its client.
    Unknown,
}

/// What is seen at one moment: first the flows, then the sessions.
#[derive(Clone, Copy, Debug)]
pub struct View<'a> {
    /// Through the listeners.
    pub flows: &'a [Flow],
    /// Whether these are all flows; otherwise at least those that a session was known for.
    pub whole: bool,
    /// `None`: they cannot be seen.
    pub sessions: Option<&'a [Session]>,
}

/// What is to be done now, in this order, and then.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Round {
    pub unblock: Vec<Tuple>,
    pub sever: Vec<Tuple>,
    pub block: Vec<Tuple>,
    pub then: Then,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Then {
    /// Look again after that; at all flows, if `whole`.
    Look {
        after: Duration,
        whole: bool,
    },
    Done(Sessions),
}

/// The sessions of one server, being sent home.
#[derive(Debug)]
pub struct Dismissal {
    server: SocketAddr,
    deadline: Mono,
    flows: BTreeMap<Tuple, Known>,
    sessions: Sessions,
    /// Whether any session was ever known to be a flow's.
    recognized: bool,
}

/// What is known of one flow.
#[derive(Clone, Copy, Debug, Default)]
struct Known {
    was_busy: bool,
    blocked: Option<Mono>,
    rests_until: Option<Mono>,
    severed: bool,
}

impl Dismissal {
    pub fn new(server: SocketAddr, grace: Duration, now: Mono) -> Self {
        let (flows, sessions) = (BTreeMap::new(), Sessions::default());
        Self { server, deadline: now + grace, flows, sessions, recognized: false }
    }

    /// Flows that are blocked: they must not stay so if this comes to no end.
    pub fn blocked(&self) -> Vec<Tuple> {
        self.flows.iter().filter(|(_, known)| known.blocked.is_some()).map(|(flow, _)| *flow).collect()
    }

    /// What became of the sessions, if these are all flows that there were when new connections had ceased, and each was
    /// severed. One that was opening then may have come about since.
    pub fn are_all(&self, at_the_beginning: &[Flow]) -> Option<Sessions> {
        let is_severed = |flow: &Flow| self.flows.get(&flow.tuple).is_some_and(|known| known.severed);
        let is_over = |flow: &Flow| flow.phase == Phase::Closing || is_severed(flow);
        at_the_beginning.iter().filter(|flow| flow.backend == self.server).all(is_over).then(|| self.result())
    }

    /// What follows from a look. To be called again after what it says.
    pub fn look(&mut self, view: View<'_>, now: Mono) -> Round {
        let over = now >= self.deadline;
        self.sessions.blind |= view.sessions.is_none();
        let list = List::new(view);
        let (mut unblock, mut sever, mut block) = (Vec::new(), Vec::new(), Vec::new());
        let (mut present, mut left, mut hidden) = (BTreeSet::new(), false, false);
        for flow in view.flows.iter().filter(|flow| flow.backend == self.server) {
            let found = list.session_of(flow);
            // What no session is known for may have ended, or not begun; conntrack remembers both for minutes.
            if found.is_none() && flow.phase != Phase::Established {
                continue;
            }
            present.insert(flow.tuple);
            self.recognized |= found.is_some();
            let doing = found.unwrap_or(Doing::Unknown);
            let is_new = !self.flows.contains_key(&flow.tuple);
            let known = self.flows.entry(flow.tuple).or_default();
            known.was_busy |= doing != Doing::Nothing;
            match known.step(doing, over, now) {
                Step::Again => sever.push(flow.tuple),
                Step::Sever => {
                    sever.push(flow.tuple);
                    match (doing, known.was_busy) {
                        (Doing::Nothing, false) => self.sessions.idle += 1,
                        (Doing::Nothing, true) => self.sessions.finished += 1,
                        (_, _) => self.sessions.cut += 1,
                    }
                }
                Step::Block => block.push(flow.tuple),
                Step::Unblock => unblock.push(flow.tuple),
                // Somebody may have blocked it before us, and not have come to an end.
                Step::Leave if is_new => unblock.push(flow.tuple),
                Step::Leave => {}
            }
            left |= !known.severed;
            hidden |= found.is_none();
        }
        // Those that have ended by themselves.
        for (flow, known) in &mut self.flows {
            if !present.contains(flow) && known.blocked.take().is_some() {
                unblock.push(*flow);
            }
        }
        let then = self.then(&view, left, hidden, !sever.is_empty(), now);
        Round { unblock, sever, block, then }
    }

    fn then(&self, view: &View<'_>, left: bool, hidden: bool, severed: bool, now: Mono) -> Then {
        let look = |after, whole| Then::Look { after, whole };
        if self.flows.values().any(|known| known.blocked.is_some()) {
            return look(SETTLE, hidden);
        }
        if left {
            let pause = if view.sessions.is_none() { BLIND_PAUSE } else { PAUSE };
            return look(pause.min(self.deadline.since(now)), hidden || view.sessions.is_none());
        }
        if severed || !view.whole {
            return look(Duration::ZERO, true);
        }
        Then::Done(self.result())
    }

    /// A list that shows none of the sessions is as good as none.
    fn result(&self) -> Sessions {
        let blind = self.sessions.blind || (!self.recognized && !self.flows.is_empty());
        Sessions { blind, ..self.sessions.clone() }
    }
}

enum Step {
    Block,
    Unblock,
    Sever,
    /// It was severed, and is still there.
    Again,
    Leave,
}

impl Known {
    fn step(&mut self, doing: Doing, over: bool, now: Mono) -> Step {
        if self.severed {
            return Step::Again;
        }
        let rests = self.rests_until.is_some_and(|until| now < until);
        match (self.blocked, doing) {
            (Some(_), Doing::Nothing) => self.sever(),
            _ if over => self.sever(),
            (Some(since), Doing::Running) if now.since(since) < RUNNING => Step::Leave,
            (Some(_), _) => {
                self.blocked = None;
                self.rests_until = Some(now + REST);
                Step::Unblock
            }
            (None, Doing::Nothing | Doing::Running) if !rests => {
                self.blocked = Some(now);
                Step::Block
            }
            (None, _) => Step::Leave,
        }
    }

    fn sever(&mut self) -> Step {
        (self.severed, self.blocked) = (true, None);
        Step::Sever
    }
}

/// The server's list, by where sessions come from.
struct List {
    addresses: BTreeMap<SocketAddr, Vec<Doing>>,
    ports: BTreeMap<u16, Vec<Doing>>,
    /// How many flows are seen with each port.
    flows: BTreeMap<u16, usize>,
}

impl List {
    fn new(view: View<'_>) -> Self {
        let mut list = Self { addresses: BTreeMap::new(), ports: BTreeMap::new(), flows: BTreeMap::new() };
        for session in view.sessions.unwrap_or_default() {
            match session.peer {
                Peer::Address(address) => list.addresses.entry(address).or_default().push(session.doing),
                Peer::Port(port) => list.ports.entry(port).or_default().push(session.doing),
            }
        }
        for flow in view.flows {
            *list.flows.entry(flow.seen_as.port()).or_default() += 1;
        }
        list
    }

    /// What the flow's session does; `None`: it is not in the list. One that cannot be told from another is left alone.
    fn session_of(&self, flow: &Flow) -> Option<Doing> {
        let of = |found: &[Doing]| if let [doing] = found { *doing } else { Doing::Unknown };
        if let Some(found) = self.addresses.get(&flow.seen_as) {
            return Some(of(found));
        }
        let port = flow.seen_as.port();
        let alone = self.flows.get(&port) == Some(&1);
        self.ports.get(&port).map(|found| if alone { of(found) } else { Doing::Unknown })
    }
}

#[cfg(test)]
#[path = "sessions_tests.rs"]
mod tests;
