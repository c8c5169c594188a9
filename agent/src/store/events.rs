//! The history: every verdict, decision and step. Only so many of the newest are kept. Events are the first to go without
//! when the disk is full: whoever records one is told, and counts it.

use rusqlite::{Connection, Row, params};
use serde_json::Value;
use shunt_core::ClusterName;

use super::error::is_full;
use super::{Store, StoreError};

/// Something that happened.
#[derive(Clone, Debug, PartialEq)]
pub struct Event {
    /// Unix time in milliseconds.
    pub at_ms: i64,
    /// `None`: it concerns the agent itself.
    pub cluster: Option<ClusterName>,
    /// One word for programs: `verdict`, `mapped`.
    pub kind: String,
    /// One sentence for people.
    pub message: String,
    pub data: Value,
}

/// An event as it was kept. Numbers grow and are never used twice.
#[derive(Clone, Debug, PartialEq)]
pub struct RecordedEvent {
    pub id: i64,
    pub event: Event,
}

/// So many more events than the limit there may be before the oldest are removed.
const SLACK: u64 = 1000;
const RECORD: &str = "record an event";
const COLUMNS: &str = "id, at_ms, cluster, kind, message, data";

impl Store {
    /// Keeps an event; its number.
    pub fn record(&mut self, event: &Event) -> Result<i64, StoreError> {
        self.record_all(std::slice::from_ref(event))
    }

    /// Keeps events, all or none; the number of the last, or 0 if there is none.
    pub fn record_all(&mut self, events: &[Event]) -> Result<i64, StoreError> {
        // What the reserve has freed is not for events.
        if !self.reserve.renew() {
            return Err(StoreError::DiskFull { what: RECORD, path: self.path.clone() });
        }
        self.wait_for_disk(false, RECORD)?;
        let inserted = insert(&mut self.db, events);
        self.refused = inserted.as_ref().is_err_and(is_full);
        let last = inserted.map_err(|source| StoreError::sqlite(RECORD, &self.path, source))?;
        self.untrimmed += events.len() as u64;
        if self.untrimmed >= SLACK {
            // The events are kept; that the old ones could not go for want of space is no failure of this call.
            match self.trim() {
                Ok(()) | Err(StoreError::DiskFull { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(last)
    }

    /// Events after number `after`, oldest first; of one cluster, or of all and the agent's own.
    pub fn events(
        &self,
        after: i64,
        cluster: Option<&ClusterName>,
        limit: u32,
    ) -> Result<Vec<RecordedEvent>, StoreError> {
        match cluster {
            Some(cluster) => self.select(
                &format!("SELECT {COLUMNS} FROM events WHERE cluster = ?3 AND id > ?1 ORDER BY id LIMIT ?2"),
                params![after, limit, cluster.as_str()],
            ),
            None => self.select(
                &format!("SELECT {COLUMNS} FROM events WHERE id > ?1 ORDER BY id LIMIT ?2"),
                params![after, limit],
            ),
        }
    }

    /// The newest events, oldest of them first; of one cluster, or of all and the agent's own.
    pub fn latest_events(&self, cluster: Option<&ClusterName>, limit: u32) -> Result<Vec<RecordedEvent>, StoreError> {
        let mut events = match cluster {
            Some(cluster) => self.select(
                &format!("SELECT {COLUMNS} FROM events WHERE cluster = ?2 ORDER BY id DESC LIMIT ?1"),
                params![limit, cluster.as_str()],
            ),
            None => self.select(&format!("SELECT {COLUMNS} FROM events ORDER BY id DESC LIMIT ?1"), params![limit]),
        }?;
        events.reverse();
        Ok(events)
    }

    fn select(&self, sql: &str, values: &[&dyn rusqlite::ToSql]) -> Result<Vec<RecordedEvent>, StoreError> {
        let failed = |source| self.failed("read events")(source);
        let mut query = self.db.prepare_cached(sql).map_err(failed)?;
        let mut rows = query.query(values).map_err(failed)?;
        let mut events = Vec::new();
        while let Some(row) = rows.next().map_err(failed)? {
            events.push(self.event(row)?);
        }
        Ok(events)
    }

    fn event(&self, row: &Row<'_>) -> Result<RecordedEvent, StoreError> {
        let failed = |source| self.failed("read an event")(source);
        let cluster: Option<String> = row.get(2).map_err(failed)?;
        let event = Event {
            at_ms: row.get(1).map_err(failed)?,
            cluster: cluster.map(|name| self.name("events", name)).transpose()?,
            kind: row.get(3).map_err(failed)?,
            message: row.get(4).map_err(failed)?,
            data: self.parse("events", &row.get::<_, String>(5).map_err(failed)?)?,
        };
        Ok(RecordedEvent { id: row.get(0).map_err(failed)?, event })
    }

    /// Removes what is older than the newest that are kept.
    pub(super) fn trim(&mut self) -> Result<(), StoreError> {
        self.untrimmed = 0;
        let most = i64::try_from(self.most_events).unwrap_or(i64::MAX);
        let sql = "DELETE FROM events WHERE id <= (SELECT max(id) FROM events) - ?1";
        let trimmed = self.db.execute(sql, [most]);
        trimmed.map(drop).map_err(self.failed("trim the history"))
    }
}

fn insert(db: &mut Connection, events: &[Event]) -> rusqlite::Result<i64> {
    let transaction = db.transaction()?;
    let mut last = 0;
    for Event { at_ms, cluster, kind, message, data } in events {
        transaction
            .prepare_cached("INSERT INTO events (at_ms, cluster, kind, message, data) VALUES (?1, ?2, ?3, ?4, ?5)")?
            .execute(params![at_ms, cluster.as_ref().map(ClusterName::as_str), kind, message, data.to_string()])?;
        last = transaction.last_insert_rowid();
    }
    transaction.commit()?;
    Ok(last)
}
