//! What the bench's fake servers do when they are told to, and what they say when they are asked.

use super::bench::{Bench, Fake, number, uuid};
use crate::gtid::History;
use crate::observation::{Channel, Flavour, Identity, IoThread, SemiSync, ServerState};
use crate::operation::{Cause, Replication, Report, Salvaged, Sessions, Standing, Task, TaskError};
use std::net::SocketAddr;
use std::time::Duration;

impl Bench {
    /// Does what the task asks for, and says what such a server would.
    pub fn perform(&mut self, task: &Task) -> Result<Report, TaskError> {
        let error = |cause, message: &str| Err(TaskError { cause, message: message.to_owned() });
        let sources = self.fakes.clone();
        let Some(server) = task.server() else { return Ok(Report::Done) };
        let Some(fake) = self.fakes.get_mut(&server) else { return error(Cause::Refused, "no such server") };
        if fake.fails.is_some() {
            return error(Cause::Unreachable, "connection refused");
        }
        match task {
            Task::Examine { .. } | Task::Hook { .. } => {}
            Task::MakeReadOnly { .. } => fake.writable = false,
            Task::MakeWritable { .. } => fake.writable = true,
            Task::StopReceiving { .. } => fake.io = IoThread::Stopped,
            Task::CatchUp { source, .. } => {
                let source = &sources[source];
                if source.fails.is_some() {
                    return error(Cause::Refused, "the source does not answer");
                }
                fake.received = fake.received.union(&source.received).union(&source.executed);
                fake.io = IoThread::Stopped;
            }
            Task::Drain { .. } => {
                let source = fake.source.and_then(|s| sources.get(&s)).filter(|s| s.fails.is_none());
                if let (Some(source), IoThread::Connected) = (source, fake.io) {
                    fake.received = fake.received.union(&source.executed);
                }
                if fake.apply_error.is_empty() {
                    fake.executed = fake.executed.union(&fake.received);
                }
            }
            Task::Promote { has, .. } => {
                if !has.is_subset(&fake.executed) {
                    return error(Cause::Refused, "it has not applied everything");
                }
                (fake.writable, fake.source, fake.io) = (true, None, IoThread::Stopped);
            }
            Task::Follow { source, .. } => {
                let other = &sources[source];
                if other.fails.is_some() {
                    return error(Cause::Unknown, "its source does not answer");
                }
                (fake.writable, fake.source, fake.io) = (false, Some(*source), IoThread::Connected);
                (fake.slow, fake.executed) = (false, fake.executed.union(&other.executed));
                fake.received = fake.executed.clone();
            }
            Task::Salvage { lacking, into, .. } => {
                let applied = into.is_some();
                if let Some(into) = into.and_then(|into| self.fakes.get_mut(&into)) {
                    into.executed = into.executed.union(lacking);
                }
                let missing = lacking.missing_from(&History::empty(lacking.flavour()));
                return Ok(Report::Salvaged(Salvaged {
                    file: "salvage/1.binlog".to_owned(),
                    gtids: lacking.to_string(),
                    transactions: missing.count,
                    tables: Vec::new(),
                    applied,
                    stopped: None,
                }));
            }
            Task::EndSessions { .. } => {
                let idle = 3;
                return Ok(Report::Sessions(Sessions { idle, ..Sessions::default() }));
            }
        }
        Ok(Report::Standing(Box::new(self.standing(server))))
    }

    pub fn standing(&self, server: SocketAddr) -> Standing {
        let fake = &self.fakes[&server];
        Standing {
            flavour: Flavour::Mysql,
            version: "9.7.0".to_owned(),
            uuid: Some(uuid(number(server))),
            server_id: u64::from(number(server)),
            read_only: !fake.writable,
            executed: fake.executed.clone(),
            received: fake.received.union(&fake.executed),
            replication: Replication {
                channels: fake.source.map_or(0, |_| 1),
                receiving: fake.source.is_some() && fake.io != IoThread::Stopped,
                applying: fake.source.is_some() && fake.apply_error.is_empty(),
                apply_error: fake.apply_error.clone(),
                source: fake.source.map(|s| s.to_string()).unwrap_or_default(),
            },
            obstacles: fake.obstacles.clone(),
            cannot_apply: fake.cannot_apply.clone(),
            semi_sync: None,
            in_group: false,
            binlog_format: "ROW".to_owned(),
            shows_sessions: fake.writable.then_some(!fake.hides_sessions),
        }
    }

    pub fn state(&self, server: SocketAddr) -> ServerState {
        let fake = &self.fakes[&server];
        let channel = fake.source.map(|source| Channel {
            name: String::new(),
            source_host: source.ip().to_string(),
            source_port: source.port(),
            source_uuid: Some(uuid(number(source))),
            source_server_id: u64::from(number(source)),
            io: fake.io,
            sql_running: true,
            lag: (fake.io == IoThread::Connected).then_some(Duration::ZERO),
            received: if self.fakes[&source].fails.is_none() { self.beats.to_string() } else { String::new() },
            heartbeat_period: Some(Duration::from_secs(1)),
            last_error: String::new(),
        });
        let receives = |f: &&Fake| f.fails.is_none() && f.source == Some(server) && f.io == IoThread::Connected;
        let semi_sync = SemiSync {
            source_enabled: fake.writable,
            source_active: fake.writable,
            replica_enabled: fake.source.is_some(),
            clients: u32::try_from(self.fakes.values().filter(receives).count()).unwrap(),
            wait_count: 2,
            after_sync: true,
            timeout: Duration::from_secs(3600),
            waiting: 0,
        };
        let identity = Identity {
            uuid: Some(uuid(number(server))),
            server_id: u64::from(number(server)),
            flavour: Flavour::Mysql,
            version: "9.7.0".to_owned(),
        };
        ServerState {
            identity,
            read_only: !fake.writable,
            super_read_only: !fake.writable,
            gtid_executed: fake.executed.to_string(),
            channels: channel.into_iter().collect(),
            group: self.group.clone(),
            semi_sync: Some(semi_sync),
            promoter: fake.lock,
        }
    }
}
