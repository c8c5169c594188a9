//! The eBPF datapath: committed state in memory, one store per change.
//!
//! What was committed is kept here and compared with the maps only by [`EbpfDatapath::reconcile`]; applying a change reads
//! no map. Programs are loaded with the first change, or when there are pinned ones to adopt.

mod block;
mod commit;
mod lend;
mod restore;
mod tidy;

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::net::SocketAddr;
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use shunt_core::datapath::{Applied, Change, Datapath, DatapathError, Drift, Held, Meter, Severed};
use shunt_core::flow::Tuple;
use shunt_ebpf_common::control::{Ports, ports_beside};
use shunt_ebpf_common::manage::what;
use shunt_wire::kernel;
use shunt_wire::owner::lock;

use crate::collect::Collector;
use lend::Lent;
use tidy::Idle;

use crate::interfaces::{self, Changes};
use crate::live::Liveness;
use crate::meter::{EbpfMeter, Readable, Shelf};
use crate::namespace::Namespace;
use crate::sever::Severer;
use crate::state::State;
use crate::state::slots::Slots;
use crate::{Error, Level, Listener, Object, Pins, Size, Tables, clock, ends, grace};

const NAME: &str = "the eBPF datapath";

/// Short, because ports are needed again.
const CLOSED: Duration = Duration::from_secs(10);

/// How to open the datapath.
#[derive(Clone, Debug)]
pub struct Options {
    /// A folder in a bpf file system. Each network namespace has one of its own in it.
    pub pins: PathBuf,
    /// How much new maps hold.
    pub size: Size,
    /// Where clients and servers are, now or when such an interface comes; empty: every interface that the host routes by,
    /// those that come later included.
    pub interfaces: Vec<String>,
    /// How long the entries of a connection stay that is over: its end may be said twice when it gets lost.
    pub closed: Duration,
    /// How much the programs say, by `tracing` with the target `shunt::ebpf`.
    pub log: Level,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            pins: "/sys/fs/bpf/shunt".into(),
            size: Size::default(),
            interfaces: Vec::new(),
            closed: CLOSED,
            log: Level::Off,
        }
    }
}

/// The datapath of one network namespace: that of the thread that opened it.
pub struct EbpfDatapath {
    options: Options,
    folder: PathBuf,
    namespace: Namespace,
    changes: Changes,
    state: State,
    loaded: Option<Loaded>,
    shelf: Shelf,
    /// Listeners whose lease ran out while no agent was there, until they are told of.
    lapsed: Vec<SocketAddr>,
    blocked: BTreeSet<Tuple>,
    /// Interfaces that were asked for and are not there, of which a warning has been given.
    absent: BTreeSet<String>,
    _lock: UnixListener,
}

/// The programs, and what works on their maps.
struct Loaded {
    object: Object,
    tables: Tables,
    slots: Slots,
    live: Liveness,
    severer: Severer,
    collector: Collector,
    idle: Idle,
    lent: Lent,
    next_list: u32,
    /// There if the programs are to say anything.
    _log: Option<Listener>,
}

impl EbpfDatapath {
    /// Takes the namespace's lock and adopts what a former agent left. Where there is nothing, it changes nothing.
    pub fn open(options: Options) -> Result<Self, DatapathError> {
        let lock = lock("shunt/ebpf", NAME)?;
        let namespace = Namespace::current().map_err(kernel("tell which network namespace this is"))?;
        let cookie = namespace.cookie().map_err(kernel("tell which network namespace this is"))?;
        let mut datapath = Self {
            folder: options.pins.join(cookie.to_string()),
            options,
            namespace,
            changes: Changes::subscribe().map_err(kernel("listen for new interfaces"))?,
            state: State::default(),
            loaded: None,
            shelf: Shelf::default(),
            lapsed: Vec::new(),
            blocked: BTreeSet::new(),
            absent: BTreeSet::new(),
            _lock: lock,
        };
        if Pins::hold_maps(&datapath.folder) {
            datapath.adopt()?;
        }
        Ok(datapath)
    }

    /// Whether maps of ours are there.
    pub fn found_maps(&self) -> bool {
        self.loaded.is_some()
    }

    fn adopt(&mut self) -> Result<(), DatapathError> {
        self.load()?;
        let Some(loaded) = &mut self.loaded else { return Ok(()) };
        let found = loaded.found()?;
        self.state = State::adopt(&found);
        loaded.take_seats(&found, &self.state)?;
        tracing::info!(listeners = self.state.listeners.len(), "adopted the maps");
        self.adopt_blocked()?;
        let (plan, lapsed) = self.state.lapse(clock::now());
        if plan.changed() > 0 {
            self.commit(plan)?;
        }
        self.lapsed = lapsed;
        // Flows that died while no agent was there to tell their ends.
        if let Some(loaded) = &self.loaded {
            loaded.severer.look(Instant::now());
        }
        Ok(())
    }

    /// Loads the programs onto the pinned maps, or onto new ones, and attaches them.
    fn load(&mut self) -> Result<(), DatapathError> {
        if self.loaded.is_some() {
            return Ok(());
        }
        let Options { size, closed, log: level, .. } = self.options;
        let folder = &self.folder;
        let loaded = self.namespace.inside(|| -> Result<Loaded, DatapathError> {
            let mut object = Object::load(Pins::at(folder)?, size)?;
            let mut tables = object.tables()?;
            tables.set_ports(ports().map_err(kernel("read net.ipv4.ip_local_port_range"))?);
            let log = (level != Level::Off).then(|| object.listen()).transpose()?;
            // A former agent may have wanted to hear more.
            tables.set_log(level);
            let slots = Slots::new(tables.slots(), [].into(), [].into());
            let live = tables.liveness()?;
            let severer = Severer::start(tables.flow_table(), tables.liveness()?)?;
            Ok(Loaded {
                object,
                tables,
                slots,
                live,
                severer,
                collector: Collector::new(closed),
                idle: Idle::default(),
                lent: Lent::default(),
                next_list: 1,
                _log: log,
            })
        });
        let loaded = loaded.map_err(kernel("enter the datapath's network namespace"))??;
        let readable = Readable {
            table: loaded.tables.flow_table(),
            counts: loaded.tables.counts(),
            tallies: loaded.tables.tallies()?,
            overheard: Arc::new(loaded.tables.overhear()?),
        };
        *self.shelf.lock().unwrap_or_else(PoisonError::into_inner) = Some(readable);
        self.loaded = Some(loaded);
        self.attach()
    }

    /// Attaches to the interfaces that have no link yet.
    fn attach(&mut self) -> Result<(), DatapathError> {
        let Some(loaded) = &mut self.loaded else { return Ok(()) };
        let (wanted, absent) = (&self.options.interfaces, &mut self.absent);
        let attached = self.namespace.inside(|| -> Result<(), DatapathError> {
            loaded.object.forget_gone()?;
            Ok(interfaces(wanted, absent)?.iter().try_for_each(|interface| loaded.object.attach(interface))?)
        });
        attached.map_err(kernel("enter the datapath's network namespace"))?
    }
}

impl Datapath for EbpfDatapath {
    fn apply(&mut self, change: &Change) -> Result<Applied, DatapathError> {
        let plan = |state: &State| state.plan(change, clock::now()).map_err(DatapathError::Unsupported);
        let mut planned = plan(&self.state)?;
        if planned.changed() == 0 {
            return Ok(Applied::default());
        }
        if self.loaded.is_none() {
            // It takes a second or so, which leases and holds would be short of.
            self.load()?;
            planned = plan(&self.state)?;
        }
        let plan = planned;
        let changed = plan.changed();
        let commit = self.commit(plan)?;
        Ok(Applied { changed, commit })
    }

    fn reconcile(&mut self) -> Result<Vec<Drift>, DatapathError> {
        if self.loaded.is_none() {
            return Ok(Vec::new());
        }
        self.settle()?;
        self.restore()
    }

    fn upkeep(&mut self) -> Result<(), DatapathError> {
        if self.loaded.is_none() {
            return Ok(());
        }
        let plan = self.state.end_drains(clock::now());
        if plan.changed() > 0 {
            self.commit(plan)?;
        }
        if self.changes.any() {
            self.attach()?;
        }
        self.tidy()
    }

    fn renew(&mut self) -> Result<Vec<SocketAddr>, DatapathError> {
        let (plan, mut lapsed) = self.state.renew(clock::now());
        if plan.changed() > 0 {
            self.commit(plan)?;
        }
        lapsed.append(&mut self.lapsed);
        Ok(lapsed)
    }

    fn sever(&mut self, flows: &[Tuple]) -> Result<(), DatapathError> {
        let Some(loaded) = &self.loaded else { return Ok(()) };
        let since = Instant::now();
        loaded.order(flows, what::END)?;
        grace::wait();
        loaded.severer.flows(flows.iter().map(ends::key).collect(), since);
        self.forget_kept(flows)
    }

    fn block(&mut self, flows: &[Tuple]) -> Result<(), DatapathError> {
        self.stop(flows)
    }

    fn unblock(&mut self, flows: &[Tuple]) -> Result<(), DatapathError> {
        self.let_go(flows)
    }

    fn severed(&mut self) -> Vec<Severed> {
        self.loaded.as_ref().map(|loaded| loaded.severer.finished()).unwrap_or_default()
    }

    fn meter(&self) -> Result<Box<dyn Meter>, DatapathError> {
        Ok(Box::new(EbpfMeter::new(self.shelf.clone())))
    }

    fn committed(&self) -> Vec<Held> {
        self.state.held()
    }

    fn purge(&mut self) -> Result<(), DatapathError> {
        *self.shelf.lock().unwrap_or_else(PoisonError::into_inner) = None;
        self.state = State::default();
        self.lapsed.clear();
        self.blocked.clear();
        let had = self.loaded.take();
        let pins = match had {
            Some(loaded) => loaded.object.pins().clone(),
            None if self.folder.exists() => Pins::at(&self.folder)?,
            None => return Ok(()),
        };
        pins.purge()?;
        // Made for us by somebody else, or with another namespace's folder in it, it stays.
        let stays = [
            io::ErrorKind::NotFound,
            io::ErrorKind::DirectoryNotEmpty,
            io::ErrorKind::PermissionDenied,
            io::ErrorKind::ResourceBusy,
            io::ErrorKind::ReadOnlyFilesystem,
        ];
        match fs::remove_dir(&self.options.pins) {
            Err(error) if !stays.contains(&error.kind()) => {
                Err(kernel(format!("remove {}", self.options.pins.display()))(error))
            }
            _ => Ok(()),
        }
    }
}

/// Those that were asked for and are there, or all that the host routes by. Those that are not are `absent`, and told of
/// once each time that they are missed.
fn interfaces(wanted: &[String], absent: &mut BTreeSet<String>) -> Result<BTreeSet<String>, DatapathError> {
    if wanted.is_empty() {
        return interfaces::routed().map_err(kernel("list the interfaces"));
    }
    let (there, missed) = interfaces::named(wanted).map_err(kernel("list the interfaces"))?;
    for interface in missed.difference(absent) {
        tracing::warn!(interface, "there is no such interface; the programs are attached to it when it comes");
    }
    *absent = missed;
    Ok(there)
}

/// The ports for NAT: those that the host does not give to its own clients. The range is that of the thread's namespace.
fn ports() -> io::Result<[Ports; 2]> {
    let text = fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range")?;
    let mut numbers = text.split_whitespace().map(str::parse);
    match (numbers.next(), numbers.next()) {
        (Some(Ok(first)), Some(Ok(last))) => Ok(ports_beside(first, last)),
        _ => Err(io::Error::other(format!("\"{}\" is no range of ports", text.trim()))),
    }
}

impl From<Error> for DatapathError {
    fn from(error: Error) -> Self {
        match error {
            Error::Abi { .. } => Self::OtherVersion(error.to_string()),
            Error::NoBpffs { .. } | Error::OldKernel { .. } => Self::Unsupported(error.to_string()),
            Error::Kernel { what, source } => Self::Kernel { what, source },
            Error::Program { what, source } => Self::Kernel { what, source: io::Error::other(source) },
            Error::Map { what, source } => Self::Kernel { what, source: io::Error::other(source) },
            Error::Load(source) => {
                Self::Kernel { what: "load the eBPF programs".to_owned(), source: io::Error::other(source) }
            }
            Error::Missing(_) => {
                Self::Kernel { what: "use the eBPF programs".to_owned(), source: io::Error::other(error) }
            }
        }
    }
}
