//! What happened, for the history; and what must survive the agent: epochs, pins, pauses.
//!
//! Everything goes to the store's own thread. A line of history that cannot be written is counted and logged, and never
//! stands in the way; an epoch, a pin or a pause that cannot be written is an error to whoever wanted it.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use shunt_core::cluster::Entry;
use shunt_core::{ClusterName, Epoch};
use tokio::sync::watch;

use super::worker::Worker;
use crate::clock::Clock;
use crate::store::{Event, Health, RecordedEvent, Store, StoreError};

/// The agent's memory.
#[derive(Clone)]
pub struct Journal {
    store: Worker<Store>,
    clock: Clock,
    /// The id of the newest event; whoever follows waits for it to change.
    newest: Arc<watch::Sender<i64>>,
    lost: Arc<AtomicU64>,
}

/// Why something could not be written down.
#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("the store's thread is gone")]
    Gone(#[from] super::worker::Gone),
}

impl Journal {
    pub fn start(store: Store, clock: Clock) -> std::io::Result<Self> {
        let store = Worker::start("store", store)?;
        Ok(Self { store, clock, newest: Arc::new(watch::Sender::new(0)), lost: Arc::new(AtomicU64::new(0)) })
    }

    /// Adds a line of history. It is written on the store's thread, in order; nobody waits for the disk.
    pub fn record(&self, cluster: Option<&ClusterName>, entry: Entry) {
        let name = cluster.map_or("-", ClusterName::as_str);
        tracing::info!(cluster = name, kind = entry.kind, "{}", entry.message);
        let event = Event {
            at_ms: self.clock.unix_ms_now(),
            cluster: cluster.cloned(),
            kind: entry.kind.to_owned(),
            message: entry.message,
            data: serde_json::Value::Object(entry.data.into_iter().map(|(k, v)| (k.to_owned(), v.into())).collect()),
        };
        let (newest, lost) = (self.newest.clone(), self.lost.clone());
        let queued = self.store.send(move |store| match store.record(&event) {
            Ok(id) => {
                newest.send_replace(id);
            }
            Err(error) => {
                lost.fetch_add(1, Ordering::Relaxed);
                tracing::error!(%error, "a line of history could not be written and is lost");
            }
        });
        if queued.is_err() {
            self.lost.fetch_add(1, Ordering::Relaxed);
            tracing::error!("the store is too slow: a line of history is lost");
        }
    }

    /// Lines of history that were lost since the agent started.
    pub fn lost(&self) -> u64 {
        self.lost.load(Ordering::Relaxed)
    }

    /// Runs something on the store and returns what it returned.
    pub async fn with<R: Send + 'static>(
        &self,
        job: impl FnOnce(&mut Store) -> Result<R, StoreError> + Send + 'static,
    ) -> Result<R, JournalError> {
        Ok(self.store.run(job).await??)
    }

    /// Writes down that the cluster is in that epoch, under that primary.
    pub async fn advance(
        &self,
        cluster: &ClusterName,
        epoch: Epoch,
        primary: Option<SocketAddr>,
    ) -> Result<(), JournalError> {
        let cluster = cluster.clone();
        self.with(move |store| store.advance(&cluster, epoch, primary)).await
    }

    /// Events after `after`, oldest first; waits up to `patience` for the first.
    pub async fn events(
        &self,
        after: i64,
        cluster: Option<ClusterName>,
        limit: u32,
        patience: std::time::Duration,
    ) -> Result<Vec<RecordedEvent>, JournalError> {
        let deadline = tokio::time::Instant::now() + patience;
        let mut newest = self.newest.subscribe();
        loop {
            newest.mark_unchanged();
            let wanted = cluster.clone();
            let found = self.with(move |store| store.events(after, wanted.as_ref(), limit)).await?;
            if !found.is_empty() {
                return Ok(found);
            }
            match tokio::time::timeout_at(deadline, newest.changed()).await {
                Ok(Ok(())) => {}
                Ok(Err(_)) | Err(_) => return Ok(Vec::new()),
            }
        }
    }

    /// Whether the disk takes what it is given. Looks again if it did not a moment ago.
    pub async fn has_room(&self) -> bool {
        matches!(self.store.run(Store::recover).await, Ok(Health::Good))
    }

    pub async fn is_responsive(&self, patience: std::time::Duration) -> bool {
        self.store.is_responsive(patience).await
    }
}
