//! MariaDB's words, 10.5 and later. It has no `super_read_only`, no set of executed transactions and no way to change the
//! source of a replica that still applies; its positions and its binary log's state take more care instead.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::Duration;

use mysql_async::Row;
use shunt_core::gtid::{History, MariaGtid};
use shunt_core::observation::{Flavour, IoThread};
use shunt_core::operation::{SemiSyncRole, Standing};

use super::dialect::{Dialect, Script, Source, heartbeat, quoted};
use super::grants::{self, Granted};
use super::mysql::{filters, first_column, numbered};
use super::standing::{self, Channel, Look, Settings};
use crate::probe::answer::{Columns, Rows, says_yes, without_blanks};
use crate::probe::mysql::io_thread;

pub const INTRODUCTION: &[&str] = &["SELECT CURRENT_USER() AS account", "SHOW GRANTS"];

/// A server, by what it has.
#[derive(Debug)]
pub struct Mariadb {
    version: String,
    binlog: bool,
    replica_updates: bool,
    galera: bool,
    semi_sync: bool,
    missing: Vec<String>,
}

impl Mariadb {
    pub fn new(variables: &BTreeMap<String, String>, answer: &[Rows]) -> Option<Self> {
        let get = |name: &str| variables.get(name).map(String::as_str);
        let on = |name: &str| get(name).is_some_and(|value| says_yes(value.as_bytes()));
        let [user, lines] = answer else { return None };
        let account = grants::account(&user.first()?.text(&["account"]));
        let lines: Vec<String> = lines.iter().map(first_column).collect();
        Some(Self {
            version: get("version")?.to_owned(),
            binlog: on("log_bin"),
            replica_updates: on("log_slave_updates"),
            galera: on("wsrep_on"),
            semi_sync: get("rpl_semi_sync_master_enabled").is_some(),
            missing: Granted::parse(&lines).missing(Flavour::Mariadb, &account),
        })
    }

    fn change(look: &Look, source: &Source<'_>) -> String {
        let mut sql = format!(
            "CHANGE MASTER{} TO MASTER_HOST = {}, MASTER_PORT = {}, MASTER_USER = {}, MASTER_PASSWORD = {}, \
             MASTER_CONNECT_RETRY = 1, MASTER_USE_GTID = slave_pos",
            connection(look),
            quoted(&source.address.ip().to_string()),
            source.address.port(),
            quoted(&source.login.user),
            quoted(source.login.password.reveal()),
        );
        // A server that has no TLS takes no replica that insists on it; what else an operator has set up about TLS stays.
        if source.tls {
            sql.push_str(", MASTER_SSL = 1");
        }
        let _ = write!(sql, ", MASTER_HEARTBEAT_PERIOD = {}", heartbeat(look, source.heartbeat));
        sql
    }

    /// Stops, changes and starts.
    fn repoint(look: &Look, source: &Source<'_>, between: Script) -> Script {
        let name = connection(look);
        let mut script = vec![format!("STOP SLAVE{name}")];
        // What a former primary wrote is in its binary log only, and would be asked for again.
        if let Some(position) = position_to_start_from(look) {
            script.push(format!("SET GLOBAL gtid_slave_pos = '{position}'"));
        }
        script.push(Self::change(look, source));
        script.extend(between);
        script.push(format!("START SLAVE{name}"));
        script
    }
}

/// The connection's name, as it stands in a statement.
fn connection(look: &Look) -> String {
    look.channel().map(name_of).unwrap_or_default()
}

/// `gtid_slave_pos` as it has to be for the server to go on from where it is: in every domain the later of what it received
/// and what it logged. `None`: it is like that.
fn position_to_start_from(look: &Look) -> Option<MariaGtid> {
    let received: MariaGtid = look.slave_pos.parse().ok()?;
    let logged: MariaGtid = look.binlog_pos.parse().ok()?;
    let both = received.union(&logged);
    (both != received).then_some(both)
}

impl Dialect for Mariadb {
    fn flavour(&self) -> Flavour {
        Flavour::Mariadb
    }

    fn missing(&self) -> &[String] {
        &self.missing
    }

    fn has_semi_sync_source(&self) -> bool {
        self.semi_sync
    }

    fn look(&self) -> Script {
        let mut sql = "SELECT @@global.server_id AS server_id, @@global.read_only AS read_only, \
             @@global.gtid_binlog_state AS state, @@global.gtid_binlog_pos AS binlog_pos, \
             @@global.gtid_slave_pos AS slave_pos, @@global.binlog_format AS binlog_format"
            .to_owned();
        if self.semi_sync {
            sql.push_str(
                ", @@global.rpl_semi_sync_master_enabled AS semi_source, \
                 @@global.rpl_semi_sync_slave_enabled AS semi_replica",
            );
        }
        vec![sql, "SHOW ALL SLAVES STATUS".to_owned()]
    }

    fn read(&self, answer: &[Rows]) -> Option<Look> {
        let [server, status] = answer else { return None };
        let server = server.first()?;
        let channels: Vec<Channel> = status.iter().map(channel).collect();
        let history = |text: &str| History::parse(Flavour::Mariadb, text).ok();
        let slave_pos = without_blanks(&server.text(&["slave_pos"]));
        // What was received and not logged: the server was built from a copy of another, whose log it does not have, or does
        // not log what it receives.
        let executed = history(&server.text(&["state"]))?.union(&history(&slave_pos)?);
        let mut received = executed.clone();
        for row in status {
            received = received.union(&history(&row.text(&["Gtid_IO_Pos"]))?);
        }
        let semi_sync = self
            .semi_sync
            .then(|| SemiSyncRole { source: server.is_on(&["semi_source"]), replica: server.is_on(&["semi_replica"]) });
        let settings =
            Settings { binlog: self.binlog, replica_updates: self.replica_updates, gtids: true, offline: false };
        let standing = Standing {
            flavour: Flavour::Mariadb,
            version: self.version.clone(),
            uuid: None,
            server_id: server.number(&["server_id"])?,
            // MariaDB 12 has NO_LOCK and NO_LOCK_NO_ADMIN too: whatever is not OFF is some kind of read-only.
            read_only: !matches!(server.text(&["read_only"]).to_ascii_uppercase().as_str(), "0" | "OFF" | ""),
            executed,
            received,
            replication: standing::replication(&channels),
            obstacles: standing::obstacles(settings, &channels, &self.missing),
            cannot_apply: Vec::new(),
            semi_sync,
            in_group: self.galera,
            binlog_format: server.text(&["binlog_format"]),
            shows_sessions: None,
        };
        Some(Look { standing, channels, slave_pos, binlog_pos: without_blanks(&server.text(&["binlog_pos"])) })
    }

    fn read_only(&self) -> Script {
        vec!["SET GLOBAL read_only = ON".to_owned()]
    }

    fn writable(&self) -> Script {
        vec!["SET GLOBAL read_only = OFF".to_owned()]
    }

    fn sessions(&self) -> String {
        "SELECT ID AS id, STATE AS state FROM information_schema.PROCESSLIST WHERE ID <> CONNECTION_ID() \
         AND USER NOT IN (SUBSTRING_INDEX(USER(), '@', 1), 'event_scheduler', 'system user') \
         AND COMMAND NOT IN ('Binlog Dump', 'Daemon', 'Slave_IO', 'Slave_SQL', 'Slave_worker')"
            .to_owned()
    }

    /// A replica whose two threads are both stopped throws its relay log away when one of them starts, so an applier that
    /// somebody stopped has to run before the receiver ends.
    fn stop_receiving(&self, look: &Look) -> Script {
        let mut script = Vec::new();
        for channel in &look.channels {
            let name = name_of(channel);
            if channel.io != IoThread::Stopped && !channel.applying && channel.apply_error.is_empty() {
                script.push(format!("START SLAVE{name} SQL_THREAD"));
            }
            script.push(format!("STOP SLAVE{name} IO_THREAD"));
        }
        script
    }

    fn start_receiving(&self, look: &Look) -> Script {
        each(look, |name| format!("START SLAVE{name} IO_THREAD"))
    }

    /// With both threads stopped, and only while it replicates by GTID, it would throw its relay log away (tried on 10.11).
    /// By file and position it keeps it; whoever has it follow somebody afterwards switches GTIDs on again.
    fn start_applying(&self, look: &Look) -> Script {
        let mut script = Vec::new();
        for channel in &look.channels {
            let (name, (file, position)) = (name_of(channel), &channel.relay_log);
            if channel.io == IoThread::Stopped && channel.by_gtid && !channel.applying && !file.is_empty() {
                script.push(format!(
                    "CHANGE MASTER{name} TO MASTER_USE_GTID = no, RELAY_LOG_FILE = {}, RELAY_LOG_POS = {position}",
                    quoted(file)
                ));
            }
            script.push(format!("START SLAVE{name} SQL_THREAD"));
        }
        script
    }

    fn wait_applied(&self, goal: &History, at_most: Duration) -> String {
        format!("SELECT MASTER_GTID_WAIT('{}', {:.3})", position_of(goal), at_most.as_secs_f64())
    }

    fn keeps_relay_log(&self) -> bool {
        false
    }

    fn catch_up(&self, look: &Look, source: &Source<'_>) -> Script {
        Self::repoint(look, source, Vec::new())
    }

    fn promote(&self, look: &Look, semi_sync: bool) -> Script {
        let mut script = each(look, |name| format!("STOP SLAVE{name}"));
        script.extend(each(look, |name| format!("RESET SLAVE{name} ALL")));
        if semi_sync {
            script.push("SET GLOBAL rpl_semi_sync_master_enabled = ON".to_owned());
        }
        script.extend(self.writable());
        script
    }

    fn follow(&self, look: &Look, source: &Source<'_>) -> Script {
        let mut semi_sync = Vec::new();
        if self.semi_sync {
            // As a source it would wait for acknowledgements that nobody sends when it is written to again.
            semi_sync.push("SET GLOBAL rpl_semi_sync_master_enabled = OFF".to_owned());
            if source.semi_sync == Some(true) {
                semi_sync.push("SET GLOBAL rpl_semi_sync_slave_enabled = ON".to_owned());
            }
        }
        Self::repoint(look, source, semi_sync)
    }
}

/// The position at which a history is complete: it has one member a domain, the last.
fn position_of(history: &History) -> MariaGtid {
    let History::Mariadb(history) = history else { return MariaGtid::default() };
    let members = history.spans().map(|((domain, server), _, last)| format!("{domain}-{server}-{last}"));
    members.collect::<Vec<_>>().join(",").parse().unwrap_or_default()
}

/// A statement a channel.
fn each(look: &Look, statement: impl Fn(String) -> String) -> Script {
    look.channels.iter().map(|channel| statement(name_of(channel))).collect()
}

/// A channel's name, as it stands in a statement.
fn name_of(channel: &Channel) -> String {
    if channel.name.is_empty() { String::new() } else { format!(" {}", quoted(&channel.name)) }
}

fn channel(row: &Row) -> Channel {
    Channel {
        name: row.text(&["Connection_name"]),
        host: row.text(&["Master_Host"]),
        port: row.number(&["Master_Port"]).and_then(|port| u16::try_from(port).ok()).unwrap_or(0),
        io: io_thread(row.bytes(&["Slave_IO_Running"])),
        io_error: numbered(row, ["Last_IO_Errno", "Last_IO_Error"]),
        applying: row.is_on(&["Slave_SQL_Running"]),
        apply_error: numbered(row, ["Last_SQL_Errno", "Last_SQL_Error"]),
        by_gtid: !matches!(row.text(&["Using_Gtid"]).as_str(), "No" | ""),
        relay_log: (row.text(&["Relay_Log_File"]), row.number(&["Relay_Log_Pos"]).unwrap_or(0)),
        heartbeat: row.seconds(&["Slave_heartbeat_period"]).filter(|period| !period.is_zero()),
        delay: row.number(&["SQL_Delay"]).unwrap_or(0),
        filters: filters(row),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_history_is_complete_at_the_last_transaction_of_every_domain() {
        let history = |text| History::parse(Flavour::Mariadb, text).unwrap();
        assert_eq!(position_of(&history("0-1-100,0-2-110,7-1-3")).to_string(), "0-2-110,7-1-3");
        // A difference, which has spans.
        let left = history("0-1-100,0-2-110").minus(&history("0-2-105,0-1-100"));
        assert_eq!(position_of(&left).to_string(), "0-2-110");
        assert_eq!(position_of(&history("")).to_string(), "");
    }
}
