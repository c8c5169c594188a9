//! MariaDB's words. It has no server uuid, no `super_read_only`, semi-sync built in, and heartbeats in SHOW ALL SLAVES
//! STATUS itself.

use std::collections::BTreeMap;

use mysql_async::Row;
use shunt_core::observation::{Channel, Flavour, Identity, ServerState};

use super::answer::{Columns, Rows, without_blanks};
use super::mysql::{io_thread, last_error};
use super::{promoter, semi_sync};

pub const GRANTS: &[&str] = &["GRANT REPLICA MONITOR ON *.* TO shunt@'%'"];

pub const STATUS: &str = "SHOW ALL SLAVES STATUS";

const SERVER: &str = "SELECT @@global.server_id AS server_id, @@global.read_only AS read_only, \
     @@global.gtid_current_pos AS gtid";

/// What this server has.
#[derive(Clone, Debug)]
pub struct Capabilities {
    pub identity: Identity,
    semi_sync: Option<semi_sync::Names>,
    /// Whether every round tries to hold the promoter's lock.
    promotes: bool,
}

impl Capabilities {
    pub fn new(identity: Identity, variables: &BTreeMap<String, String>, promotes: bool) -> Self {
        Self { identity, semi_sync: semi_sync::Names::find(Flavour::Mariadb, variables), promotes }
    }

    /// The tick's text, as one query of several statements.
    pub fn tick(&self) -> String {
        let columns = self.semi_sync.map(semi_sync::Names::columns).unwrap_or_default();
        let promoter = if self.promotes { promoter::COLUMN } else { "" };
        let status = self.semi_sync.map(|names| format!(";{}", names.status())).unwrap_or_default();
        format!("{SERVER}{columns}{promoter};{STATUS}{status}")
    }

    /// Reads the answer to [`Self::tick`]. `None`: it is not the answer to it.
    pub fn read(&self, answer: &[Rows]) -> Option<ServerState> {
        let mut sets = answer.iter();
        let server = sets.next()?.first()?;
        let channels = sets.next()?;
        let semi_sync = match self.semi_sync {
            Some(names) => Some(names.read(server, sets.next()?)),
            None => None,
        };
        Some(ServerState {
            identity: Identity { server_id: server.number(&["server_id"])?, ..self.identity.clone() },
            read_only: is_read_only(server.bytes(&["read_only"])?),
            super_read_only: false,
            gtid_executed: without_blanks(&server.text(&["gtid"])),
            channels: channels.iter().map(channel).collect(),
            group: None,
            semi_sync,
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
