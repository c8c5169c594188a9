//! The agent as a whole: what is started in which order, and who runs now.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, RwLock};
use std::time::Duration;

use shunt_core::cluster::{Alarm, AlarmKind, ClusterStatus, Entry, Pause, Remembered};
use shunt_core::config::ClusterConfig;
use shunt_core::datapath::{Change, DatapathError, Meter};
use shunt_core::mapping::Leaving;
use shunt_core::{ClusterName, Mono};
use tokio::sync::{Mutex, mpsc, oneshot};

use super::cluster::{ClusterHandle, Request, Shared};
use super::departed::Departed;
use super::flows::Readers;
use super::host::{self, Sight};
use super::journal::Journal;
use super::lease::{self, Leases, Renewals};
use super::operate::remember_operations;
use super::tasks::{Logins, Tools};
use super::usage::{self, Watched};
use super::worker::Worker;
use super::{severed, signals, watch};
use crate::clock::Clock;
use crate::config::{self, AgentConfig, Loaded};
use crate::datapath::{self, OpenError, Opened};
use crate::hooks::Hooks;
use crate::store::{Store, StoreError};
use crate::telemetry::Counters;

/// A cluster's task answers in microseconds, unless it waits for disk or kernel.
const STATUS_PATIENCE: Duration = Duration::from_millis(500);
/// Established flows of a listener that nothing is known of any more get this long to end.
const ORPHAN_DRAIN: Duration = Duration::from_secs(30);

/// Where the agent finds and keeps its things.
#[derive(Clone, Debug)]
pub struct Paths {
    pub config: PathBuf,
    pub state: PathBuf,
    pub socket: PathBuf,
}

/// Why an agent could not start. Nothing was changed in the kernel, unless another datapath was to go first.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The diagnostics, rendered.
    #[error("the configuration is in error")]
    Config(String),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Open(#[from] OpenError),
    #[error("the datapath cannot be used")]
    Datapath(#[from] DatapathError),
    #[error("cannot start a thread")]
    Thread(#[from] std::io::Error),
}

impl StartError {
    /// What to do about it.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Store(error) => error.hint(),
            Self::Open(error) => Some(error.hint.clone()),
            Self::Datapath(_) => Some("`shunt doctor` examines what the kernel can do".to_owned()),
            Self::Config(_) | Self::Thread(_) => None,
        }
    }
}

/// A running agent.
pub struct Agent {
    pub(super) paths: Paths,
    pub(super) shared: Shared,
    pub(super) settings: AgentConfig,
    pub(super) leases: Leases,
    pub(super) sight: Sight,
    pub(super) departed: RwLock<Vec<Departed>>,
    /// On a thread of its own: a dump of many flows must not stand before a swap.
    pub(super) meter: Worker<Box<dyn Meter>>,
    pub(super) readers: Readers,
    pub(super) watched: RwLock<Watched>,
    pub(super) clusters: RwLock<BTreeMap<ClusterName, ClusterHandle>>,
    /// What is amiss with the configuration that runs.
    pub(super) config_alarms: RwLock<Vec<(Option<ClusterName>, Alarm)>>,
    /// Files that were in error when the agent started, and whose clusters do not run therefore.
    pub(super) broken: RwLock<Vec<PathBuf>>,
    /// One reload at a time.
    pub(super) reloading: Mutex<()>,
    /// The last failure to bring the kernel back in line; `None` while all is well.
    pub(super) drift_alarm: RwLock<Option<String>>,
    /// Why the pages are not served, if they are not.
    pages_alarm: RwLock<Option<String>>,
    /// The store's disk, as of the last look.
    pub(super) disk_is_full: AtomicBool,
}

impl Agent {
    /// Reads the configuration, opens store and datapath, adopts what the kernel holds, and starts a task a cluster.
    /// When it returns, every cluster's first plan is in the kernel.
    pub async fn start(paths: Paths) -> Result<Arc<Self>, StartError> {
        let clock = Clock::start();
        let loaded = load(&paths).await;
        let Some(settings) = loaded.agent.clone() else {
            return Err(StartError::Config(loaded.render(false)));
        };
        if loaded.has_errors() {
            tracing::error!("files in error are left out:\n{}", loaded.render(false));
        }

        let mut store = Store::open(&paths.state)?;
        let mut remembered = remember(&mut store, clock)?;
        for config in &loaded.clusters {
            let memory = remembered.entry(config.name.clone()).or_default();
            remember_operations(&store, clock, config, memory)?;
        }
        let Opened { mut datapath, notices, changes } = datapath::open(&settings, &paths.state).await?;
        // First of all: leases may have run for long, and one that has run out must not be taken for an open listener.
        let lapsed = datapath.renew()?;
        let held: BTreeMap<_, _> = datapath.committed().into_iter().map(|h| (h.listener, h.backends)).collect();
        let meter = Worker::start("meter", datapath.meter()?)?;
        let datapath = Worker::start("datapath", datapath)?;
        let journal = Journal::start(store, clock)?;

        let renewals = Renewals::new();
        let (failures, salvage) = (journal.clone(), paths.state.join("salvage"));
        let hooks = Hooks::start(settings.hooks.clone(), move |failed| {
            failures.record(ClusterName::new(&failed.notice.cluster).ok().as_ref(), failed.entry());
        });
        let tools = Tools { datapath: datapath.clone(), meter: meter.clone(), hooks, salvage };
        let shared = Shared { clock, journal, datapath, counters: Counters::default(), renewals, tools };
        let agent = Arc::new(Self {
            paths,
            shared,
            settings,
            meter,
            leases: Leases::default(),
            sight: Sight::default(),
            departed: RwLock::default(),
            readers: Readers::default(),
            watched: RwLock::default(),
            clusters: RwLock::default(),
            config_alarms: RwLock::default(),
            broken: RwLock::new(broken_paths(&loaded)),
            reloading: Mutex::new(()),
            drift_alarm: RwLock::default(),
            pages_alarm: RwLock::default(),
            disk_is_full: AtomicBool::new(false),
        });
        agent.note_diagnostics(&loaded);
        agent.shared.journal.record(
            None,
            Entry {
                kind: "started",
                message: format!("shunt {} started, {} clusters", env!("CARGO_PKG_VERSION"), loaded.clusters.len()),
                data: vec![("listeners_found", held.len().to_string())],
            },
        );
        for change in &changes {
            agent.shared.journal.record(None, change.entry());
        }
        agent.keep_leases(agent.settings.lease);
        lease::start(agent.clone());
        let mut starting = tokio::task::JoinSet::new();
        for config in loaded.clusters.clone() {
            let mut memory = remembered.remove(&config.name).unwrap_or_default();
            memory.held = held_by(&config, &held);
            memory.lapsed.clone_from(&lapsed);
            let Some(login) = agent.login(&loaded, &config) else { continue };
            starting.spawn(ClusterHandle::start(config, login, memory, agent.shared.clone()));
        }
        while let Some(started) = starting.join_next().await {
            if let Ok(handle) = started {
                agent.adopt(handle);
            }
        }
        agent.keep_leases(None);
        agent.note_strays(&lapsed);
        agent.drop_orphans().await;
        watch::start(agent.clone(), notices);
        severed::start(agent.clone());
        signals::start(agent.clone());
        host::start(agent.clone());
        usage::start(agent.clone());
        Ok(agent)
    }

    pub const fn settings(&self) -> &AgentConfig {
        &self.settings
    }

    pub const fn clock(&self) -> Clock {
        self.shared.clock
    }

    pub const fn journal(&self) -> &Journal {
        &self.shared.journal
    }

    pub const fn counters(&self) -> &Counters {
        &self.shared.counters
    }

    /// Every cluster's status, by name; of a cluster whose task is busy, as of its last decision.
    pub async fn statuses(&self) -> Vec<ClusterStatus> {
        let asked: Vec<_> = read(&self.clusters).values().map(ask_status).collect();
        let deadline = tokio::time::Instant::now() + STATUS_PATIENCE;
        let mut statuses = Vec::with_capacity(asked.len());
        for (answer, last) in asked {
            statuses.push(match tokio::time::timeout_at(deadline, answer).await {
                Ok(Ok(status)) => status,
                Ok(Err(_)) | Err(_) => last,
            });
        }
        statuses
    }

    pub async fn status(&self, cluster: &ClusterName) -> Option<ClusterStatus> {
        let (answer, last) = ask_status(read(&self.clusters).get(cluster)?);
        match tokio::time::timeout(STATUS_PATIENCE, answer).await {
            Ok(Ok(status)) => Some(status),
            Ok(Err(_)) | Err(_) => Some(last),
        }
    }

    pub fn cluster_names(&self) -> Vec<ClusterName> {
        read(&self.clusters).keys().cloned().collect()
    }

    /// The configuration that a cluster runs with.
    pub fn cluster_config(&self, cluster: &ClusterName) -> Option<ClusterConfig> {
        read(&self.clusters).get(cluster).map(|handle| handle.config.clone())
    }

    /// The way to a cluster's task.
    pub fn requests(&self, cluster: &ClusterName) -> Option<mpsc::Sender<Request>> {
        read(&self.clusters).get(cluster).map(ClusterHandle::requests)
    }

    /// Alarms that are the agent's own rather than a running cluster's.
    pub fn alarms(&self) -> Vec<(Option<ClusterName>, Alarm)> {
        let mut alarms = read(&self.config_alarms).clone();
        if let Some(message) = read(&self.drift_alarm).clone() {
            alarms.push((None, Alarm { kind: AlarmKind::DatapathFailed, message }));
        }
        if let Some(message) = read(&self.leases.alarm).clone() {
            let message = format!("leases cannot be renewed: {message}");
            alarms.push((None, Alarm { kind: AlarmKind::DatapathFailed, message }));
        }
        alarms.extend(self.sight.alarms());
        if let Some(message) = read(&self.pages_alarm).clone() {
            alarms.push((None, Alarm { kind: AlarmKind::PagesFailed, message }));
        }
        if self.disk_is_full.load(Ordering::Relaxed) {
            let message = format!("no space left under {}: history is not written", self.paths.state.display());
            alarms.push((None, Alarm { kind: AlarmKind::StateFailed, message }));
        }
        alarms.extend(self.usage_alarms());
        let lost = self.shared.journal.lost();
        if lost > 0 {
            let message = format!("{lost} lines of history could not be written since the agent started");
            alarms.push((None, Alarm { kind: AlarmKind::StateFailed, message }));
        }
        alarms
    }

    /// The established connections through each listener, departed ones included; `None` when the kernel cannot be asked.
    pub async fn connections(&self) -> Option<BTreeMap<SocketAddr, u64>> {
        let listeners = self.counted_listeners();
        match self.meter.run(move |meter| meter.connections(&listeners)).await {
            Ok(Ok(counted)) => Some(counted),
            Ok(Err(error)) => {
                tracing::warn!(error = super::error_chain(&error), "connections could not be counted");
                None
            }
            Err(_) => None,
        }
    }

    /// Whether every thread and every cluster's task gets round to its work within `patience`.
    pub async fn is_alive(&self, patience: Duration) -> bool {
        let tasks: Vec<_> = read(&self.clusters).values().map(ClusterHandle::requests).collect();
        let pings = async {
            for task in tasks {
                let (reply, pong) = oneshot::channel();
                if task.send(Request::Ping(reply)).await.is_err() || pong.await.is_err() {
                    return false;
                }
            }
            true
        };
        self.shared.datapath.is_responsive(patience).await
            && self.shared.journal.is_responsive(patience).await
            && tokio::time::timeout(patience, pings).await.unwrap_or(false)
    }

    /// Notes why the pages cannot be served; `None`: they can.
    pub fn note_pages(&self, trouble: Option<String>) {
        if let Some(trouble) = &trouble {
            tracing::error!("{trouble}");
        }
        *write(&self.pages_alarm) = trouble;
    }

    pub(super) fn adopt(&self, handle: ClusterHandle) {
        let name = handle.config.name.clone();
        let listeners: Vec<_> = handle.config.listeners.iter().map(|l| l.address).collect();
        write(&self.clusters).insert(name.clone(), handle);
        self.claim_lapses(&name, &listeners);
    }

    /// Whom to log in as. The loader refuses a cluster whose credentials are not defined, so there is always somebody.
    pub(super) fn login(&self, loaded: &Loaded, config: &ClusterConfig) -> Option<Logins> {
        let settings = loaded.agent.as_ref().unwrap_or(&self.settings);
        let agent = settings.credentials.get(&config.credentials).cloned()?;
        let replication = settings.credentials.get(&config.promoting.replication_credentials).cloned();
        Some(Logins { replication: replication.unwrap_or_else(|| agent.clone()), agent })
    }

    /// Turns what the loader complained about into alarms.
    pub(super) fn note_diagnostics(&self, loaded: &Loaded) {
        let mut alarms: Vec<_> = loaded
            .broken
            .iter()
            .map(|file| {
                let message = format!(
                    "{} is in error; its listeners stay as the kernel has them: see `shunt config check`",
                    file.path.display()
                );
                (file.cluster.clone(), Alarm { kind: AlarmKind::ConfigBroken, message })
            })
            .collect();
        if !loaded.is_complete {
            let message =
                "clusters.d cannot be read; every listener stays as the kernel has it: see `shunt config check`";
            alarms.push((None, Alarm { kind: AlarmKind::ConfigBroken, message: message.to_owned() }));
        }
        *write(&self.config_alarms) = alarms;
    }

    /// Removes listeners that the kernel holds and no file names any more, and tries again those that could not be removed
    /// before. While a file is in error they might be its, so they stay.
    pub(super) async fn drop_orphans(&self) {
        if !read(&self.broken).is_empty() {
            return;
        }
        let Ok(held) = self.shared.datapath.run(|datapath| datapath.committed()).await else { return };
        let known: Vec<_> =
            read(&self.clusters).values().flat_map(|c| c.config.listeners.iter().map(|l| l.address)).collect();
        let orphans: Vec<_> = held
            .into_iter()
            .map(|held| held.listener)
            .filter(|listener| !known.contains(listener))
            .map(|listener| (listener, Leaving::Drain(ORPHAN_DRAIN)))
            .collect();
        self.remove_listeners(orphans).await;
    }

    pub(super) async fn remove_listeners(&self, gone: Vec<(SocketAddr, Leaving)>) {
        if gone.is_empty() {
            return;
        }
        for (listener, leaving) in &gone {
            let flows = match leaving {
                Leaving::Sever => "its connections end now".to_owned(),
                Leaving::Drain(time) => format!("its connections have {time:?} to end"),
                Leaving::Keep => "its connections end by themselves".to_owned(),
            };
            self.shared.journal.record(
                None,
                Entry {
                    kind: "removed",
                    message: format!("listener {listener} is in no file any more: {flows}"),
                    data: vec![("listener", listener.to_string())],
                },
            );
        }
        let change = Change { set: Vec::new(), remove: gone };
        let failed = match self.shared.datapath.run(move |datapath| datapath.apply(&change)).await {
            Ok(Ok(_)) => return,
            Ok(Err(error)) => super::error_chain(&error),
            Err(error) => error.to_string(),
        };
        self.shared.journal.record(
            None,
            Entry {
                kind: "commit_failed",
                message: format!("listeners could not be removed: {failed}"),
                data: Vec::new(),
            },
        );
        *write(&self.drift_alarm) = Some(failed);
    }
}

/// The files in error; the folder itself if it could not be listed.
pub(super) fn broken_paths(loaded: &Loaded) -> Vec<PathBuf> {
    let mut paths: Vec<_> = loaded.broken.iter().map(|b| b.path.clone()).collect();
    if !loaded.is_complete {
        paths.push(loaded.dir.join("clusters.d"));
    }
    paths
}

/// Asks a cluster's task for its status, without waiting; and what to go by if it does not answer.
fn ask_status(cluster: &ClusterHandle) -> (oneshot::Receiver<ClusterStatus>, ClusterStatus) {
    let (reply, answer) = oneshot::channel();
    // A queue that is full drops the reply, which is an answer too.
    let _ = cluster.requests().try_send(Request::Status(reply));
    (answer, cluster.last_status())
}

pub(super) async fn load(paths: &Paths) -> Loaded {
    let folder = paths.config.clone();
    // Names are resolved, which may take seconds.
    match tokio::task::spawn_blocking(move || config::load(&folder, &config::system_resolver)).await {
        Ok(loaded) => loaded,
        Err(panicked) => std::panic::resume_unwind(panicked.into_panic()),
    }
}

pub(super) fn remember(store: &mut Store, clock: Clock) -> Result<BTreeMap<ClusterName, Remembered>, StoreError> {
    let mut memory: BTreeMap<ClusterName, Remembered> = BTreeMap::new();
    for (name, (epoch, primary)) in store.epochs()? {
        let cluster = memory.entry(name).or_default();
        (cluster.epoch, cluster.primary) = (epoch, primary);
    }
    for pin in store.pins()? {
        memory.entry(pin.cluster).or_default().pins.insert(pin.listener, pin.server);
    }
    for pause in store.pauses()? {
        let until = pause.until_ms.map(|ms| clock.at_unix_ms(ms));
        if until.is_some_and(|until| until <= Mono::ZERO) {
            store.resume(&pause.cluster)?;
            continue;
        }
        let reason = format!("{} ({})", pause.reason, pause.by);
        memory.entry(pause.cluster).or_default().pause = Some(Pause { until, reason });
    }
    Ok(memory)
}

pub(super) fn held_by(
    config: &ClusterConfig,
    held: &BTreeMap<SocketAddr, Vec<SocketAddr>>,
) -> BTreeMap<SocketAddr, Vec<SocketAddr>> {
    config.listeners.iter().filter_map(|l| held.get(&l.address).map(|b| (l.address, b.clone()))).collect()
}

/// A lock whose holder panicked still guards consistent data here: every write is one assignment or one insert.
pub(super) fn read<T>(lock: &RwLock<T>) -> std::sync::RwLockReadGuard<'_, T> {
    lock.read().unwrap_or_else(std::sync::PoisonError::into_inner)
}

pub(super) fn write<T>(lock: &RwLock<T>) -> std::sync::RwLockWriteGuard<'_, T> {
    lock.write().unwrap_or_else(std::sync::PoisonError::into_inner)
}
