//! What traffic tells of each pair's backend, read from another thread than the one that writes the maps.

use shunt_ebpf_common::control::Control;
use shunt_ebpf_common::flow::Endpoint;
use shunt_ebpf_common::mapping::Pair;
use shunt_ebpf_common::note::Owner;
use shunt_ebpf_common::signal::{BUCKETS, Sign, Signals};

use super::{OWNERS, Tables, field, in_force};
use crate::Error;
use crate::shared::Shared;

/// Read without a system call.
pub struct Overheard {
    pairs: Shared<Pair>,
    owners: Shared<Owner>,
    signals: Shared<Signals>,
    control: Shared<Control>,
}

/// A live pair, and where what is told of it stands.
#[derive(Clone, Copy, Debug)]
pub struct Told {
    pub slot: u32,
    pub generation: u32,
    pub listener: Endpoint,
    pub backend: Endpoint,
    /// The first part of its [`Signals`].
    pub asked: u64,
    pub heard: u64,
    pub counts: [u64; Sign::NUMBER],
}

impl Tables {
    /// What traffic has told of the pair in that slot.
    pub fn signals(&self, slot: u32) -> Signals {
        self.signals.get(slot)
    }

    /// What it tells of all pairs, to be read from another thread.
    pub(crate) fn overhear(&self) -> Result<Overheard, Error> {
        Ok(Overheard {
            pairs: self.again("PAIRS", self.pairs.len())?,
            owners: self.again(OWNERS, self.owners.len())?,
            signals: self.again("SIGNALS", self.signals.len())?,
            control: self.again("CONTROL", self.control.len())?,
        })
    }
}

impl Overheard {
    /// Calls `each` with every pair that is live now.
    pub fn each(&self, now: u64, mut each: impl FnMut(&Told)) {
        // Slots are given away in their order: behind the first that never was, none was.
        let given = (0..self.pairs.len()).map_while(|slot| Some((slot, self.generation(slot)?)));
        for (slot, generation) in given {
            if !self.is_live(slot, now) {
                continue;
            }
            let told = Told {
                slot,
                generation,
                listener: self.owners.get(slot).listener,
                backend: self.pairs.get(slot).backend,
                asked: self.signals.get_field(slot, |signals| field!(signals.asked)),
                heard: self.signals.get_field(slot, |signals| field!(signals.heard)),
                counts: self.signals.get_field(slot, |signals| field!(signals.counts)),
            };
            // A slot becomes another pair's only after it was dead, and counts that.
            if self.generation(slot) == Some(generation) && self.is_live(slot, now) {
                each(&told);
            }
        }
    }

    /// From SYN to SYN-ACK, of the pair in that slot: of all connections together in nanoseconds, and by bucket.
    pub fn connects(&self, slot: u32) -> (u64, [u64; BUCKETS]) {
        let signals = self.signals.get(slot);
        (signals.connecting, signals.connects)
    }

    /// `None`: the slot was never given away.
    fn generation(&self, slot: u32) -> Option<u32> {
        Some(self.pairs.get_field(slot, |pair| field!(pair.generation))).filter(|generation| *generation > 0)
    }

    fn is_live(&self, slot: u32, now: u64) -> bool {
        now < in_force(self.pairs.get(slot).live_until, self.control.get(0).committed)
    }
}
