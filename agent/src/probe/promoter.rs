//! The server's named lock that says which agent may promote. It belongs to a connection, so it needs no privilege, works
//! on a read-only server, is never replicated, and is free again as soon as the server sees the connection end.

use std::time::Duration;

use mysql_async::Row;
use shunt_core::observation::PromoterLock;

use super::ProbeSpec;
use super::answer::Columns;

/// For a round's SELECT: takes the lock if it is free, waits for nobody, and says whether we hold it. It is only asked for
/// when it is not ours: a connection that takes its own lock again has to release it twice.
///
/// The name is the same for every cluster, because a server belongs to one, and two agents may call that differently.
pub const COLUMN: &str =
    ", IF(IS_USED_LOCK('shunt.promoter') <=> CONNECTION_ID(), 1, GET_LOCK('shunt.promoter', 0)) AS promoter";

/// So many rounds in which nothing came from us, and the connection is not ours any more.
const MISSED_ROUNDS: u32 = 5;
/// Less than this the server may take for silence what is only a slow agent.
const SHORTEST: Duration = Duration::from_secs(10);

/// When a host falls silent, its servers would keep the connections of the agent on it, and the lock with them, for
/// `wait_timeout`: eight hours by default.
pub fn expiry(spec: &ProbeSpec) -> String {
    let patience = ((spec.interval + spec.timeout) * MISSED_ROUNDS).max(SHORTEST);
    format!("SET SESSION wait_timeout = {}", patience.as_secs())
}

/// Reads the row that has [`COLUMN`], or has it not.
pub fn read(server: &Row) -> PromoterLock {
    if !server.has("promoter") {
        return PromoterLock::NotAsked;
    }
    // NULL: it could not be taken. What is not surely ours is not ours.
    if server.is_on(&["promoter"]) { PromoterLock::Ours } else { PromoterLock::Theirs }
}
