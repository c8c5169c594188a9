//! The records themselves, from maps of the older layout into today's.

use std::collections::HashMap as Counts;

use aya::Pod;
use aya::maps::lpm_trie::LpmTrie;
use aya::maps::{HashMap, Map, MapData, MapError, PerCpuArray, PerCpuValues};
use aya::util::nr_cpus;
use shunt_ebpf_common::ABI;
use shunt_ebpf_common::admission::{Listed, Places, Source};
use shunt_ebpf_common::control::{BEGUN, Control};
use shunt_ebpf_common::flow::{Endpoint, Flow, Tuple, mark, state};
use shunt_ebpf_common::kept::{Frame, PACKET, Piece, SYN};
use shunt_ebpf_common::manage::{Command, what};
use shunt_ebpf_common::mapping::{Mapping, Pair, Versioned, Way, kind};
use shunt_ebpf_common::note::{Noted, Owner};
use shunt_ebpf_common::pool::Pool;
use shunt_ebpf_common::tally::Tally;

use super::abi2;
use crate::shared::Shared;
use crate::sys::{self, Place};
use crate::{Error, Object, Pins, Size, clock};

/// How long SYNs are held at most if nobody comes back to let them in.
const HELD: u64 = 30_000_000_000;

/// Entries that are copied at a time.
const BATCH: usize = 2048;

/// A flow of which nothing was seen for so long is not one that its next packet brings up to date at once.
const IDLE: u64 = 5_000_000;

/// Maps of the older layout.
pub struct Former {
    pins: Pins,
    control: Shared<abi2::Control>,
    mappings: Shared<abi2::Versioned<abi2::Way>>,
    pairs: Shared<abi2::Pair>,
    flows: MapData,
}

impl Former {
    pub fn open(pins: &Pins) -> Result<Self, Error> {
        Ok(Self {
            pins: pins.clone(),
            control: array(pins, "CONTROL")?,
            mappings: array(pins, "MAPPINGS")?,
            pairs: array(pins, "PAIRS")?,
            flows: map(pins, "FLOWS")?,
        })
    }

    pub fn size(&self) -> Result<Size, Error> {
        let flows = self.flows.info().map_err(|error| Error::map("look at FLOWS", error))?.max_entries() / 2;
        Ok(Size { flows, mappings: self.mappings.len(), pairs: self.pairs.len() })
    }

    /// Lets no SYN open a flow any more, in one store as always; what the mappings say is in the new maps already.
    pub fn hold(&self, new: &New) -> Result<(), Error> {
        let mut control: Shared<abi2::Control> = array(&self.pins, "CONTROL")?;
        let mut mappings: Shared<abi2::Versioned<abi2::Way>> = array(&self.pins, "MAPPINGS")?;
        let committed = control.get(0).committed;
        let next = committed + 1;
        // What an agent had staged when it died would be committed with this.
        let mut pairs: Shared<abi2::Pair> = array(&self.pins, "PAIRS")?;
        for slot in 0..pairs.len() {
            let abi2::Pair { live_until, .. } = pairs.get(slot);
            if live_until.transaction > committed {
                // SAFETY: fields of an element that is mapped; readers take `old` until `transaction` says otherwise.
                pairs.put_field(slot, |pair| unsafe { &raw mut (*pair).live_until.new }, live_until.old);
                // SAFETY: likewise.
                pairs.put_field(slot, |pair| unsafe { &raw mut (*pair).live_until.transaction }, committed);
            }
        }
        for slot in 0..mappings.len() {
            let way = mappings.get(slot).in_force(committed);
            // Asked of the new ones: an agent that died may have come as far as this before.
            let leads = new.kind(slot) == kind::LEADS;
            let held = if leads { abi2::Way { kind: kind::HOLDS, until: clock::now() + HELD, ..way } } else { way };
            // SAFETY: fields of an element that is mapped.
            mappings.put_field(slot, |mapping| unsafe { &raw mut (*mapping).old }, way);
            // SAFETY: likewise.
            mappings.put_field(slot, |mapping| unsafe { &raw mut (*mapping).transaction }, next);
            // SAFETY: likewise.
            mappings.put_field(slot, |mapping| unsafe { &raw mut (*mapping).new }, held);
        }
        // SAFETY: likewise.
        control.put_field(0, |control| unsafe { &raw mut (*control).committed }, next);
        Ok(())
    }

    fn walk(&self, each: impl FnMut(&[Tuple], &[abi2::Flow]) -> Result<(), Error>) -> Result<(), Error> {
        walk(&self.flows, each)
    }
}

/// Today's maps, while they are filled.
pub struct New {
    pins: Pins,
    control: Shared<Control>,
    mappings: Shared<Mapping>,
    tallies: Shared<Tally>,
    flows: MapData,
}

impl New {
    pub fn open(pins: &Pins) -> Result<Self, Error> {
        Ok(Self {
            pins: pins.clone(),
            control: array(pins, "CONTROL")?,
            mappings: array(pins, "MAPPINGS")?,
            tallies: array(pins, "TALLIES")?,
            flows: map(pins, "FLOWS")?,
        })
    }

    /// When flows were copied, [`BEGUN`], or 0.
    pub fn copied(&self) -> u64 {
        self.control.get(0).copied
    }

    pub fn set_copied(&mut self, moment: u64) {
        // SAFETY: a field of an element that is mapped.
        self.control.put_field(0, |control| unsafe { &raw mut (*control).copied }, moment);
    }

    /// What the mappings say counts from the next transaction on; until then they hold.
    pub fn take_all_but_flows(&mut self, former: &Former) -> Result<(), Error> {
        let control = former.control.get(0);
        let committed = control.committed;
        let mut pairs: Shared<Pair> = array(&self.pins, "PAIRS")?;
        for slot in 0..former.pairs.len() {
            let abi2::Pair { live_until, generation, backend } = former.pairs.get(slot);
            let until = live_until.in_force(committed);
            pairs.put(slot, Pair { live_until: alone(until), generation, backend });
        }
        let (noted, mut notes) =
            (array::<abi2::Versioned<abi2::Note>>(&former.pins, "NOTES")?, array(&self.pins, "NOTES")?);
        for slot in 0..noted.len() {
            let note = noted.get(slot).in_force(committed).into();
            notes.put(slot, Noted { transaction: 0, new: note, old: note });
        }
        copied::<abi2::Owner, Owner>(&former.pins, &self.pins, "OWNERS")?;
        copied::<abi2::Pool, Pool>(&former.pins, &self.pins, "POOLS")?;
        for slot in 0..former.mappings.len() {
            let way: Way = former.mappings.get(slot).in_force(committed).into();
            let held = Way { kind: kind::HOLDS, until: clock::now() + HELD, ..way };
            let old = if way.kind == kind::LEADS { held } else { way };
            self.mappings.put(slot, Mapping { transaction: committed + 1, new: way, old });
        }
        let listeners: HashMap<_, Endpoint, u32> = hash(&former.pins, "LISTENERS")?;
        let mut into: HashMap<_, Endpoint, u32> = hash(&self.pins, "LISTENERS")?;
        for entry in &listeners {
            let put = entry.and_then(|(listener, slot)| into.insert(listener, slot, 0));
            put.map_err(|error| Error::map("copy the listeners", error))?;
        }
        let trie = |pins: &Pins| -> Result<LpmTrie<MapData, Listed, u32>, Error> {
            typed(Map::LpmTrie(map(pins, "ALLOWED")?), "ALLOWED")
        };
        let (allowed, mut into) = (trie(&former.pins)?, trie(&self.pins)?);
        for entry in &allowed {
            let put = entry.and_then(|(network, value)| into.insert(&network, value, 0));
            put.map_err(|error| Error::map("copy the lists of those who may connect", error))?;
        }
        // Last: without its version it is nothing.
        self.control.put(0, Control { abi: ABI, copied: BEGUN, ..control.into() });
        Ok(())
    }

    /// Nobody else uses the new maps yet, and no flow is opened in the old ones.
    pub fn take_flows(&mut self, former: &Former) -> Result<(), Error> {
        self.clear_flows()?;
        let mut open: Counts<u32, u64> = Counts::new();
        let mut taken: Counts<Source, u64> = Counts::new();
        former.walk(|keys, flows| {
            let flows: Vec<Flow> = flows.iter().map(|flow| (*flow).into()).collect();
            for (key, flow) in keys.iter().zip(&flows).filter(|(_, flow)| flow.state & state::FROM_CLIENT != 0) {
                // Counted anew: whoever clears a mark from here on gives back what is counted here.
                if flow.marks & mark::LISTENER != 0 {
                    *open.entry(flow.mapping).or_default() += 1;
                }
                if flow.marks & mark::SOURCE != 0 {
                    *taken.entry(Source { mapping: flow.mapping, address: key.source }).or_default() += 1;
                }
            }
            sys::put_all(self.flows.fd(), keys, &flows).map_err(|error| Error::kernel("copy the flows", error))
        })?;
        let mut sources: HashMap<_, Source, Places> = hash(&self.pins, "SOURCES")?;
        for (source, taken) in taken {
            let put = sources.insert(source, Places { taken, emptied: 0 }, 0);
            put.map_err(|error| Error::map("copy the sources", error))?;
        }
        let waiting = self.take_held(former)?;
        self.take_kept(former)?;
        let tallies: Shared<abi2::Tally> = array(&former.pins, "TALLIES")?;
        for slot in 0..tallies.len() {
            let count = |counts: &Counts<u32, u64>| counts.get(&slot).copied().unwrap_or_default();
            let tally = Tally { open: count(&open), waiting: count(&waiting), ..tallies.get(slot).into() };
            self.tallies.put(slot, tally);
        }
        self.take_counters(former)
    }

    /// Of an agent that died while it copied.
    fn clear_flows(&self) -> Result<(), Error> {
        walk(&self.flows, |keys, _: &[Flow]| {
            let failed = |error| Error::kernel("clear the flow table", error);
            keys.iter().try_for_each(|key| sys::remove(self.flows.fd(), key).map_err(failed))
        })
    }

    /// SYNs that are held as they are meant to be; how many, by mapping.
    fn take_held(&self, former: &Former) -> Result<Counts<u32, u64>, Error> {
        let failed = |error| Error::map("copy the held SYNs", error);
        let mut into: HashMap<_, Tuple, Frame<SYN>> = hash(&self.pins, "HELD")?;
        let mut waiting = Counts::new();
        for entry in &hash::<Tuple, abi2::Syn>(&former.pins, "HELD")? {
            let (key, frame) = entry.map_err(failed)?;
            if self.kind(frame.mapping) == kind::HOLDS {
                into.insert(key, Frame::from(frame), 0).map_err(failed)?;
                *waiting.entry(frame.mapping).or_default() += 1;
            }
        }
        Ok(waiting)
    }

    fn take_kept(&self, former: &Former) -> Result<(), Error> {
        let failed = |error| Error::map("copy the packets of blocked flows", error);
        let mut into: HashMap<_, Piece, Frame<PACKET>> = hash(&self.pins, "KEPT")?;
        for entry in &hash::<Piece, abi2::Packet>(&former.pins, "KEPT")? {
            let (key, frame) = entry.map_err(failed)?;
            into.insert(key, Frame::from(frame), 0).map_err(failed)?;
        }
        Ok(())
    }

    /// As sums: which processor counted what is nobody's matter.
    fn take_counters(&self, former: &Former) -> Result<(), Error> {
        let failed = |error| Error::map("copy the counters", error);
        let counters = |pins: &Pins| -> Result<PerCpuArray<MapData, u64>, Error> {
            typed(Map::PerCpuArray(map(pins, "COUNTERS")?), "COUNTERS")
        };
        let (old, mut new) = (counters(&former.pins)?, counters(&self.pins)?);
        let processors = nr_cpus().map_err(|(what, error)| Error::kernel(what, error))?;
        for counter in 0..old.len().min(new.len()) {
            let mut values = vec![0; processors];
            values[0] = old.get(&counter, 0).map_err(failed)?.iter().sum();
            let values = PerCpuValues::try_from(values).map_err(|error| Error::kernel("copy the counters", error))?;
            new.set(counter, values, 0).map_err(failed)?;
        }
        Ok(())
    }

    /// What the mappings say counts from now on.
    pub fn let_in(&mut self) {
        let staged = (0..self.mappings.len()).map(|slot| self.mappings.get(slot).transaction).max().unwrap_or(0);
        if self.control.get(0).committed < staged {
            // SAFETY: a field of an element that is mapped.
            self.control.put_field(0, |control| unsafe { &raw mut (*control).committed }, staged);
        }
    }

    /// What old programs have written into flows since they were copied. New ones write there too: what they have touched
    /// is left to them, and so is what its next packet will bring up to date.
    pub fn catch_up(&mut self, former: &Former, object: &mut Object) -> Result<(), Error> {
        let (since, now) = (self.copied(), clock::now());
        let mut over = Vec::new();
        former.walk(|keys, flows| {
            for (key, flow) in keys.iter().zip(flows).filter(|(_, flow)| flow.seen >= since) {
                let failed = |error| Error::kernel("bring a flow up to date", error);
                let Some(mine): Option<Flow> = sys::get(self.flows.fd(), key).map_err(failed)? else { continue };
                if mine.seen > flow.seen {
                    continue;
                }
                if flow.state & state::CLOSED != 0 {
                    // The programs give its places back.
                    over.push(Command { flow: *key, unseen_since: now, what: what::FORGET_IDLE, mapping: 0 });
                } else if flow.seen + IDLE < now {
                    let caught_up = Flow { marks: mine.marks, ..(*flow).into() };
                    sys::replace(self.flows.fd(), key, &caught_up).map_err(failed)?;
                }
            }
            Ok(())
        })?;
        object.manage(&over)?;
        self.take_kept(former)
    }

    /// Lets the SYNs in that were held meanwhile.
    pub fn play(&mut self, former: &Former, object: &mut Object) -> Result<(), Error> {
        let failed = |error| Error::map("read the held SYNs", error);
        let mut frames: Vec<Frame<SYN>> = Vec::new();
        for entry in &hash::<Tuple, abi2::Syn>(&former.pins, "HELD")? {
            frames.push(entry.map_err(failed)?.1.into());
        }
        let mut held: HashMap<_, Tuple, Frame<SYN>> = hash(&self.pins, "HELD")?;
        let ours: Vec<(Tuple, Frame<SYN>)> = held.iter().collect::<Result<_, _>>().map_err(failed)?;
        for (key, frame) in ours {
            if self.kind(frame.mapping) == kind::HOLDS {
                continue;
            }
            let _ = held.remove(&key);
            // SAFETY: a field of an element that is mapped.
            self.tallies.put_field(frame.mapping, |tally| unsafe { &raw mut (*tally).waiting }, 0);
            frames.push(frame);
        }
        frames.retain(|frame| self.kind(frame.mapping) != kind::HOLDS);
        frames.sort_unstable_by_key(|frame| frame.came);
        for frame in frames {
            // What is not put back, TCP sends again.
            if !object.replay(&frame)? {
                tracing::debug!(interface = frame.interface, "the interface of a packet that was kept is gone");
            }
        }
        Ok(())
    }

    /// What the mapping in that slot does once SYNs are let in.
    fn kind(&self, slot: u32) -> u32 {
        if slot < self.mappings.len() { self.mappings.get(slot).new.kind } else { kind::ABSENT }
    }
}

fn alone(value: u64) -> Versioned<u64> {
    Versioned { transaction: 0, new: value, old: value }
}

/// All elements of an array.
fn copied<O: Pod + Into<N>, N: Pod>(from: &Pins, to: &Pins, name: &'static str) -> Result<(), Error> {
    let (old, mut new): (Shared<O>, Shared<N>) = (array(from, name)?, array(to, name)?);
    (0..old.len().min(new.len())).for_each(|at| new.put(at, old.get(at).into()));
    Ok(())
}

fn map(pins: &Pins, name: &'static str) -> Result<MapData, Error> {
    let path = pins.map(name);
    MapData::from_pin(&path).map_err(|error| Error::map(format!("take {}", path.display()), error))
}

fn array<T: Pod>(pins: &Pins, name: &'static str) -> Result<Shared<T>, Error> {
    let map = map(pins, name)?;
    let info = map.info().map_err(|error| Error::map(format!("look at {name}"), error))?;
    if info.value_size() as usize != size_of::<T>() {
        return Err(Error::Missing(name));
    }
    Shared::map(map.fd(), info.max_entries()).map_err(|error| Error::kernel(format!("map {name}"), error))
}

fn hash<K: Pod, V: Pod>(pins: &Pins, name: &'static str) -> Result<HashMap<MapData, K, V>, Error> {
    typed(Map::HashMap(map(pins, name)?), name)
}

fn typed<M: TryFrom<Map, Error = MapError>>(map: Map, name: &'static str) -> Result<M, Error> {
    M::try_from(map).map_err(|error| Error::map(format!("take {name} for what it should be"), error))
}

/// Calls `each` with some entries of a flow table after the other.
fn walk<V: Pod>(map: &MapData, mut each: impl FnMut(&[Tuple], &[V]) -> Result<(), Error>) -> Result<(), Error> {
    let (mut place, mut room): (Option<Place>, usize) = (None, BATCH);
    let info = map.info().map_err(|error| Error::map("look at FLOWS", error))?;
    if info.value_size() as usize != size_of::<V>() || info.key_size() as usize != size_of::<Tuple>() {
        return Err(Error::Missing("FLOWS"));
    }
    loop {
        let mut keys = vec![Tuple::default(); room];
        // SAFETY: every pattern of bits is a value.
        let mut values = vec![unsafe { std::mem::zeroed::<V>() }; room];
        match sys::step(map.fd(), place, &mut keys, &mut values) {
            Ok(step) => {
                each(&keys[..step.elements], &values[..step.elements])?;
                place = step.next;
                if place.is_none() {
                    return Ok(());
                }
            }
            // One bucket holds more than that.
            Err(error) if error.raw_os_error() == Some(libc::ENOSPC) && room < info.max_entries() as usize => room *= 2,
            Err(error) => return Err(Error::kernel("read the flow table", error)),
        }
    }
}
