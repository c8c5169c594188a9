//! The nftables datapath: committed state in memory, one transaction per change.
//!
//! What was committed is kept here and compared with the kernel only by [`NftDatapath::reconcile`]; applying a change
//! lists nothing. When the kernel rejects a change because somebody has meddled with the table, the change and the
//! repair go into one transaction: a failover does not wait for the next reconciliation.

mod restore;

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::os::unix::net::UnixListener;
use std::time::{Duration, Instant};
use std::{io, mem};

use shunt_core::datapath::{Applied, Change, Datapath, DatapathError, Drift, Held, Meter, Severed};
use shunt_core::flow::Tuple;

use crate::block::Block;
use crate::conntrack::Conntrack;
use crate::conntrack::entry::Entry;
use crate::drift::{Wording, compare, our_wording};
use crate::element::{Key, Pair};
use crate::hold::Hold;
use crate::meter::NftMeter;
use crate::netlink::batch::Batch;
use crate::netlink::read::{self, Snapshot};
use crate::netlink::socket::Netlink;
use crate::netlink::write;
use crate::owner::lock;
use crate::ruleset::{ADMIT, Layout, chains};
use crate::schema::Groups;
use crate::sever::Severer;
use crate::state::State;
use crate::state::plan::{Op, Plan};
use crate::state::upkeep::Remaining;
use crate::transaction::{Rejected, kernel};

/// How to open the datapath.
#[derive(Clone, Debug)]
pub struct Options {
    /// Name of our table, of the family inet.
    pub table: String,
}

impl Default for Options {
    fn default() -> Self {
        Self { table: "shunt".to_owned() }
    }
}

/// The datapath of one network namespace: that of the thread that opened it.
pub struct NftDatapath {
    table: String,
    netlink: Netlink,
    conntrack: Conntrack,
    severer: Severer,
    hold: Hold,
    block: Block,
    groups: Groups,
    state: State,
    presence: Presence,
    wording: Wording,
    /// The ruleset's generation that was last compared and found, or made, right.
    verified: Option<u32>,
    /// Listeners whose lease ran out while no agent was there, until they are told of.
    lapsed: Vec<SocketAddr>,
    _lock: UnixListener,
}

/// What we believe of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Presence {
    Absent,
    Current,
    /// Ours, but its definitions are not those of this version.
    Outdated,
}

impl NftDatapath {
    /// Takes the table's lock and adopts what a former agent left in it. Changes nothing in the kernel.
    pub fn open(options: Options) -> Result<Self, DatapathError> {
        let table = options.table;
        let lock = lock(&table)?;
        let netlink = Netlink::open().map_err(kernel("open a netlink socket"))?;
        let conntrack = Conntrack::open().map_err(kernel("open a netlink socket for conntrack"))?;
        let groups = Groups::of(&table);
        let severer = Severer::start(groups)?;
        let hold = Hold::start(groups)?;
        let block = Block::start(groups)?;
        let mut datapath = Self {
            table,
            netlink,
            conntrack,
            severer,
            hold,
            block,
            groups,
            state: State::default(),
            presence: Presence::Absent,
            wording: our_wording(&Layout { groups, source_limits: BTreeSet::new() }),
            verified: None,
            lapsed: Vec::new(),
            _lock: lock,
        };
        if let Some(found) = datapath.read_back()? {
            let now = Instant::now();
            datapath.state = State::adopt(&found.elements, now);
            datapath.lapsed = datapath.state.lapsed(&found.elements);
            datapath.wording = our_wording(&datapath.layout(&datapath.state));
            datapath.hold.hold(&datapath.state.holding());
            datapath.block.block(&datapath.state.blocked());
            let expected = datapath.state.elements();
            let comparison = compare(&datapath.table, &found, &expected, &datapath.wording, now);
            datapath.presence = if comparison.rebuild { Presence::Outdated } else { Presence::Current };
            tracing::info!(table = datapath.table, listeners = datapath.state.listeners.len(), "adopted the table");
            datapath.bury_strays();
        }
        Ok(datapath)
    }

    /// Whether our table is there.
    pub fn found_table(&self) -> bool {
        self.presence != Presence::Absent
    }

    /// The port id of the socket that changes the table, for [`crate::Notices`].
    pub fn port_id(&self) -> u32 {
        self.netlink.port_id()
    }

    /// Flows that were severed while no agent was there to delete their entries.
    fn bury_strays(&mut self) {
        let listeners = self.state.listeners.keys().copied().collect();
        let live = self.state.pairs().collect();
        match self.conntrack.strays(&listeners, &live) {
            Ok(strays) => self.severer.sever(strays),
            // They cannot pass; their entries only take up room until they time out.
            Err(error) => tracing::warn!(%error, "cannot look for the entries of severed flows"),
        }
    }

    /// Commits a plan to a table that is there.
    fn commit_plan(&mut self, plan: &Plan, now: Instant) -> Result<Duration, DatapathError> {
        let mut ops = plan.ops.clone();
        loop {
            let mut batch = self.batch();
            if let Some(source_limits) = &plan.source_limits {
                let layout = Layout { groups: self.groups, source_limits: source_limits.clone() };
                write::rewrite(&mut batch, &self.table, chains(&layout).iter().filter(|chain| chain.name == ADMIT));
            }
            write::ops(&mut batch, &self.table, &ops, now);
            let rejection = match self.commit(batch) {
                Ok(commit) => return Ok(commit),
                Err(rejection) => rejection,
            };
            // The element expired between our looking at the clock and the kernel's looking for it.
            let expired = rejection.element().filter(|_| rejection.is(libc::ENOENT));
            let timed = |op: &Op| matches!(op, Op::Delete { key, timed: true } if Some(*key) == expired);
            match ops.iter().position(timed) {
                Some(index) => drop(ops.remove(index)),
                None => return Err(self.name(rejection)),
            }
        }
    }

    /// Commits a plan, if need be together with a repair of what somebody else has done to the table.
    fn commit_or_repair(&mut self, plan: &Plan, now: Instant) -> Result<Duration, DatapathError> {
        let committed = match self.presence {
            Presence::Current => self.commit_plan(plan, now),
            absent_or_outdated => {
                let mut after = self.state.clone();
                after.commit(plan.clone());
                self.build(&after, absent_or_outdated == Presence::Outdated, now)
            }
        };
        let commit = committed.or_else(|error| {
            let mut after = self.state.clone();
            after.commit(plan.clone());
            match self.restore(&after, Instant::now()) {
                Ok(restored) => {
                    let drift: Vec<_> = restored.drift.iter().map(ToString::to_string).collect();
                    tracing::warn!(table = self.table, %error, ?drift, "repaired the table along with a change");
                    self.severer.sever(restored.dead);
                    Ok(restored.commit)
                }
                Err(worse @ (DatapathError::Foreign { .. } | DatapathError::Rejected { .. })) => Err(worse),
                Err(_) => Err(error),
            }
        })?;
        self.presence = Presence::Current;
        self.verified = None;
        Ok(commit)
    }

    /// Deletes entries of pairs that pass and has their flows told.
    fn end_without_entries(&mut self, entries: Vec<Entry>) -> io::Result<()> {
        self.conntrack.delete(&entries)?;
        let mut by_pair: BTreeMap<Pair, Vec<Entry>> = BTreeMap::new();
        for entry in entries {
            by_pair.entry(entry.pair()).or_default().push(entry);
        }
        for (pair, entries) in by_pair {
            self.severer.finish_without_entries(pair, entries);
        }
        Ok(())
    }

    /// Takes a committed plan into our state, and sees to what follows from it.
    fn take(&mut self, plan: Plan) {
        if plan.source_limits.is_some() {
            self.wording = our_wording(&self.layout_after(&plan));
        }
        self.severer.sever(plan.dead.iter().copied());
        self.hold.release(&plan.released);
        self.block.release(&plan.unblocked);
        self.state.commit(plan);
    }

    /// What the rules depend on, for a table that holds `state`.
    fn layout(&self, state: &State) -> Layout {
        Layout { groups: self.groups, source_limits: state.source_limits() }
    }

    fn layout_after(&self, plan: &Plan) -> Layout {
        let source_limits = plan.source_limits.clone().unwrap_or_else(|| self.state.source_limits());
        Layout { groups: self.groups, source_limits }
    }

    fn batch(&mut self) -> Batch {
        Batch::new(self.netlink.next_seq())
    }

    fn commit(&mut self, batch: Batch) -> Result<Duration, Rejected> {
        Rejected::commit(&mut self.netlink, batch)
    }

    fn name(&self, rejected: Rejected) -> DatapathError {
        rejected.name(&self.table)
    }
}

impl Datapath for NftDatapath {
    fn apply(&mut self, change: &Change) -> Result<Applied, DatapathError> {
        let now = Instant::now();
        let plan = self.state.plan(change, now).map_err(DatapathError::Unsupported)?;
        if plan.changed == 0 {
            return Ok(Applied::default());
        }
        let changed = plan.changed;
        let gone = self.severer.make_way(&plan.born);
        gone.map_err(kernel("delete the conntrack entries of flows that were being ended"))?;
        self.hold.hold(&plan.held);
        self.hold.left(&plan.left);
        match self.commit_or_repair(&plan, now) {
            Ok(commit) => {
                self.take(plan);
                Ok(Applied { changed, commit })
            }
            Err(error) => {
                // Nothing is held that was not: what came in meanwhile finds its way as it would have.
                let held: Vec<_> = plan.held.iter().map(|(listener, _)| *listener).collect();
                self.hold.release(&held);
                self.hold.hold(&self.state.holding());
                Err(error)
            }
        }
    }

    fn reconcile(&mut self) -> Result<Vec<Drift>, DatapathError> {
        let now = Instant::now();
        let remaining = if self.state.awaits_the_end_of_flows() {
            let (listeners, pairs) = self.state.awaited();
            self.conntrack.remaining(&listeners, &pairs).map_err(kernel("read conntrack's entries"))?
        } else {
            Remaining::default()
        };
        let plan = self.state.upkeep(&remaining, now);
        let generation = read::generation(&mut self.netlink).map_err(kernel("ask for the ruleset's generation"))?;
        if self.verified == Some(generation) && plan.changed == 0 {
            return Ok(Vec::new());
        }
        let mut after = self.state.clone();
        after.commit(plan.clone());
        let restored = self.restore(&after, now)?;
        self.verified = (restored.drift.is_empty() && plan.changed == 0).then_some(generation);
        self.severer.sever(restored.dead);
        self.take(plan);
        Ok(restored.drift)
    }

    fn upkeep(&mut self) -> Result<(), DatapathError> {
        let now = Instant::now();
        let plan = self.state.end_drains(now);
        if plan.changed > 0 && self.presence == Presence::Current {
            self.commit_plan(&plan, now)?;
            self.verified = None;
            self.take(plan);
        }
        Ok(())
    }

    fn renew(&mut self) -> Result<Vec<SocketAddr>, DatapathError> {
        let now = Instant::now();
        if !self.lapsed.is_empty() {
            // Their routes are still in the table, which is nobody's meddling.
            let restored = self.restore(&self.state.clone(), now)?;
            self.severer.sever(restored.dead);
        }
        let (plan, mut lapsed) = self.state.renew(now);
        if plan.changed == 0 {
            lapsed.append(&mut self.lapsed);
            return Ok(lapsed);
        }
        self.hold.hold(&plan.held);
        if let Err(error) = self.commit_plan(&plan, now) {
            // Somebody meddled with the table, or the kernel was quicker than we: all of it, then.
            tracing::warn!(table = self.table, %error, "leases could not be renewed; repairing the table");
            let mut after = self.state.clone();
            after.commit(plan.clone());
            let restored = self.restore(&after, Instant::now())?;
            self.severer.sever(restored.dead);
        }
        self.verified = None;
        self.take(plan);
        lapsed.append(&mut self.lapsed);
        Ok(lapsed)
    }

    fn sever(&mut self, flows: &[Tuple]) -> Result<(), DatapathError> {
        let tried = || kernel("find and delete the conntrack entries of flows that are to end");
        let entries = self.conntrack.find_flows(flows).map_err(tried())?;
        self.end_without_entries(entries).map_err(tried())?;
        // Without their entries nothing of them can pass, and what they had said is not put back.
        self.block.forget(flows);
        self.unblock(flows)
    }

    fn block(&mut self, flows: &[Tuple]) -> Result<(), DatapathError> {
        let now = Instant::now();
        let plan = self.state.block(flows, now).map_err(DatapathError::Unsupported)?;
        if plan.changed == 0 {
            return Ok(());
        }
        let mut after = self.state.clone();
        after.commit(plan.clone());
        self.block.block(&after.blocked());
        let committed = self.commit_or_repair(&plan, now);
        match committed {
            Ok(_) => self.take(plan),
            Err(error) => {
                let blocked = self.state.blocked();
                let new = flows.iter().filter(|flow| !blocked.iter().any(|(other, _)| other == *flow));
                self.block.release(&new.copied().collect::<Vec<_>>());
                return Err(error);
            }
        }
        Ok(())
    }

    fn unblock(&mut self, flows: &[Tuple]) -> Result<(), DatapathError> {
        let now = Instant::now();
        let plan = self.state.unblock(flows, now);
        if plan.changed > 0 {
            self.commit_or_repair(&plan, now)?;
            self.take(plan);
        }
        Ok(())
    }

    fn severed(&mut self) -> Vec<Severed> {
        self.severer.finished()
    }

    fn meter(&self) -> Result<Box<dyn Meter>, DatapathError> {
        let meter = NftMeter::open(&self.table).map_err(kernel("open a netlink socket for conntrack"))?;
        Ok(Box::new(meter))
    }

    fn committed(&self) -> Vec<Held> {
        self.state.held()
    }

    fn purge(&mut self) -> Result<(), DatapathError> {
        let Some(found) = self.read_back()? else {
            self.state = State::default();
            self.presence = Presence::Absent;
            return Ok(());
        };
        let mut batch = self.batch();
        write::delete_table(&mut batch, &self.table);
        self.commit(batch).map_err(|rejected| self.name(rejected))?;
        self.presence = Presence::Absent;
        self.verified = None;
        // Without the guard the flows would go on unwatched.
        let state = mem::take(&mut self.state);
        self.block.forget(&state.blocked().into_iter().map(|(flow, _)| flow).collect::<Vec<_>>());
        self.hold.release(&state.holding().iter().map(|(listener, _)| *listener).collect::<Vec<_>>());
        let listeners = state.listeners.keys().copied().chain(guarded(&found)).collect();
        let tried = || kernel("delete conntrack's entries of our listeners");
        let pairs = self.conntrack.strays(&listeners, &BTreeSet::new()).map_err(tried())?;
        let entries = self.conntrack.find(&pairs).map_err(tried())?;
        self.conntrack.delete(&entries).map_err(tried())?;
        Ok(())
    }
}

/// The listeners in a table, those of a state that was never adopted included.
fn guarded(found: &Snapshot) -> impl Iterator<Item = SocketAddr> {
    found.elements.keys().filter_map(|key| if let Key::Listener(listener) = key { Some(*listener) } else { None })
}
