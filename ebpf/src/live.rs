//! The question that programs ask for every packet, asked by the agent.

use shunt_ebpf_common::control::Control;
use shunt_ebpf_common::flow::{Flow, mark};
use shunt_ebpf_common::mapping::Pair;

use crate::clock;
use crate::shared::Shared;

/// The pairs, read from another thread than the one that writes them.
pub struct Liveness {
    pairs: Shared<Pair>,
    control: Shared<Control>,
}

impl Liveness {
    pub(crate) fn new(pairs: Shared<Pair>, control: Shared<Control>) -> Self {
        Self { pairs, control }
    }

    /// Whether nobody has ended it, and the pair that it was opened with is live.
    pub fn is_live(&self, flow: &Flow) -> bool {
        if flow.marks & mark::ENDED != 0 || flow.pair >= self.pairs.len() {
            return false;
        }
        let (pair, committed) = self.undisturbed(flow.pair);
        let until = if pair.live_until.transaction <= committed { pair.live_until.new } else { pair.live_until.old };
        pair.generation == flow.generation && clock::now() < until
    }

    /// A record that nobody wrote while it was read.
    fn undisturbed(&self, slot: u32) -> (Pair, u64) {
        loop {
            let read = || (self.pairs.get(slot), self.control.get(0).committed);
            let first = read();
            if first == read() {
                return first;
            }
        }
    }
}
