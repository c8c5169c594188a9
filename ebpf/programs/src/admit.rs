//! Who may connect, and how many. Asked of a SYN only.
//!
//! A place is taken before it is asked whether that was one too many, and given back once: by whoever clears its mark
//! ([`Flow::marks`]). That is the last packet of the flow, or `manage`, which forgets it.

use aya_ebpf::bindings::BPF_NOEXIST;
use aya_ebpf::maps::lpm_trie::Key;
use shunt_ebpf_common::admission::{Listed, Places, Source};
use shunt_ebpf_common::flow::{Address, Flow, Tuple, mark};
use shunt_ebpf_common::mapping::Way;
use shunt_ebpf_common::tally::Event;

use crate::atomic;
use crate::live::now;
use crate::maps::{ALLOWED, SOURCES, TALLIES};

/// Whether that client may connect at all.
#[inline(always)]
pub fn is_allowed(way: *const Way, tuple: &Tuple) -> bool {
    // SAFETY: a way lies in an array, which lives as long as its map.
    let list = unsafe { (*way).allow };
    list == 0 || ALLOWED.get(Key::new(Listed::WHOLE, Listed { list, address: tuple.source })).is_some()
}

/// Takes a place, if there is one: the bits of [`mark::PLACES`].
#[inline(always)]
pub fn placed(slot: u32, way: *const Way, address: &Address) -> Result<u64, Event> {
    // SAFETY: as above.
    let (limit, per_source) = unsafe { ((*way).limit, (*way).limit_per_source) };
    let Some(tally) = TALLIES.get_ptr_mut(slot) else { return Err(Event::Unavailable) };
    // SAFETY: an element of an array lives as long as the map.
    let (open, before) = unsafe {
        let open = &raw mut (*tally).open;
        (open, atomic::add(open, 1))
    };
    if limit != 0 && before >= u64::from(limit) {
        // SAFETY: as above.
        unsafe { atomic::decrement(open) };
        return Err(Event::OverLimit);
    }
    if per_source == 0 {
        return Ok(mark::LISTENER);
    }
    let source = Source { mapping: slot, address: *address };
    let event = match taken(&source) {
        Some(before) if before < u64::from(per_source) => return Ok(mark::LISTENER | mark::SOURCE),
        Some(_) => {
            left(&source);
            Event::OverSourceLimit
        }
        None => Event::Unavailable,
    };
    // SAFETY: as above.
    unsafe { atomic::decrement(open) };
    Err(event)
}

/// Gives back what a client's entry says; nothing, the second time.
#[inline(never)]
pub fn give_back(flow: &mut Flow, address: &Address) {
    // SAFETY: a word of an entry.
    let places = unsafe { atomic::and(&raw mut flow.marks, !mark::PLACES) };
    free(flow.mapping, places, address);
}

/// Gives these places back.
#[inline(always)]
pub fn free(slot: u32, places: u64, address: &Address) {
    if places & mark::LISTENER != 0
        && let Some(tally) = TALLIES.get_ptr_mut(slot)
    {
        // SAFETY: an element of an array lives as long as the map.
        unsafe { atomic::decrement(&raw mut (*tally).open) };
    }
    if places & mark::SOURCE != 0 {
        left(&Source { mapping: slot, address: *address });
    }
}

/// How often an entry is looked up that is just being forgotten, which takes some instructions.
const TRIES: u32 = 8;

/// Takes one of a source's places; how many it had taken before. `None`: there is no room to count in.
#[inline(always)]
fn taken(source: &Source) -> Option<u64> {
    for _ in 0..TRIES {
        let places = match SOURCES.get_ptr_mut(source) {
            Some(places) => places,
            None => {
                // Not empty for long already. Somebody else may have been faster, which is as good.
                let _ = SOURCES.insert(source, Places { taken: 0, emptied: now() }, BPF_NOEXIST.into());
                SOURCES.get_ptr_mut(source)?
            }
        };
        // SAFETY: an entry that is forgotten meanwhile says so.
        let before = unsafe { atomic::add(&raw mut (*places).taken, 1) };
        if before & Places::GONE == 0 {
            return Some(before);
        }
    }
    None
}

/// Forgets a source that has taken nothing since then; whether it did.
#[inline(always)]
pub fn forgotten(source: &Source, since: u64) -> Option<()> {
    let places = SOURCES.get_ptr_mut(source)?;
    // SAFETY: as above.
    let gone = unsafe {
        let idle = (&raw const (*places).emptied).read_volatile() < since;
        idle && atomic::exchange(&raw mut (*places).taken, 0, Places::GONE)
    };
    if !gone {
        return None;
    }
    let _ = SOURCES.remove(source);
    Some(())
}

#[inline(always)]
fn left(source: &Source) {
    if let Some(places) = SOURCES.get_ptr_mut(source) {
        // SAFETY: as above; the moment is only looked at when nothing is taken.
        unsafe {
            (&raw mut (*places).emptied).write_volatile(now());
            atomic::decrement(&raw mut (*places).taken);
        }
    }
}
