//! The maps as a whole: read back, adopted, and brought back to what they should be.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::SocketAddr;
use std::os::fd::AsFd as _;
use std::time::Instant;

use aya::maps::MapData;
use shunt_core::datapath::{DatapathError, Drift};
use shunt_ebpf_common::mapping::{FOR_EVER, source};
use shunt_wire::kernel;

use super::{EbpfDatapath, Loaded, interfaces};
use crate::flows::is_clients;
use crate::state::adopt::Found;
use crate::state::slots::Slots;
use crate::state::{Listener, Pair, State, lists};
use crate::{Error, clock, endpoint, ends, grace, socket_address};

impl Loaded {
    /// What the maps say.
    pub(super) fn found(&self) -> Result<Found, DatapathError> {
        let mut found = Found::default();
        let (listeners, pairs) = self.tables.slots();
        for (listener, slot) in self.tables.listeners()? {
            if slot < listeners {
                let (way, note) = self.tables.mapping(slot);
                found.mappings.insert(socket_address(&listener), (slot, way, note));
            }
        }
        found.lists = self.tables.networks()?;
        for (_, way, _) in found.mappings.values().filter(|(_, way, _)| way.source == source::POOL) {
            found.pools.insert(way.pool, lists::ranges(&self.tables.pool(way.pool)));
        }
        for slot in 0..pairs {
            let (listener, backend, until) = self.tables.pair(slot);
            if until > 0 {
                let pair = Pair { listener: socket_address(&listener), backend: socket_address(&backend) };
                found.pairs.insert(slot, (pair, until));
            }
        }
        Ok(found)
    }

    /// Takes the slots over that a former agent gave to what `state` holds. What it left over goes.
    pub(super) fn take_seats(&mut self, found: &Found, state: &State) -> Result<(), DatapathError> {
        let held = |listener: &SocketAddr| state.listeners.contains_key(listener);
        let seats =
            found.mappings.iter().filter(|(one, _)| held(one)).map(|(one, (slot, _, _))| (*one, *slot)).collect();
        let live: BTreeSet<Pair> = state
            .listeners
            .iter()
            .flat_map(|(listener, one)| one.live().into_keys().map(|backend| Pair { listener: *listener, backend }))
            .collect();
        let ours: BTreeMap<u32, Pair> = found
            .pairs
            .iter()
            .filter(|(_, (pair, _))| live.contains(pair))
            .map(|(slot, (pair, _))| (*slot, *pair))
            .collect();
        self.slots = Slots::new(self.tables.slots(), seats, ours.iter().map(|(slot, pair)| (*pair, *slot)).collect());
        for (listener, (_, way, _)) in found.mappings.iter().filter(|(one, _)| held(one)) {
            self.lent.adopt(*listener, way.allow, (way.source == source::POOL).then_some(way.pool));
        }
        self.next_list = found.lists.keys().last().map_or(1, |last| last.wrapping_add(1).max(1));
        let orphans: Vec<u32> = found.pairs.keys().filter(|slot| !ours.contains_key(slot)).copied().collect();
        if !orphans.is_empty() {
            let mut change = self.tables.begin();
            for slot in orphans {
                change.live(slot, 0);
            }
            change.commit();
        }
        for listener in found.mappings.keys().filter(|one| !held(one)) {
            self.tables.forget(&endpoint(*listener))?;
        }
        grace::wait();
        Ok(self.clear_lists(&found.lists)?)
    }
}

impl EbpfDatapath {
    /// Ends drains whose time is over, and what was kept for flows that are no more.
    pub(super) fn settle(&mut self) -> Result<(), DatapathError> {
        let Some(loaded) = &self.loaded else { return Ok(()) };
        let kept: BTreeSet<Pair> = self.state.kept().collect();
        let mut remaining: BTreeSet<Pair> = self
            .state
            .listeners
            .iter()
            .flat_map(|(listener, one)| {
                let drained = one.former.iter().filter(|(_, until)| **until != FOR_EVER);
                drained.map(|(backend, _)| Pair { listener: *listener, backend: *backend })
            })
            .collect();
        if !kept.is_empty() {
            let walked = loaded.tables.flow_table().walk().each(|key, flow| {
                let pair = Pair { listener: ends::target(key), backend: ends::target(&flow.rewritten) };
                if is_clients(flow) && kept.contains(&pair) {
                    remaining.insert(pair);
                }
            });
            walked.map_err(kernel("read the flow table"))?;
        }
        let plan = self.state.settle(&remaining, clock::now());
        if plan.changed() > 0 {
            self.commit(plan)?;
        }
        Ok(())
    }

    /// Brings everything back to what was committed. What was amiss.
    pub(super) fn restore(&mut self) -> Result<Vec<Drift>, DatapathError> {
        let Some(loaded) = &mut self.loaded else { return Ok(Vec::new()) };
        let mut amiss = loaded.restore_pins()?;
        amiss.extend(loaded.restore_lent(&self.state)?);
        amiss.extend(loaded.restore_mappings(&self.state)?);
        amiss.extend(self.restore_blocked()?);
        let Some(loaded) = &mut self.loaded else { return Ok(Vec::new()) };
        let (wanted, absent) = (&self.options.interfaces, &mut self.absent);
        let attached = self.namespace.inside(|| -> Result<Vec<String>, DatapathError> {
            loaded.object.forget_gone()?;
            let mut amiss = Vec::new();
            for interface in interfaces(wanted, absent)? {
                if !loaded.object.is_attached(&interface)? {
                    loaded.object.attach_again(&interface)?;
                    amiss.push(format!("interface {interface} did not run the programs"));
                }
            }
            Ok(amiss)
        });
        amiss.extend(attached.map_err(kernel("enter the datapath's network namespace"))??);
        Ok(amiss.into_iter().map(|what| Drift { what }).collect())
    }
}

impl Loaded {
    /// What is pinned must be what the programs use: the next agent finds nothing else.
    fn restore_pins(&self) -> Result<Vec<String>, DatapathError> {
        let mut amiss = Vec::new();
        for (name, descriptor) in self.tables.descriptors() {
            let path = self.object.pins().map(name);
            let what = format!("look at {}", path.display());
            let failed = |error| Error::map(&what, error);
            let again = descriptor.as_fd().try_clone_to_owned().map_err(kernel(what.clone()))?;
            let ours = MapData::from_fd(again).map_err(failed)?;
            let number = |map: &MapData| map.info().map(|info| info.id());
            let found = MapData::from_pin(&path).ok().map(|map| number(&map)).transpose().map_err(failed)?;
            if found == Some(number(&ours).map_err(failed)?) {
                continue;
            }
            amiss.push(match found {
                Some(_) => format!("another map is pinned as {}", path.display()),
                None => format!("{} is gone", path.display()),
            });
            let repaired = || -> io::Result<()> {
                if let Some(folder) = path.parent() {
                    std::fs::create_dir_all(folder)?;
                }
                if path.exists() {
                    std::fs::remove_file(&path)?;
                }
                ours.pin(&path).map_err(io::Error::other)
            };
            repaired().map_err(kernel(format!("pin {}", path.display())))?;
        }
        Ok(amiss)
    }

    fn restore_mappings(&mut self, state: &State) -> Result<Vec<String>, DatapathError> {
        let mut amiss = self.restore_listeners(state)?;
        let (mut ways, mut notes, mut pairs) = (Vec::new(), Vec::new(), Vec::new());
        let mut live: BTreeMap<u32, u64> = BTreeMap::new();
        let absent = Listener::absent();
        for (address, one) in &state.listeners {
            let Some(seat) = self.slots.listener(*address) else { continue };
            let (led, noted) = self.tables.mapping(seat);
            let way = self.way(*address, one);
            if led != way {
                amiss.push(format!("listener {address} leads elsewhere"));
                ways.push((seat, way));
            }
            if noted != one.note() {
                amiss.push(format!("what is noted of listener {address} is something else"));
                notes.push((seat, one.note()));
            }
            for (backend, until) in one.live() {
                let pair = Pair { listener: *address, backend };
                let Some(slot) = self.slots.pair(pair) else { continue };
                live.insert(slot, until);
                let (owner, to, _) = self.tables.pair(slot);
                if (socket_address(&owner), socket_address(&to)) != (*address, backend) {
                    amiss.push(format!("the pair of listener {address} and {backend} is another's"));
                    pairs.push((slot, pair));
                }
            }
        }
        let (seats, slots) = self.tables.slots();
        let taken: BTreeSet<u32> = state.listeners.keys().filter_map(|one| self.slots.listener(*one)).collect();
        for seat in (0..seats).filter(|seat| !taken.contains(seat)) {
            if self.tables.mapping(seat).0.kind != shunt_ebpf_common::mapping::kind::ABSENT {
                amiss.push(format!("mapping {seat} is nobody's and leads somewhere"));
                ways.push((seat, self.way(SocketAddr::from(([0; 4], 0)), &absent)));
            }
        }
        let mut wrong = Vec::new();
        for slot in 0..slots {
            let (listener, backend, until) = self.tables.pair(slot);
            let due = live.get(&slot).copied().unwrap_or(0);
            if until != due {
                let (listener, backend) = (socket_address(&listener), socket_address(&backend));
                let is = if until > due { "longer" } else { "shorter" };
                amiss.push(format!("the pair of listener {listener} and {backend} was to live {is} than it may"));
                wrong.push((slot, due));
            }
        }
        if !(ways.is_empty() && notes.is_empty() && pairs.is_empty() && wrong.is_empty()) {
            let begin = Instant::now();
            let mut change = self.tables.begin();
            for (slot, pair) in pairs {
                // Its flows are somebody's whom we do not know: they are over.
                change.assign(slot, endpoint(pair.listener), endpoint(pair.backend));
                change.live(slot, live.get(&slot).copied().unwrap_or(0));
            }
            for (slot, until) in wrong {
                change.live(slot, until);
            }
            for (seat, way) in ways {
                change.lead(seat, way);
            }
            for (seat, note) in notes {
                change.note(seat, note);
            }
            change.commit();
            grace::wait();
            self.severer.look(begin);
        }
        Ok(amiss)
    }

    fn restore_listeners(&mut self, state: &State) -> Result<Vec<String>, DatapathError> {
        let mut amiss = Vec::new();
        let found: BTreeMap<SocketAddr, u32> =
            self.tables.listeners()?.into_iter().map(|(one, slot)| (socket_address(&one), slot)).collect();
        for listener in state.listeners.keys() {
            let Some(seat) = self.slots.listener(*listener) else { continue };
            if found.get(listener) != Some(&seat) {
                amiss.push(format!("listener {listener} has another mapping, or none"));
                self.tables.listen(endpoint(*listener), seat)?;
            }
        }
        for listener in found.keys().filter(|one| !state.listeners.contains_key(one)) {
            amiss.push(format!("listener {listener} is nobody's"));
            self.tables.forget(&endpoint(*listener))?;
        }
        Ok(amiss)
    }
}
