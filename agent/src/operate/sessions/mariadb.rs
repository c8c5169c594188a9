//! MariaDB's sessions: the process list has where they come from, InnoDB's monitor whether a transaction is open.
//!
//! `information_schema.innodb_trx` would be easier to read, and is kept for 100 ms from the last time that anybody read it:
//! a second look could be answered with the first one's rows. What the monitor does not show, either, is a transaction that has
//! not touched a table yet, and LOCK TABLES with autocommit; such a session counts as idle.

use std::collections::BTreeSet;

use shunt_core::operation::sessions::Session;

use super::{doing, peer};
use crate::probe::answer::{Columns as _, Rows};

/// Needs PROCESS to be shown the sessions of others.
pub const SESSIONS: &str = "SELECT ID AS id, HOST AS host, COMMAND AS command FROM information_schema.PROCESSLIST \
     WHERE HOST LIKE '%:%'";

/// Needs PROCESS.
pub const TRANSACTIONS: &str = "SHOW ENGINE INNODB STATUS";

/// `None`: the monitor's text is not all there, as happens when it is longer than 1 MB.
pub fn read(list: &Rows, status: &Rows) -> Option<Vec<Session>> {
    let status = status.first()?.text(&["Status"]);
    let open = transactions(&status)?;
    let session = |row: &mysql_async::Row| {
        let is_free = row.number(&["id"]).is_some_and(|id| !open.contains(&id));
        Some(Session { peer: peer(row)?, doing: doing(&row.text(&["command"]), is_free) })
    };
    Some(list.iter().filter_map(session).collect())
}

/// The sessions with an open transaction. Each transaction begins with `---TRANSACTION …, ACTIVE` or `not started`; one that a
/// session has says further down `MariaDB thread id 7,`, or `MySQL` in older versions.
fn transactions(status: &str) -> Option<BTreeSet<u64>> {
    let (_, list) = status.split_once("LIST OF TRANSACTIONS FOR EACH SESSION:")?;
    let (list, _) = list.split_once("\nFILE I/O\n")?;
    if list.contains("... truncated...") {
        return None;
    }
    let is_open = |text: &&str| text.lines().next().is_some_and(|line| !line.contains("not started"));
    let thread = |text: &str| -> Option<u64> {
        let (_, rest) = text.split_once(" thread id ")?;
        rest.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
    };
    Some(list.split("---TRANSACTION ").skip(1).filter(is_open).filter_map(thread).collect())
}
