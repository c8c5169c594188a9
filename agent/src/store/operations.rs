//! Operations, as they are written down before each of their steps: what a restarted agent goes on with, and what an
//! operator reads afterwards. A cluster has at most one under way. Of those that ended only so many of the newest are kept.

use rusqlite::{Connection, OptionalExtension, params};
use shunt_core::ClusterName;
use shunt_core::operation::{Ending, Kind, OpId, Operation, Outcome, Step};

use super::{Store, StoreError};

/// The form of an operation's JSON. Raise it with any change after which an older shunt would misread a newer one's
/// record, or a newer one an older's: what has another number is not guessed at.
const FORMAT: i64 = 1;

/// An operation and what became of it. Times are Unix time in milliseconds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OperationRecord {
    /// At its newest step.
    pub operation: Operation,
    pub begun_ms: i64,
    /// `None` while it is under way.
    pub ended: Option<Ended>,
    /// In the order in which they were begun. A step may come twice: it was begun again.
    pub steps: Vec<StepRecord>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ended {
    pub at_ms: i64,
    pub ending: Ending,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StepRecord {
    pub serial: u64,
    pub step: Step,
    pub at_ms: i64,
}

/// Why what is to be written about an operation comes too late.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Stale {
    #[error("its step {stored} is written down, and this is its step {asked}")]
    Serial { stored: u64, asked: u64 },
    #[error("it has ended")]
    Ended,
    #[error("it was never begun")]
    NeverBegun,
    #[error("operation {0} was begun since")]
    Overtaken(OpId),
    #[error("operation {0} is still under way")]
    OtherUnderWay(OpId),
    #[error("it begins in epoch {asked}, and the cluster is in epoch {stored}")]
    Epoch { stored: u64, asked: u64 },
}

impl Store {
    /// Writes down that the operation begins its step. When this returns, that is on the disk.
    ///
    /// It refuses a step that is not newer than the one that is written down, anything about an operation that has ended,
    /// and a new operation beside one that is under way or in an epoch that is over.
    pub fn begin_step(&mut self, cluster: &ClusterName, operation: &Operation, at_ms: i64) -> Result<(), StoreError> {
        let state = json(operation);
        let written = self.write_dear("begin a step", |db| {
            let transaction = db.unchecked_transaction()?;
            let new = match standing(&transaction, cluster, operation)? {
                Written::Not => true,
                Written::Step(stored) if stored < operation.serial => false,
                Written::Step(stored) => return Ok(Err(Stale::Serial { stored, asked: operation.serial })),
                Written::Refused(stale) => return Ok(Err(stale)),
            };
            let (id, serial) = (signed(operation.id.0)?, signed(operation.serial)?);
            let step = operation.step.word();
            if new {
                transaction
                    .prepare_cached(
                        "INSERT INTO operations (cluster, id, kind, dry_run, format, state, serial, step, begun_ms)
                         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)",
                    )?
                    .execute(params![
                        cluster.as_str(),
                        id,
                        operation.kind.word(),
                        operation.dry_run,
                        FORMAT,
                        state,
                        serial,
                        step,
                        at_ms
                    ])?;
            } else {
                transaction
                    .prepare_cached(
                        "UPDATE operations SET format = ?3, state = ?4, serial = ?5, step = ?6
                         WHERE cluster = ?1 AND id = ?2 AND ended_ms IS NULL AND serial < ?5",
                    )?
                    .execute(params![cluster.as_str(), id, FORMAT, state, serial, step])?;
            }
            transaction
                .prepare_cached("INSERT INTO steps (cluster, op, serial, step, at_ms) VALUES (?1, ?2, ?3, ?4, ?5)")?
                .execute(params![cluster.as_str(), id, serial, step, at_ms])?;
            transaction.commit()?;
            Ok(Ok(()))
        })?;
        written.map_err(|why| StoreError::Stale { cluster: cluster.clone(), op: operation.id, why })
    }

    /// Writes down that the operation is over, and how it stood then. When this returns, that is on the disk.
    pub fn end_operation(
        &mut self,
        cluster: &ClusterName,
        operation: &Operation,
        ending: &Ending,
        at_ms: i64,
    ) -> Result<(), StoreError> {
        let state = json(operation);
        let keep = self.most_operations;
        let written = self.write_dear("end an operation", |db| {
            let transaction = db.unchecked_transaction()?;
            match standing(&transaction, cluster, operation)? {
                Written::Step(stored) if stored <= operation.serial => {}
                Written::Step(stored) => return Ok(Err(Stale::Serial { stored, asked: operation.serial })),
                Written::Not => return Ok(Err(Stale::NeverBegun)),
                Written::Refused(stale) => return Ok(Err(stale)),
            }
            let id = signed(operation.id.0)?;
            transaction
                .prepare_cached(
                    "UPDATE operations SET format = ?3, state = ?4, ended_ms = ?5, outcome = ?6, message = ?7
                     WHERE cluster = ?1 AND id = ?2 AND ended_ms IS NULL",
                )?
                .execute(params![cluster.as_str(), id, FORMAT, state, at_ms, ending.outcome.word(), ending.message])?;
            trim(&transaction, cluster, id.saturating_sub_unsigned(keep))?;
            transaction.commit()?;
            Ok(Ok(()))
        })?;
        written.map_err(|why| StoreError::Stale { cluster: cluster.clone(), op: operation.id, why })
    }

    /// Ends the operation under way, if there is one, without anything being known of it but that it was begun: it may be
    /// one that [`Store::unfinished`] could not read. What is written about it stays as it is. Its number, if there was one.
    pub fn abandon_unfinished(
        &mut self,
        cluster: &ClusterName,
        message: &str,
        at_ms: i64,
    ) -> Result<Option<OpId>, StoreError> {
        let outcome = Outcome::Failed.word();
        let ended: Option<i64> = self.write_dear("abandon an operation", |db| {
            db.prepare_cached(
                "UPDATE operations SET ended_ms = ?2, outcome = ?3, message = ?4
                 WHERE cluster = ?1 AND ended_ms IS NULL RETURNING id",
            )?
            .query_row(params![cluster.as_str(), at_ms, outcome, message], |row| row.get(0))
            .optional()
        })?;
        ended.map(|id| self.unsigned(id).map(OpId)).transpose()
    }

    /// The operation that was begun and has not ended.
    ///
    /// One that cannot be read is [`StoreError::UnreadableOperation`], and never `None`: somebody may have been half way
    /// from one primary to another, so nothing may be opened until it is read or abandoned.
    pub fn unfinished(&self, cluster: &ClusterName) -> Result<Option<Operation>, StoreError> {
        let sql = format!("SELECT {COLUMNS} FROM operations WHERE cluster = ?1 AND ended_ms IS NULL");
        let written = self
            .db
            .prepare_cached(&sql)
            .and_then(|mut query| query.query_row([cluster.as_str()], Row::read).optional())
            .map_err(self.failed("read the operation under way"))?;
        written.map(|written| self.operation_of(cluster, &written)).transpose()
    }

    /// The last operation that was ever begun; 0 if none was.
    pub fn last_operation(&self, cluster: &ClusterName) -> Result<OpId, StoreError> {
        let last: Option<i64> = self
            .db
            .prepare_cached("SELECT max(id) FROM operations WHERE cluster = ?1")
            .and_then(|mut query| query.query_row([cluster.as_str()], |row| row.get(0)))
            .map_err(self.failed("read the last operation"))?;
        self.unsigned(last.unwrap_or(0)).map(OpId)
    }

    /// When the last failover ended that changed anything, done or not: one that was refused, or only tried dry, does
    /// not count, nor does a switchover.
    pub fn last_failover_ended_ms(&self, cluster: &ClusterName) -> Result<Option<i64>, StoreError> {
        self.db
            .prepare_cached(&format!("SELECT max(ended_ms) FROM operations WHERE cluster = ?1 AND {CHANGED_SOMETHING}"))
            .and_then(|mut query| {
                query.query_row(params![cluster.as_str(), Kind::Failover.word(), Outcome::Refused.word()], |row| {
                    row.get(0)
                })
            })
            .map_err(self.failed("read the last failover"))
    }

    /// An operation with its steps, under way or ended; `None` if there was none or it is forgotten by now.
    pub fn operation(&self, cluster: &ClusterName, id: OpId) -> Result<Option<OperationRecord>, StoreError> {
        let failed = |source| self.failed("read an operation")(source);
        let number = signed(id.0).map_err(failed)?;
        let sql = format!("SELECT {COLUMNS} FROM operations WHERE cluster = ?1 AND id = ?2");
        let written = self
            .db
            .prepare_cached(&sql)
            .and_then(|mut query| query.query_row(params![cluster.as_str(), number], Row::read).optional())
            .map_err(failed)?;
        let Some(written) = written else { return Ok(None) };
        let operation = self.operation_of(cluster, &written)?;
        let ended = match written.ended_ms {
            None => None,
            Some(at_ms) => Some(Ended { at_ms, ending: self.ending(&written)? }),
        };
        let steps = self.steps(cluster, number)?;
        Ok(Some(OperationRecord { operation, begun_ms: written.begun_ms, ended, steps }))
    }

    fn steps(&self, cluster: &ClusterName, op: i64) -> Result<Vec<StepRecord>, StoreError> {
        let failed = |source| self.failed("read the steps of an operation")(source);
        let mut query = self
            .db
            .prepare_cached("SELECT serial, step, at_ms FROM steps WHERE cluster = ?1 AND op = ?2 ORDER BY serial")
            .map_err(failed)?;
        let mut rows = query.query(params![cluster.as_str(), op]).map_err(failed)?;
        let mut steps = Vec::new();
        while let Some(row) = rows.next().map_err(failed)? {
            let word: String = row.get(1).map_err(failed)?;
            let step = Step::ALL.into_iter().find(|step| step.word() == word);
            steps.push(StepRecord {
                serial: self.unsigned(row.get(0).map_err(failed)?)?,
                step: step.ok_or_else(|| self.strange("steps", &word))?,
                at_ms: row.get(2).map_err(failed)?,
            });
        }
        Ok(steps)
    }

    fn operation_of(&self, cluster: &ClusterName, row: &Row) -> Result<Operation, StoreError> {
        let id = self.unsigned(row.id).map(OpId)?;
        let unreadable = |detail: String| StoreError::UnreadableOperation {
            path: self.path.clone(),
            cluster: cluster.clone(),
            op: id,
            step: row.step.clone(),
            detail,
        };
        if row.format != FORMAT {
            return Err(unreadable(format!("its form is {}, this shunt knows {FORMAT}", row.format)));
        }
        let operation: Operation = serde_json::from_str(&row.state).map_err(|error| unreadable(error.to_string()))?;
        let same = operation.id == id
            && signed(operation.serial).is_ok_and(|serial| serial == row.serial)
            && operation.step.word() == row.step;
        if same { Ok(operation) } else { Err(unreadable("it contradicts itself".to_owned())) }
    }

    fn ending(&self, row: &Row) -> Result<Ending, StoreError> {
        let word = row.outcome.as_deref().unwrap_or_default();
        let outcome = [Outcome::Done, Outcome::Refused, Outcome::Undone, Outcome::Failed]
            .into_iter()
            .find(|outcome| outcome.word() == word)
            .ok_or_else(|| self.strange("operations", word))?;
        Ok(Ending { outcome, message: row.message.clone().unwrap_or_default() })
    }

    /// SQLite has no unsigned numbers.
    fn unsigned(&self, number: i64) -> Result<u64, StoreError> {
        u64::try_from(number).map_err(|_| self.strange("operations", &number.to_string()))
    }

    fn strange(&self, table: &str, text: &str) -> StoreError {
        let detail = format!("table {table} has `{}`", text.escape_debug());
        StoreError::Corrupt { path: self.path.clone(), detail }
    }
}

/// `?2` is the word for a failover, `?3` that for refused.
const CHANGED_SOMETHING: &str = "kind = ?2 AND dry_run = 0 AND ended_ms IS NOT NULL AND outcome <> ?3";

const COLUMNS: &str = "id, serial, step, format, state, begun_ms, ended_ms, outcome, message";

/// What is written down of an operation.
struct Row {
    id: i64,
    serial: i64,
    step: String,
    format: i64,
    state: String,
    begun_ms: i64,
    ended_ms: Option<i64>,
    outcome: Option<String>,
    message: Option<String>,
}

impl Row {
    fn read(row: &rusqlite::Row<'_>) -> rusqlite::Result<Self> {
        Ok(Self {
            id: row.get(0)?,
            serial: row.get(1)?,
            step: row.get(2)?,
            format: row.get(3)?,
            state: row.get(4)?,
            begun_ms: row.get(5)?,
            ended_ms: row.get(6)?,
            outcome: row.get(7)?,
            message: row.get(8)?,
        })
    }
}

/// How what is written down stands to what is to be written.
enum Written {
    /// Nothing, and it may be begun.
    Not,
    /// It is under way, at the step with that serial.
    Step(u64),
    Refused(Stale),
}

fn standing(db: &Connection, cluster: &ClusterName, operation: &Operation) -> rusqlite::Result<Written> {
    let id = signed(operation.id.0)?;
    let written: Option<(i64, Option<i64>)> = db
        .prepare_cached("SELECT serial, ended_ms FROM operations WHERE cluster = ?1 AND id = ?2")?
        .query_row(params![cluster.as_str(), id], |row| Ok((row.get(0)?, row.get(1)?)))
        .optional()?;
    match written {
        Some((_, Some(_))) => return Ok(Written::Refused(Stale::Ended)),
        Some((serial, None)) => return Ok(Written::Step(number(serial))),
        None => {}
    }
    let last: Option<(i64, Option<i64>)> = db
        .prepare_cached("SELECT id, ended_ms FROM operations WHERE cluster = ?1 ORDER BY id DESC LIMIT 1")?
        .query_row([cluster.as_str()], |row| Ok((row.get(0)?, row.get(1)?)))
        .optional()?;
    match last {
        Some((last, _)) if last > id => return Ok(Written::Refused(Stale::Overtaken(OpId(number(last))))),
        Some((last, None)) => return Ok(Written::Refused(Stale::OtherUnderWay(OpId(number(last))))),
        _ => {}
    }
    let epoch: Option<i64> = db
        .prepare_cached("SELECT epoch FROM clusters WHERE name = ?1")?
        .query_row([cluster.as_str()], |row| row.get(0))
        .optional()?;
    let (stored, asked) = (number(epoch.unwrap_or(0)), operation.epoch.0);
    Ok(if asked < stored { Written::Refused(Stale::Epoch { stored, asked }) } else { Written::Not })
}

/// Forgets what ended and is not newer than `oldest`, but never the failover that the cooldown counts from.
fn trim(db: &Connection, cluster: &ClusterName, oldest: i64) -> rusqlite::Result<()> {
    db.prepare_cached(&format!(
        "DELETE FROM operations WHERE cluster = ?1 AND id <= ?4 AND ended_ms IS NOT NULL AND id IS NOT
         (SELECT id FROM operations WHERE cluster = ?1 AND {CHANGED_SOMETHING} ORDER BY ended_ms DESC LIMIT 1)"
    ))?
    .execute(params![cluster.as_str(), Kind::Failover.word(), Outcome::Refused.word(), oldest])?;
    db.prepare_cached(
        "DELETE FROM steps WHERE cluster = ?1 AND op <= ?2
         AND op NOT IN (SELECT id FROM operations WHERE cluster = ?1 AND id <= ?2)",
    )?
    .execute(params![cluster.as_str(), oldest])?;
    Ok(())
}

fn json(operation: &Operation) -> String {
    serde_json::to_string(operation).expect("addresses, numbers and words have a JSON form")
}

fn signed(number: u64) -> rusqlite::Result<i64> {
    i64::try_from(number).map_err(|source| rusqlite::Error::ToSqlConversionFailure(Box::new(source)))
}

/// What this file wrote with [`signed`]. A negative number is somebody else's; as 0 it is older than anything.
fn number(stored: i64) -> u64 {
    u64::try_from(stored).unwrap_or(0)
}
