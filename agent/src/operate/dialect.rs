//! What the two flavours have in common: the same things are wanted of both, each has its own words for them.

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use shunt_core::gtid::History;
use shunt_core::observation::Flavour;

use super::standing::Look;
use super::{mariadb, mysql};
use crate::config::Credentials;
use crate::probe::answer::{Columns, Rows};

/// The variables that tell what a server is and what it has.
pub const VARIABLES: &str = "SHOW GLOBAL VARIABLES WHERE Variable_name IN ('version', 'server_uuid', 'gtid_domain_id', \
     'log_bin', 'log_replica_updates', 'log_slave_updates', 'gtid_mode', 'binlog_format', 'offline_mode', \
     'group_replication_group_name', 'wsrep_on', 'rpl_semi_sync_source_enabled', 'rpl_semi_sync_replica_enabled', \
     'rpl_semi_sync_master_enabled', 'rpl_semi_sync_slave_enabled')";

/// Statements that are run one after the other, up to the first that the server refuses.
pub type Script = Vec<String>;

/// Whom to receive from, and how.
#[derive(Clone, Debug)]
pub struct Source<'a> {
    pub address: SocketAddr,
    pub login: &'a Credentials,
    pub tls: bool,
    /// Whether the server shall acknowledge what it receives; `None`: as it is.
    pub semi_sync: Option<bool>,
    /// How often the source says that it lives, at least.
    pub heartbeat: Duration,
}

/// A client's session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Session {
    pub id: u64,
    /// Its commit waits for a replica's acknowledgement.
    pub waits_for_acknowledgement: bool,
}

/// A flavour's words, by what that server has.
pub trait Dialect: fmt::Debug + Send + Sync {
    fn flavour(&self) -> Flavour;

    /// What the user lacks, as GRANTs.
    fn missing(&self) -> &[String];

    /// Whether its commits can be made to wait for acknowledgements.
    fn has_semi_sync_source(&self) -> bool;

    /// Asks for everything that is in a [`Look`]; changes nothing.
    fn look(&self) -> Script;

    /// Reads the answers to [`Self::look`]. `None`: these are not the answers to it.
    fn read(&self, answer: &[Rows]) -> Option<Look>;

    /// Keeps clients from writing. May wait for theirs.
    fn read_only(&self) -> Script;

    fn writable(&self) -> Script;

    /// Clients' sessions: not replicas, not the server's own threads, and nobody who is logged in as we are.
    fn sessions(&self) -> String;

    fn session(&self, row: &mysql_async::Row) -> Session {
        let state = row.text(&["state"]).to_ascii_lowercase();
        Session {
            id: row.number(&["id"]).unwrap_or(0),
            waits_for_acknowledgement: state.contains("semi-sync") || state.contains("semisync"),
        }
    }

    /// Stops the I/O thread of every channel.
    fn stop_receiving(&self, look: &Look) -> Script;

    fn start_receiving(&self, look: &Look) -> Script;

    fn start_applying(&self, look: &Look) -> Script;

    /// Comes back when everything is applied, or after that time.
    fn wait_applied(&self, goal: &History, at_most: Duration) -> String;

    /// Whether what was received and not applied survives a change of the source.
    fn keeps_relay_log(&self) -> bool;

    /// Receives from another replica from now on; the applier goes on with what is there.
    fn catch_up(&self, look: &Look, source: &Source<'_>) -> Script;

    /// Ends replication, switches semi-sync on, and lets clients write, in this order.
    fn promote(&self, look: &Look, semi_sync: bool) -> Script;

    /// Begins to replicate from the source; the server is read-only already.
    fn follow(&self, look: &Look, source: &Source<'_>) -> Script;
}

/// Whether the variables are MariaDB's: nobody else has GTID domains.
fn is_mariadb(variables: &BTreeMap<String, String>) -> bool {
    variables.contains_key("gtid_domain_id")
}

/// What is asked next of a server with these variables.
pub fn introduction(variables: &BTreeMap<String, String>) -> Script {
    let script = if is_mariadb(variables) { mariadb::INTRODUCTION } else { mysql::INTRODUCTION };
    script.iter().map(|&statement| statement.to_owned()).collect()
}

/// The words for a server with these variables, that gave these answers to its [`introduction`].
pub fn of(variables: &BTreeMap<String, String>, answer: &[Rows]) -> Option<Arc<dyn Dialect>> {
    if is_mariadb(variables) {
        return Some(Arc::new(mariadb::Mariadb::new(variables, answer)?));
    }
    Some(Arc::new(mysql::Mysql::new(variables, answer)?))
}

/// A text as a literal of a session whose `sql_mode` is empty: backslashes escape.
pub fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\\', "\\\\").replace('\'', "\\'"))
}

/// Heartbeats tell a dead source from an idle one; an operator's shorter period stays. In seconds, and to be said in every
/// change of the source: a server that is not told goes back to half of its net timeout, which is 30 s.
pub fn heartbeat(look: &Look, at_least: Duration) -> String {
    known(look).map_or(at_least, |period| period.min(at_least)).as_secs_f64().to_string()
}

/// Whether the period of the channel's heartbeats may stay as it is.
pub fn beats_often(look: &Look) -> bool {
    const ENOUGH: Duration = Duration::from_secs(2);
    known(look).is_some_and(|period| period <= ENOUGH)
}

fn known(look: &Look) -> Option<Duration> {
    look.channel().and_then(|channel| channel.heartbeat)
}
