//! What the maps hold, typed, and transactions on it.

mod overheard;

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd as _, OwnedFd};
use std::sync::{Arc, Mutex, PoisonError};

use aya::Ebpf;
use aya::maps::lpm_trie::{Key, LpmTrie};
use aya::maps::{HashMap, Map, MapData, MapError, PerCpuArray};
use aya::programs::Program;
use ipnet::IpNet;
use shunt_ebpf_common::ABI;
use shunt_ebpf_common::admission::{Listed, Places, Source};
use shunt_ebpf_common::control::{Control, Ports};
use shunt_ebpf_common::counter::Counter;
use shunt_ebpf_common::flow::{Endpoint, Flow, Tuple};
use shunt_ebpf_common::kept::{Frame, PACKET, Piece, SYN};
use shunt_ebpf_common::mapping::{Mapping, Pair, Versioned, Way};
use shunt_ebpf_common::note::{Note, Noted, Owner};
use shunt_ebpf_common::pool::Pool;
use shunt_ebpf_common::signal::Signals;
use shunt_ebpf_common::tally::{Event, Tally};

use crate::flows::FlowTable;
use crate::live::Liveness;
use crate::orders::MANAGE;
use crate::shared::Shared;
use crate::state::lists;
use crate::{Error, Level, Pins, Size};

pub(crate) use overheard::Overheard;

/// The address of a field, without a reference to what others read meanwhile.
macro_rules! field {
    ($record:ident.$field:ident) => {
        // SAFETY: callers lend a pointer to an element that is mapped.
        unsafe { &raw mut (*$record).$field }
    };
}
use field;

mod aside;

/// The maps that the programs have, and that outlive the agent.
pub(crate) const MAPS: [&str; 13] = [
    "FLOWS",
    "LISTENERS",
    "MAPPINGS",
    "PAIRS",
    "CONTROL",
    "COUNTERS",
    "TALLIES",
    "SIGNALS",
    "ALLOWED",
    "SOURCES",
    "HELD",
    "KEPT",
    "POOLS",
];

/// Those that only the agent has, each with as many elements as the one that it goes with.
const NOTES: &str = "NOTES";
const OWNERS: &str = "OWNERS";

pub struct Tables {
    control: Shared<Control>,
    mappings: Shared<Mapping>,
    notes: Shared<Noted>,
    pairs: Shared<Pair>,
    owners: Shared<Owner>,
    listeners: HashMap<MapData, Endpoint, u32>,
    flows: HashMap<MapData, Tuple, Flow>,
    table: FlowTable,
    counts: Arc<Counts>,
    /// Every map by its name, to be pinned again and looked at from elsewhere.
    descriptors: Vec<(&'static str, OwnedFd)>,
    tallies: Shared<Tally>,
    signals: Shared<Signals>,
    pools: Shared<Pool>,
    allowed: LpmTrie<MapData, Listed, u32>,
    sources: HashMap<MapData, Source, Places>,
    held: HashMap<MapData, Tuple, Frame<SYN>>,
    kept: HashMap<MapData, Piece, Frame<PACKET>>,
}

impl Tables {
    pub(crate) fn of(ebpf: &mut Ebpf, pins: &Pins) -> Result<Self, Error> {
        let mut descriptors = Vec::new();
        for name in MAPS {
            descriptors.push((name, descriptor(ebpf, name)?));
        }
        let mappings: Shared<Mapping> = shared(ebpf, "MAPPINGS")?;
        let pairs: Shared<Pair> = shared(ebpf, "PAIRS")?;
        let (notes, descriptor) = beside::<Noted>(pins, NOTES, mappings.len())?;
        descriptors.push((NOTES, descriptor));
        let (owners, descriptor) = beside::<Owner>(pins, OWNERS, pairs.len())?;
        descriptors.push((OWNERS, descriptor));
        let mut tables = Self {
            control: shared(ebpf, "CONTROL")?,
            mappings,
            notes,
            pairs,
            owners,
            table: flow_table(ebpf)?,
            listeners: typed(ebpf, "LISTENERS")?,
            flows: typed(ebpf, "FLOWS")?,
            counts: Arc::new(Counts(typed(ebpf, "COUNTERS")?)),
            descriptors,
            tallies: shared(ebpf, "TALLIES")?,
            signals: shared(ebpf, "SIGNALS")?,
            pools: shared(ebpf, "POOLS")?,
            allowed: typed(ebpf, "ALLOWED")?,
            sources: typed(ebpf, "SOURCES")?,
            held: typed(ebpf, "HELD")?,
            kept: typed(ebpf, "KEPT")?,
        };
        tables.recover();
        tables.control.put_field(0, |control| field!(control.abi), ABI);
        Ok(tables)
    }

    /// The version that is written there.
    pub fn abi(&self) -> u32 {
        self.control.get(0).abi
    }

    /// The number of the last transaction.
    pub fn committed(&self) -> u64 {
        self.control.get(0).committed
    }

    /// The ports that flows may take at the proxy's own addresses.
    pub fn set_ports(&mut self, ports: [Ports; 2]) {
        self.control.put_field(0, |control| field!(control.ports), ports);
    }

    /// How much the programs say.
    pub fn set_log(&mut self, level: Level) {
        self.control.put_field(0, |control| field!(control.log), level.number());
    }

    /// The flow table, to be read and cleared from anywhere.
    pub fn flow_table(&self) -> FlowTable {
        self.table.clone()
    }

    /// What says whether a flow is live, to be asked from another thread.
    pub fn liveness(&self) -> Result<Liveness, Error> {
        Ok(Liveness::new(self.again("PAIRS", self.pairs.len())?, self.again("CONTROL", self.control.len())?))
    }

    fn descriptor(&self, name: &'static str) -> Result<&OwnedFd, Error> {
        let found = self.descriptors.iter().find(|(other, _)| *other == name);
        found.map(|(_, descriptor)| descriptor).ok_or(Error::Missing(name))
    }

    /// Maps an array a second time.
    fn again<T: aya::Pod>(&self, name: &'static str, len: u32) -> Result<Shared<T>, Error> {
        Shared::map(self.descriptor(name)?, len).map_err(|error| Error::kernel(format!("map {name}"), error))
    }

    /// What they count of each mapping.
    pub fn tallies(&self) -> Result<Arc<Tallies>, Error> {
        let again =
            self.descriptor("LISTENERS")?.try_clone().map_err(|error| Error::kernel("hold on to LISTENERS", error))?;
        let typed = || HashMap::try_from(Map::HashMap(MapData::from_fd(again)?));
        let listeners = typed().map_err(|error| Error::map("take LISTENERS for what it should be", error))?;
        Ok(Arc::new(Tallies { listeners, tallies: Mutex::new(self.again("TALLIES", self.tallies.len())?) }))
    }

    /// What the programs count, to be read from anywhere.
    pub fn counts(&self) -> Arc<Counts> {
        Arc::clone(&self.counts)
    }

    /// Every map by its name.
    pub(crate) fn descriptors(&self) -> &[(&'static str, OwnedFd)] {
        &self.descriptors
    }

    /// Slots for mappings, and for pairs.
    pub fn slots(&self) -> (u32, u32) {
        (self.mappings.len(), self.pairs.len())
    }

    /// Where a mapping leads, and what is noted of it, as committed.
    pub fn mapping(&self, slot: u32) -> (Way, Note) {
        (in_force(self.mappings.get(slot), self.committed()), in_force(self.notes.get(slot), self.committed()))
    }

    /// A pair's listener, its backend, and until when it is live, as committed.
    pub fn pair(&self, slot: u32) -> (Endpoint, Endpoint, u64) {
        let pair = self.pairs.get(slot);
        (self.owners.get(slot).listener, pair.backend, in_force(pair.live_until, self.committed()))
    }

    /// The listeners and the slots of their mappings.
    pub fn listeners(&self) -> Result<Vec<(Endpoint, u32)>, Error> {
        let all: Result<_, _> = self.listeners.iter().collect();
        all.map_err(|error| Error::map("read the listeners", error))
    }

    /// Gives a listener its mapping, which must be absent: only with a way does it exist.
    pub fn listen(&mut self, listener: Endpoint, slot: u32) -> Result<(), Error> {
        let what = || format!("enter the listener {}", crate::socket_address(&listener));
        self.listeners.insert(listener, slot, 0).map_err(|error| Error::map(what(), error))
    }

    /// Takes a listener away, whose mapping must be absent.
    pub fn forget(&mut self, listener: &Endpoint) -> Result<(), Error> {
        match self.listeners.remove(listener) {
            Err(error) if !is_missing(&error) => {
                let what = format!("take the listener {} away", crate::socket_address(listener));
                Err(Error::map(what, error))
            }
            _ => Ok(()),
        }
    }

    /// Begins a change. Nothing of it counts before it is committed.
    pub fn begin(&mut self) -> Transaction<'_> {
        let committed = self.committed();
        Transaction { tables: self, committed, done: false }
    }

    /// Calls `each` with both directions of every flow. What comes and goes meanwhile may be told or not.
    pub fn flows(&self) -> impl Iterator<Item = Result<(Tuple, Flow), Error>> + '_ {
        self.flows.iter().map(|entry| entry.map_err(|error| Error::map("read the flows", error)))
    }

    /// A counter's sum over all processors.
    pub fn count(&self, counter: Counter) -> Result<u64, Error> {
        self.counts.count(counter)
    }

    /// Begins to count anew for the mapping in that slot. What is open and what waits stays: entries that the slot's former
    /// mapping has left over give their places back to it when they go, and a number below nothing is over every limit.
    pub fn clear_tally(&mut self, slot: u32) {
        self.tallies.put_field(slot, |tally| field!(tally.counts), [0; Event::NUMBER]);
    }

    /// What was counted for the mapping in that slot.
    pub fn tally(&self, slot: u32) -> Tally {
        self.tallies.get(slot)
    }

    /// Enters a network into a list of those who may connect, which no mapping has yet.
    pub fn allow(&mut self, list: u32, network: Endpoint, length: u8) -> Result<(), Error> {
        let prefix = Listed::prefix(length, network.address.is_v4());
        let key = Key::new(prefix, Listed { list, address: network.address });
        self.allowed.insert(&key, 1, 0).map_err(|error| Error::map("enter a network that may connect", error))
    }

    /// Enters a network into a list that no mapping has yet.
    pub fn allow_network(&mut self, list: u32, network: &IpNet) -> Result<(), Error> {
        let address = crate::endpoint(SocketAddr::new(network.addr(), 0));
        self.allow(list, address, network.prefix_len())
    }

    /// Takes a network out of a list that no mapping has any more.
    pub fn disallow_network(&mut self, list: u32, network: &IpNet) -> Result<(), Error> {
        let address = crate::endpoint(SocketAddr::new(network.addr(), 0)).address;
        let prefix = Listed::prefix(network.prefix_len(), network.addr().is_ipv4());
        match self.allowed.remove(&Key::new(prefix, Listed { list, address })) {
            Err(error) if !is_missing(&error) => Err(Error::map("take a network out of a list", error)),
            _ => Ok(()),
        }
    }

    /// The networks of all lists.
    pub fn networks(&self) -> Result<BTreeMap<u32, Vec<IpNet>>, Error> {
        let mut found: BTreeMap<u32, Vec<IpNet>> = BTreeMap::new();
        for key in self.allowed.keys() {
            let key = key.map_err(|error| Error::map("read the lists of those who may connect", error))?;
            let listed = key.data();
            if let Some(network) = lists::network(&listed, key.prefix_len()) {
                found.entry(listed.list).or_default().push(network);
            }
        }
        Ok(found)
    }

    /// The pool in a slot.
    pub fn pool(&self, slot: u32) -> Pool {
        if slot < self.pools.len() { self.pools.get(slot) } else { Pool::default() }
    }

    /// Fills a slot with a pool, which no mapping has yet.
    pub fn set_pool(&mut self, slot: u32, pool: Pool) {
        self.pools.put(slot, pool);
    }

    /// Undoes what an agent that died had staged.
    fn recover(&mut self) {
        let committed = self.committed();
        for slot in 0..self.mappings.len() {
            self.mappings.unstage(slot, |mapping| mapping, committed);
            self.notes.unstage(slot, |note| note, committed);
        }
        for slot in 0..self.pairs.len() {
            self.pairs.unstage(slot, |pair| field!(pair.live_until), committed);
        }
    }
}

/// What the programs count of each listener's mapping, to be read from anywhere.
pub struct Tallies {
    listeners: HashMap<MapData, Endpoint, u32>,
    tallies: Mutex<Shared<Tally>>,
}

impl Tallies {
    /// Of all listeners.
    pub fn all(&self) -> Result<Vec<(SocketAddr, Tally)>, Error> {
        let tallies = self.tallies.lock().unwrap_or_else(PoisonError::into_inner);
        let told = |entry: Result<(Endpoint, u32), MapError>| {
            let (listener, slot) = entry.map_err(|error| Error::map("read the listeners", error))?;
            Ok((crate::socket_address(&listener), tallies.get(slot)))
        };
        self.listeners.iter().map(told).collect()
    }
}

/// What the programs count.
pub struct Counts(PerCpuArray<MapData, u64>);

impl Counts {
    /// A counter's sum over all processors.
    pub fn count(&self, counter: Counter) -> Result<u64, Error> {
        let each = self.0.get(&(counter as u32), 0).map_err(|error| Error::map("read the counters", error))?;
        Ok(each.iter().sum())
    }
}

/// A change of any number of mappings, which every packet sees whole or not at all.
#[must_use = "nothing of it counts until it is committed"]
pub struct Transaction<'a> {
    tables: &'a mut Tables,
    committed: u64,
    done: bool,
}

impl Transaction<'_> {
    /// Gives a slot to another pair, dead until it is said to live: whatever flows its former one had are over. Not part
    /// of the transaction, so the slot must not be in use, nor have been when the last program began that still runs.
    pub fn assign(&mut self, slot: u32, listener: Endpoint, backend: Endpoint) {
        self.tables.owners.put(slot, Owner { listener, zero: 0 });
        self.tables.signals.put(slot, Signals::default());
        let generation = self.tables.pairs.get(slot).generation.wrapping_add(1);
        let live_until = Versioned { transaction: 0, new: 0, old: 0 };
        self.tables.pairs.put(slot, Pair { live_until, generation, backend });
    }

    /// Lets a pair live until then.
    pub fn live(&mut self, slot: u32, until: u64) {
        self.tables.pairs.stage(slot, |pair| field!(pair.live_until), self.committed, until);
    }

    /// Says where a mapping leads.
    pub fn lead(&mut self, slot: u32, way: Way) {
        self.tables.mappings.stage(slot, |mapping| mapping, self.committed, way);
    }

    /// Says what the next agent must know of a mapping.
    pub fn note(&mut self, slot: u32, note: Note) {
        self.tables.notes.stage(slot, |noted| noted, self.committed, note);
    }

    /// Gives a listener its mapping at once; see [`Tables::listen`].
    pub fn listen(&mut self, listener: Endpoint, slot: u32) -> Result<(), Error> {
        self.tables.listen(listener, slot)
    }

    /// Puts all of it into force, in one store.
    pub fn commit(mut self) {
        self.done = true;
        let next = self.committed + 1;
        self.tables.control.put_field(0, |control| field!(control.committed), next);
    }
}

impl Drop for Transaction<'_> {
    fn drop(&mut self) {
        if !self.done {
            self.tables.recover();
        }
    }
}

fn in_force<T>(record: Versioned<T>, committed: u64) -> T {
    if record.transaction <= committed { record.new } else { record.old }
}

fn descriptor(ebpf: &Ebpf, name: &'static str) -> Result<OwnedFd, Error> {
    let Some(Map::Array(map) | Map::HashMap(map) | Map::PerCpuArray(map) | Map::LpmTrie(map)) = ebpf.map(name) else {
        return Err(Error::Missing(name));
    };
    map.fd().as_fd().try_clone_to_owned().map_err(|error| Error::kernel(format!("hold on to {name}"), error))
}

fn flow_table(ebpf: &Ebpf) -> Result<FlowTable, Error> {
    const NAME: &str = "FLOWS";
    let Some(Map::HashMap(map)) = ebpf.map(NAME) else { return Err(Error::Missing(NAME)) };
    let info = map.info().map_err(|error| Error::map(format!("look at {NAME}"), error))?;
    if (info.key_size() as usize, info.value_size() as usize) != (size_of::<Tuple>(), size_of::<Flow>()) {
        return Err(Error::Missing(NAME));
    }
    let Some(Program::SchedClassifier(manage)) = ebpf.program(MANAGE) else { return Err(Error::Missing(MANAGE)) };
    let failed = |error| Error::program(format!("use {MANAGE}"), error);
    let manage = manage.fd().map_err(failed)?.as_fd().try_clone_to_owned();
    let manage = manage.map_err(|error| Error::kernel(format!("hold on to {MANAGE}"), error))?;
    Ok(FlowTable::new(descriptor(ebpf, NAME)?, info.max_entries(), manage))
}

/// Makes those that only the agent has.
pub(crate) fn make_beside(pins: &Pins, size: Size) -> Result<(), Error> {
    beside::<Noted>(pins, NOTES, size.mappings)?;
    beside::<Owner>(pins, OWNERS, size.pairs).map(drop)
}

/// An array that no program has: the one that is pinned there, or a new one.
fn beside<T: aya::Pod>(pins: &Pins, name: &'static str, len: u32) -> Result<(Shared<T>, OwnedFd), Error> {
    let path = pins.map(name);
    let map = if path.exists() {
        MapData::from_pin(&path).map_err(|error| Error::map(format!("take {}", path.display()), error))?
    } else {
        let kind = aya_obj::generated::bpf_map_type::BPF_MAP_TYPE_ARRAY as u32;
        let shape = aya_obj::Map::new_from_params(kind, 4, size_of::<T>() as u32, len, BPF_F_MMAPABLE);
        let map = MapData::create(shape, name, None).map_err(|error| Error::map(format!("make {name}"), error))?;
        map.pin(&path).map_err(|error| Error::kernel(format!("pin {name}"), io::Error::other(error)))?;
        map
    };
    let info = map.info().map_err(|error| Error::map(format!("look at {name}"), error))?;
    if (info.value_size() as usize, info.max_entries()) != (size_of::<T>(), len) {
        return Err(Error::Missing(name));
    }
    let failed = |error| Error::kernel(format!("map {name}"), error);
    let shared = Shared::map(map.fd(), len).map_err(failed)?;
    Ok((shared, map.fd().as_fd().try_clone_to_owned().map_err(failed)?))
}

/// linux/bpf.h
const BPF_F_MMAPABLE: u32 = 1 << 10;

fn is_missing(error: &MapError) -> bool {
    match error {
        MapError::KeyNotFound | MapError::ElementNotFound => true,
        MapError::SyscallError(call) => call.io_error.raw_os_error() == Some(libc::ENOENT),
        _ => false,
    }
}

fn shared<T: aya::Pod>(ebpf: &mut Ebpf, name: &'static str) -> Result<Shared<T>, Error> {
    let Some(Map::Array(array)) = ebpf.take_map(name) else { return Err(Error::Missing(name)) };
    let info = array.info().map_err(|error| Error::map(format!("look at {name}"), error))?;
    if info.value_size() as usize != size_of::<T>() {
        return Err(Error::Missing(name));
    }
    Shared::map(array.fd(), info.max_entries()).map_err(|error| Error::kernel(format!("map {name}"), error))
}

fn typed<M>(ebpf: &mut Ebpf, name: &'static str) -> Result<M, Error>
where
    M: TryFrom<Map, Error = MapError>,
{
    let map = ebpf.take_map(name).ok_or(Error::Missing(name))?;
    M::try_from(map).map_err(|error| Error::map(format!("take {name} for what it should be"), error))
}
