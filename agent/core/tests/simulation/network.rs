//! The network between hosts: each direction of each link has its delay, and may be cut. Cut is silent: packets vanish.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::rng::Rng;

/// A host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Node {
    Proxy(usize),
    Server(usize),
}

impl std::fmt::Display for Node {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Proxy(n) => write!(f, "proxy{}", n + 1),
            Self::Server(n) => write!(f, "db{}", n + 1),
        }
    }
}

#[derive(Clone, Debug)]
pub struct Network {
    /// From one to the other, by the number of faults that cut it.
    cut: BTreeMap<(Node, Node), u32>,
    off: BTreeSet<Node>,
    slow: BTreeMap<Node, Duration>,
    least: Duration,
    most: Duration,
}

impl Network {
    pub const fn new(least: Duration, most: Duration) -> Self {
        Self { cut: BTreeMap::new(), off: BTreeSet::new(), slow: BTreeMap::new(), least, most }
    }

    pub fn passes(&self, from: Node, to: Node) -> bool {
        !self.off.contains(&from) && !self.off.contains(&to) && !self.cut.contains_key(&(from, to))
    }

    pub fn passes_both(&self, one: Node, other: Node) -> bool {
        self.passes(one, other) && self.passes(other, one)
    }

    pub fn delay(&self, from: Node, to: Node, rng: &mut Rng) -> Duration {
        let slow = |node| self.slow.get(&node).copied().unwrap_or_default();
        rng.between(self.least, self.most) + slow(from) + slow(to)
    }

    pub fn cut(&mut self, from: Node, to: Node) {
        *self.cut.entry((from, to)).or_default() += 1;
    }

    pub fn join(&mut self, from: Node, to: Node) {
        if let Some(count) = self.cut.get_mut(&(from, to)) {
            *count -= 1;
            if *count == 0 {
                self.cut.remove(&(from, to));
            }
        }
    }

    /// A host without power.
    pub fn set_power(&mut self, node: Node, on: bool) {
        if on {
            self.off.remove(&node);
        } else {
            self.off.insert(node);
        }
    }

    pub fn has_power(&self, node: Node) -> bool {
        !self.off.contains(&node)
    }

    pub fn set_slow(&mut self, node: Node, by: Duration) {
        if by.is_zero() {
            self.slow.remove(&node);
        } else {
            self.slow.insert(node, by);
        }
    }
}
