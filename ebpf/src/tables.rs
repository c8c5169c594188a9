//! What the maps hold, typed, and transactions on it.

use aya::Ebpf;
use aya::maps::lpm_trie::{Key, LpmTrie};
use aya::maps::{HashMap, Map, MapData, PerCpuArray};
use shunt_ebpf_common::ABI;
use shunt_ebpf_common::admission::{Listed, Places, Source};
use shunt_ebpf_common::control::{Control, Ports};
use shunt_ebpf_common::counter::Counter;
use shunt_ebpf_common::flow::{Endpoint, Flow, Tuple};
use shunt_ebpf_common::kept::{Frame, PACKET, Piece, SYN};
use shunt_ebpf_common::mapping::{Mapping, Pair, Versioned, Way};
use shunt_ebpf_common::pool::Pool;
use shunt_ebpf_common::tally::Tally;

use crate::Error;
use crate::shared::Shared;

/// The address of a field, without a reference to what others read meanwhile.
macro_rules! field {
    ($record:ident.$field:ident) => {
        // SAFETY: callers lend a pointer to an element that is mapped.
        unsafe { &raw mut (*$record).$field }
    };
}
pub struct Tables {
    control: Shared<Control>,
    mappings: Shared<Mapping>,
    pairs: Shared<Pair>,
    listeners: HashMap<MapData, Endpoint, u32>,
    flows: HashMap<MapData, Tuple, Flow>,
    counters: PerCpuArray<MapData, u64>,
    tallies: Shared<Tally>,
    pools: Shared<Pool>,
    allowed: LpmTrie<MapData, Listed, u32>,
    sources: HashMap<MapData, Source, Places>,
    held: HashMap<MapData, Tuple, Frame<SYN>>,
    kept: HashMap<MapData, Piece, Frame<PACKET>>,
}

impl Tables {
    pub(crate) fn of(ebpf: &mut Ebpf) -> Result<Self, Error> {
        let mut tables = Self {
            control: shared(ebpf, "CONTROL")?,
            mappings: shared(ebpf, "MAPPINGS")?,
            pairs: shared(ebpf, "PAIRS")?,
            listeners: typed(ebpf, "LISTENERS")?,
            flows: typed(ebpf, "FLOWS")?,
            counters: typed(ebpf, "COUNTERS")?,
            tallies: shared(ebpf, "TALLIES")?,
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
        let each = self.counters.get(&(counter as u32), 0).map_err(|error| Error::map("read the counters", error))?;
        Ok(each.iter().sum())
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

    /// Fills a slot with a pool, which no mapping has yet.
    pub fn set_pool(&mut self, slot: u32, pool: Pool) {
        self.pools.put(slot, pool);
    }

    /// The clients that are counted one by one.
    pub fn sources(&self) -> impl Iterator<Item = Result<(Source, Places), Error>> + '_ {
        self.sources.iter().map(|entry| entry.map_err(|error| Error::map("read the sources", error)))
    }

    /// Takes the SYNs out that wait for the mapping in that slot, in the order in which they came.
    pub fn take_held(&mut self, slot: u32) -> Result<Vec<Frame<SYN>>, Error> {
        let mut found = Vec::new();
        for entry in &self.held {
            let (key, frame) = entry.map_err(|error| Error::map("read the held SYNs", error))?;
            if frame.mapping == slot {
                found.push((key, frame));
            }
        }
        for (key, _) in &found {
            // Only we take them out; one that has come anew meanwhile goes with the old one, and is the same client's.
            let _ = self.held.remove(key);
        }
        self.tallies.put_field(slot, |tally| field!(tally.waiting), 0);
        found.sort_unstable_by_key(|(_, frame)| frame.came);
        Ok(found.into_iter().map(|(_, frame)| frame).collect())
    }

    /// Takes out what the client of a blocked flow has sent, in the order in which it came.
    pub fn take_kept(&mut self, flow: &Tuple) -> Result<Vec<Frame<PACKET>>, Error> {
        let mut found = Vec::new();
        for key in self.kept.keys() {
            let key = key.map_err(|error| Error::map("read the kept packets", error))?;
            if key.tuple == *flow
                && let Ok(frame) = self.kept.get(&key, 0)
            {
                found.push((key, frame));
            }
        }
        for (key, _) in &found {
            let _ = self.kept.remove(key);
        }
        found.sort_unstable_by_key(|(_, frame)| frame.came);
        Ok(found.into_iter().map(|(_, frame)| frame).collect())
    }

    /// Undoes what an agent that died had staged.
    fn recover(&mut self) {
        let committed = self.committed();
        for slot in 0..self.mappings.len() {
            self.mappings.unstage(slot, |mapping| mapping, committed);
        }
        for slot in 0..self.pairs.len() {
            self.pairs.unstage(slot, |pair| field!(pair.live_until), committed);
        }
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
    /// of the transaction, so the slot must not be in use.
    pub fn assign(&mut self, slot: u32, backend: Endpoint) {
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

    /// Gives a listener its mapping, which must be absent: only with a way does it exist.
    pub fn listen(&mut self, listener: Endpoint, slot: u32) -> Result<(), Error> {
        let what = || format!("enter the listener {}", crate::socket_address(&listener));
        self.tables.listeners.insert(listener, slot, 0).map_err(|error| Error::map(what(), error))
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
    M: TryFrom<Map, Error = aya::maps::MapError>,
{
    let map = ebpf.take_map(name).ok_or(Error::Missing(name))?;
    M::try_from(map).map_err(|error| Error::map(format!("take {name} for what it should be"), error))
}
