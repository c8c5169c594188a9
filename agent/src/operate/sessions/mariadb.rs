//! MariaDB's sessions: the process list has where they come from, InnoDB's monitor whether a transaction is open.
//!
//! `information_schema.innodb_trx` would be easier to read, and is kept for 100 ms from the last time that anybody read it:
//! a second look could be answered with the first one's rows. What the monitor does not show, either, is a transaction that has
//! not touched a table yet, and whose session holds LOCK TABLES with autocommit, or FLUSH TABLES WITH READ LOCK. These are in no
//! other list that is always there (tried on 10.11: neither PROCESSLIST nor a status counter changes with a BEGIN), so such
//! a session counts as idle, unless one of the [`WITNESSES`] that an operator can have switched on knows better.

use std::collections::BTreeSet;

use shunt_core::operation::sessions::Session;

use super::list::{doing, peer};
use crate::probe::answer::{Columns as _, Rows};

/// Needs PROCESS to be shown the sessions of others.
pub const SESSIONS: &str = "SELECT ID AS id, HOST AS host, COMMAND AS command FROM information_schema.PROCESSLIST \
     WHERE HOST LIKE '%:%'";

/// Needs PROCESS.
pub const TRANSACTIONS: &str = "SHOW ENGINE INNODB STATUS";

/// A list of sessions that are not free, which not every server has.
pub struct Witness {
    pub shows: Shows,
    /// Whether this one has it: `found`.
    pub is_there: &'static str,
    /// The sessions: `id`.
    pub busy: &'static str,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shows {
    /// Transactions from BEGIN on.
    Transactions,
    /// LOCK TABLES, FLUSH TABLES WITH READ LOCK.
    Locks,
}

/// Of performance_schema, which is off by default, transactions from BEGIN on, and locks of tables and of the whole server;
/// of the plugin `metadata_lock_info`, the locks. A name that applications lock with GET_LOCK is no reason to wait: it goes
/// with the server anyway.
pub const WITNESSES: [Witness; 3] = [
    Witness {
        shows: Shows::Transactions,
        is_there: "SELECT @@global.performance_schema AND (SELECT COUNT(*) FROM performance_schema.setup_instruments \
             WHERE NAME = 'transaction' AND ENABLED = 'YES') + (SELECT COUNT(*) FROM performance_schema.setup_consumers \
             WHERE NAME IN ('global_instrumentation', 'thread_instrumentation', 'events_transactions_current') \
             AND ENABLED = 'YES') = 4 AS found",
        busy: "SELECT PROCESSLIST_ID AS id FROM performance_schema.threads WHERE PROCESSLIST_ID IS NOT NULL \
             AND THREAD_ID IN (SELECT THREAD_ID FROM performance_schema.events_transactions_current \
             WHERE STATE = 'ACTIVE')",
    },
    Witness {
        shows: Shows::Locks,
        is_there: "SELECT @@global.performance_schema AND (SELECT COUNT(*) FROM performance_schema.setup_instruments \
             WHERE NAME = 'wait/lock/metadata/sql/mdl' AND ENABLED = 'YES') \
             + (SELECT COUNT(*) FROM performance_schema.setup_consumers \
             WHERE NAME = 'global_instrumentation' AND ENABLED = 'YES') = 2 AS found",
        busy: "SELECT PROCESSLIST_ID AS id FROM performance_schema.threads WHERE PROCESSLIST_ID IS NOT NULL \
             AND THREAD_ID IN (SELECT OWNER_THREAD_ID FROM performance_schema.metadata_locks \
             WHERE OBJECT_TYPE <> 'USER LEVEL LOCK')",
    },
    Witness {
        shows: Shows::Locks,
        is_there: "SELECT COUNT(*) AS found FROM information_schema.PLUGINS \
             WHERE PLUGIN_NAME = 'METADATA_LOCK_INFO' AND PLUGIN_STATUS = 'ACTIVE'",
        busy: "SELECT THREAD_ID AS id FROM information_schema.METADATA_LOCK_INFO WHERE LOCK_TYPE <> 'User lock'",
    },
];

/// What any of them says to be busy is. `None`: the monitor's text is not all there, as happens when it is longer than 1 MB.
pub fn read(list: &Rows, status: &Rows, witnesses: &[Rows]) -> Option<Vec<Session>> {
    let status = status.first()?.text(&["Status"]);
    let mut open = transactions(&status)?;
    open.extend(witnesses.iter().flatten().filter_map(|row| row.number(&["id"])));
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
