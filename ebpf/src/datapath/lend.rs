//! Numbers of allow-lists and slots of pools. Neither is ever changed while a mapping has it: a change gives the mapping
//! another one, and takes the former away when no program can have read its number any more.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

use ipnet::IpNet;
use shunt_core::datapath::DatapathError;
use shunt_ebpf_common::pool::MAX_POOLS;

use super::Loaded;
use crate::Error;
use crate::state::plan::Plan;
use crate::state::{Listener, Source, State, lists};

/// What listeners have of these; 0 is no list, and nobody's pool.
#[derive(Default)]
pub struct Lent {
    lists: BTreeMap<SocketAddr, u32>,
    pools: BTreeMap<SocketAddr, u32>,
}

/// What is to be taken away when nobody has it any more.
#[derive(Default)]
pub struct Former {
    lists: Vec<(u32, Vec<IpNet>)>,
    pools: Vec<u32>,
}

impl Former {
    pub fn is_empty(&self) -> bool {
        self.lists.is_empty() && self.pools.is_empty()
    }
}

impl Lent {
    pub fn list(&self, listener: SocketAddr) -> u32 {
        self.lists.get(&listener).copied().unwrap_or(0)
    }

    pub fn pool(&self, listener: SocketAddr) -> u32 {
        self.pools.get(&listener).copied().unwrap_or(0)
    }

    pub fn adopt(&mut self, listener: SocketAddr, list: u32, pool: Option<u32>) {
        self.lists.extend((list != 0).then_some((listener, list)));
        self.pools.extend(pool.map(|pool| (listener, pool)));
    }

    pub fn has_list(&self, list: u32) -> bool {
        self.lists.values().any(|other| *other == list)
    }

    fn free_list(&self) -> u32 {
        // Numbers are not used again at once, however short a list's life is.
        self.lists.values().max().map_or(1, |last| last.wrapping_add(1).max(1))
    }

    /// Of which no program may still know.
    fn free_pool(&self, former: &Former) -> Option<u32> {
        let taken: BTreeSet<u32> = self.pools.values().chain(&former.pools).copied().collect();
        (0..MAX_POOLS).find(|slot| !taken.contains(slot))
    }
}

impl Loaded {
    /// Makes the lists and pools of a plan. What they replace.
    pub(super) fn lend(&mut self, plan: &Plan, before: &State) -> Result<Former, DatapathError> {
        let mut former = Former::default();
        let mut undo = Former::default();
        let (lists, pools) = (self.lent.lists.clone(), self.lent.pools.clone());
        for (address, after) in &plan.after {
            let done = self.lend_one(*address, before.listeners.get(address), after.as_ref(), &mut former, &mut undo);
            if let Err(error) = done {
                self.take_away(undo);
                (self.lent.lists, self.lent.pools) = (lists, pools);
                return Err(error);
            }
        }
        Ok(former)
    }

    fn lend_one(
        &mut self,
        address: SocketAddr,
        before: Option<&Listener>,
        after: Option<&Listener>,
        former: &mut Former,
        undo: &mut Former,
    ) -> Result<(), DatapathError> {
        let allowed = |one: Option<&Listener>| one.map(|one| one.allow.clone()).unwrap_or_default();
        if allowed(before) != allowed(after) {
            let number = self.free_list();
            if let Some(old) = self.lent.lists.remove(&address) {
                former.lists.push((old, allowed(before)));
            }
            let wanted = allowed(after);
            if !wanted.is_empty() {
                undo.lists.push((number, wanted.clone()));
                for network in &wanted {
                    self.tables.allow_network(number, network)?;
                }
                self.lent.lists.insert(address, number);
            }
        }
        let ranges = |one: Option<&Listener>| match one.map(|one| &one.source) {
            Some(Source::Pool(ranges)) => Some(ranges.clone()),
            _ => None,
        };
        if ranges(before) != ranges(after) {
            former.pools.extend(self.lent.pools.remove(&address));
            if let Some(pool) = ranges(after).and_then(|ranges| lists::pool(&ranges)) {
                let full =
                    || DatapathError::Unsupported(format!("there is room for {MAX_POOLS} pools of source addresses"));
                let slot = self.lent.free_pool(former).ok_or_else(full)?;
                self.tables.set_pool(slot, pool);
                self.lent.pools.insert(address, slot);
            }
        }
        Ok(())
    }

    fn free_list(&mut self) -> u32 {
        let number = self.lent.free_list().max(self.next_list);
        self.next_list = number.wrapping_add(1).max(1);
        number
    }

    /// To be called when no program can have read their numbers any more.
    pub(super) fn take_away(&mut self, former: Former) {
        for (list, networks) in former.lists {
            for network in networks {
                if let Err(error) = self.tables.disallow_network(list, &network) {
                    // It is nobody's list, and takes up room.
                    tracing::warn!(%error, %network, "an entry of a former allow-list stays");
                }
            }
        }
    }

    /// Brings lists and pools back to what they should be. What was amiss.
    pub(super) fn restore_lent(&mut self, state: &State) -> Result<Vec<String>, DatapathError> {
        let mut amiss = Vec::new();
        let mut found = self.tables.networks()?;
        for (listener, one) in &state.listeners {
            if let Some(list) = self.lent.lists.get(listener).copied() {
                let listed: BTreeSet<IpNet> = found.remove(&list).unwrap_or_default().into_iter().collect();
                let wanted: BTreeSet<IpNet> = one.allow.iter().copied().collect();
                for network in wanted.difference(&listed) {
                    amiss.push(format!("{network} is missing among those who may connect to listener {listener}"));
                    self.tables.allow_network(list, network)?;
                }
                for network in listed.difference(&wanted) {
                    amiss.push(format!("{network} is among those who may connect to listener {listener}"));
                    self.tables.disallow_network(list, network)?;
                }
            }
            if let (Some(slot), Source::Pool(ranges)) = (self.lent.pools.get(listener).copied(), &one.source)
                && let Some(pool) = lists::pool(ranges)
                && self.tables.pool(slot) != pool
            {
                amiss.push(format!("listener {listener} has other source addresses"));
                // Who reads it meanwhile has one of both, or one that is neither's: which is no worse than what was there.
                self.tables.set_pool(slot, pool);
            }
        }
        amiss.extend(found.keys().map(|list| format!("the list {list} of those who may connect is nobody's")));
        self.clear_lists(&found)?;
        Ok(amiss)
    }

    /// Takes lists away that are nobody's.
    pub(super) fn clear_lists(&mut self, found: &BTreeMap<u32, Vec<IpNet>>) -> Result<(), Error> {
        for (list, networks) in found.iter().filter(|(list, _)| !self.lent.has_list(**list)) {
            networks.iter().try_for_each(|network| self.tables.disallow_network(*list, network))?;
        }
        Ok(())
    }
}
