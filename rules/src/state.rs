//! What the table holds, listener by listener, and the elements that say so. Pure: the clock is an argument.
//!
//! A listener's elements are a function of its [`Listener`] alone, so a change is the difference of two such functions
//! and costs what changed ([`plan`]), and drift is the difference from what was read back.

pub mod adopt;
pub mod plan;
pub mod slots;
pub mod upkeep;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use shunt_core::config::Snat;
use shunt_core::datapath::Held;

use crate::element::{Key, Pair, Value};
use slots::Slots;

/// Elements of all sets, in the order of their sets.
pub type Elements = BTreeMap<Key, Value>;

/// The kernel counts an element's time in jiffies and begins a little later than we do: an element counts as gone, and
/// one that is missing as expired, from this long after its deadline.
pub const GRACE: Duration = Duration::from_millis(100);

/// Everything that was committed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct State {
    pub listeners: BTreeMap<SocketAddr, Listener>,
    /// How many listeners have a live pair with each backend.
    backends: BTreeMap<SocketAddr, usize>,
}

/// One listener.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listener {
    pub cluster: String,
    pub masquerade: bool,
    pub road: Road,
    /// Backends that take no new connections but may still pass: until then, or for as long as their flows last.
    pub former: BTreeMap<SocketAddr, Option<Instant>>,
}

/// Where new connections go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Road {
    Single(SocketAddr),
    Spread(Slots),
    Hold {
        span: Duration,
        until: Instant,
    },
    Refuse,
    /// The listener is not ours any more, but flows through it are left.
    Removed,
}

impl Road {
    /// Without repetitions, in the order of the first slots.
    pub fn backends(&self) -> Vec<SocketAddr> {
        match self {
            Self::Single(backend) => vec![*backend],
            Self::Spread(slots) => {
                let mut backends = Vec::new();
                for backend in slots {
                    if !backends.contains(backend) {
                        backends.push(*backend);
                    }
                }
                backends
            }
            Self::Hold { .. } | Self::Refuse | Self::Removed => Vec::new(),
        }
    }
}

impl Listener {
    /// Backends whose packets pass, with the deadlines of those that drain.
    pub fn live(&self) -> impl Iterator<Item = (SocketAddr, Option<Instant>)> {
        self.road
            .backends()
            .into_iter()
            .map(|backend| (backend, None))
            .chain(self.former.iter().map(|(backend, until)| (*backend, *until)))
    }

    /// Its elements, those of the set of backends apart: listeners share these.
    pub fn elements(&self, listener: SocketAddr) -> Elements {
        let mut elements = Elements::new();
        let note = Some(self.note());
        elements.insert(Key::Listener(listener), Value { note, ..Value::default() });
        match &self.road {
            Road::Single(backend) => {
                let note = Some(self.cluster.clone());
                elements.insert(Key::Primary(listener), Value { backend: Some(*backend), note, ..Value::default() });
            }
            Road::Spread(slots) => {
                for (slot, backend) in (0..).zip(slots) {
                    let value = Value { backend: Some(*backend), ..Value::default() };
                    elements.insert(Key::Spread(listener, slot), value);
                }
            }
            Road::Hold { until, .. } => {
                elements.insert(Key::Fenced(listener), Value::default());
                elements.insert(Key::Hold(listener), Value { deadline: Some(*until), ..Value::default() });
            }
            Road::Refuse | Road::Removed => {
                elements.insert(Key::Fenced(listener), Value::default());
            }
        }
        if self.masquerade && self.road != Road::Removed {
            elements.insert(Key::Masquerade(listener), Value::default());
        }
        for (backend, deadline) in self.live() {
            elements.insert(Key::Live(Pair { listener, backend }), Value { deadline, ..Value::default() });
        }
        elements
    }

    /// The comment of the listener's element: what a restarted agent cannot tell from the other elements.
    fn note(&self) -> String {
        let cluster = &self.cluster;
        match &self.road {
            Road::Single(_) | Road::Spread(_) => cluster.clone(),
            Road::Hold { span, .. } => format!("{cluster} hold {} ms", span.as_millis()),
            Road::Refuse => format!("{cluster} refuse"),
            Road::Removed => format!("{cluster} removed"),
        }
    }
}

impl State {
    pub fn new(listeners: BTreeMap<SocketAddr, Listener>) -> Self {
        let mut state = Self { listeners, backends: BTreeMap::new() };
        for (backend, _) in state.listeners.values().flat_map(Listener::live) {
            *state.backends.entry(backend).or_default() += 1;
        }
        state
    }

    /// Every element that the table should have.
    pub fn elements(&self) -> Elements {
        let mut elements: Elements =
            self.listeners.iter().flat_map(|(address, listener)| listener.elements(*address)).collect();
        elements.extend(self.backends.keys().map(|backend| (Key::Backend(*backend), Value::default())));
        elements
    }

    pub fn held(&self) -> Vec<Held> {
        self.listeners
            .iter()
            .filter(|(_, l)| l.road != Road::Removed)
            .map(|(listener, l)| Held { listener: *listener, backends: l.road.backends() })
            .collect()
    }

    /// The pairs that may pass, draining ones included.
    pub fn pairs(&self) -> impl Iterator<Item = Pair> {
        self.listeners
            .iter()
            .flat_map(|(listener, l)| l.live().map(|(backend, _)| Pair { listener: *listener, backend }))
    }

    /// Puts `listener` into the place of what `address` had; `None` takes it out.
    fn put(&mut self, address: SocketAddr, listener: Option<Listener>) {
        for (backend, _) in listener.iter().flat_map(Listener::live) {
            *self.backends.entry(backend).or_default() += 1;
        }
        let old = match listener {
            Some(listener) => self.listeners.insert(address, listener),
            None => self.listeners.remove(&address),
        };
        for (backend, _) in old.iter().flat_map(Listener::live) {
            if let Some(count) = self.backends.get_mut(&backend) {
                *count -= 1;
                if *count == 0 {
                    self.backends.remove(&backend);
                }
            }
        }
    }
}

/// Has the kernel forgotten an element with this deadline?
pub fn gone(deadline: Option<Instant>, now: Instant) -> bool {
    deadline.is_some_and(|deadline| now >= deadline + GRACE)
}

/// Whether flows get the outgoing interface's address as their source; `None`: this datapath cannot do it.
const fn masquerades(snat: &Snat) -> Option<bool> {
    match snat {
        Snat::Masquerade => Some(true),
        Snat::None => Some(false),
        Snat::Pool(_) => None,
    }
}
