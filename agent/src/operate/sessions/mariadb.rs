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

#[cfg(test)]
mod tests {
    use super::*;

    /// As MariaDB 10.11 writes it, shortened.
    const STATUS: &str = "------------\nTRANSACTIONS\n------------\nTrx id counter 41\nHistory list length 2\n\
        LIST OF TRANSACTIONS FOR EACH SESSION:\n\
        ---TRANSACTION (0x7f1c2c1fdb80), ACTIVE 12 sec\n1 lock struct(s), heap size 1128, 0 row lock(s)\n\
        MariaDB thread id 7, OS thread handle 139758, query id 30 10.77.0.2 app \n\
        ---TRANSACTION 40, ACTIVE (PREPARED) 0 sec\n2 lock struct(s)\n\
        MySQL thread id 19, OS thread handle 139759, query id 33 10.77.0.2 app Commit\n\
        ---TRANSACTION (0x7f1c2c1fe680), not started\n0 lock struct(s), heap size 1128\n\
        MariaDB thread id 8, OS thread handle 139760, query id 31 10.77.0.2 app \n\
        ---TRANSACTION 39, ACTIVE 3 sec recovered trx\n\
        --------\nFILE I/O\n--------\nPending flushes\n";

    #[test]
    fn open_transactions_are_found_by_their_sessions() {
        assert_eq!(transactions(STATUS), Some(BTreeSet::from([7, 19])));
    }

    #[test]
    fn a_text_that_is_not_all_there_tells_nothing() {
        let end = STATUS.find("\nFILE I/O").unwrap();
        assert_eq!(transactions(&STATUS[..end]), None);
        assert_eq!(transactions(&STATUS.replace("2 lock struct(s)", "... truncated...")), None);
        assert_eq!(transactions(""), None);
    }
}
