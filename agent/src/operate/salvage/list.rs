//! What transactions did, for people: read back from the kept file, and written beside it.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt::Write as _;
use std::io::{Read, Write};
use std::time::{Duration, UNIX_EPOCH};

use super::event::{Gtid, Header, SMALL, kind};
use super::got::Got;
use super::log::{Log, wrong};
use super::query::{self, Query};
use super::rows::{self, Change, STATEMENT_END, TABLE_HEAD, Table};
use super::trouble::Trouble;

/// Of more tables only the sum is told; a log that has more is one that somebody made to fill a memory.
const TABLES: usize = 10_000;
/// So many statements of a transaction are shown.
const STATEMENTS: usize = 20;
const OTHERS: &str = "(others)";

/// What all transactions together did.
#[derive(Debug, Default)]
pub(super) struct Total {
    pub transactions: u64,
    pub got: Got,
    /// Rows changed, by table.
    pub tables: BTreeMap<String, u64>,
    /// What is done to which of them, but for the others.
    pub changes: BTreeSet<(String, Change)>,
}

/// One of them.
struct Transaction {
    gtid: Gtid,
    time: u32,
    /// A BEGIN without its COMMIT.
    open: bool,
    /// It has been brought to an end.
    complete: bool,
    rows: BTreeMap<(String, Change), u64>,
    /// Tables with columns of a kind that is not known here, whose rows nobody counts.
    uncounted: bool,
    statements: Vec<String>,
    more: u64,
}

/// Reads the log to its end and writes a line or more for every transaction.
pub(super) async fn list(log: &mut Log, text: &mut impl Write) -> Result<Total, Trouble> {
    let unreadable = |error| Trouble::File("what was fetched cannot be read back".into(), error);
    let mut list = Lister { total: Total::default(), current: None, tables: HashMap::new() };
    while let Some(header) = log.next().map_err(unreadable)? {
        if header.is_gtid()
            && let Some(done) = list.begin(&header, log).map_err(unreadable)?
        {
            write(text, &list.close(done)?)?;
        } else {
            list.event(&header, log).map_err(unreadable)?;
        }
        // So that the time can be up.
        tokio::task::yield_now().await;
    }
    if let Some(last) = list.current.take() {
        write(text, &list.close(last)?)?;
    }
    write(text, &list.total.in_words())?;
    Ok(list.total)
}

fn write(text: &mut impl Write, words: &str) -> Result<(), Trouble> {
    text.write_all(words.as_bytes()).map_err(|e| Trouble::File("cannot write the list".into(), e))
}

struct Lister {
    total: Total,
    current: Option<Transaction>,
    tables: HashMap<u64, Table>,
}

impl Lister {
    /// Begins a transaction; the one before it.
    fn begin(&mut self, header: &Header, log: &mut Log) -> std::io::Result<Option<Transaction>> {
        let gtid = Gtid::read(header, &log.head(SMALL)?).ok_or_else(|| wrong("a transaction has no number"))?;
        self.tables.clear();
        Ok(self.current.replace(Transaction {
            // MariaDB's say at once whether they are more than a statement, and have no BEGIN.
            open: matches!(gtid, Gtid::Mariadb { .. }) && !gtid.is_standalone() && !gtid.is_xa(),
            complete: false,
            gtid,
            time: header.time,
            rows: BTreeMap::new(),
            uncounted: false,
            statements: Vec::new(),
            more: 0,
        }))
    }

    fn event(&mut self, header: &Header, log: &mut Log) -> std::io::Result<()> {
        let Some(current) = &mut self.current else { return Ok(()) };
        match header.kind {
            kind::XID | kind::XA_PREPARE => current.end(),
            kind::QUERY => current.query(&log.head(query::HEAD)?)?,
            kind::QUERY_COMPRESSED => current.query(&decompressed(log)?)?,
            kind::TABLE_MAP => {
                let table = Table::read(&log.head(TABLE_HEAD)?).ok_or_else(|| wrong("a table cannot be read"))?;
                if self.tables.len() >= TABLES {
                    return Err(wrong("a statement has too many tables"));
                }
                self.tables.insert(table.0, table.1);
            }
            kind => {
                let Some(change) = Change::of(kind) else { return Ok(()) };
                let (number, flags) = rows::head(log)?;
                // Some events are there only to end a statement, and of no table.
                if let Some(table) = self.tables.get(&number) {
                    match rows::count(kind, table, log)? {
                        Some(count) => current.count(&table.name, change, count),
                        None => current.uncounted = true,
                    }
                } else if log.left() > 4 {
                    return Err(wrong("rows of a table that was not told"));
                }
                if flags & STATEMENT_END != 0 {
                    self.tables.clear();
                }
            }
        }
        Ok(())
    }

    /// The lines of a transaction that is over.
    fn close(&mut self, done: Transaction) -> Result<String, Trouble> {
        if done.open || !done.complete {
            return Err(Trouble::nonsense(format!("only a part of the transaction {}", done.gtid)));
        }
        self.total.transactions += 1;
        self.total.got.note(&done.gtid);
        for ((table, change), count) in &done.rows {
            self.total.add(table, *change, *count);
        }
        Ok(done.in_words())
    }
}

/// A compressed QUERY event of MariaDB's, as it was before; no more than a list needs of it.
fn decompressed(log: &mut Log) -> std::io::Result<Vec<u8>> {
    inflate(log, query::HEAD as u64)
}

/// The same as a whole, if it is not longer than `most`.
pub(super) fn decompressed_whole(log: &mut Log, most: u64) -> std::io::Result<Vec<u8>> {
    let body = inflate(log, most + 1)?;
    if body.len() as u64 > most { Err(wrong("a statement is too long to be applied")) } else { Ok(body) }
}

/// Only the statement itself is compressed.
fn inflate(log: &mut Log, most: u64) -> std::io::Result<Vec<u8>> {
    let mut head = log.head(13)?;
    let lengths = (head.get(8), head.get(11), head.get(12));
    let (Some(database), Some(low), Some(high)) = lengths else { return Err(wrong("a statement ends too early")) };
    let more = usize::from(*database) + 1 + usize::from(u16::from_le_bytes([*low, *high]));
    head.extend(log.head(more)?);
    let most = most.saturating_sub(head.len() as u64);
    rows::inflated(log)?.take(most).read_to_end(&mut head)?;
    Ok(head)
}

impl Transaction {
    fn end(&mut self) {
        self.open = false;
        self.complete = true;
    }

    fn query(&mut self, body: &[u8]) -> std::io::Result<()> {
        let query = Query::read(body).ok_or_else(|| wrong("a statement cannot be read"))?;
        if query.is_begin() {
            self.open = true;
        } else if query.is_end() {
            self.end();
        } else {
            if query.verb().starts_with("XA START") {
                self.open = true;
            } else if !self.open {
                self.complete = true;
            }
            if self.statements.len() < STATEMENTS {
                let database =
                    if query.database.is_empty() { String::new() } else { format!(" (in {})", query.database) };
                self.statements.push(format!("{}{database}", query.words()));
            } else {
                self.more += 1;
            }
        }
        Ok(())
    }

    fn count(&mut self, table: &str, change: Change, count: u64) {
        let full = self.rows.len() >= TABLES;
        let known = (table.to_owned(), change);
        let place = if full && !self.rows.contains_key(&known) { (OTHERS.to_owned(), change) } else { known };
        *self.rows.entry(place).or_insert(0) += count;
    }

    fn in_words(&self) -> String {
        let time = UNIX_EPOCH + Duration::from_secs(self.time.into());
        let mut words = format!("{}  {}", self.gtid, humantime::format_rfc3339_seconds(time));
        let mut before = None;
        for ((table, change), count) in &self.rows {
            let done = match change {
                Change::Insert => "inserted",
                Change::Update => "updated",
                Change::Delete => "deleted",
            };
            let table_once = if before == Some(table) { ",".to_owned() } else { format!("  {}:", printable(table)) };
            let _ = write!(words, "{table_once} {count} {done}");
            before = Some(table);
        }
        if self.uncounted {
            words.push_str("  rows of other tables, not counted");
        }
        words.push('\n');
        for statement in &self.statements {
            let _ = writeln!(words, "    {}", printable(statement));
        }
        if self.more > 0 {
            let _ = writeln!(words, "    and {} more statements", self.more);
        }
        words
    }
}

/// Without what a terminal would obey.
fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '?' } else { c }).collect()
}

impl Total {
    fn add(&mut self, table: &str, change: Change, count: u64) {
        let known = table != OTHERS && (self.tables.len() < TABLES || self.tables.contains_key(table));
        if known {
            self.changes.insert((table.to_owned(), change));
        }
        *self.tables.entry(if known { table } else { OTHERS }.to_owned()).or_insert(0) += count;
    }

    fn in_words(&self) -> String {
        let mut words = format!("\n{} transactions\n", self.transactions);
        for (table, count) in &self.tables {
            let _ = writeln!(words, "    {}: {count} rows", printable(table));
        }
        words
    }
}
