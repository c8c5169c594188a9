//! Server settings that break a failover, or make it slow: one table, one line each.

use std::collections::BTreeMap;
use std::time::{SystemTime, UNIX_EPOCH};

use mysql_async::Conn;
use mysql_async::prelude::Queryable;
use shunt_core::observation::Flavour;

use super::Finding;
use super::promoting::set;

const CHECK: &str = "settings";
/// Behind NAT every client has the proxy's address, so this many broken handshakes together make a server refuse all.
const FEWEST_CONNECT_ERRORS: f64 = 10_000.0;
/// A silent loss cannot be told from an idle source before two heartbeats are missing.
const LONGEST_HEARTBEAT: f64 = 2.0;
/// History and events of two hosts are hard to read side by side beyond that.
const CLOCKS_APART: f64 = 1.0;

type Variables = BTreeMap<String, String>;

/// Asks and judges.
pub async fn look(
    conn: &mut Conn,
    flavour: Flavour,
    server: &str,
    heartbeat: Option<f64>,
) -> Result<Vec<Finding>, mysql_async::Error> {
    let wanted = "'gtid_mode','enforce_gtid_consistency','gtid_strict_mode','log_bin','log_replica_updates',\
                  'log_slave_updates','max_connect_errors','read_only','super_read_only','replica_net_timeout',\
                  'slave_net_timeout','rpl_semi_sync_source_wait_point','rpl_semi_sync_master_wait_point'";
    let rows: Vec<(String, String)> =
        conn.query(format!("SHOW GLOBAL VARIABLES WHERE Variable_name IN ({wanted})")).await?;
    let variables: Variables = rows.into_iter().map(|(name, value)| (name.to_lowercase(), value)).collect();
    let now: Option<f64> = conn.query_first("SELECT UNIX_TIMESTAMP(NOW(6))").await?;
    let mut found = judge(flavour, server, &variables, heartbeat);
    found.extend(now.and_then(|now| clock(server, now)));
    if found.is_empty() {
        found.push(Finding::ok(CHECK, format!("{server}: set up for failover")));
    }
    Ok(found)
}

/// The period of the heartbeats that the server asks of its source; `None`: it is no replica, or it does not say.
pub async fn heartbeat(conn: &mut Conn, flavour: Flavour) -> Option<f64> {
    match flavour {
        Flavour::Mysql => {
            let sql = "SELECT MAX(HEARTBEAT_INTERVAL) FROM performance_schema.replication_connection_configuration";
            conn.query_first::<Option<f64>, _>(sql).await.ok().flatten().flatten()
        }
        Flavour::Mariadb => {
            let is_replica = conn.query_first::<mysql_async::Row, _>("SHOW ALL SLAVES STATUS").await.ok().flatten();
            is_replica.as_ref()?;
            let sql = "SHOW GLOBAL STATUS LIKE 'Slave_heartbeat_period'";
            let row: Option<(String, String)> = conn.query_first(sql).await.ok().flatten();
            row.and_then(|(_, period)| period.parse().ok())
        }
    }
}

fn judge(flavour: Flavour, server: &str, variables: &Variables, heartbeat: Option<f64>) -> Vec<Finding> {
    let get = |name: &str| variables.get(name).map_or("", String::as_str);
    let is_on = |name: &str| matches!(get(name).to_ascii_uppercase().as_str(), "ON" | "1" | "YES");
    let number = |name: &str| get(name).parse::<f64>().unwrap_or(f64::INFINITY);
    let mut found = Vec::new();
    let mut problem =
        |what: &str, advice: &str| found.push(Finding::problem(CHECK, format!("{server}: {what}"), advice));
    if !is_on("log_bin") {
        problem("it writes no binary log", "without one it can be no source: set log_bin");
    }
    if flavour == Flavour::Mysql && !is_on("gtid_mode") {
        problem(
            "GTIDs are off",
            "replicas can be repointed by GTID only: set gtid_mode = ON and enforce_gtid_consistency = ON",
        );
    }
    if flavour == Flavour::Mysql && !is_on("enforce_gtid_consistency") {
        problem("GTID consistency is not enforced", "set enforce_gtid_consistency = ON");
    }
    if !is_on("log_replica_updates") && !is_on("log_slave_updates") {
        problem(
            "it does not log what it replicates",
            "promoted, it could not feed the others: set log_replica_updates = ON",
        );
    }
    let mut warn =
        |what: String, advice: &str| found.push(Finding::warning(CHECK, format!("{server}: {what}"), advice));
    let is_replica = heartbeat.is_some();
    if is_replica && matches!(get("read_only").to_ascii_uppercase().as_str(), "OFF" | "0") {
        warn(
            "it is a replica and takes writes".to_owned(),
            match flavour {
                Flavour::Mysql => "it makes a split of the cluster: SET GLOBAL super_read_only = ON",
                Flavour::Mariadb => "it makes a split of the cluster: SET GLOBAL read_only = ON",
            },
        );
    }
    if flavour == Flavour::Mysql && is_on("read_only") && !is_on("super_read_only") {
        warn(
            "it is read_only, not super_read_only".to_owned(),
            "users with SUPER can still write to it: SET GLOBAL super_read_only = ON",
        );
    }
    if number("max_connect_errors") < FEWEST_CONNECT_ERRORS {
        warn(
            format!("max_connect_errors is {}", get("max_connect_errors")),
            &format!(
                "behind NAT every client has the proxy's address, and so many broken handshakes block them all: {}",
                set(flavour, "max_connect_errors", "1000000")
            ),
        );
    }
    if let Some(period) = heartbeat
        && period > LONGEST_HEARTBEAT
    {
        warn(
            format!("it asks for a heartbeat every {period} s"),
            match flavour {
                Flavour::Mysql => {
                    "a silent loss of its source shows only after two: STOP REPLICA IO_THREAD; \
                     CHANGE REPLICATION SOURCE TO SOURCE_HEARTBEAT_PERIOD = 1; START REPLICA IO_THREAD"
                }
                Flavour::Mariadb => {
                    "a silent loss of its source shows only after two: STOP SLAVE; \
                     CHANGE MASTER TO MASTER_HEARTBEAT_PERIOD = 1; START SLAVE"
                }
            },
        );
    }
    for name in ["rpl_semi_sync_source_wait_point", "rpl_semi_sync_master_wait_point"] {
        if get(name).eq_ignore_ascii_case("AFTER_COMMIT") {
            warn(
                format!("{name} is AFTER_COMMIT"),
                &format!(
                    "other clients see a transaction before a replica has it, and can lose what they saw: {}",
                    set(flavour, name, "AFTER_SYNC")
                ),
            );
        }
    }
    found
}

fn clock(server: &str, now: f64) -> Option<Finding> {
    let here = SystemTime::now().duration_since(UNIX_EPOCH).ok()?.as_secs_f64();
    let apart = now - here;
    (apart.abs() > CLOCKS_APART).then(|| {
        Finding::warning(
            CHECK,
            format!("{server}: its clock is {apart:+.1} s from this host's"),
            "keep both in time by NTP",
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::Level;

    fn good() -> Variables {
        [
            ("gtid_mode", "ON"),
            ("enforce_gtid_consistency", "ON"),
            ("log_bin", "ON"),
            ("log_replica_updates", "ON"),
            ("max_connect_errors", "1000000"),
            ("read_only", "ON"),
            ("super_read_only", "ON"),
        ]
        .map(|(k, v)| (k.to_owned(), v.to_owned()))
        .into()
    }

    fn check(name: &str, value: &str, heartbeat: Option<f64>, level: Level, word: &str) {
        let mut variables = good();
        variables.insert(name.to_owned(), value.to_owned());
        let found = judge(Flavour::Mysql, "db1", &variables, heartbeat);
        assert_eq!(found.len(), 1, "{name} = {value}: {found:?}");
        assert_eq!(found[0].level, level);
        assert!(found[0].what.contains(word), "{found:?}");
    }

    #[test]
    fn each_bad_setting_is_found_alone() {
        assert_eq!(judge(Flavour::Mysql, "db1", &good(), Some(1.0)), []);
        check("gtid_mode", "OFF", None, Level::Problem, "GTIDs are off");
        check("log_bin", "OFF", None, Level::Problem, "binary log");
        check("log_replica_updates", "OFF", None, Level::Problem, "replicates");
        check("max_connect_errors", "100", None, Level::Warning, "max_connect_errors");
        check("super_read_only", "OFF", None, Level::Warning, "super_read_only");
        check("read_only", "OFF", Some(1.0), Level::Warning, "takes writes");
        check("enforce_gtid_consistency", "WARN", None, Level::Problem, "consistency");
        check("rpl_semi_sync_source_wait_point", "AFTER_COMMIT", None, Level::Warning, "AFTER_COMMIT");
        check("gtid_mode", "ON", Some(30.0), Level::Warning, "heartbeat");
    }

    #[test]
    fn mariadb_needs_no_gtid_mode() {
        let mut variables = good();
        variables.remove("gtid_mode");
        variables.remove("enforce_gtid_consistency");
        assert_eq!(judge(Flavour::Mariadb, "db1", &variables, None), []);
    }
}
