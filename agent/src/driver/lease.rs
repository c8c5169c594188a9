//! Renewing leases. The kernel stops a listener whose lease is not renewed in time; whoever finds that it did tells the
//! listener's cluster, which decides anew.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use shunt_core::cluster::Entry;
use shunt_core::datapath::{Datapath, DatapathError};
use shunt_core::{ClusterName, Mono};
use tokio::sync::{Notify, watch};
use tokio::time::Instant;

use super::agent::{Agent, read, write};
use super::cluster::Request;
use super::worker::Gone;
use crate::clock::Clock;

/// No lease is shorter: what the configuration allows.
const SHORTEST: Duration = Duration::from_secs(1);
/// A lease survives two renewals that come too late.
const RENEWALS: u32 = 3;

/// When leases were last renewed, for those who must not open anything on an old one.
#[derive(Clone)]
pub struct Renewals {
    /// In milliseconds of the agent's clock.
    last: Arc<AtomicU64>,
    found: Arc<Found>,
}

/// Listeners that were found lapsed outside of the task that renews: it tells whose they are.
#[derive(Default)]
struct Found {
    listeners: Mutex<BTreeSet<SocketAddr>>,
    more: Notify,
}

impl Found {
    fn add(&self, lapsed: Vec<SocketAddr>) {
        self.lock().extend(lapsed);
        self.more.notify_one();
    }

    fn take(&self) -> Vec<SocketAddr> {
        std::mem::take(&mut *self.lock()).into_iter().collect()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeSet<SocketAddr>> {
        // A set that a panic interrupted is still a set.
        self.listeners.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Renewals {
    pub(super) fn new() -> Self {
        Self { last: Arc::default(), found: Arc::default() }
    }

    fn renew(&self, datapath: &mut dyn Datapath, clock: Clock) -> Result<Vec<SocketAddr>, DatapathError> {
        let began = clock.now();
        let lapsed = datapath.renew()?;
        self.last.store(began.0.as_millis() as u64, Ordering::Relaxed);
        Ok(lapsed)
    }

    /// Renews if it has not been done for half a lease; those of `ours` whose lease had run out by then. Whose the others
    /// are is told by the task that renews.
    pub(super) fn renew_unless_fresh(
        &self,
        datapath: &mut dyn Datapath,
        clock: Clock,
        lease: Duration,
        ours: &[SocketAddr],
    ) -> Result<Vec<SocketAddr>, DatapathError> {
        let last = Mono::from_millis(self.last.load(Ordering::Relaxed));
        if clock.now().since(last) < lease / 2 {
            return Ok(Vec::new());
        }
        let (lapsed, others): (Vec<_>, _) = self.renew(datapath, clock)?.into_iter().partition(|l| ours.contains(l));
        if !others.is_empty() {
            self.found.add(others);
        }
        Ok(lapsed)
    }
}

/// What the agent knows of leases.
#[derive(Default)]
pub(super) struct Leases {
    /// The shortest in use; `None`: there is none to renew.
    shortest: watch::Sender<Option<Duration>>,
    /// Listeners whose lease ran out, and whose cluster does not run, or not yet.
    unclaimed: std::sync::RwLock<BTreeSet<SocketAddr>>,
    /// Why the last renewal failed, if it did.
    pub(super) alarm: std::sync::RwLock<Option<String>>,
}

/// Starts the task that renews.
pub(super) fn start(agent: Arc<Agent>) {
    tokio::spawn(async move {
        let found = agent.shared.renewals.found.clone();
        let mut shortest = agent.leases.shortest.subscribe();
        loop {
            let lease = *shortest.borrow_and_update();
            let due = Instant::now() + lease.unwrap_or(SHORTEST) / RENEWALS;
            if lease.is_some() {
                let (renewals, clock) = (agent.shared.renewals.clone(), agent.shared.clock);
                let renew = move |datapath: &mut Box<dyn Datapath>| renewals.renew(datapath.as_mut(), clock);
                let renewed = agent.shared.datapath.run_first(renew).await;
                agent.note_renewal(renewed);
            }
            let pause = async {
                match lease {
                    Some(_) => tokio::time::sleep_until(due).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = pause => {}
                () = found.more.notified() => agent.hand_out_lapses(found.take()),
                changed = shortest.changed() => if changed.is_err() { return },
            }
        }
    });
}

impl Agent {
    /// Has leases renewed often enough for every running cluster and for `more`, which is about to come into force.
    pub(super) fn keep_leases(&self, more: Option<Duration>) {
        // Whose file is in error may have a lease from when it was not.
        let unknown = (!read(&self.broken).is_empty()).then_some(SHORTEST);
        let running = read(&self.clusters).values().filter_map(|cluster| cluster.config.lease).min();
        let shortest = [unknown, running, more].into_iter().flatten().min();
        self.leases.shortest.send_if_modified(|known| std::mem::replace(known, shortest) != shortest);
    }

    fn note_renewal(&self, renewed: Result<Result<Vec<SocketAddr>, DatapathError>, Gone>) {
        let failure = match renewed {
            Ok(Ok(lapsed)) => {
                self.hand_out_lapses(lapsed);
                None
            }
            Ok(Err(error)) => Some(super::error_chain(&error)),
            Err(error) => Some(error.to_string()),
        };
        let mut alarm = write(&self.leases.alarm);
        if let Some(error) = &failure
            && *alarm != failure
        {
            let message = format!("leases could not be renewed: {error}");
            self.shared.journal.record(None, Entry { kind: "alarm", message, data: Vec::new() });
        }
        *alarm = failure;
    }

    fn hand_out_lapses(&self, lapsed: Vec<SocketAddr>) {
        if lapsed.is_empty() {
            return;
        }
        let mut by_cluster: BTreeMap<ClusterName, Vec<SocketAddr>> = BTreeMap::new();
        for listener in lapsed {
            match self.cluster_of(listener) {
                Some(cluster) => by_cluster.entry(cluster).or_default().push(listener),
                None => self.keep_unclaimed(listener),
            }
        }
        for (cluster, listeners) in by_cluster {
            self.tell_lapsed(&cluster, listeners);
        }
    }

    /// Keeps those of the lapsed listeners whose cluster did not start.
    pub(super) fn note_strays(&self, lapsed: &[SocketAddr]) {
        for &listener in lapsed.iter().filter(|&&listener| self.cluster_of(listener).is_none()) {
            self.keep_unclaimed(listener);
        }
    }

    fn keep_unclaimed(&self, listener: SocketAddr) {
        write(&self.leases.unclaimed).insert(listener);
        let message = format!("the lease of {listener}, a listener of no running cluster, was not renewed in time");
        let data = vec![("listeners", listener.to_string())];
        self.shared.journal.record(None, Entry { kind: "lease_lapsed", message, data });
    }

    /// Tells a cluster that has just begun to run what happened to its listeners before.
    pub(super) fn claim_lapses(&self, cluster: &ClusterName, listeners: &[SocketAddr]) {
        let mut unclaimed = write(&self.leases.unclaimed);
        let claimed: Vec<_> = listeners.iter().copied().filter(|listener| unclaimed.remove(listener)).collect();
        drop(unclaimed);
        if !claimed.is_empty() {
            self.tell_lapsed(cluster, claimed);
        }
    }

    fn tell_lapsed(&self, cluster: &ClusterName, listeners: Vec<SocketAddr>) {
        let Some(requests) = self.requests(cluster) else { return };
        // A cluster whose queue is full must not keep the others from being renewed.
        tokio::spawn(async move {
            // A task that has ended has no listeners any more.
            let _ = requests.send(Request::LeaseLapsed(listeners)).await;
        });
    }

    /// Whose listener that is.
    pub(super) fn cluster_of(&self, listener: SocketAddr) -> Option<ClusterName> {
        self.listeners().remove(&listener)
    }
}
