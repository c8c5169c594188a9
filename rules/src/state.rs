//! What the table holds, listener by listener, and the elements that say so. Pure: the clock is an argument.
//!
//! A listener's elements are a function of its [`Listener`] alone, so a change is the difference of two such functions
//! and costs what changed ([`plan`]), and drift is the difference from what was read back.

pub mod adopt;
pub mod block;
pub mod lease;
pub mod note;
pub mod plan;
pub mod slots;
pub mod upkeep;

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use shunt_core::datapath::Held;
use shunt_core::flow::Tuple;
use shunt_core::mapping::Admission;

use crate::element::{Key, Pair, Value};
use crate::schema::Reason;
use lease::Lease;
use note::{Note, Stance};
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
    /// How many listeners have a pair with each backend that may pass.
    backends: BTreeMap<SocketAddr, usize>,
    /// How many listeners have each limit of connections per source.
    source_limits: BTreeMap<u32, usize>,
}

/// One listener.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listener {
    pub cluster: String,
    pub source: Source,
    pub road: Road,
    /// Backends that take no new connections but may still pass: until then, or for as long as their flows last.
    pub former: BTreeMap<SocketAddr, Option<Instant>>,
    /// Beside a fence: the backend whose flows go on all the same.
    pub spared: Option<SocketAddr>,
    /// The clients of these flows that are not heard for a moment. Empty without a spared backend.
    pub blocked: BTreeSet<SocketAddr>,
    pub admission: Admission,
    /// Of the pairs with the backends of the road, and with the spared one.
    pub lease: Option<Lease>,
}

/// The source address that backends see.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// The client's own.
    Client,
    /// The outgoing interface's.
    Masquerade,
    /// One of these. They are addresses of hosts and have no ports.
    Pool(Slots),
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
    /// Backends whose packets pass, in whichever way.
    pub fn passing(&self) -> impl Iterator<Item = SocketAddr> {
        self.live().map(|(backend, _)| backend).chain(self.spared)
    }

    /// Backends whose packets pass as fast as they can, with the deadlines of those that drain.
    pub fn live(&self) -> impl Iterator<Item = (SocketAddr, Option<Instant>)> {
        self.road
            .backends()
            .into_iter()
            .map(|backend| (backend, self.lease.map(|lease| lease.until)))
            .chain(self.former.iter().map(|(backend, until)| (*backend, *until)))
    }

    /// Its elements, those of the set of backends apart: listeners share these.
    pub fn elements(&self, listener: SocketAddr) -> Elements {
        let mut elements = Elements::new();
        let note = Some(self.note().to_string());
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
        match &self.source {
            Source::Client => {}
            Source::Masquerade => drop(elements.insert(Key::Masquerade(listener), Value::default())),
            Source::Pool(slots) => elements.extend((0..).zip(slots).map(|(slot, address)| {
                (Key::Pool(listener, slot), Value { backend: Some(*address), ..Value::default() })
            })),
        }
        elements.extend(admission_elements(listener, &self.admission));
        for (backend, deadline) in self.live() {
            elements.insert(Key::Live(Pair { listener, backend }), Value { deadline, ..Value::default() });
        }
        if let Some(backend) = self.spared {
            let deadline = self.lease.map(|lease| lease.until);
            elements.insert(Key::Sparing(Pair { listener, backend }), Value { deadline, ..Value::default() });
        }
        for client in &self.blocked {
            elements.insert(Key::Blocked(Tuple { client: *client, listener }), Value::default());
        }
        elements
    }

    fn note(&self) -> Note {
        Note {
            cluster: self.cluster.clone(),
            stance: match &self.road {
                Road::Single(_) | Road::Spread(_) => Stance::Open,
                Road::Hold { span, .. } => Stance::Hold(*span),
                Road::Refuse => Stance::Refuse,
                Road::Removed => Stance::Removed,
            },
            lease: self.lease.map(|lease| lease.span),
            limit: self.admission.limit,
            limit_per_source: self.admission.limit_per_source,
        }
    }
}

/// Every listener that can refuse for a reason has an element that counts how often it did.
fn admission_elements(listener: SocketAddr, admission: &Admission) -> Elements {
    let mut elements = Elements::new();
    let mut refuses = |reason| drop(elements.insert(Key::Refused(listener, reason), Value::default()));
    if !admission.allow.is_empty() {
        refuses(Reason::NotAllowed);
    }
    if admission.limit.is_some() {
        refuses(Reason::OverLimit);
    }
    if let Some(limit) = admission.limit_per_source {
        refuses(Reason::OverSourceLimit);
        elements.insert(Key::PerSource(listener, limit), Value::default());
    }
    if !admission.allow.is_empty() {
        elements.insert(Key::Restricted(listener), Value::default());
        elements.extend(admission.allow.iter().map(|network| (Key::Allow(listener, *network), Value::default())));
    }
    if admission.limit.is_some() {
        elements.insert(Key::Limited(listener), Value { limit: admission.limit, ..Value::default() });
    }
    elements
}

impl State {
    pub fn new(listeners: BTreeMap<SocketAddr, Listener>) -> Self {
        let mut state = Self::default();
        for (address, listener) in listeners {
            state.put(address, Some(listener));
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

    /// The pairs that may pass, draining and spared ones included.
    pub fn pairs(&self) -> impl Iterator<Item = Pair> {
        self.listeners.iter().flat_map(|(listener, l)| l.passing().map(|backend| Pair { listener: *listener, backend }))
    }

    /// The flows that are blocked, and their backends.
    pub fn blocked(&self) -> Vec<(Tuple, SocketAddr)> {
        let of = |(listener, l): (&SocketAddr, &Listener)| -> Vec<_> {
            let flow = |client: &SocketAddr| Tuple { client: *client, listener: *listener };
            l.spared.iter().flat_map(|backend| l.blocked.iter().map(move |client| (flow(client), *backend))).collect()
        };
        self.listeners.iter().flat_map(of).collect()
    }

    /// The listeners that hold new connections, and until when.
    pub fn holding(&self) -> Vec<(SocketAddr, Instant)> {
        let holds = |(address, listener): (&SocketAddr, &Listener)| match listener.road {
            Road::Hold { until, .. } => Some((*address, until)),
            _ => None,
        };
        self.listeners.iter().filter_map(holds).collect()
    }

    /// The different limits of connections per source.
    pub fn source_limits(&self) -> BTreeSet<u32> {
        self.source_limits.keys().copied().collect()
    }

    /// Puts `listener` into the place of what `address` had; `None` takes it out.
    fn put(&mut self, address: SocketAddr, listener: Option<Listener>) {
        for backend in listener.iter().flat_map(Listener::passing) {
            *self.backends.entry(backend).or_default() += 1;
        }
        for limit in listener.iter().filter_map(|listener| listener.admission.limit_per_source) {
            *self.source_limits.entry(limit).or_default() += 1;
        }
        let old = match listener {
            Some(listener) => self.listeners.insert(address, listener),
            None => self.listeners.remove(&address),
        };
        for backend in old.iter().flat_map(Listener::passing) {
            take_one(&mut self.backends, &backend);
        }
        for limit in old.iter().filter_map(|listener| listener.admission.limit_per_source) {
            take_one(&mut self.source_limits, &limit);
        }
    }
}

fn take_one<K: Ord>(counts: &mut BTreeMap<K, usize>, key: &K) {
    if let Some(count) = counts.get_mut(key) {
        *count -= 1;
        if *count == 0 {
            counts.remove(key);
        }
    }
}

/// Has the kernel forgotten an element with this deadline?
pub fn gone(deadline: Option<Instant>, now: Instant) -> bool {
    deadline.is_some_and(|deadline| now >= deadline + GRACE)
}
