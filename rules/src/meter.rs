//! Reads what the datapath carries, over a socket of its own: nothing here makes a commit wait.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io;
use std::net::SocketAddr;
use std::ops::ControlFlow;
use std::os::unix::fs::FileExt as _;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use shunt_core::datapath::{DatapathError, Meter, PortUse, Refused, Usage};
use shunt_core::flow::{Flow, FlowFilter, Tuple};

use crate::conntrack::details::{Details, Timeouts};
use crate::conntrack::entry::Entry;
use crate::conntrack::filter::Filter;
use crate::conntrack::{Conntrack, families};
use crate::netlink::read;
use crate::netlink::socket::Netlink;
use crate::schema::Reason;
use crate::transaction::kernel;

/// The meter of one network namespace: that of the thread that opened it.
pub struct NftMeter {
    table: String,
    nf_tables: Netlink,
    conntrack: Conntrack,
    /// `None` where the kernel does not show them: then nobody's idle time can be told.
    timeouts: Option<TimeoutFiles>,
}

impl NftMeter {
    /// `table`: the name of ours.
    pub fn open(table: &str) -> io::Result<Self> {
        let mut conntrack = Conntrack::open()?;
        // Asked anything, the kernel loads conntrack, and only then are its settings there.
        conntrack.filling()?;
        let timeouts = TimeoutFiles::open()
            .inspect_err(
                |error| tracing::warn!(%error, "conntrack's timeouts cannot be read: no flow's idle time is known"),
            )
            .ok();
        Ok(Self { table: table.to_owned(), nf_tables: Netlink::open()?, conntrack, timeouts })
    }
}

impl Meter for NftMeter {
    fn connections(&mut self, listeners: &[SocketAddr]) -> Result<BTreeMap<SocketAddr, u64>, DatapathError> {
        self.conntrack.count(listeners.iter().copied()).map_err(kernel("count conntrack's entries"))
    }

    fn flows(
        &mut self,
        filter: &FlowFilter,
        each: &mut dyn FnMut(Flow) -> ControlFlow<()>,
    ) -> Result<(), DatapathError> {
        let timeouts = self.timeouts.as_ref().and_then(TimeoutFiles::read);
        let wanted = filter.source_port.map_or(Filter::Mapped, Filter::SeenPort);
        let told = self.conntrack.stream(families(filter.listeners.iter()), wanted, |entry, message| {
            if !filter.listeners.contains(&entry.original.destination) {
                return ControlFlow::Continue(());
            }
            // The list may take long to be told, so the clock is asked for each.
            let flow = flow(entry, &Details::parse(message), timeouts.as_ref(), wall_clock());
            if filter.lets_through(&flow) { each(flow) } else { ControlFlow::Continue(()) }
        });
        told.map_err(kernel("read conntrack's entries"))
    }

    fn flows_seen_as(
        &mut self,
        listeners: &[SocketAddr],
        backend: SocketAddr,
        clients: &[SocketAddr],
    ) -> Result<Vec<Flow>, DatapathError> {
        let timeouts = self.timeouts.as_ref().and_then(TimeoutFiles::read);
        let now = wall_clock();
        let mut found = Vec::new();
        let looked = self.conntrack.seen_as(backend, clients, |entry, message| {
            if listeners.contains(&entry.original.destination) {
                found.push(flow(entry, &Details::parse(message), timeouts.as_ref(), now));
            }
        });
        looked.map_err(kernel("look conntrack's entries up"))?;
        Ok(found)
    }

    fn usage(&mut self, listeners: &[SocketAddr]) -> Result<Usage, DatapathError> {
        let filling = self.conntrack.filling().map_err(kernel("ask how full conntrack's table is"))?;
        let turned_away = self.conntrack.turned_away().map_err(kernel("read conntrack's statistics"))?;
        let listeners: BTreeSet<_> = listeners.iter().copied().collect();
        let mut taken = BTreeMap::new();
        let counted = self.conntrack.stream(families(listeners.iter()), Filter::Rewritten, |entry, _| {
            if listeners.contains(&entry.original.destination) {
                *taken.entry((entry.reply.destination.ip(), entry.reply.source)).or_default() += 1;
            }
            ControlFlow::Continue(())
        });
        counted.map_err(kernel("count the ports that flows take"))?;
        let ports = taken.into_iter().map(|((source, backend), taken)| PortUse { source, backend, taken });
        Ok(Usage { flows: filling.entries, flows_max: filling.max, turned_away, ports: ports.collect() })
    }

    fn refused(&mut self) -> Result<BTreeMap<SocketAddr, Refused>, DatapathError> {
        let refusals = match read::refusals(&mut self.nf_tables, &self.table) {
            // There is no table, so nobody was refused.
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Vec::new(),
            other => other.map_err(kernel(format!("read the counters of table inet {}", self.table)))?,
        };
        let mut refused: BTreeMap<SocketAddr, Refused> = BTreeMap::new();
        for (listener, reason, times) in refusals {
            let refused = refused.entry(listener).or_default();
            match reason {
                Reason::NotAllowed => refused.not_allowed = times,
                Reason::OverLimit => refused.over_limit = times,
                Reason::OverSourceLimit => refused.over_source_limit = times,
            }
        }
        Ok(refused)
    }
}

fn flow(entry: &Entry, details: &Details, timeouts: Option<&Timeouts>, now: Duration) -> Flow {
    Flow {
        tuple: Tuple { client: entry.original.source, listener: entry.original.destination },
        backend: entry.reply.source,
        seen_as: entry.reply.destination,
        phase: details.phase,
        traffic: details.traffic,
        age: details.age(now),
        idle: timeouts.and_then(|timeouts| details.idle(timeouts)),
    }
}

/// Since 1970; the kernel writes the beginnings of flows down by the same clock.
fn wall_clock() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

/// The settings that idle times are told by. A file stays that of the namespace in which it was opened.
struct TimeoutFiles {
    established: File,
    unacknowledged: File,
    retransmitting: File,
}

impl TimeoutFiles {
    fn open() -> io::Result<Self> {
        let open = |name: &str| File::open(format!("/proc/sys/net/netfilter/nf_conntrack_tcp_timeout_{name}"));
        Ok(Self {
            established: open("established")?,
            unacknowledged: open("unacknowledged")?,
            retransmitting: open("max_retrans")?,
        })
    }

    /// As they are now: somebody may have changed them.
    fn read(&self) -> Option<Timeouts> {
        let read = |file: &File| {
            let mut text = [0; 32];
            let len = file.read_at(&mut text, 0).ok()?;
            let seconds = std::str::from_utf8(text.get(..len)?).ok()?.trim().parse().ok()?;
            Some(Duration::from_secs(seconds))
        };
        Some(Timeouts {
            established: read(&self.established)?,
            unacknowledged: read(&self.unacknowledged)?,
            retransmitting: read(&self.retransmitting)?,
        })
    }
}
