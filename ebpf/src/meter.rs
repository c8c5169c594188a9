//! Reads what the datapath carries, by descriptors of its own: nothing here makes a commit wait.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::SocketAddr;
use std::ops::ControlFlow;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use shunt_core::datapath::{DatapathError, Meter, PortUse, Refused, Usage};
use shunt_core::flow::{Flow, FlowFilter, Phase, Traffic, Tuple};
use shunt_core::signal::{ConnectTimes, Counts as Told, Signals};
use shunt_ebpf_common::counter::Counter;
use shunt_ebpf_common::flow::state;
use shunt_ebpf_common::signal::{Sign, awaited_since};
use shunt_ebpf_common::tally::Event;
use shunt_wire::kernel;

use crate::clock;
use crate::ends;
use crate::flows::{Both, FlowTable, is_clients};
use crate::phase::{phase, seen};
use crate::socket_address;
use crate::tables::{Counts, Overheard, Tallies};

/// What there is to read, as long as the programs are loaded.
#[derive(Clone)]
pub(crate) struct Readable {
    pub table: FlowTable,
    pub counts: Arc<Counts>,
    pub tallies: Arc<Tallies>,
    pub overheard: Arc<Overheard>,
}

/// Where the datapath puts it, and meters find it.
pub(crate) type Shelf = Arc<Mutex<Option<Readable>>>;

pub struct EbpfMeter {
    shelf: Shelf,
}

impl EbpfMeter {
    pub(crate) fn new(shelf: Shelf) -> Self {
        Self { shelf }
    }

    /// `None`: nothing is loaded, so nothing is carried.
    fn readable(&self) -> Option<Readable> {
        self.shelf.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Meter for EbpfMeter {
    fn connections(&mut self, listeners: &[SocketAddr]) -> Result<BTreeMap<SocketAddr, u64>, DatapathError> {
        let mut counts: BTreeMap<SocketAddr, i64> = listeners.iter().map(|listener| (*listener, 0)).collect();
        let Some(readable) = self.readable() else { return Ok(counts.into_keys().map(|one| (one, 0)).collect()) };
        let walked = readable.table.walk().each(|key, flow| {
            // A client's entry knows of the client's end and of both ends'. That its server has closed alone stands in
            // the server's, and takes away what was counted for the client's.
            let (listener, step) = if is_clients(flow) {
                let established = flow.state & (state::ACKNOWLEDGED | state::FINISHED | state::CLOSED);
                (ends::target(key), i64::from(established == state::ACKNOWLEDGED))
            } else {
                let closing = flow.state & (state::FINISHED | state::CLOSED) == state::FINISHED;
                (ends::source(&flow.rewritten), -i64::from(closing))
            };
            if step != 0
                && let Some(count) = counts.get_mut(&listener)
            {
                *count += step;
            }
        });
        walked.map_err(reading())?;
        Ok(counts.into_iter().map(|(listener, count)| (listener, count.max(0) as u64)).collect())
    }

    fn flows(
        &mut self,
        filter: &FlowFilter,
        each: &mut dyn FnMut(Flow) -> ControlFlow<()>,
    ) -> Result<(), DatapathError> {
        let Some(Readable { table, .. }) = self.readable() else { return Ok(()) };
        let mut walk = table.walk();
        loop {
            let mut wanted = Vec::new();
            let next = walk.step(|key, flow| {
                let is_wanted = |key| filter.listeners.contains(&ends::target(key));
                let is_seen = |port: u16| flow.rewritten.source_port == port.to_be();
                if is_clients(flow) && is_wanted(key) && filter.source_port.is_none_or(is_seen) {
                    wanted.push((*key, *flow));
                }
            });
            let next = next.map_err(reading())?;
            for (key, client) in wanted {
                let told = table.both(key, client).map_err(reading())?;
                // The list may take long to be told, so the clock is asked for each.
                if let Some(flow) = told_of(&told, clock::now()).filter(|flow| filter.lets_through(flow))
                    && each(flow).is_break()
                {
                    return Ok(());
                }
            }
            if next.is_none() {
                return Ok(());
            }
        }
    }

    fn flows_seen_as(
        &mut self,
        listeners: &[SocketAddr],
        backend: SocketAddr,
        clients: &[SocketAddr],
    ) -> Result<Vec<Flow>, DatapathError> {
        let Some(Readable { table, .. }) = self.readable() else { return Ok(Vec::new()) };
        let now = clock::now();
        let mut found = Vec::new();
        for client in clients {
            let look = || -> io::Result<Option<Both>> {
                let Some(server) = table.get(&ends::tuple(backend, *client))? else { return Ok(None) };
                let tuple = server.rewritten.reversed();
                let client = table.get(&tuple)?.filter(|client| is_clients(client) && client.opened == server.opened);
                Ok(client.map(|client| Both { tuple, client, server: Some(server) }))
            };
            let flow = look().map_err(reading())?.and_then(|both| told_of(&both, now));
            found.extend(flow.filter(|flow| listeners.contains(&flow.tuple.listener)));
        }
        Ok(found)
    }

    fn usage(&mut self, listeners: &[SocketAddr]) -> Result<Usage, DatapathError> {
        let Some(Readable { table, counts, .. }) = self.readable() else { return Ok(Usage::default()) };
        let listeners: BTreeSet<_> = listeners.iter().copied().collect();
        let (mut flows, mut taken) = (0, BTreeMap::new());
        let walked = table.walk().each(|key, flow| {
            if is_clients(flow) {
                flows += 1;
                let (source, backend) = (ends::source(&flow.rewritten), ends::target(&flow.rewritten));
                // Whoever is seen as himself takes no port of ours.
                if listeners.contains(&ends::target(key)) && source != ends::source(key) {
                    *taken.entry((source.ip(), backend)).or_default() += 1;
                }
            }
        });
        walked.map_err(reading())?;
        let count =
            |counter| counts.count(counter).map_err(|error| kernel("read the counters")(io::Error::other(error)));
        let turned_away = count(Counter::Full)? + count(Counter::NoPort)?;
        let ports = taken.into_iter().map(|((source, backend), taken)| PortUse { source, backend, taken }).collect();
        Ok(Usage { flows, flows_max: table.room(), turned_away, ports })
    }

    fn events(&mut self) -> Result<BTreeMap<&'static str, u64>, DatapathError> {
        let Some(Readable { counts, .. }) = self.readable() else { return Ok(BTreeMap::new()) };
        let count = |counter: &Counter| {
            let counted = counts.count(*counter);
            counted
                .map(|count| (counter.name(), count))
                .map_err(|error| kernel("read the counters")(io::Error::other(error)))
        };
        Counter::ALL.iter().map(count).collect()
    }

    fn refused(&mut self) -> Result<BTreeMap<SocketAddr, Refused>, DatapathError> {
        let Some(Readable { tallies, .. }) = self.readable() else { return Ok(BTreeMap::new()) };
        let told = tallies.all().map_err(|error| kernel("read the listeners")(io::Error::other(error)))?;
        let refused = told.into_iter().map(|(listener, tally)| {
            let refused = Refused {
                not_allowed: tally.count(Event::NotAllowed),
                over_limit: tally.count(Event::OverLimit),
                over_source_limit: tally.count(Event::OverSourceLimit),
            };
            (listener, refused)
        });
        Ok(refused.collect())
    }

    fn signals(&mut self, each: &mut dyn FnMut(&Signals)) -> Result<(), DatapathError> {
        let Some(Readable { overheard, .. }) = self.readable() else { return Ok(()) };
        let now = clock::now();
        overheard.each(now, |pair| {
            each(&Signals {
                place: pair.slot as usize,
                life: pair.generation,
                listener: socket_address(&pair.listener),
                backend: socket_address(&pair.backend),
                awaited: awaited_since(pair.asked, pair.heard)
                    .map(|asked| Duration::from_nanos(now.saturating_sub(asked))),
                counts: told(&pair.counts),
            });
        });
        Ok(())
    }

    fn connect_times(&mut self) -> Result<Vec<ConnectTimes>, DatapathError> {
        let Some(Readable { overheard, .. }) = self.readable() else { return Ok(Vec::new()) };
        let mut found = Vec::new();
        overheard.each(clock::now(), |pair| {
            let (total, buckets) = overheard.connects(pair.slot);
            found.push(ConnectTimes {
                listener: socket_address(&pair.listener),
                backend: socket_address(&pair.backend),
                buckets: buckets
                    .iter()
                    .enumerate()
                    .map(|(bits, count)| (Duration::from_micros(1 << bits), *count))
                    .collect(),
                total: Duration::from_nanos(total),
                counts: told(&pair.counts),
            });
        });
        Ok(found)
    }
}

fn told(counts: &[u64; Sign::NUMBER]) -> Told {
    let count = |sign: Sign| counts[sign as usize];
    Told {
        syns: count(Sign::Syn),
        syn_acks: count(Sign::SynAck),
        syns_again: count(Sign::SynAgain),
        data_again: count(Sign::DataAgain),
        refused: count(Sign::Refused),
        resets: count(Sign::Reset),
    }
}

/// `None`: it is over.
fn told_of(flow: &Both, now: u64) -> Option<Flow> {
    let since = |then: u64| Duration::from_nanos(now.saturating_sub(then));
    let phase: Phase = phase(flow)?;
    Some(Flow {
        tuple: Tuple { client: ends::client(flow), listener: ends::listener(flow) },
        backend: ends::backend(flow),
        seen_as: ends::seen_as(flow),
        phase,
        traffic: Some(Traffic {
            to_backend: flow.client.bytes,
            to_client: flow.server.map_or(0, |server| server.bytes),
        }),
        age: Some(since(flow.client.opened)),
        idle: Some(since(seen(flow))),
    })
}

fn reading() -> impl FnOnce(io::Error) -> DatapathError {
    kernel("read the flow table")
}
