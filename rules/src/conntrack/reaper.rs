//! Deletes the conntrack entries of dead pairs, in a thread of its own so that no commit waits for it.
//!
//! The commit has already ended the pairs: the guard answers each of their packets with a RST. Deleting the entries
//! gives back their ports, lets a half-open connection's next SYN find the new way, and forgets flows that nobody will
//! ever use again. It comes after the commit, or the next packet would make a new entry to the old backend.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::Conntrack;
use crate::element::Pair;

/// A packet that was on its way during the commit can confirm an entry after the first look; so we look again.
const LOOKS: u8 = 3;
const BETWEEN_LOOKS: Duration = Duration::from_millis(200);

pub struct Reaper {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

struct Shared {
    dead: Mutex<Dead>,
    changed: Condvar,
    reaped: AtomicU64,
}

#[derive(Default)]
struct Dead {
    pairs: BTreeMap<Pair, Death>,
    deaths: u64,
    stop: bool,
}

/// A pair can die, come back and die again while the reaper looks; each time is another death.
#[derive(Clone, Copy)]
struct Death {
    number: u64,
    looks: u8,
    next: Instant,
}

impl Reaper {
    /// The thread works in the network namespace of the caller.
    pub fn start() -> io::Result<Self> {
        let conntrack = Conntrack::open()?;
        let shared = Arc::new(Shared { dead: Mutex::default(), changed: Condvar::new(), reaped: AtomicU64::new(0) });
        let theirs = Arc::clone(&shared);
        let thread =
            std::thread::Builder::new().name("shunt-reaper".to_owned()).spawn(move || theirs.work(conntrack))?;
        Ok(Self { shared, thread: Some(thread) })
    }

    /// These pairs may pass no more.
    pub fn bury(&self, pairs: impl IntoIterator<Item = Pair>) {
        let mut dead = self.shared.lock();
        for pair in pairs {
            dead.deaths += 1;
            let death = Death { number: dead.deaths, looks: 0, next: Instant::now() };
            dead.pairs.insert(pair, death);
        }
        self.shared.changed.notify_one();
    }

    /// These pairs are about to pass again; returns those that were being reaped. Entries that were found before are
    /// still deleted: they are of the time before.
    pub fn revive(&self, pairs: &[Pair]) -> Vec<Pair> {
        let mut dead = self.shared.lock();
        pairs.iter().filter(|pair| dead.pairs.remove(pair).is_some()).copied().collect()
    }

    /// How many entries have been deleted since the start.
    pub fn reaped(&self) -> u64 {
        self.shared.reaped.load(Ordering::Relaxed)
    }
}

impl Drop for Reaper {
    fn drop(&mut self) {
        self.shared.lock().stop = true;
        self.shared.changed.notify_one();
        if let Some(thread) = self.thread.take() {
            // A panic there has been reported already, and there is nobody to hand it on to.
            let _ = thread.join();
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Dead> {
        // Nothing in the critical sections can leave the map half changed.
        self.dead.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn work(&self, mut conntrack: Conntrack) {
        while let Some(due) = self.wait() {
            let begin = Instant::now();
            match self.look(&mut conntrack, &due) {
                Ok(0) => {}
                Ok(flows) => {
                    let took = begin.elapsed();
                    tracing::info!(flows, pairs = due.len(), ?took, "deleted the conntrack entries of severed flows");
                }
                Err(error) => {
                    tracing::warn!(%error, "cannot delete the conntrack entries of severed flows");
                }
            }
            self.settle(&due);
        }
    }

    /// The pairs to look for now; `None` when the thread shall end.
    fn wait(&self) -> Option<BTreeMap<Pair, u64>> {
        let mut dead = self.lock();
        loop {
            if dead.stop {
                return None;
            }
            let now = Instant::now();
            let due: BTreeMap<_, _> = dead
                .pairs
                .iter()
                .filter(|(_, death)| death.next <= now)
                .map(|(pair, death)| (*pair, death.number))
                .collect();
            if !due.is_empty() {
                return Some(due);
            }
            let next = dead.pairs.values().map(|death| death.next).min();
            let patience = next.map_or(Duration::from_secs(3600), |next| next.saturating_duration_since(now));
            dead = self.changed.wait_timeout(dead, patience).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    fn look(&self, conntrack: &mut Conntrack, due: &BTreeMap<Pair, u64>) -> io::Result<u64> {
        let mut entries = conntrack.find(&due.keys().copied().collect::<BTreeSet<_>>())?;
        if entries.is_empty() {
            return Ok(0);
        }
        {
            // A pair that came back while we looked may have new flows among those that we found.
            let dead = self.lock();
            entries.retain(|entry| {
                let pair = entry.pair();
                dead.pairs.get(&pair).map(|death| death.number) == due.get(&pair).copied()
            });
        }
        let deleted = conntrack.delete(&entries)?;
        self.reaped.fetch_add(deleted, Ordering::Relaxed);
        Ok(deleted)
    }

    fn settle(&self, due: &BTreeMap<Pair, u64>) {
        let mut dead = self.lock();
        for (pair, number) in due {
            if let Some(death) = dead.pairs.get_mut(pair).filter(|death| death.number == *number) {
                death.looks += 1;
                death.next = Instant::now() + BETWEEN_LOOKS;
                if death.looks >= LOOKS {
                    dead.pairs.remove(pair);
                }
            }
        }
    }
}
