//! The agent's memory: epochs, operations, outcasts, pins, pauses and the history, in one SQLite file of the state folder.
//! An epoch or a step that was acknowledged here survives a kill -9 at any moment and a loss of power; the newest history
//! may not survive the latter.
//!
//! Calls block for as long as the disk takes.

mod epochs;
mod error;
mod events;
mod lock;
mod operations;
mod outcasts;
mod reserve;
mod schema;
mod words;

#[cfg(test)]
mod tests;

use std::fs::DirBuilder;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use rusqlite::Connection;

pub use error::StoreError;
pub use events::{Event, RecordedEvent};
pub use operations::{Ended, OperationRecord, Stale, StepRecord};
pub use words::{Pause, Pin};

use error::is_full;
use lock::FolderLock;
use reserve::Reserve;

/// The open state of one agent. Nobody else can open it meanwhile.
#[derive(Debug)]
pub struct Store {
    db: Connection,
    path: PathBuf,
    reserve: Reserve,
    /// The last write of an event found no space.
    refused: bool,
    most_events: u64,
    most_operations: u64,
    /// Events recorded since the history was last trimmed.
    untrimmed: u64,
    /// Whether SQLite now waits for the disk at every commit.
    waits_for_disk: bool,
    /// Last, so that the folder is let go when the database is closed.
    _lock: FolderLock,
}

/// How much a store keeps.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// The newest events that are kept; now and then there are a few more.
    pub events: u64,
    /// The newest operations of every cluster that are kept after they have ended.
    pub operations: u64,
    /// Bytes of disk space held for everything but events.
    pub reserve: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self { events: 100_000, operations: 1_000, reserve: 1 << 20 }
    }
}

/// Whether the store can keep everything that it is given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Health {
    Good,
    /// There is no space for events. Everything else is still kept, for as long as the reserve lasts.
    DiskFull,
}

impl Store {
    /// Opens the state folder; makes it (mode 0750) and what belongs in it if need be.
    pub fn open(dir: &Path) -> Result<Self, StoreError> {
        Self::open_with(dir, Limits::default())
    }

    pub fn open_with(dir: &Path, limits: Limits) -> Result<Self, StoreError> {
        DirBuilder::new().recursive(true).mode(0o750).create(dir).map_err(|source| StoreError::Io {
            what: "create the state folder",
            path: dir.to_owned(),
            source,
        })?;
        let lock = FolderLock::take(dir)?;
        let path = dir.join("shunt.db");
        let db = match schema::open(&path) {
            // A new version's tables are dear, too: without them there is no agent.
            Err(StoreError::DiskFull { .. }) if Reserve::discard(dir) => schema::open(&path)?,
            opened => opened?,
        };
        let reserve = Reserve::keep(dir, limits.reserve);
        let mut store = Self {
            db,
            path,
            reserve,
            refused: false,
            most_events: limits.events,
            most_operations: limits.operations,
            untrimmed: 0,
            waits_for_disk: true,
            _lock: lock,
        };
        if store.reserve.is_kept() {
            store.trim()?;
        }
        Ok(store)
    }

    pub fn health(&self) -> Health {
        if self.reserve.is_kept() && !self.refused { Health::Good } else { Health::DiskFull }
    }

    /// Looks whether there is space again, and then makes the reserve anew. For a timer: without it, the next event that
    /// is recorded does this.
    pub fn recover(&mut self) -> Health {
        if self.reserve.renew() && self.refused {
            self.refused = !self.reserve.has_room();
        }
        self.health()
    }

    /// Writes what must not be lost, and waits for the disk. When that is full, the reserve is given up and the write
    /// tried once more.
    fn write_dear<T>(
        &mut self,
        what: &'static str,
        write: impl Fn(&Connection) -> rusqlite::Result<T>,
    ) -> Result<T, StoreError> {
        self.wait_for_disk(true, what)?;
        let result = match write(&self.db) {
            Err(error) if is_full(&error) && self.reserve.give_up() => {
                // What the log holds goes into the database, and the log begins anew in the space that it has.
                let _ = self.db.query_row("PRAGMA wal_checkpoint(RESTART)", [], |_| Ok(()));
                write(&self.db)
            }
            result => result,
        };
        result.map_err(|source| StoreError::sqlite(what, &self.path, source))
    }

    /// Whether a commit is over when the disk has it, or already when the kernel has it (which outlives the agent, not
    /// the machine).
    fn wait_for_disk(&mut self, wait: bool, what: &'static str) -> Result<(), StoreError> {
        if self.waits_for_disk != wait {
            let mode = if wait { "full" } else { "normal" };
            schema::pragma(&self.db, "synchronous", mode)
                .map_err(|source| StoreError::sqlite(what, &self.path, source))?;
            self.waits_for_disk = wait;
        }
        Ok(())
    }

    fn failed(&self, what: &'static str) -> impl FnOnce(rusqlite::Error) -> StoreError + '_ {
        move |source| StoreError::sqlite(what, &self.path, source)
    }

    /// A value that this program wrote as text. That it does not parse means that somebody else changed it.
    fn parse<T: FromStr>(&self, table: &str, text: &str) -> Result<T, StoreError> {
        text.parse().map_err(|_| StoreError::Corrupt {
            path: self.path.clone(),
            detail: format!("table {table} has `{}`", text.escape_debug()),
        })
    }
}
