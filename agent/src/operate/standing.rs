//! What was found on a server: its [`Standing`], and what only whoever repoints it has to know.

use std::time::Duration;

use shunt_core::observation::IoThread;
use shunt_core::operation::{Obstacle, Replication, Standing};

/// Everything that one look at a server tells.
#[derive(Clone, Debug, PartialEq)]
pub struct Look {
    pub standing: Standing,
    pub channels: Vec<Channel>,
    /// MariaDB's `@@gtid_slave_pos` and `@@gtid_binlog_pos`; empty on MySQL.
    pub slave_pos: String,
    pub binlog_pos: String,
}

/// A channel of replication as it is set up and as it runs.
#[derive(Clone, Debug, PartialEq)]
pub struct Channel {
    /// Empty: the default one.
    pub name: String,
    pub host: String,
    pub port: u16,
    pub io: IoThread,
    pub io_error: String,
    pub applying: bool,
    pub apply_error: String,
    /// It asks for what it lacks by GTID.
    pub by_gtid: bool,
    pub heartbeat: Option<Duration>,
    pub delay: u64,
    /// What is left out, such as `Replicate_Do_DB=app`.
    pub filters: Vec<String>,
    /// MariaDB: the relay log and the position in it up to which it has applied; "" on MySQL.
    pub relay_log: (String, u64),
}

impl Look {
    /// The one channel that it has.
    pub fn channel(&self) -> Option<&Channel> {
        self.channels.first()
    }

    /// Whether any channel receives or tries to.
    pub fn receives(&self) -> bool {
        self.standing.replication.receiving
    }
}

/// All channels together.
pub fn replication(channels: &[Channel]) -> Replication {
    let first = channels.first();
    Replication {
        channels: u32::try_from(channels.len()).unwrap_or(u32::MAX),
        receiving: channels.iter().any(|c| c.io != IoThread::Stopped),
        applying: !channels.is_empty() && channels.iter().all(|c| c.applying),
        apply_error: channels.iter().map(|c| c.apply_error.as_str()).find(|e| !e.is_empty()).unwrap_or("").to_owned(),
        source: first.map_or_else(String::new, |c| {
            if c.host.contains(':') { format!("[{}]:{}", c.host, c.port) } else { format!("{}:{}", c.host, c.port) }
        }),
    }
}

/// What a server's settings say against it as a primary.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    pub binlog: bool,
    pub replica_updates: bool,
    pub gtids: bool,
    pub offline: bool,
}

/// Everything that speaks against it, found before anything is changed.
pub fn obstacles(settings: Settings, channels: &[Channel], missing: &[String]) -> Vec<Obstacle> {
    let mut found = Vec::new();
    if !settings.binlog {
        found.push(Obstacle::NoBinlog);
    } else if !settings.replica_updates {
        found.push(Obstacle::NoReplicaUpdates);
    }
    if !settings.gtids {
        found.push(Obstacle::NoGtids);
    }
    if settings.offline {
        found.push(Obstacle::Other("offline_mode is on: it lets no client in".to_owned()));
    }
    if channels.len() > 1 {
        found.push(Obstacle::ManySources);
    }
    for channel in channels {
        if !channel.filters.is_empty() {
            let filters = channel.filters.join(", ");
            found.push(Obstacle::Other(format!("it applies only a part of what it receives ({filters})")));
        }
        if channel.delay > 0 {
            found.push(Obstacle::Other(format!("it applies what it receives {} s later (delayed)", channel.delay)));
        }
    }
    found.extend(missing.iter().cloned().map(Obstacle::MissingGrant));
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn channel() -> Channel {
        Channel {
            name: String::new(),
            host: "10.0.0.1".to_owned(),
            port: 3306,
            io: IoThread::Connected,
            io_error: String::new(),
            applying: true,
            apply_error: String::new(),
            by_gtid: true,
            heartbeat: None,
            delay: 0,
            filters: Vec::new(),
            relay_log: (String::new(), 0),
        }
    }

    const GOOD: Settings = Settings { binlog: true, replica_updates: true, gtids: true, offline: false };

    #[test]
    fn an_ordinary_replica_has_no_obstacle() {
        assert_eq!(obstacles(GOOD, &[channel()], &[]), []);
    }

    #[test]
    fn a_filter_and_a_delay_are_obstacles_whatever_the_gtids_say() {
        let odd = Channel { delay: 3600, filters: vec!["Replicate_Do_DB=app".to_owned()], ..channel() };
        let found = obstacles(GOOD, &[odd], &[]);
        assert_eq!(found.len(), 2, "{found:?}");
        assert!(found[0].to_string().contains("Replicate_Do_DB=app"), "{found:?}");
        assert!(found[1].to_string().contains("3600 s"), "{found:?}");
    }

    #[test]
    fn several_channels_are_one_obstacle_and_their_states_are_told_together() {
        let stopped = Channel { applying: false, apply_error: "1062".to_owned(), io: IoThread::Stopped, ..channel() };
        let both = [channel(), stopped];
        assert_eq!(obstacles(GOOD, &both, &[]), [Obstacle::ManySources]);
        let together = replication(&both);
        assert!(together.receiving && !together.applying && together.apply_error == "1062");
        assert_eq!(together.source, "10.0.0.1:3306");
    }
}
