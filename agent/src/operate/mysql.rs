//! MySQL's words, 8.0.22 and later. What differs between versions is what the server itself says that it has: names of
//! variables, and by their names those of the options of CHANGE REPLICATION SOURCE.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::Duration;

use mysql_async::Row;
use shunt_core::gtid::History;
use shunt_core::observation::Flavour;
use shunt_core::operation::{SemiSyncRole, Standing};

use super::dialect::{Dialect, Script, Source, heartbeat, quoted};
use super::grants::{self, Granted};
use super::standing::{self, Channel, Look, Settings};
use crate::probe::answer::{Columns, Rows, says_yes};
use crate::probe::mysql::io_thread;

/// All roles are switched on first, for a user's grants may be in one that is none of its default roles.
pub const INTRODUCTION: &[&str] = &["SET ROLE ALL", "SELECT CURRENT_USER() AS account", "SHOW GRANTS"];

/// A server, by what it has.
#[derive(Debug)]
pub struct Mysql {
    uuid: String,
    version: String,
    binlog: bool,
    replica_updates: bool,
    binlog_format: bool,
    group: bool,
    /// `source` and `replica`, or `master` and `slave`, by plugin.
    semi_source: Option<&'static str>,
    semi_replica: Option<&'static str>,
    /// Whether performance_schema may be read.
    schema: bool,
    missing: Vec<String>,
    /// It says CHANGE MASTER: log_slave_updates was renamed in 8.0.26, three versions after CHANGE MASTER, and both old
    /// names were good until 8.4.
    old_words: bool,
}

impl Mysql {
    pub fn new(variables: &BTreeMap<String, String>, answer: &[Rows]) -> Option<Self> {
        let get = |name: &str| variables.get(name).map(String::as_str);
        let on = |name: &str| get(name).is_some_and(|value| says_yes(value.as_bytes()));
        let first = |names: [&'static str; 2]| {
            names.into_iter().find(|name| variables.contains_key(&format!("rpl_semi_sync_{name}_enabled")))
        };
        let [_, user, lines] = answer else { return None };
        let account = grants::account(&user.first()?.text(&["account"]));
        let lines: Vec<String> = lines.iter().map(first_column).collect();
        let granted = Granted::parse(&lines);
        let needs = grants::needed(Flavour::Mysql);
        Some(Self {
            uuid: get("server_uuid")?.to_owned(),
            version: get("version")?.to_owned(),
            binlog: on("log_bin"),
            replica_updates: on("log_replica_updates") || on("log_slave_updates"),
            binlog_format: get("binlog_format").is_some(),
            group: get("group_replication_group_name").is_some_and(|name| !name.is_empty()),
            semi_source: first(["source", "master"]),
            semi_replica: first(["replica", "slave"]),
            schema: needs.iter().filter(|need| need.on != "*.*").all(|need| granted.has(need)),
            missing: granted.missing(Flavour::Mysql, &account),
            old_words: get("log_replica_updates").is_none(),
        })
    }

    /// How a channel is named in a statement.
    fn channel(look: &Look) -> String {
        match look.channel() {
            Some(channel) if !channel.name.is_empty() => format!(" FOR CHANNEL {}", quoted(&channel.name)),
            _ => String::new(),
        }
    }

    fn change(&self, look: &Look, source: &Source<'_>, auto_position: bool) -> String {
        let (statement, side) =
            if self.old_words { ("CHANGE MASTER", "MASTER") } else { ("CHANGE REPLICATION SOURCE", "SOURCE") };
        let mut sql = format!(
            "{statement} TO {side}_HOST = {}, {side}_PORT = {}, {side}_USER = {}, {side}_PASSWORD = {}, \
             {side}_CONNECT_RETRY = 1, {side}_RETRY_COUNT = 86400, GET_{side}_PUBLIC_KEY = 1",
            quoted(&source.address.ip().to_string()),
            source.address.port(),
            quoted(&source.login.user),
            quoted(source.login.password.reveal()),
        );
        if auto_position {
            let _ = write!(sql, ", {side}_AUTO_POSITION = 1");
        }
        // A server that has no TLS takes no replica that insists on it; what else an operator has set up about TLS stays.
        if source.tls {
            let _ = write!(sql, ", {side}_SSL = 1");
        }
        let _ = write!(sql, ", {side}_HEARTBEAT_PERIOD = {}", heartbeat(look, source.heartbeat));
        sql + &Self::channel(look)
    }

    fn semi_sync_of_replica(&self, source: &Source<'_>) -> Script {
        let mut script = Vec::new();
        // As a source it would wait for acknowledgements that nobody sends when it is written to again.
        if let Some(name) = self.semi_source {
            script.push(format!("SET GLOBAL rpl_semi_sync_{name}_enabled = OFF"));
        }
        if let (Some(true), Some(name)) = (source.semi_sync, self.semi_replica) {
            script.push(format!("SET GLOBAL rpl_semi_sync_{name}_enabled = ON"));
        }
        script
    }
}

impl Dialect for Mysql {
    fn flavour(&self) -> Flavour {
        Flavour::Mysql
    }

    fn missing(&self) -> &[String] {
        &self.missing
    }

    fn has_semi_sync_source(&self) -> bool {
        self.semi_source.is_some()
    }

    fn look(&self) -> Script {
        let mut sql = "SELECT @@global.server_id AS server_id, @@global.read_only AS read_only, \
             @@global.super_read_only AS super_read_only, @@global.gtid_executed AS gtid, @@global.gtid_mode AS gtid_mode, \
             @@global.offline_mode AS offline"
            .to_owned();
        if self.binlog_format {
            sql.push_str(", @@global.binlog_format AS binlog_format");
        }
        for (alias, name) in [("semi_source", self.semi_source), ("semi_replica", self.semi_replica)] {
            if let Some(name) = name {
                let _ = write!(sql, ", @@global.rpl_semi_sync_{name}_enabled AS {alias}");
            }
        }
        let mut script = vec![sql, "SHOW REPLICA STATUS".to_owned()];
        if self.schema {
            script.push(
                "SELECT CHANNEL_NAME AS name, HEARTBEAT_INTERVAL AS period \
                 FROM performance_schema.replication_connection_configuration"
                    .to_owned(),
            );
        }
        script
    }

    fn read(&self, answer: &[Rows]) -> Option<Look> {
        let mut sets = answer.iter();
        let server = sets.next()?.first()?;
        let status = sets.next()?;
        let periods = if self.schema { sets.next()?.as_slice() } else { &[] };
        let is_group = |row: &Row| row.text(&["Channel_Name"]).starts_with("group_replication_");
        let rows: Vec<&Row> = status.iter().filter(|row| !is_group(row)).collect();
        let channels: Vec<Channel> = rows.iter().map(|row| channel(row, periods)).collect();
        let executed = History::parse(Flavour::Mysql, &server.text(&["gtid"])).ok()?;
        let mut received = executed.clone();
        for row in rows {
            received = received.union(&History::parse(Flavour::Mysql, &row.text(&["Retrieved_Gtid_Set"])).ok()?);
        }
        let semi_sync = (self.semi_source.is_some() || self.semi_replica.is_some())
            .then(|| SemiSyncRole { source: server.is_on(&["semi_source"]), replica: server.is_on(&["semi_replica"]) });
        let settings = Settings {
            binlog: self.binlog,
            replica_updates: self.replica_updates,
            gtids: server.text(&["gtid_mode"]) == "ON",
            offline: server.is_on(&["offline"]),
        };
        let standing = Standing {
            flavour: Flavour::Mysql,
            version: self.version.clone(),
            uuid: Some(self.uuid.clone()),
            server_id: server.number(&["server_id"])?,
            // Both: a `SET GLOBAL super_read_only = ON` that still waits for a commit shows already, read_only only when it
            // is through (tried on 9.7).
            read_only: says_yes(server.bytes(&["super_read_only"])?) && says_yes(server.bytes(&["read_only"])?),
            executed,
            received,
            replication: standing::replication(&channels),
            obstacles: standing::obstacles(settings, &channels, &self.missing),
            cannot_apply: Vec::new(),
            semi_sync,
            in_group: self.group,
            binlog_format: server.text(&["binlog_format"]),
            shows_sessions: None,
        };
        Some(Look { standing, channels, slave_pos: String::new(), binlog_pos: String::new() })
    }

    fn read_only(&self) -> Script {
        vec!["SET GLOBAL super_read_only = ON".to_owned()]
    }

    fn writable(&self) -> Script {
        // This takes super_read_only with it.
        vec!["SET GLOBAL read_only = OFF".to_owned()]
    }

    fn sessions(&self) -> String {
        "SELECT PROCESSLIST_ID AS id, PROCESSLIST_STATE AS state FROM performance_schema.threads \
         WHERE TYPE = 'FOREGROUND' AND PROCESSLIST_ID IS NOT NULL AND PROCESSLIST_ID <> CONNECTION_ID() \
         AND PROCESSLIST_USER NOT IN (SUBSTRING_INDEX(USER(), '@', 1), 'event_scheduler', 'system user') \
         AND PROCESSLIST_COMMAND NOT IN ('Binlog Dump', 'Binlog Dump GTID', 'Daemon')"
            .to_owned()
    }

    fn stop_receiving(&self, _look: &Look) -> Script {
        vec!["STOP REPLICA IO_THREAD".to_owned()]
    }

    fn start_receiving(&self, _look: &Look) -> Script {
        vec!["START REPLICA IO_THREAD".to_owned()]
    }

    fn start_applying(&self, _look: &Look) -> Script {
        vec!["START REPLICA SQL_THREAD".to_owned()]
    }

    fn wait_applied(&self, goal: &History, at_most: Duration) -> String {
        format!("SELECT WAIT_FOR_EXECUTED_GTID_SET('{goal}', {:.3})", at_most.as_secs_f64())
    }

    fn keeps_relay_log(&self) -> bool {
        // As long as the applier runs.
        true
    }

    fn catch_up(&self, look: &Look, source: &Source<'_>) -> Script {
        let mut script = self.stop_receiving(look);
        if !look.standing.replication.applying {
            script.extend(self.start_applying(look));
        }
        // SOURCE_AUTO_POSITION cannot be given while the applier runs, and it is on already.
        script.push(self.change(look, source, false));
        script.extend(self.start_receiving(look));
        script
    }

    fn promote(&self, look: &Look, semi_sync: bool) -> Script {
        let mut script = Vec::new();
        if !look.channels.is_empty() {
            script.extend(["STOP REPLICA".to_owned(), "RESET REPLICA ALL".to_owned()]);
        }
        if let (true, Some(name)) = (semi_sync, self.semi_source) {
            script.push(format!("SET GLOBAL rpl_semi_sync_{name}_enabled = ON"));
        }
        script.extend(self.writable());
        script
    }

    fn follow(&self, look: &Look, source: &Source<'_>) -> Script {
        let channel = Self::channel(look);
        let mut script = vec![format!("STOP REPLICA{channel}"), self.change(look, source, true)];
        script.extend(self.semi_sync_of_replica(source));
        script.push(format!("START REPLICA{channel}"));
        script
    }
}

pub fn first_column(row: &Row) -> String {
    row.columns_ref().first().map_or_else(String::new, |column| row.text(&[&column.name_str()]))
}

const FILTERS: [&str; 7] = [
    "Replicate_Do_DB",
    "Replicate_Ignore_DB",
    "Replicate_Do_Table",
    "Replicate_Ignore_Table",
    "Replicate_Wild_Do_Table",
    "Replicate_Wild_Ignore_Table",
    "Replicate_Rewrite_DB",
];

/// The filters that are set, of any flavour.
pub fn filters(row: &Row) -> Vec<String> {
    let set = FILTERS.iter().map(|&name| (name, row.text(&[name]))).filter(|(_, value)| !value.is_empty());
    set.map(|(name, value)| format!("{name}={value}")).collect()
}

/// An error with its number, which its text often lacks; empty: none.
pub fn numbered(row: &Row, [number, words]: [&str; 2]) -> String {
    let words = row.text(&[words]);
    if words.is_empty() { words } else { format!("ERROR {}: {words}", row.text(&[number])) }
}

fn channel(row: &Row, periods: &[Row]) -> Channel {
    let name = row.text(&["Channel_Name"]);
    let heartbeat = periods.iter().find(|period| period.text(&["name"]) == name);
    Channel {
        host: row.text(&["Source_Host"]),
        port: row.number(&["Source_Port"]).and_then(|port| u16::try_from(port).ok()).unwrap_or(0),
        io: io_thread(row.bytes(&["Replica_IO_Running"])),
        io_error: numbered(row, ["Last_IO_Errno", "Last_IO_Error"]),
        applying: row.is_on(&["Replica_SQL_Running"]),
        apply_error: numbered(row, ["Last_SQL_Errno", "Last_SQL_Error"]),
        by_gtid: row.is_on(&["Auto_Position"]),
        relay_log: (String::new(), 0),
        heartbeat: heartbeat.and_then(|row| row.seconds(&["period"])).filter(|period| !period.is_zero()),
        delay: row.number(&["SQL_Delay"]).unwrap_or(0),
        filters: filters(row),
        name,
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use shunt_core::operation::Replication;

    use super::*;
    use crate::config::{Credentials, Password};

    fn server(old_words: bool) -> Mysql {
        Mysql {
            uuid: String::new(),
            version: String::new(),
            binlog: true,
            replica_updates: true,
            binlog_format: true,
            group: false,
            semi_source: Some(if old_words { "master" } else { "source" }),
            semi_replica: Some(if old_words { "slave" } else { "replica" }),
            schema: true,
            missing: Vec::new(),
            old_words,
        }
    }

    fn look(channels: Vec<Channel>) -> Look {
        let nothing = History::empty(Flavour::Mysql);
        let standing = Standing {
            flavour: Flavour::Mysql,
            version: String::new(),
            uuid: None,
            server_id: 1,
            read_only: true,
            executed: nothing.clone(),
            received: nothing,
            replication: Replication::default(),
            obstacles: Vec::new(),
            cannot_apply: Vec::new(),
            semi_sync: None,
            in_group: false,
            binlog_format: String::new(),
            shows_sessions: None,
        };
        Look { standing, channels, slave_pos: String::new(), binlog_pos: String::new() }
    }

    fn follow(old_words: bool, look: &Look) -> String {
        let login =
            Credentials { user: "repl".to_owned(), password_file: PathBuf::new(), password: Password::new(r"a'b\c") };
        let address = "[fd00::1]:3307".parse().unwrap();
        let source =
            Source { address, login: &login, tls: true, semi_sync: Some(true), heartbeat: Duration::from_secs(1) };
        server(old_words).follow(look, &source).join("\n")
    }

    #[test]
    fn a_new_replica_is_set_up_in_the_words_that_its_version_knows() {
        let new = [
            "STOP REPLICA",
            r"CHANGE REPLICATION SOURCE TO SOURCE_HOST = 'fd00::1', SOURCE_PORT = 3307, SOURCE_USER = 'repl', SOURCE_PASSWORD = 'a\'b\\c', SOURCE_CONNECT_RETRY = 1, SOURCE_RETRY_COUNT = 86400, GET_SOURCE_PUBLIC_KEY = 1, SOURCE_AUTO_POSITION = 1, SOURCE_SSL = 1, SOURCE_HEARTBEAT_PERIOD = 1",
            "SET GLOBAL rpl_semi_sync_source_enabled = OFF",
            "SET GLOBAL rpl_semi_sync_replica_enabled = ON",
            "START REPLICA",
        ]
        .join("\n");
        assert_eq!(follow(false, &look(Vec::new())), new);
        // 8.0.22 to 8.0.25, whose semi-sync plugins have the old names, too.
        let old = new
            .replace("REPLICATION SOURCE", "MASTER")
            .replace("SOURCE_", "MASTER_")
            .replace("semi_sync_source", "semi_sync_master")
            .replace("semi_sync_replica", "semi_sync_slave");
        assert_eq!(follow(true, &look(Vec::new())), old);
    }

    #[test]
    fn a_channel_keeps_its_name_and_a_shorter_heartbeat() {
        let channel = Channel {
            name: "from_a".to_owned(),
            host: "a".to_owned(),
            port: 3306,
            io: shunt_core::observation::IoThread::Stopped,
            io_error: String::new(),
            applying: false,
            apply_error: String::new(),
            by_gtid: true,
            relay_log: (String::new(), 0),
            heartbeat: Some(Duration::from_millis(500)),
            delay: 0,
            filters: Vec::new(),
        };
        let text = follow(false, &look(vec![channel]));
        assert!(text.contains("SOURCE_HEARTBEAT_PERIOD = 0.5"), "{text}");
        assert_eq!(text.matches("FOR CHANNEL 'from_a'").count(), 3, "{text}");
    }
}
