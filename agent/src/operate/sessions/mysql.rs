//! MySQL's sessions: the process list has where they come from, performance_schema whether a transaction is open, from START
//! TRANSACTION on, and whether a lock is held (LOCK TABLES, FLUSH TABLES WITH READ LOCK, HANDLER). Nothing of it is cached,
//! as `information_schema.innodb_trx` is for 100 ms, and nothing of it waits for a lock.

use shunt_core::operation::sessions::{Doing, Session};

use super::list::{doing, peer};
use crate::probe::answer::{Columns as _, Rows};

/// Whether transactions are instrumented, as they are by default.
pub const IS_SEEN: &str = "SELECT (SELECT COUNT(*) FROM performance_schema.setup_instruments \
     WHERE NAME = 'transaction' AND ENABLED = 'YES') + (SELECT COUNT(*) FROM performance_schema.setup_consumers \
     WHERE NAME IN ('global_instrumentation', 'thread_instrumentation', 'events_transactions_current') \
     AND ENABLED = 'YES') AS found";

/// Needs SELECT on performance_schema.*, and PROCESS to be shown the sessions of others. A name that applications lock with
/// GET_LOCK is no reason to wait: it goes with the server anyway.
pub const SESSIONS: &str = "SELECT p.HOST AS host, p.COMMAND AS command, t.INSTRUMENTED AS instrumented, \
     t.THREAD_ID IN (SELECT THREAD_ID FROM performance_schema.events_transactions_current WHERE STATE = 'ACTIVE') \
     AS open, \
     t.THREAD_ID IN (SELECT OWNER_THREAD_ID FROM performance_schema.metadata_locks \
     WHERE OBJECT_TYPE <> 'USER LEVEL LOCK') AS locks \
     FROM performance_schema.processlist p JOIN performance_schema.threads t ON t.PROCESSLIST_ID = p.ID \
     WHERE p.HOST LIKE '%:%'";

/// `None`: transactions are not instrumented.
pub fn read(seen: &Rows, rows: &Rows) -> Option<Vec<Session>> {
    if seen.first().and_then(|row| row.number(&["found"])) != Some(4) {
        return None;
    }
    let session = |row: &mysql_async::Row| {
        let is_free = !row.is_on(&["open"]) && !row.is_on(&["locks"]);
        let doing = match doing(&row.text(&["command"]), is_free) {
            Doing::Nothing if !row.is_on(&["instrumented"]) => Doing::Unknown,
            doing => doing,
        };
        Some(Session { peer: peer(row)?, doing })
    };
    Some(rows.iter().filter_map(session).collect())
}
