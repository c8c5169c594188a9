//! Applying what was kept to the new primary, transaction by transaction, as a replica would: rows by `BINLOG` statements,
//! statements in the session that they were written in. Whatever is in the way (a row that is there already, one that is
//! missing, something that cannot be applied like this) stops it at that transaction, which is rolled back.
//!
//! What a replica does not notice is not noticed here: a row that was changed since, and is found by its key, is overwritten.
//!
//! Tables whose engine has no transactions cannot be rolled back here either.
//!
//! A transaction that is there already is passed over, so that it may be tried again.
//!
//! What the user lacks for what is in the file is looked for first: a server that would refuse it in the middle is not touched.

mod allowed;
mod statement;
mod target;

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Instant;

use shunt_core::gtid::History;

use super::event::{Format, Gtid, Header, SMALL, kind};
use super::list::decompressed_whole;
use super::log::Log;
use super::login::Login;
use super::query::Query;
use super::rows::Change;
use super::trouble::Trouble;
use statement::Statement;
use target::Target;

/// Nothing that is longer is applied: it has to be in memory as a whole.
const LONGEST: u64 = 64 << 20;

const ER_UNKNOWN: u16 = 1105;

/// How far it came.
#[derive(Debug, Default)]
pub(super) struct Progress {
    /// Whether the server was closed to everybody, and is open to administrators now.
    pub unsealed: bool,
    /// Transactions that are there now, also those that were there before.
    pub applied: u64,
    pub last: Option<String>,
    /// Those that did not keep their numbers.
    pub renumbered: u64,
    /// Where it stopped, and why.
    pub stopped: Option<String>,
    /// Why it did not begin.
    pub barred: Option<String>,
}

/// Why a transaction is not applied.
enum Stop {
    /// It cannot be, or the server refused: it is rolled back.
    Here(String),
    /// Nobody knows what became of it.
    Lost(Trouble),
}

impl From<Trouble> for Stop {
    fn from(trouble: Trouble) -> Self {
        match trouble {
            Trouble::Broken(_) | Trouble::Nonsense(_) | Trouble::Late => Self::Lost(trouble),
            // MySQL tells its error log alone when rows are refused for want of a privilege.
            Trouble::Server { code: ER_UNKNOWN, .. } => {
                Self::Here(format!("{trouble}: see the server's error log; the user may lack a privilege on a table"))
            }
            other => Self::Here(other.to_string()),
        }
    }
}

/// Applies all transactions of a kept file, or those before the first that cannot be.
pub(super) async fn apply(
    into: &Login,
    lacking: &History,
    changes: &BTreeSet<(String, Change)>,
    file: &Path,
    until: Instant,
    progress: &mut Progress,
) -> Result<(), Trouble> {
    let ledger = file.with_extension("applied");
    let mut wire = into.open().await?;
    progress.barred = allowed::bar(&mut wire, into.server, lacking, changes).await?;
    if progress.barred.is_some() {
        return Ok(());
    }
    let mut target = Target::open(wire, lacking, &ledger, &mut progress.unsealed).await?;
    let unreadable = |error| Trouble::File(format!("cannot read {}", file.display()), error);
    let mut log = Log::open(file, until).map_err(unreadable)?;
    let mut current: Option<Applying> = None;
    while let Some(header) = log.next().map_err(unreadable)? {
        if header.is_gtid() {
            let body = log.head(SMALL).map_err(unreadable)?;
            let gtid = Gtid::read(&header, &body).ok_or_else(|| Trouble::nonsense("a transaction without a number"))?;
            progress.passed(current.take());
            current = Some(Applying { there: target.has(&gtid), gtid, open: false, statement: Statement::default() });
        } else if header.kind == kind::FORMAT_DESCRIPTION {
            let body = log.head(SMALL).map_err(unreadable)?;
            // The reader took the checksum off.
            let format = Format::read(&[body.as_slice(), &[0; 4]].concat());
            let format = format.ok_or_else(|| Trouble::nonsense("a log of an unknown format"))?;
            target.describe(&header, &format).await?;
        } else if let Some(applying) = current.as_mut().filter(|applying| !applying.there) {
            match applying.event(&mut target, &header, &mut log).await {
                Ok(()) => {}
                Err(Stop::Here(why)) => {
                    progress.stopped = Some(format!("{}: {why}", applying.gtid));
                    target.undo(&applying.gtid).await?;
                    return Ok(());
                }
                Err(Stop::Lost(trouble)) => return Err(trouble),
            }
        }
        tokio::task::yield_now().await;
    }
    progress.passed(current.take());
    progress.renumbered = target.renumbered();
    Ok(())
}

/// Makes a server that was closed to everybody so again.
pub(super) async fn seal(into: &Login) -> Result<(), Trouble> {
    let mut wire = into.open().await?;
    // Somebody may have made it writable on purpose meanwhile.
    if wire.value("SELECT @@GLOBAL.read_only").await? == "1" {
        wire.run(b"SET GLOBAL super_read_only = ON").await?;
    }
    Ok(())
}

impl Progress {
    fn passed(&mut self, done: Option<Applying>) {
        if let Some(done) = done {
            self.applied += 1;
            self.last = Some(done.gtid.to_string());
        }
    }

    /// What an operation is told, if not everything was applied.
    pub(super) fn in_words(&self, all: u64) -> Option<String> {
        if let Some(barred) = &self.barred {
            return Some(format!("none of {all} transactions is applied: {barred}"));
        }
        let stopped = self.stopped.as_ref()?;
        let last = self.last.as_ref().map(|last| format!(", the last of them {last}")).unwrap_or_default();
        Some(format!("{} of {all} transactions are applied{last}; stopped at {stopped}", self.applied))
    }
}

/// A transaction that is being applied.
struct Applying {
    gtid: Gtid,
    /// It was before.
    there: bool,
    /// It has begun.
    open: bool,
    statement: Statement,
}

impl Applying {
    async fn event(&mut self, target: &mut Target, header: &Header, log: &mut Log) -> Result<(), Stop> {
        if self.gtid.is_xa() || header.kind == kind::XA_PREPARE {
            return Err(Stop::Here("it belongs to an XA transaction, which is not applied".into()));
        }
        let is_rows = Change::of(header.kind).is_some();
        match header.kind {
            kind::TABLE_MAP => {
                self.open(target).await?;
                self.statement.table(header, &whole(log)?);
            }
            _ if is_rows => {
                let body = whole(log)?;
                if let Some(binlog) = self.statement.rows(header, &body) {
                    target.replay(binlog).await?;
                }
            }
            kind::QUERY | kind::QUERY_COMPRESSED => {
                let body = if header.kind == kind::QUERY {
                    whole(log)?
                } else {
                    decompressed_whole(log, LONGEST).map_err(|error| Stop::Here(error.to_string()))?
                };
                let query = Query::read(&body).ok_or_else(|| Stop::Here("a statement cannot be read".into()))?;
                self.query(target, header, &query).await?;
            }
            kind::XID => target.commit(&self.gtid).await?,
            kind::INTVAR | kind::RAND => {
                self.open(target).await?;
                let body = whole(log)?;
                let set = statement::setting(header.kind, &body);
                target.run(&set.ok_or_else(|| Stop::Here("a setting cannot be read".into()))?).await?;
            }
            // What the statement was whose rows follow; and a compressed transaction, whose events come next.
            kind::ROWS_QUERY | kind::ANNOTATE_ROWS | kind::TRANSACTION_PAYLOAD | kind::PREVIOUS_GTIDS => {}
            other => return Err(Stop::Here(format!("it has an event of type {other}, which is not applied"))),
        }
        Ok(())
    }

    async fn query(&mut self, target: &mut Target, header: &Header, query: &Query) -> Result<(), Stop> {
        if query.is_xa() {
            return Err(Stop::Here("it belongs to an XA transaction, which is not applied".into()));
        }
        if query.is_begin() {
            return self.open(target).await;
        }
        if query.verb() == "COMMIT" {
            return target.commit(&self.gtid).await.map_err(Stop::from);
        }
        if query.is_end() {
            return Err(Stop::Here("it ends with a ROLLBACK of what could not be rolled back".into()));
        }
        if let Some(code) = query.variables.unknown {
            return Err(Stop::Here(format!(
                "{}: it ran with a setting that is not known here ({code})",
                query.words()
            )));
        }
        let alone = !self.open && (self.gtid.is_standalone() || matches!(self.gtid, Gtid::Mysql { .. }));
        if alone {
            target.number(&self.gtid).await?;
        } else {
            self.open(target).await?;
        }
        for set in statement::session(header, query) {
            target.run(set.as_bytes()).await?;
        }
        target.run(&query.sql).await?;
        if alone {
            // It commits by itself.
            target.done(&self.gtid).await?;
        }
        Ok(())
    }

    async fn open(&mut self, target: &mut Target) -> Result<(), Stop> {
        if !self.open {
            target.number(&self.gtid).await?;
            target.run(b"BEGIN").await?;
            self.open = true;
        }
        Ok(())
    }
}

fn whole(log: &mut Log) -> Result<Vec<u8>, Stop> {
    if log.left() > LONGEST {
        return Err(Stop::Here(format!(
            "it has an event of {} MiB, which is too long to be applied",
            log.left() >> 20
        )));
    }
    log.head(LONGEST as usize).map_err(|error| Stop::Here(format!("the file cannot be read: {error}")))
}
