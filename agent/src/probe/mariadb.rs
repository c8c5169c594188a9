//! MariaDB's words. It has no server uuid, no `super_read_only`, semi-sync built in, and heartbeats in SHOW ALL SLAVES
//! STATUS itself.

use std::collections::BTreeMap;
use std::time::Duration;

use mysql_async::Row;
use shunt_core::observation::{Channel, Flavour, Identity, PromoterLock, SemiSync, ServerState};

use super::answer::{Columns, Rows, name_values, without_blanks};
use super::mysql::{io_thread, last_error};

pub const GRANTS: &[&str] = &["GRANT REPLICA MONITOR ON *.* TO shunt@'%'"];

pub const STATUS: &str = "SHOW ALL SLAVES STATUS";

const SERVER: &str = "SELECT @@global.server_id AS server_id, @@global.read_only AS read_only, \
     @@global.gtid_current_pos AS gtid";

const SEMI_SYNC: &str = ", @@global.rpl_semi_sync_master_enabled AS semi_source, \
     @@global.rpl_semi_sync_slave_enabled AS semi_replica";

const SEMI_SYNC_STATUS: &str = ";SHOW GLOBAL STATUS WHERE Variable_name IN \
     ('Rpl_semi_sync_master_status','Rpl_semi_sync_master_clients')";

/// What this server has.
#[derive(Clone, Debug)]
pub struct Capabilities {
    pub identity: Identity,
    pub semi_sync: bool,
}

impl Capabilities {
    pub fn new(identity: Identity, variables: &BTreeMap<String, String>) -> Self {
        Self { identity, semi_sync: variables.contains_key("rpl_semi_sync_master_enabled") }
    }

    /// The tick's text, as one query of several statements.
    pub fn tick(&self) -> String {
        let (columns, status) = if self.semi_sync { (SEMI_SYNC, SEMI_SYNC_STATUS) } else { ("", "") };
        format!("{SERVER}{columns};{STATUS}{status}")
    }

    /// Reads the answer to [`Self::tick`]. `None`: it is not the answer to it.
    pub fn read(&self, answer: &[Rows]) -> Option<ServerState> {
        let mut sets = answer.iter();
        let server = sets.next()?.first()?;
        let channels = sets.next()?;
        let semi_sync = if self.semi_sync { Some(semi_sync(server, sets.next()?)) } else { None };
        Some(ServerState {
            identity: Identity { server_id: server.number(&["server_id"])?, ..self.identity.clone() },
            read_only: is_read_only(server.bytes(&["read_only"])?),
            super_read_only: false,
            gtid_executed: without_blanks(&server.text(&["gtid"])),
            channels: channels.iter().map(channel).collect(),
            group: None,
            semi_sync,
            promoter: PromoterLock::NotAsked,
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

fn semi_sync(server: &Row, status: &Rows) -> SemiSync {
    let status = name_values(status);
    let find = |name: &str| status.get(name).map_or("", String::as_str);
    SemiSync {
        source_enabled: server.is_on(&["semi_source"]),
        source_active: find("rpl_semi_sync_master_status") == "ON",
        replica_enabled: server.is_on(&["semi_replica"]),
        clients: find("rpl_semi_sync_master_clients").parse().unwrap_or(0),
        wait_count: 1,
        after_sync: true,
        timeout: Duration::ZERO,
        waiting: 0,
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
