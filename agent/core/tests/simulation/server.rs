//! A server as far as it matters here: what it has committed and received, who may write, whom it replicates from, and
//! semi-sync. MySQL 8.0 and newer.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::SocketAddr;
use std::time::Duration;

use shunt_core::observation::{Channel, Flavour, Identity, IoThread, PromoterLock, SemiSync, ServerState};
use shunt_core::operation::{Obstacle, Replication, SemiSyncRole, Standing};

use super::gtids::{Gtids, Txn, uuid};

/// db1, db2, …: 10.0.0.11:3306 and on.
pub fn db(n: usize) -> SocketAddr {
    SocketAddr::from(([10, 0, 0, 11 + n as u8], 3306))
}

/// The server with that address.
pub fn number(address: SocketAddr) -> usize {
    match address {
        SocketAddr::V4(v4) => usize::from(v4.ip().octets()[3]) - 11,
        SocketAddr::V6(_) => unreachable!("the simulation speaks IPv4"),
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Life {
    Running,
    /// The process is not there; the host, if it has power, refuses connections.
    Dead,
    /// It recovers, and lets nobody in yet.
    Starting,
}

/// The I/O thread.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Io {
    Stopped,
    Connecting,
    /// Over the connection with that number.
    Connected(u64),
}

#[derive(Clone, Debug)]
pub struct Semi {
    pub source_on: bool,
    pub replica_on: bool,
    /// Commits wait for acknowledgements.
    pub active: bool,
    pub wait_count: u32,
    pub after_sync: bool,
    pub timeout: Duration,
}

/// A transaction that is in the binary log and waits for acknowledgements.
#[derive(Clone, Copy, Debug)]
pub struct Waiting {
    /// Its place in the binary log.
    pub index: usize,
    pub txn: Txn,
    /// The client's attempt that waits for it.
    pub attempt: Option<(usize, u64)>,
}

#[derive(Clone, Debug)]
pub struct Server {
    pub n: usize,
    pub life: Life,
    /// Counts the starts of the process.
    pub generation: u64,
    /// Accepts connections and answers nothing.
    pub hung: bool,
    pub full: bool,
    // What is on its disk.
    pub log: Vec<Txn>,
    pub executed: Gtids,
    pub relay: VecDeque<Txn>,
    pub next_number: u32,
    pub source: Option<usize>,
    pub boots_writable: bool,
    /// What it cannot do, as an operation would learn.
    pub obstacles: Vec<Obstacle>,
    // What lives in the process.
    pub read_only: bool,
    /// `SET GLOBAL super_read_only = 1` waits for commits; new ones wait for it.
    pub read_only_pending: bool,
    pub io: Io,
    /// How far the source's log has been read.
    pub cursor: usize,
    pub applying: bool,
    pub apply_error: bool,
    pub apply_delay: Duration,
    /// An apply is on its way.
    pub apply_scheduled: bool,
    /// Grows with whatever is received.
    pub mark: u64,
    pub semi: Option<Semi>,
    pub waiting: VecDeque<Waiting>,
    /// By replica, how much of the log it has acknowledged.
    pub acknowledged: BTreeMap<usize, usize>,
    /// Replicas that it believes to be connected, and over which connection.
    pub dumps: BTreeMap<usize, u64>,
    /// Who holds the promoter's lock: a proxy's probing connection.
    pub lock: Option<(usize, u64)>,
    /// Sessions of clients that are inside a transaction.
    pub open: BTreeSet<(usize, u64)>,
}

impl Server {
    pub fn new(n: usize, semi: Option<Semi>) -> Self {
        Self {
            n,
            life: Life::Running,
            generation: 0,
            hung: false,
            full: false,
            log: Vec::new(),
            executed: Gtids::default(),
            relay: VecDeque::new(),
            next_number: 1,
            source: None,
            boots_writable: false,
            obstacles: Vec::new(),
            read_only: true,
            read_only_pending: false,
            io: Io::Stopped,
            cursor: 0,
            applying: true,
            apply_error: false,
            apply_delay: Duration::from_millis(2),
            apply_scheduled: false,
            mark: 0,
            semi,
            waiting: VecDeque::new(),
            acknowledged: BTreeMap::new(),
            dumps: BTreeMap::new(),
            lock: None,
            open: BTreeSet::new(),
        }
    }

    pub fn is_running(&self) -> bool {
        self.life == Life::Running
    }

    pub fn received(&self) -> Gtids {
        let mut received = self.executed.clone();
        for &txn in &self.relay {
            received.insert(txn);
        }
        received
    }

    pub fn has(&self, txn: Txn) -> bool {
        self.executed.contains(txn) || self.relay.contains(&txn)
    }

    /// Gives a transaction of its own its number and writes it into the binary log.
    pub fn write(&mut self) -> (usize, Txn) {
        let txn = Txn { origin: self.n, number: self.next_number };
        self.next_number += 1;
        self.log.push(txn);
        (self.log.len(), txn)
    }

    pub fn waits_for_acknowledgements(&self) -> bool {
        self.semi.as_ref().is_some_and(|s| s.source_on && s.active)
    }

    /// How many replicas have acknowledged the log up to there.
    pub fn acknowledgements(&self, index: usize) -> u32 {
        self.acknowledged.values().filter(|&&upto| upto >= index).count() as u32
    }

    pub fn forget_relay(&mut self) {
        self.relay.clear();
    }

    fn channel(&self, lag: Option<Duration>) -> Option<Channel> {
        let source = self.source?;
        Some(Channel {
            name: String::new(),
            source_host: db(source).ip().to_string(),
            source_port: db(source).port(),
            source_uuid: Some(uuid(source)),
            source_server_id: source as u64 + 1,
            io: match self.io {
                Io::Stopped => IoThread::Stopped,
                Io::Connecting => IoThread::Connecting,
                Io::Connected(_) => IoThread::Connected,
            },
            sql_running: self.applying && !self.apply_error,
            lag,
            received: self.mark.to_string(),
            heartbeat_period: Some(HEARTBEAT),
            last_error: if self.apply_error { APPLY_ERROR.to_owned() } else { String::new() },
        })
    }

    /// What a probe is told.
    pub fn state(&self, promoter: PromoterLock) -> ServerState {
        let lag = match self.io {
            Io::Connected(_) if self.applying && !self.apply_error => Some(self.apply_delay * self.relay.len() as u32),
            _ => None,
        };
        ServerState {
            identity: Identity {
                uuid: Some(uuid(self.n)),
                server_id: self.n as u64 + 1,
                flavour: Flavour::Mysql,
                version: VERSION.to_owned(),
            },
            read_only: self.read_only,
            super_read_only: self.read_only,
            gtid_executed: self.executed.text(),
            channels: self.channel(lag).into_iter().collect(),
            group: None,
            semi_sync: self.semi.as_ref().map(|semi| SemiSync {
                source_enabled: semi.source_on,
                source_active: semi.source_on && semi.active,
                replica_enabled: semi.replica_on,
                clients: self.dumps.len() as u32,
                wait_count: semi.wait_count,
                after_sync: semi.after_sync,
                timeout: semi.timeout,
                waiting: self.waiting.len() as u32,
            }),
            promoter,
        }
    }

    /// What an operation is told.
    pub fn standing(&self) -> Standing {
        Standing {
            flavour: Flavour::Mysql,
            version: VERSION.to_owned(),
            uuid: Some(uuid(self.n)),
            server_id: self.n as u64 + 1,
            read_only: self.read_only,
            executed: self.executed.to_history(),
            received: self.received().to_history(),
            replication: Replication {
                channels: u32::from(self.source.is_some()),
                receiving: self.io != Io::Stopped,
                applying: self.applying && !self.apply_error,
                apply_error: if self.apply_error { APPLY_ERROR.to_owned() } else { String::new() },
                source: self.source.map(|s| db(s).to_string()).unwrap_or_default(),
            },
            obstacles: self.obstacles.clone(),
            cannot_apply: Vec::new(),
            semi_sync: self.semi.as_ref().map(|s| SemiSyncRole { source: s.source_on, replica: s.replica_on }),
            in_group: false,
            binlog_format: "ROW".to_owned(),
            shows_sessions: None,
        }
    }
}

pub const HEARTBEAT: Duration = Duration::from_secs(1);
const VERSION: &str = "9.7.4";
const APPLY_ERROR: &str = "Coordinator stopped because there were error(s) in the worker(s)";
