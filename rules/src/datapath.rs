//! The nftables datapath: committed state in memory, one transaction per change.
//!
//! What was committed is kept here and compared with the kernel only by [`NftDatapath::reconcile`]; applying a change
//! lists nothing. When the kernel rejects a change because somebody has meddled with the table, the change and the
//! repair go into one transaction: a failover does not wait for the next reconciliation.

mod restore;

use std::collections::{BTreeMap, BTreeSet};
use std::mem;
use std::net::SocketAddr;
use std::ops::ControlFlow;
use std::os::unix::net::UnixListener;
use std::time::{Duration, Instant};

use shunt_core::datapath::{Applied, Change, Datapath, DatapathError, Drift, Held, Meter, Refused, Severed, Usage};
use shunt_core::flow::{Flow, FlowFilter, Tuple};

use crate::conntrack::Conntrack;
use crate::conntrack::reaper::Reaper;
use crate::drift::{Wording, compare, our_wording};
use crate::element::Key;
use crate::netlink::batch::Batch;
use crate::netlink::read::{self, Snapshot};
use crate::netlink::socket::Netlink;
use crate::netlink::write;
use crate::owner::lock;
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
    reaper: Reaper,
    state: State,
    presence: Presence,
    wording: Wording,
    /// The ruleset's generation that was last compared and found, or made, right.
    verified: Option<u32>,
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
        let reaper = Reaper::start().map_err(kernel("start the thread that deletes conntrack entries"))?;
        let mut datapath = Self {
            table,
            netlink,
            conntrack,
            reaper,
            state: State::default(),
            presence: Presence::Absent,
            wording: our_wording(),
            verified: None,
            _lock: lock,
        };
        if let Some(found) = datapath.read_back()? {
            let now = Instant::now();
            datapath.state = State::adopt(&found.elements, now);
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
            Ok(strays) => self.reaper.bury(strays),
            // They cannot pass; their entries only take up room until they time out.
            Err(error) => tracing::warn!(%error, "cannot look for the entries of severed flows"),
        }
    }

    /// Commits a plan to a table that is there.
    fn commit_plan(&mut self, plan: &Plan, now: Instant) -> Result<Duration, DatapathError> {
        let mut ops = plan.ops.clone();
        loop {
            let mut batch = self.batch();
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
        let dead = plan.dead.clone();
        // Before the commit: from then on entries of these pairs may be of new flows.
        let revived = self.reaper.revive(&plan.born);
        let committed = match self.presence {
            Presence::Current => self.commit_plan(&plan, now),
            absent_or_outdated => {
                let mut after = self.state.clone();
                after.commit(plan.clone());
                self.build(&after, absent_or_outdated == Presence::Outdated, now)
            }
        };
        let committed = committed.or_else(|error| {
            let mut after = self.state.clone();
            after.commit(plan.clone());
            match self.restore(&after, Instant::now()) {
                Ok(restored) => {
                    let drift: Vec<_> = restored.drift.iter().map(ToString::to_string).collect();
                    tracing::warn!(table = self.table, %error, ?drift, "repaired the table along with a change");
                    self.reaper.bury(restored.dead);
                    Ok(restored.commit)
                }
                Err(worse @ (DatapathError::Foreign { .. } | DatapathError::Rejected { .. })) => Err(worse),
                Err(_) => Err(error),
            }
        });
        match committed {
            Ok(commit) => {
                self.presence = Presence::Current;
                self.verified = None;
                self.state.commit(plan);
                self.reaper.bury(dead);
                Ok(Applied { changed, commit })
            }
            Err(error) => {
                self.reaper.bury(revived);
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
        self.state = after;
        self.reaper.bury(plan.dead.into_iter().chain(restored.dead));
        self.verified = (restored.drift.is_empty() && plan.changed == 0).then_some(generation);
        Ok(restored.drift)
    }

    fn renew(&mut self) -> Result<Vec<SocketAddr>, DatapathError> {
        Ok(Vec::new())
    }

    fn sever(&mut self, _flows: &[Tuple]) -> Result<(), DatapathError> {
        Err(DatapathError::Unsupported("single flows cannot be severed yet".to_owned()))
    }

    fn severed(&mut self) -> Vec<Severed> {
        Vec::new()
    }

    fn meter(&self) -> Result<Box<dyn Meter>, DatapathError> {
        let conntrack = Conntrack::open().map_err(kernel("open a netlink socket for conntrack"))?;
        Ok(Box::new(conntrack))
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
        let listeners = state.listeners.keys().copied().chain(guarded(&found)).collect();
        let tried = || kernel("delete conntrack's entries of our listeners");
        let pairs = self.conntrack.strays(&listeners, &BTreeSet::new()).map_err(tried())?;
        let entries = self.conntrack.find(&pairs).map_err(tried())?;
        self.conntrack.delete(&entries).map_err(tried())?;
        Ok(())
    }
}

impl Meter for Conntrack {
    fn connections(&mut self, listeners: &[SocketAddr]) -> Result<BTreeMap<SocketAddr, u64>, DatapathError> {
        self.count(listeners.iter().copied()).map_err(kernel("count conntrack's entries"))
    }

    fn flows(
        &mut self,
        _filter: &FlowFilter,
        _each: &mut dyn FnMut(Flow) -> ControlFlow<()>,
    ) -> Result<(), DatapathError> {
        Err(DatapathError::Unsupported("flows cannot be listed yet".to_owned()))
    }

    fn usage(&mut self, _listeners: &[SocketAddr]) -> Result<Usage, DatapathError> {
        Err(DatapathError::Unsupported("usage cannot be told yet".to_owned()))
    }

    fn refused(&mut self) -> Result<BTreeMap<SocketAddr, Refused>, DatapathError> {
        Err(DatapathError::Unsupported("refused connections are not counted yet".to_owned()))
    }
}

/// The listeners in a table, those of a state that was never adopted included.
fn guarded(found: &Snapshot) -> impl Iterator<Item = SocketAddr> {
    found.elements.keys().filter_map(|key| if let Key::Listener(listener) = key { Some(*listener) } else { None })
}
