//! MySQL's words. 8.0.22 and later say REPLICA and SOURCE, earlier ones SLAVE and MASTER; which it is, and what else the
//! server has or lets us read, is asked when connecting and decides the tick's text.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::Duration;

use mysql_async::Row;
use shunt_core::observation::{
    Backlog, Channel, Flavour, GroupMember, GroupView, Identity, IoThread, MemberState, ReplicationGroup, ServerState,
};

use super::answer::{Columns, Rows, name_values, says_yes, without_blanks};
use super::{promoter, semi_sync};

pub const GRANTS: &[&str] =
    &["GRANT REPLICATION CLIENT ON *.* TO shunt@'%'", "GRANT SELECT ON performance_schema.* TO shunt@'%'"];

/// Tried in this order; the first that the server knows is used.
pub const STATUS_FORMS: [&str; 2] = ["SHOW REPLICA STATUS", "SHOW SLAVE STATUS"];

/// Replication by a dozen columns. SHOW REPLICA STATUS has sixty, and to read those in every round would be most of what
/// observing costs; it is only asked for what these do not have, in some rounds.
pub const CHANNELS: &str = "SELECT c.CHANNEL_NAME AS name, c.HOST AS host, c.PORT AS port, s.SOURCE_UUID AS uuid, \
     s.SERVICE_STATE AS io, a.SERVICE_STATE AS applier, s.COUNT_RECEIVED_HEARTBEATS AS beats, \
     s.LAST_HEARTBEAT_TIMESTAMP AS beat, s.LAST_QUEUED_TRANSACTION AS queued, \
     s.LAST_QUEUED_TRANSACTION_END_QUEUE_TIMESTAMP AS queued_at, c.HEARTBEAT_INTERVAL AS period, \
     s.LAST_ERROR_MESSAGE AS error FROM performance_schema.replication_connection_configuration c \
     JOIN performance_schema.replication_connection_status s USING (CHANNEL_NAME) \
     JOIN performance_schema.replication_applier_status a USING (CHANNEL_NAME) WHERE c.HOST <> ''";

/// The whole status is asked for in every so many rounds of a replica: the lag is whole seconds anyway. In an urgent
/// round it always is, because only its position moves while one large transaction is received.
const WIDE_EVERY: u32 = 4;

/// The members, and with the server's own row what it has still to apply. Of the others it knows that only by hearsay.
pub const MEMBERS: &str = "SELECT m.MEMBER_ID AS id, m.MEMBER_STATE AS state, m.MEMBER_ROLE AS role, s.VIEW_ID AS view, \
     s.COUNT_TRANSACTIONS_REMOTE_APPLIED AS applied, s.COUNT_TRANSACTIONS_IN_QUEUE AS certifying, \
     s.COUNT_TRANSACTIONS_REMOTE_IN_APPLIER_QUEUE AS queued FROM performance_schema.replication_group_members m \
     LEFT JOIN performance_schema.replication_group_member_stats s \
     ON s.MEMBER_ID = m.MEMBER_ID AND s.MEMBER_ID = @@global.server_uuid";

/// What this server has, and lets us read.
#[derive(Clone, Debug)]
pub struct Capabilities {
    pub identity: Identity,
    pub status_form: &'static str,
    /// Whether [`CHANNELS`] can be read; without it every round asks for the whole status, and heartbeats stay unknown.
    pub narrow: bool,
    /// Whether it is set up to be a member of a group.
    pub group: bool,
    semi_sync: Option<semi_sync::Names>,
    /// Whether every round tries to hold the promoter's lock.
    promotes: bool,
    /// Whether [`MEMBERS`] can be read. If not, it is in a group all the same.
    pub members: bool,
    /// By channel, what only the whole status has, as last asked for.
    wide: BTreeMap<String, Wide>,
    /// Rounds since.
    since_wide: u32,
}

impl Capabilities {
    /// From the server's global variables; what can only be found out by trying is filled in by the caller.
    pub fn new(identity: Identity, variables: &BTreeMap<String, String>, promotes: bool) -> Self {
        Self {
            identity,
            status_form: STATUS_FORMS[0],
            narrow: false,
            group: variables.get("group_replication_group_name").is_some_and(|name| !name.is_empty()),
            semi_sync: semi_sync::Names::find(Flavour::Mysql, variables),
            promotes,
            members: false,
            wide: BTreeMap::new(),
            since_wide: WIDE_EVERY,
        }
    }

    /// Whether the next round has to ask for the whole status.
    pub fn is_wide(&self, urgent: bool) -> bool {
        !self.narrow || self.since_wide >= WIDE_EVERY || (urgent && !self.wide.is_empty())
    }

    /// A round's text, as one query of several statements.
    pub fn tick(&self, wide: bool) -> String {
        let mut sql = "SELECT @@global.server_id AS server_id, @@global.read_only AS read_only, \
             @@global.super_read_only AS super_read_only, @@global.gtid_executed AS gtid"
            .to_owned();
        if let Some(names) = self.semi_sync {
            sql += &names.columns();
        }
        if self.promotes {
            sql += promoter::COLUMN;
        }
        if self.narrow {
            // One statement, a row a channel and at least one: a server sends every statement's answer on its own, and each
            // wakes us up.
            let _ = write!(sql, ", ch.* FROM (SELECT 1) AS one LEFT JOIN ({CHANNELS}) AS ch ON TRUE");
        }
        if wide {
            let _ = write!(sql, ";{}", self.status_form);
        }
        if self.members {
            let _ = write!(sql, ";{MEMBERS}");
        }
        if let Some(names) = self.semi_sync {
            let names = names.status();
            let _ = write!(sql, ";SHOW GLOBAL STATUS WHERE Variable_name IN ('{}')", names.join("','"));
        }
        sql
    }

    /// Reads the answer to [`Self::tick`]. `None`: it is not the answer to it.
    pub fn read(&mut self, answer: &[Rows], wide: bool) -> Option<ServerState> {
        let mut sets = answer.iter();
        let rows = sets.next()?;
        let server = rows.first()?;
        let status = if wide { Some(sets.next()?) } else { None };
        let members = if self.members { Some(sets.next()?) } else { None };
        let semi_sync = match self.semi_sync {
            Some(names) => Some(names.read(server, &name_values(sets.next()?))),
            None => None,
        };
        let channels = match status {
            status if self.narrow => self.narrow_channels(rows, status),
            Some(rows) => rows.iter().filter(|row| is_replication(row)).map(wide_channel).collect(),
            None => return None,
        };
        Some(ServerState {
            identity: Identity { server_id: server.number(&["server_id"])?, ..self.identity.clone() },
            // What is not said must not be taken for a no.
            read_only: says_yes(server.bytes(&["read_only"])?),
            super_read_only: says_yes(server.bytes(&["super_read_only"])?),
            gtid_executed: without_blanks(&server.text(&["gtid"])),
            channels,
            group: match members {
                Some(rows) => group(rows),
                None => self.group.then(|| GroupView::Replication(ReplicationGroup::default())),
            },
            semi_sync,
            promoter: promoter::read(server),
        })
    }

    fn narrow_channels(&mut self, rows: &Rows, status: Option<&Rows>) -> Vec<Channel> {
        self.since_wide += 1;
        if let Some(status) = status {
            self.wide = status.iter().map(|row| (row.text(&["Channel_Name"]), Wide::of(row))).collect();
            self.since_wide = 0;
        }
        let mut channels = Vec::with_capacity(rows.len());
        for row in rows {
            // The one row of a server without channels has none.
            let Some(name) = row.bytes(&["name"]).filter(|name| !is_group_channel(name)) else { continue };
            let name = String::from_utf8_lossy(name).into_owned();
            let wide = self.wide.get(&name);
            if wide.is_none() {
                // A channel that was not there before.
                self.since_wide = WIDE_EVERY;
            }
            channels.push(narrow_channel(name, row, wide.cloned().unwrap_or_default()));
        }
        if channels.is_empty() {
            // A primary has nothing more to ask for.
            self.wide.clear();
            self.since_wide = 0;
        }
        channels
    }
}

/// What only the whole status has.
#[derive(Clone, Debug, Default)]
struct Wide {
    lag: Option<Duration>,
    position: String,
    source_server_id: u64,
    last_error: String,
}

impl Wide {
    fn of(row: &Row) -> Self {
        let file = row.text(&["Source_Log_File", "Master_Log_File"]);
        let position = row.text(&["Read_Source_Log_Pos", "Read_Master_Log_Pos"]);
        Self {
            lag: row.seconds(&["Seconds_Behind_Source", "Seconds_Behind_Master"]),
            position: format!("{file}:{position}"),
            source_server_id: row.number(&["Source_Server_Id", "Master_Server_Id"]).unwrap_or(0),
            last_error: last_error(row),
        }
    }
}

/// Group Replication's own two channels have no source.
const fn is_group_channel(name: &[u8]) -> bool {
    matches!(name, b"group_replication_applier" | b"group_replication_recovery")
}

fn is_replication(row: &Row) -> bool {
    !row.bytes(&["Channel_Name"]).is_some_and(is_group_channel)
}

fn narrow_channel(name: String, row: &Row, wide: Wide) -> Channel {
    let read = |column: &str| row.text(&[column]);
    let uuid = read("uuid");
    let io_error = read("error");
    Channel {
        name,
        source_host: read("host"),
        source_port: row.number(&["port"]).and_then(|p| u16::try_from(p).ok()).unwrap_or(0),
        source_uuid: (!uuid.is_empty()).then_some(uuid),
        source_server_id: wide.source_server_id,
        io: match row.bytes(&["io"]) {
            Some(b"ON") => IoThread::Connected,
            Some(b"CONNECTING") => IoThread::Connecting,
            _ => IoThread::Stopped,
        },
        sql_running: row.is_on(&["applier"]),
        lag: wide.lag,
        // Transactions and their bytes say that something came; heartbeats that the source lives when it has nothing to say.
        received: format!(
            "{} {} {} {} {}",
            read("queued"),
            read("queued_at"),
            read("beats"),
            read("beat"),
            wide.position
        ),
        heartbeat_period: row.seconds(&["period"]).filter(|p| !p.is_zero()),
        last_error: if io_error.is_empty() { wide.last_error } else { io_error },
    }
}

fn wide_channel(row: &Row) -> Channel {
    let read = |names: &[&str]| row.text(names);
    let uuid = read(&["Source_UUID", "Master_UUID"]);
    let Wide { lag, position, source_server_id, last_error } = Wide::of(row);
    Channel {
        name: read(&["Channel_Name"]),
        source_host: read(&["Source_Host", "Master_Host"]),
        source_port: row.number(&["Source_Port", "Master_Port"]).and_then(|p| u16::try_from(p).ok()).unwrap_or(0),
        source_uuid: (!uuid.is_empty()).then_some(uuid),
        source_server_id,
        io: io_thread(row.bytes(&["Replica_IO_Running", "Slave_IO_Running"])),
        sql_running: row.is_on(&["Replica_SQL_Running", "Slave_SQL_Running"]),
        lag,
        received: position,
        heartbeat_period: None,
        last_error,
    }
}

/// `Yes`, `No`, and anything between them: `Connecting`, MariaDB's `Preparing`.
pub fn io_thread(running: Option<&[u8]>) -> IoThread {
    match running {
        Some(b"Yes") => IoThread::Connected,
        None | Some(b"No" | b"") => IoThread::Stopped,
        Some(_) => IoThread::Connecting,
    }
}

/// Both errors, the I/O thread's first.
pub fn last_error(row: &Row) -> String {
    let io = row.text(&["Last_IO_Error"]);
    let sql = row.text(&["Last_SQL_Error"]);
    if io.is_empty() || sql.is_empty() { io + &sql } else { format!("{io}; {sql}") }
}

/// `None`: Group Replication is installed and has never run.
fn group(rows: &[Row]) -> Option<GroupView> {
    let mut group = ReplicationGroup::default();
    for row in rows {
        let member = GroupMember {
            uuid: row.text(&["id"]),
            state: member_state(row.bytes(&["state"]).unwrap_or_default()),
            primary: row.bytes(&["role"]) == Some(b"PRIMARY"),
        };
        if member.uuid.is_empty() {
            continue;
        }
        group.members.push(member);
        if let Some(applied) = row.number(&["applied"]) {
            let queued = row.number(&["certifying"]).unwrap_or(0) + row.number(&["queued"]).unwrap_or(0);
            group.backlog = Some(Backlog { applied, queued });
            group.view = row.text(&["view"]);
        }
    }
    (!group.members.is_empty()).then_some(GroupView::Replication(group))
}

/// Whatever is not known to be good is taken for bad.
fn member_state(state: &[u8]) -> MemberState {
    let known = [MemberState::Online, MemberState::Recovering, MemberState::Unreachable, MemberState::Offline];
    known.into_iter().find(|known| known.word().as_bytes() == state).unwrap_or(MemberState::Error)
}

/// Whether the variables are MySQL's.
pub fn identity(variables: &BTreeMap<String, String>) -> Option<Identity> {
    Some(Identity {
        uuid: Some(variables.get("server_uuid")?.clone()),
        server_id: 0,
        flavour: Flavour::Mysql,
        version: variables.get("version").cloned().unwrap_or_default(),
    })
}
