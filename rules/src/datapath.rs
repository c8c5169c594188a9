//! The nftables datapath: committed state in memory, one transaction per change.
//!
//! What was committed is kept here and compared with the kernel only by [`NftDatapath::reconcile`]; applying a change
//! lists nothing. When the kernel rejects a change because somebody has meddled with the table, the change and the
//! repair go into one transaction: a failover does not wait for the next reconciliation.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr as UnixAddr, UnixListener};
use std::time::{Duration, Instant};
use std::{io, mem};

use shunt_core::datapath::{Applied, Change, Datapath, DatapathError, Drift, Held};

use crate::conntrack::Conntrack;
use crate::conntrack::reaper::Reaper;
use crate::drift::{Comparison, Wording, compare, our_wording, repair};
use crate::element::{Key, Pair};
use crate::netlink::batch::{Batch, Subject};
use crate::netlink::read::{self, Snapshot};
use crate::netlink::socket::{Netlink, Rejection};
use crate::netlink::write;
use crate::ruleset::chains;
use crate::schema::{SIGNATURE, table_comment};
use crate::state::plan::{Op, Plan, difference};
use crate::state::{Elements, Road, State};

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
        }
        Ok(datapath)
    }

    /// The port id of the socket that changes the table, for [`crate::Notices`].
    pub fn port_id(&self) -> u32 {
        self.netlink.port_id()
    }

    /// Reads the table back. `None`: there is none. Somebody else's is an error.
    fn read_back(&mut self) -> Result<Option<Snapshot>, DatapathError> {
        let found = read::table(&mut self.netlink, &self.table)
            .map_err(|(what, source)| DatapathError::Kernel { what, source })?;
        if let Some(found) = &found {
            own(&self.table, found.comment.as_deref())?;
        }
        Ok(found)
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

    /// Makes a new table with everything in `state`, in the place of the old one when `replace`.
    fn build(&mut self, state: &State, replace: bool, now: Instant) -> Result<Duration, DatapathError> {
        let ops = difference(&Elements::new(), &state.elements(), now);
        let mut batch = self.batch();
        if replace {
            write::delete_table(&mut batch, &self.table);
        }
        write::create(&mut batch, &self.table);
        write::ops(&mut batch, &self.table, &ops, now);
        match self.commit(batch) {
            Ok(commit) => Ok(commit),
            Err(rejection) => {
                // A table that was not there a moment ago: whose is it?
                if rejection.is(libc::EEXIST) {
                    self.read_back()?;
                }
                Err(self.name(rejection))
            }
        }
    }

    /// Brings a table that is not as we left it to `desired`, in one transaction. `None`: nothing was amiss.
    fn restore(&mut self, desired: &State, now: Instant) -> Result<Option<Restored>, DatapathError> {
        let found = self.read_back()?;
        let Some(found) = found else {
            if self.presence == Presence::Absent && self.state.listeners.is_empty() {
                return Ok(None);
            }
            let commit = self.build(desired, false, now)?;
            self.presence = Presence::Current;
            let drift = vec![Drift { what: format!("table inet {} is gone", self.table) }];
            return Ok(Some(Restored { drift, commit, dead: Vec::new() }));
        };
        let expected = self.state.elements();
        let Comparison { drift, rebuild, chains } = compare(&self.table, &found, &expected, &self.wording, now);
        let strangers: Vec<Pair> = found.elements.keys().filter_map(|key| stranger(key, desired)).collect();
        let commit = if rebuild {
            self.build(desired, true, now)?
        } else {
            self.mend(&chains, &repair(&found.elements, &desired.elements(), now), now)?
        };
        self.presence = Presence::Current;
        if !chains.is_empty() {
            self.learn_wording()?;
        }
        Ok((!drift.is_empty()).then_some(Restored { drift, commit, dead: strangers }))
    }

    /// Rewrites the rules of `chains` and changes elements.
    fn mend(&mut self, rewrite: &[&'static str], ops: &[Op], now: Instant) -> Result<Duration, DatapathError> {
        let mut batch = self.batch();
        for chain in chains().iter().filter(|chain| rewrite.contains(&chain.name)) {
            write::flush(&mut batch, &self.table, chain.name);
            write::add_rules(&mut batch, &self.table, chain);
        }
        write::ops(&mut batch, &self.table, ops, now);
        if batch.is_empty() {
            return Ok(Duration::ZERO);
        }
        self.commit(batch).map_err(|rejection| self.name(rejection))
    }

    /// A kernel that puts the rules that we have just written in other words is taken at its word, or every
    /// reconciliation would write them anew.
    fn learn_wording(&mut self) -> Result<(), DatapathError> {
        if let Some(found) = self.read_back()?
            && found.rules != self.wording
        {
            tracing::warn!(table = self.table, "this kernel reads our rules back in other words");
            self.wording = found.rules;
        }
        Ok(())
    }

    fn batch(&mut self) -> Batch {
        Batch::new(self.netlink.next_seq())
    }

    fn commit(&mut self, batch: Batch) -> Result<Duration, Rejected> {
        let batch = batch.finish();
        self.netlink.skip_seqs(batch.span());
        self.netlink.commit(&batch).map_err(|Rejection { message, offset, error }| Rejected {
            subject: message.and_then(|index| batch.subject(index, offset)),
            error,
        })
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
            match self.restore(&after, Instant::now())? {
                Some(restored) => {
                    let drift: Vec<_> = restored.drift.iter().map(ToString::to_string).collect();
                    tracing::warn!(table = self.table, ?drift, "repaired the table along with a change");
                    self.reaper.bury(restored.dead);
                    Ok(restored.commit)
                }
                None => Err(error),
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
            Default::default()
        };
        let plan = self.state.upkeep(&remaining, now);
        let generation =
            read::generation(&mut self.netlink).map_err(kernel("ask for the ruleset's generation"))?;
        if self.verified == Some(generation) && plan.changed == 0 {
            return Ok(Vec::new());
        }
        let mut after = self.state.clone();
        after.commit(plan.clone());
        let restored = self.restore(&after, now)?;
        self.state = after;
        self.reaper.bury(plan.dead);
        let Some(restored) = restored else {
            self.verified = (plan.changed == 0).then_some(generation);
            return Ok(Vec::new());
        };
        self.verified = None;
        self.reaper.bury(restored.dead);
        Ok(restored.drift)
    }

    fn connections(&mut self) -> Result<BTreeMap<SocketAddr, u64>, DatapathError> {
        let listeners = self.state.listeners.iter().filter(|(_, l)| l.road != Road::Removed).map(|(l, _)| *l);
        self.conntrack.connections(listeners).map_err(kernel("count conntrack's entries"))
    }

    fn severed(&self) -> u64 {
        self.reaper.reaped()
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
        let pairs: BTreeSet<Pair> = mem::take(&mut self.state).pairs().chain(live_pairs(&found)).collect();
        let conntrack = &mut self.conntrack;
        let entries = conntrack.find(&pairs).map_err(kernel("find conntrack's entries of our listeners"))?;
        conntrack.delete(&entries).map_err(kernel("delete conntrack's entries of our listeners"))?;
        Ok(())
    }
}

/// A repaired table.
struct Restored {
    drift: Vec<Drift>,
    commit: Duration,
    /// Pairs that somebody else had let pass.
    dead: Vec<Pair>,
}

/// A transaction that the kernel did not take, with the object that it named.
struct Rejected {
    subject: Option<Subject>,
    error: io::Error,
}

impl Rejected {
    fn is(&self, errno: i32) -> bool {
        self.error.raw_os_error() == Some(errno)
    }

    fn element(&self) -> Option<Key> {
        match &self.subject {
            Some(Subject::Elements(keys)) if keys.len() == 1 => keys.first().copied(),
            _ => None,
        }
    }

    fn name(self, table: &str) -> DatapathError {
        let what = match self.subject {
            Some(Subject::Table) => format!("table inet {table}"),
            Some(subject) => format!("{subject} in table inet {table}"),
            None => format!("the transaction on table inet {table}"),
        };
        DatapathError::Rejected { what, source: self.error }
    }
}

/// Held for as long as the datapath is open, and let go by the kernel when its process dies. Abstract sockets belong to
/// the network namespace, as the table does.
fn lock(table: &str) -> Result<UnixListener, DatapathError> {
    let tried = || kernel(format!("take the lock of table inet {table}"));
    let name = UnixAddr::from_abstract_name(format!("shunt/nft/{table}")).map_err(tried())?;
    let patience = Instant::now() + Duration::from_millis(300);
    loop {
        match UnixListener::bind_addr(&name) {
            Ok(lock) => return Ok(lock),
            // A child that its former holder has forked holds the lock, too, until it executes its program.
            Err(error) if error.kind() == io::ErrorKind::AddrInUse && Instant::now() < patience => {
                std::thread::sleep(Duration::from_millis(20));
            }
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
                return Err(DatapathError::InUse { table: table.to_owned() });
            }
            Err(error) => return Err(tried()(error)),
        }
    }
}

/// Is a table with this comment ours?
pub fn own(table: &str, comment: Option<&str>) -> Result<(), DatapathError> {
    if comment.is_some_and(|comment| comment.starts_with(SIGNATURE)) {
        return Ok(());
    }
    let found = comment.map_or_else(|| "it has no comment".to_owned(), |comment| format!("its comment is \"{comment}\""));
    let detail = format!("{found}, not \"{}\"", table_comment());
    Err(DatapathError::Foreign { table: format!("inet {table}"), detail })
}

fn kernel(what: impl Into<String>) -> impl FnOnce(io::Error) -> DatapathError {
    let what = what.into();
    move |source| DatapathError::Kernel { what, source }
}

fn live_pairs(found: &Snapshot) -> impl Iterator<Item = Pair> {
    found.elements.keys().filter_map(|key| if let Key::Live(pair) = key { Some(*pair) } else { None })
}

/// A live pair that `desired` does not have.
fn stranger(key: &Key, desired: &State) -> Option<Pair> {
    let Key::Live(pair) = key else { return None };
    let known = desired.listeners.get(&pair.listener).is_some_and(|l| l.live().any(|(b, _)| b == pair.backend));
    (!known).then_some(*pair)
}
