//! Semi-synchronous replication, in the words of whoever ships it: MySQL says source and replica, older plugins and
//! MariaDB say master and slave. What is set comes with the round's SELECT; what happens is in the status, one statement
//! for both sides.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::Duration;

use mysql_async::Row;
use shunt_core::observation::{Flavour, SemiSync};

use super::answer::Columns;

/// What a server has of it, by the names of its variables. MySQL's two sides are two plugins.
#[derive(Clone, Copy, Debug)]
pub struct Names {
    /// `source` or `master`.
    source: Option<&'static str>,
    /// `replica` or `slave`.
    replica: Option<&'static str>,
    /// Only MySQL can wait for more than one.
    counts: bool,
}

impl Names {
    /// From the server's global variables. `None`: semi-sync is not installed.
    pub fn find(flavour: Flavour, variables: &BTreeMap<String, String>) -> Option<Self> {
        let first = |names: [&'static str; 2]| {
            names.into_iter().find(|name| variables.contains_key(&format!("rpl_semi_sync_{name}_enabled")))
        };
        let (source, replica) = (first(["source", "master"]), first(["replica", "slave"]));
        let installed = source.is_some() || replica.is_some();
        installed.then_some(Self { source, replica, counts: flavour == Flavour::Mysql })
    }

    /// Columns for a SELECT, with a comma before each.
    pub fn columns(self) -> String {
        let mut sql = String::new();
        if let Some(source) = self.source {
            let replica = if source == "source" { "replica" } else { "slave" };
            let prefix = format!("@@global.rpl_semi_sync_{source}");
            let _ = write!(
                sql,
                ", {prefix}_enabled AS semi_source, {prefix}_wait_point AS semi_point, {prefix}_timeout AS semi_timeout, \
                 {prefix}_wait_no_{replica} AS semi_patient"
            );
            if self.counts {
                let _ = write!(sql, ", {prefix}_wait_for_{replica}_count AS semi_count");
            }
        }
        sql
    }

    /// The names of its status variables.
    pub fn status(self) -> Vec<String> {
        let source = self.source.map(|name| ["status", "clients", "wait_sessions"].map(|what| (name, what)));
        let replica = self.replica.map(|name| (name, "status"));
        let names = source.into_iter().flatten().chain(replica);
        names.map(|(name, what)| format!("Rpl_semi_sync_{name}_{what}")).collect()
    }

    /// Reads the row that has [`Self::columns`], and the values of [`Self::status`].
    pub fn read(self, server: &Row, status: &BTreeMap<String, String>) -> SemiSync {
        let find = |side: Option<&str>, what: &str| {
            side.and_then(|side| status.get(&format!("rpl_semi_sync_{side}_{what}"))).map_or("", String::as_str)
        };
        let count = |what| find(self.source, what).parse().unwrap_or(0);
        let timeout = server.number(&["semi_timeout"]).map(Duration::from_millis).unwrap_or_default();
        SemiSync {
            source_enabled: server.is_on(&["semi_source"]),
            source_active: find(self.source, "status") == "ON",
            // Not the variable: that one takes effect with the next connection to a source, and says nothing of this one.
            replica_enabled: find(self.replica, "status") == "ON",
            clients: count("clients"),
            wait_count: server.number(&["semi_count"]).and_then(|n| u32::try_from(n).ok()).unwrap_or(1),
            after_sync: server.bytes(&["semi_point"]).is_some_and(|point| point.eq_ignore_ascii_case(b"AFTER_SYNC")),
            // With `wait_no_replica` off it does not wait at all once too few replicas are connected.
            timeout: if server.is_on(&["semi_patient"]) { timeout } else { Duration::ZERO },
            waiting: count("wait_sessions"),
        }
    }
}
