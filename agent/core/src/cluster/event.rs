//! What goes into a cluster's state machine, and what comes out.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use super::plan::Plan;
use crate::observation::Observation;
use crate::operation::{Ending, Intent, Notice, OpId, Operation, Order, OrderId, Outcast, Report, TaskError};
use crate::signal::Suspicion;
use crate::{Epoch, Mono};

/// What can happen to a cluster.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    Observed(Observation),
    /// Every listener, or one, leads to that server until unpinned.
    Pin {
        listener: Option<SocketAddr>,
        server: SocketAddr,
    },
    Unpin {
        listener: Option<SocketAddr>,
    },
    /// Nothing changes by itself until then, or until resumed.
    Pause {
        until: Option<Mono>,
        reason: String,
    },
    Resume,
    /// The driver carried the plan in flight out.
    Committed {
        commit: Duration,
    },
    /// It could not, and nothing of the plan is in force.
    CommitFailed {
        stage: Stage,
        error: String,
    },
    /// The kernel has stopped these listeners because their lease was not renewed in time. A plan in flight was decided on
    /// what was known before, and was not carried out.
    LeaseLapsed {
        listeners: Vec<SocketAddr>,
    },
    /// An operator wants a failover or a switchover. Whoever sends it has asked [`Cluster::refusal`] before.
    ///
    /// [`Cluster::refusal`]: super::Cluster::refusal
    Operate(Intent),
    /// An operator takes back what is under way, or puts aside what cannot be read. Whoever sends it has asked
    /// [`Cluster::abort_refusal`] before, and has written down what the machine does with it: the pause if
    /// [`Cluster::pauses_on_abort`], the end of an operation that nobody can read.
    ///
    /// [`Cluster::abort_refusal`]: super::Cluster::abort_refusal
    /// [`Cluster::pauses_on_abort`]: super::Cluster::pauses_on_abort
    Abort {
        by: String,
    },
    /// An operator wants a server that was cast out to be compared anew, and to rejoin if nothing speaks against it.
    Rejoin {
        server: SocketAddr,
        by: String,
    },
    /// An operator has seen to a server that was cast out, and takes the mark from it.
    Clear {
        server: SocketAddr,
        by: String,
    },
    /// The journal has the step with that serial.
    Begun {
        serial: u64,
    },
    /// It could not be written down, so nothing of it was begun.
    NotBegun {
        serial: u64,
        error: String,
    },
    /// A task has come to its end, or was given up.
    TaskDone {
        order: OrderId,
        result: Result<Report, TaskError>,
    },
    /// Traffic gives a reason to ask a server at once. No decision follows from it, only from what is then observed.
    Suspected(Suspicion),
    /// [`Cluster::next_deadline`] has come.
    Deadline,
}

/// Where a commit failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// The epoch could not be written down.
    State,
    /// The kernel refused the mappings.
    Datapath,
}

/// What is to be done, in this order.
#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    /// Write the epoch down if it is new, then take the mappings into the kernel; report back.
    Commit(Plan),
    /// Ask the servers at this pace from now on.
    Pace(Pace),
    /// Ask every server once, now, whatever the pace is.
    Hasten,
    /// A line of history.
    Record(Entry),
    /// Write the operation into the journal; when it is there, start these tasks and report `Begun`. If it cannot be
    /// written, start none and report `NotBegun`.
    Begin { operation: Box<Operation>, orders: Vec<Order> },
    /// Start these tasks, which can be repeated without anything having been written down.
    Start(Vec<Order>),
    /// Nobody waits for these any more; they may go on to their end or be broken off.
    Forget(Vec<OrderId>),
    /// Write down that the operation is over.
    End { operation: Box<Operation>, ending: Ending },
    /// Write down who must not come back unexamined; all of them, each time.
    KeepOutcasts(Vec<Outcast>),
    /// Tell whoever is to be told.
    Notify(Notice),
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Pace {
    #[default]
    Normal,
    /// Every 50 ms: the primary is suspect, or there is none.
    Urgent,
}

/// A line of history.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// `verdict`, `mapped`, `fenced`, `pinned` …: one word to search by.
    pub kind: &'static str,
    pub message: String,
    pub data: Vec<(&'static str, String)>,
}

/// What was true before the agent (re)started.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Remembered {
    /// From the store.
    pub epoch: Epoch,
    pub primary: Option<SocketAddr>,
    /// From the kernel: where each listener leads; an empty list is a fence.
    pub held: BTreeMap<SocketAddr, Vec<SocketAddr>>,
    /// From the kernel: listeners whose lease ran out while no agent was there.
    pub lapsed: Vec<SocketAddr>,
    /// `None` is the pin of the whole cluster.
    pub pins: BTreeMap<Option<SocketAddr>, SocketAddr>,
    pub pause: Option<Pause>,
    /// An operation that was begun and has no end in the journal.
    pub operation: Option<Operation>,
    /// Why the journal's unfinished operation cannot be read: somebody may have been half way from one primary to another.
    pub unreadable: Option<String>,
    /// The last operation that was ever begun.
    pub last_operation: OpId,
    /// No automatic failover before that.
    pub cooldown_until: Option<Mono>,
    pub outcasts: Vec<Outcast>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pause {
    pub until: Option<Mono>,
    pub reason: String,
}
