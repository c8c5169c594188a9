//! Walks through hash maps, many entries to a system call.

use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::sync::Arc;

use aya::Pod;

use crate::sys::{self, Place};

/// Bytes that are read at a time.
const BATCH: usize = 320 << 10;

/// A walk through a map, which meets every entry that is there from its beginning to its end. What comes and goes meanwhile
/// may be met or not.
pub struct Walk<K, V> {
    map: Arc<OwnedFd>,
    /// How many fit into the map.
    entries: u32,
    place: Option<Place>,
    keys: Vec<K>,
    values: Vec<V>,
}

impl<K: Pod, V: Pod> Walk<K, V> {
    /// From that place, or from the beginning. The map must be a hash of such keys and values.
    pub(crate) fn new(map: Arc<OwnedFd>, entries: u32, place: Option<Place>) -> Self {
        Self { map, entries, place, keys: Vec::new(), values: Vec::new() }
    }

    /// Calls `each` with some more entries. Where it goes on; `None`: this was the end.
    pub fn step(&mut self, mut each: impl FnMut(&K, &V)) -> io::Result<Option<Place>> {
        let mut room = self.keys.len().max(BATCH / (size_of::<K>() + size_of::<V>()));
        loop {
            if self.keys.len() != room {
                self.keys.resize(room, sys::zeros());
                self.values.resize(room, sys::zeros());
            }
            match sys::step(self.map.as_fd(), self.place, &mut self.keys, &mut self.values) {
                Ok(step) => {
                    self.keys[..step.elements].iter().zip(&self.values).for_each(|(key, value)| each(key, value));
                    self.place = step.next;
                    return Ok(step.next);
                }
                // One bucket holds more than that.
                Err(error) if error.raw_os_error() == Some(libc::ENOSPC) && room < self.entries as usize => {
                    room *= 2;
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Calls `each` with all entries.
    pub fn each(mut self, mut each: impl FnMut(&K, &V)) -> io::Result<()> {
        while self.step(&mut each)?.is_some() {}
        Ok(())
    }
}
