//! What the programs have put by: SYNs of held connections, what blocked clients have sent, and which clients are counted
//! one by one. Much of it can come when nobody expects it, so it is read many entries at a time.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::io;
use std::os::fd::AsFd as _;
use std::sync::Arc;

use aya::Pod;
use aya::maps::{HashMap, IterableMap as _, MapData, MapError};
use shunt_ebpf_common::admission::{Places, Source};
use shunt_ebpf_common::flow::Tuple;
use shunt_ebpf_common::kept::{Frame, PACKET, Piece, SYN};

use super::Tables;
use crate::Error;
use crate::sys::Place;
use crate::walk::Walk;

impl Tables {
    /// The clients that are counted one by one.
    pub fn sources(&self) -> Result<Vec<(Source, Places)>, Error> {
        let mut all = Vec::new();
        walk(&self.sources, None)?.each(|source, places| all.push((*source, *places))).map_err(reading("sources"))?;
        Ok(all)
    }

    /// Some more of the clients that have had no connections since then, and where to go on; `None`: that was the end.
    pub fn idle_sources(&self, from: Option<Place>, since: u64) -> Result<(Vec<Source>, Option<Place>), Error> {
        let mut idle = Vec::new();
        let next = walk(&self.sources, from)?.step(|source, places: &Places| {
            if places.taken == 0 && places.emptied < since {
                idle.push(*source);
            }
        });
        Ok((idle, next.map_err(reading("sources"))?))
    }

    /// Takes the SYNs out that wait for the mapping in that slot, in the order in which they came.
    pub fn take_held(&mut self, slot: u32) -> Result<Vec<Frame<SYN>>, Error> {
        let mut frames = Vec::new();
        take(&mut self.held, "held SYNs", |_, frame| frame.mapping == slot, |frame| frames.push(frame))?;
        self.tallies.put_field(slot, |tally| field!(tally.waiting), 0);
        frames.sort_unstable_by_key(|frame| frame.came);
        Ok(frames)
    }

    /// The slots of mappings that SYNs wait for.
    pub fn waited_for(&self) -> Result<BTreeSet<u32>, Error> {
        let mut slots = BTreeSet::new();
        let each = |_: &Tuple, frame: &Frame<SYN>| {
            slots.insert(frame.mapping);
        };
        walk(&self.held, None)?.each(each).map_err(reading("held SYNs"))?;
        Ok(slots)
    }

    /// Takes SYNs out of which `is_over` says so. How many.
    pub fn clear_held(&mut self, is_over: impl Fn(&Frame<SYN>) -> bool) -> Result<u64, Error> {
        let mut of: BTreeMap<u32, u64> = BTreeMap::new();
        let each = |frame: Frame<SYN>| *of.entry(frame.mapping).or_default() += 1;
        take(&mut self.held, "held SYNs", |_, frame| is_over(frame), each)?;
        for (slot, number) in &of {
            if *slot < self.tallies.len() {
                self.tallies.subtract(*slot, |tally| field!(tally.waiting), *number);
            }
        }
        Ok(of.values().sum())
    }

    /// Takes out what the clients of these blocked flows have sent, in the order in which it came. Of all of them at once:
    /// it is looked for in all of the map.
    pub fn take_kept(&mut self, flows: &HashSet<Tuple>) -> Result<Vec<Frame<PACKET>>, Error> {
        let mut frames = Vec::new();
        take(&mut self.kept, "kept packets", |piece, _| flows.contains(&piece.tuple), |frame| frames.push(frame))?;
        frames.sort_unstable_by_key(|frame| frame.came);
        Ok(frames)
    }

    /// Takes packets out of flows of which `is_over` says so. How many.
    pub fn clear_kept(&mut self, is_over: impl Fn(&Tuple) -> bool) -> Result<u64, Error> {
        let mut number = 0;
        take(&mut self.kept, "kept packets", |piece: &Piece, _| is_over(&piece.tuple), |_| number += 1)?;
        Ok(number)
    }
}

/// Takes entries out of a map. One that has come anew meanwhile under the key of an old one goes with it: it is the same
/// client's, whose TCP will send it again.
fn take<K: Pod, const N: usize>(
    map: &mut HashMap<MapData, K, Frame<N>>,
    what: &str,
    is_wanted: impl Fn(&K, &Frame<N>) -> bool,
    mut each: impl FnMut(Frame<N>),
) -> Result<(), Error>
where
    Frame<N>: Pod,
{
    let mut found = Vec::new();
    let collect = |key: &K, frame: &Frame<N>| {
        if is_wanted(key, frame) {
            found.push((*key, *frame));
        }
    };
    walk(map, None)?.each(collect).map_err(reading(what))?;
    for (key, frame) in found {
        match map.remove(&key) {
            Err(error) if !super::is_missing(&error) => return Err(Error::map(format!("take out {what}"), error)),
            _ => each(frame),
        }
    }
    Ok(())
}

fn walk<K: Pod, V: Pod>(map: &HashMap<MapData, K, V>, from: Option<Place>) -> Result<Walk<K, V>, Error> {
    let data = map.map();
    let failed = |error: MapError| Error::map("look at a map", error);
    let again = data.fd().as_fd().try_clone_to_owned().map_err(|error| Error::kernel("hold on to a map", error))?;
    Ok(Walk::new(Arc::new(again), data.info().map_err(failed)?.max_entries(), from))
}

fn reading(what: &str) -> impl FnOnce(io::Error) -> Error {
    let what = format!("read the {what}");
    |error| Error::kernel(what, error)
}
