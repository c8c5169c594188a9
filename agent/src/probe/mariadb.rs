//! MariaDB's words. It has no server uuid, no `super_read_only`, semi-sync built in, heartbeats in SHOW ALL SLAVES STATUS
//! itself, and Galera.
//!
//! A Galera node outside of the primary component refuses statements that read tables (ERROR 1047), but none of these.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use mysql_async::Row;
use shunt_core::observation::{Backlog, Channel, Flavour, GaleraNode, GaleraState, GroupView, Identity, ServerState};

use super::answer::{Columns, Rows, name_values, without_blanks};
use super::mysql::{io_thread, last_error};
use super::{promoter, semi_sync};

pub const GRANTS: &[&str] = &["GRANT REPLICA MONITOR ON *.* TO shunt@'%'"];

pub const STATUS: &str = "SHOW ALL SLAVES STATUS";

const SERVER: &str = "SELECT @@global.server_id AS server_id, @@global.read_only AS read_only, \
     @@global.gtid_current_pos AS gtid";

const GALERA_STATUS: [&str; 7] = [
    "wsrep_cluster_state_uuid",
    "wsrep_cluster_status",
    "wsrep_cluster_size",
    "wsrep_ready",
    "wsrep_local_state",
    "wsrep_last_committed",
    "wsrep_local_recv_queue",
];

/// What this server has.
#[derive(Clone, Debug)]
pub struct Capabilities {
    pub identity: Identity,
    semi_sync: Option<semi_sync::Names>,
    /// Whether every round tries to hold the promoter's lock.
    promotes: bool,
    galera: bool,
}

impl Capabilities {
    pub fn new(identity: Identity, variables: &BTreeMap<String, String>, promotes: bool) -> Self {
        let is = |name: &str, value: &str| variables.get(name).is_some_and(|is| is.eq_ignore_ascii_case(value));
        let galera = is("wsrep_on", "ON") && !is("wsrep_provider", "none");
        Self { identity, semi_sync: semi_sync::Names::find(Flavour::Mariadb, variables), promotes, galera }
    }

    /// The tick's text, as one query of several statements.
    pub fn tick(&self) -> String {
        let columns = self.semi_sync.map(semi_sync::Names::columns).unwrap_or_default();
        let promoter = if self.promotes { promoter::COLUMN } else { "" };
        let semi_sync = self.semi_sync.map(semi_sync::Names::status);
        let galera = self.galera.then_some(GALERA_STATUS).into_iter().flatten();
        // One statement for all of them: a server collects every status variable for each.
        let names: Vec<_> = semi_sync.into_iter().flatten().chain(galera.map(str::to_owned)).collect();
        let mut sql = format!("{SERVER}{columns}{promoter};{STATUS}");
        if !names.is_empty() {
            let _ = write!(sql, ";SHOW GLOBAL STATUS WHERE Variable_name IN ('{}')", names.join("','"));
        }
        sql
    }

    /// Reads the answer to [`Self::tick`]. `None`: it is not the answer to it.
    pub fn read(&self, answer: &[Rows]) -> Option<ServerState> {
        let mut sets = answer.iter();
        let server = sets.next()?.first()?;
        let channels = sets.next()?;
        let status = if self.semi_sync.is_some() || self.galera { name_values(sets.next()?) } else { BTreeMap::new() };
        Some(ServerState {
            identity: Identity { server_id: server.number(&["server_id"])?, ..self.identity.clone() },
            read_only: is_read_only(server.bytes(&["read_only"])?),
            super_read_only: false,
            gtid_executed: without_blanks(&server.text(&["gtid"])),
            channels: channels.iter().map(channel).collect(),
            group: self.galera.then(|| GroupView::Galera(galera(&status))),
            semi_sync: self.semi_sync.map(|names| names.read(server, &status)),
            promoter: promoter::read(server),
        })
    }
}

/// MariaDB 12 has `NO_LOCK` and `NO_LOCK_NO_ADMIN` too: whatever is not OFF is some kind of read-only.
fn is_read_only(value: &[u8]) -> bool {
    !(value == b"0" || value.eq_ignore_ascii_case(b"OFF"))
}

fn channel(row: &Row) -> Channel {
    let heartbeats = row.text(&["Slave_received_heartbeats"]);
    Channel {
        name: row.text(&["Connection_name"]),
        source_host: row.text(&["Master_Host"]),
        source_port: row.number(&["Master_Port"]).and_then(|p| u16::try_from(p).ok()).unwrap_or(0),
        source_uuid: None,
        source_server_id: row.number(&["Master_Server_Id"]).unwrap_or(0),
        io: io_thread(row.bytes(&["Slave_IO_Running"])),
        sql_running: row.is_on(&["Slave_SQL_Running"]),
        lag: row.seconds(&["Seconds_Behind_Master"]),
        received: format!(
            "{}:{} heartbeat {heartbeats}",
            row.text(&["Master_Log_File"]),
            row.text(&["Read_Master_Log_Pos"])
        ),
        heartbeat_period: row.seconds(&["Slave_heartbeat_period"]).filter(|p| !p.is_zero()),
        last_error: last_error(row),
    }
}

/// What is not said, as by a server whose provider is being loaded, makes no node that counts.
fn galera(status: &BTreeMap<String, String>) -> GaleraNode {
    let text = |name: &str| status.get(name).map_or("", String::as_str);
    let number = |name: &str| text(name).parse::<u64>().unwrap_or(0);
    GaleraNode {
        cluster: text("wsrep_cluster_state_uuid").to_owned(),
        in_primary_component: text("wsrep_cluster_status") == "Primary",
        ready: text("wsrep_ready") == "ON",
        state: match text("wsrep_local_state") {
            "4" => GaleraState::Synced,
            "2" => GaleraState::Donor,
            _ => GaleraState::Joining,
        },
        size: u32::try_from(number("wsrep_cluster_size")).unwrap_or(0),
        backlog: Backlog { applied: number("wsrep_last_committed"), queued: number("wsrep_local_recv_queue") },
    }
}

/// Whether the variables are MariaDB's: nobody else has GTID domains.
pub fn identity(variables: &BTreeMap<String, String>) -> Option<Identity> {
    variables.get("gtid_domain_id")?;
    Some(Identity {
        uuid: None,
        server_id: 0,
        flavour: Flavour::Mariadb,
        version: variables.get("version").cloned().unwrap_or_default(),
    })
}
