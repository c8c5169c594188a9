//! Server settings that matter once shunt promotes by itself: whether a failover can prove that it loses nothing, and
//! how a server comes back after it was lost.

use std::collections::BTreeMap;

use mysql_async::Conn;
use mysql_async::prelude::Queryable;
use shunt_core::config::DataLoss;
use shunt_core::observation::Flavour;

use super::Finding;
use crate::operate::grants::applying::has_tags;
use crate::operate::grants::{Granted, account};

const CHECK: &str = "promotion";

/// A source that has waited so long for an acknowledgement goes on without, and proves nothing from then on. An hour is
/// time enough to bring a replica back; the longest that MySQL takes is seven weeks.
const SHORTEST_TIMEOUT_MS: u64 = 3_600_000;
const LONGEST_TIMEOUT_MS: u64 = 4_294_967_295;
/// For so long a replica takes a dead connection for a live one.
const LONGEST_NET_TIMEOUT: u64 = 10;

/// What the cluster's configuration asks for.
#[derive(Clone, Copy, Debug)]
pub struct Aims {
    pub data_loss: DataLoss,
    /// How many replicas there are when every server is well.
    pub replicas: u64,
    /// What is salvaged is to be applied.
    pub applies: bool,
}

/// What a server says of itself.
#[derive(Clone, Debug, Default)]
struct Facts {
    variables: BTreeMap<String, String>,
    /// By variable, what it will be after a restart, where that can be told.
    at_start: BTreeMap<String, bool>,
    is_replica: bool,
}

/// Whether the agent's user may do what a promotion takes; `lines` are what SHOW GRANTS printed.
pub fn grants(flavour: Flavour, server: &str, current_user: &str, lines: &[String]) -> Finding {
    let account = account(current_user);
    let missing = Granted::parse(lines).missing(flavour, &account);
    if missing.is_empty() {
        return Finding::ok("grants", format!("{server}: {account} may look, promote and repoint"));
    }
    let what = format!("{server}: {account} may not do all that a failover takes");
    Finding::problem("grants", what, missing.join("; "))
}

/// Whether it may apply what is salvaged, where that is wanted.
pub fn applying(
    flavour: Flavour,
    server: &str,
    version: &str,
    current_user: &str,
    lines: &[String],
) -> Option<Finding> {
    let account = account(current_user);
    let missing = Granted::parse(lines).missing_to_apply(flavour, has_tags(flavour, version), &account);
    let what = format!("{server}: {account} could not apply what is salvaged to it, as salvage = \"apply\" wants");
    let advice = || format!("rights on tables may be given by schema, too: {}", missing.join("; "));
    (!missing.is_empty()).then(|| Finding::warning("grants", what, advice()))
}

/// Asks and judges.
pub async fn look(
    conn: &mut Conn,
    flavour: Flavour,
    server: &str,
    aims: Aims,
    is_replica: bool,
) -> Result<Vec<Finding>, mysql_async::Error> {
    let wanted = "Variable_name LIKE 'rpl\\_semi\\_sync\\_%' OR Variable_name IN ('binlog_format','sync_binlog',\
                  'innodb_flush_log_at_trx_commit','relay_log_recovery','replica_net_timeout','slave_net_timeout',\
                  'gtid_strict_mode','read_only','super_read_only')";
    let rows: Vec<(String, String)> = conn.query(format!("SHOW GLOBAL VARIABLES WHERE {wanted}")).await?;
    let variables: BTreeMap<_, _> = rows.into_iter().map(|(name, value)| (name.to_lowercase(), value)).collect();
    let at_start = at_start(conn, flavour, &variables).await?;
    let found = judge(flavour, server, &Facts { variables, at_start, is_replica }, aims);
    if found.is_empty() {
        return Ok(vec![Finding::ok(CHECK, format!("{server}: set up for being promoted, and for losing nothing"))]);
    }
    Ok(found)
}

/// What a restart makes of the variables that are on or off. One that was set while the server ran tells nothing of its
/// configuration files.
async fn at_start(
    conn: &mut Conn,
    flavour: Flavour,
    variables: &BTreeMap<String, String>,
) -> Result<BTreeMap<String, bool>, mysql_async::Error> {
    let (origins, persisted) = match flavour {
        Flavour::Mysql => (
            "SELECT VARIABLE_NAME, VARIABLE_SOURCE FROM performance_schema.variables_info",
            Some("SELECT VARIABLE_NAME, VARIABLE_VALUE FROM performance_schema.persisted_variables"),
        ),
        Flavour::Mariadb => {
            ("SELECT VARIABLE_NAME, GLOBAL_VALUE_ORIGIN FROM information_schema.SYSTEM_VARIABLES", None)
        }
    };
    let origins: Vec<(String, String)> = conn.query(origins).await?;
    let persisted: Vec<(String, String)> = match persisted {
        Some(query) => conn.query(query).await?,
        None => Vec::new(),
    };
    let mut known = BTreeMap::new();
    for (name, origin) in origins {
        let name = name.to_lowercase();
        let Some(now) = variables.get(&name) else { continue };
        match origin.as_str() {
            "DYNAMIC" | "SQL" => {}
            // All that are asked about are off by default.
            "COMPILED" | "COMPILE-TIME" => drop(known.insert(name, false)),
            _ => drop(known.insert(name, is_yes(now))),
        }
    }
    known.extend(persisted.into_iter().map(|(name, value)| (name.to_lowercase(), is_yes(&value))));
    Ok(known)
}

fn is_yes(value: &str) -> bool {
    matches!(value.to_ascii_uppercase().as_str(), "ON" | "1" | "YES")
}

/// How to set a variable, now and for every start.
pub(super) fn set(flavour: Flavour, name: &str, value: &str) -> String {
    match flavour {
        Flavour::Mysql => format!("SET PERSIST {name} = {value}"),
        Flavour::Mariadb => format!("SET GLOBAL {name} = {value}, and `{name} = {value}` in its my.cnf"),
    }
}

fn judge(flavour: Flavour, server: &str, facts: &Facts, aims: Aims) -> Vec<Finding> {
    let mut found = Vec::new();
    found.extend(semi_sync(flavour, facts, aims));
    found.extend(start(flavour, facts, aims));
    found.extend(durability(flavour, facts));
    found.extend(replication(flavour, facts));
    for finding in &mut found {
        finding.what = format!("{server}: {}", finding.what);
    }
    found
}

/// The prefixes of the variables: `rpl_semi_sync_source`, …
fn sides(facts: &Facts) -> (Option<&'static str>, Option<&'static str>) {
    let first = |names: [&'static str; 2]| {
        names.into_iter().find(|name| facts.variables.contains_key(&format!("rpl_semi_sync_{name}_enabled")))
    };
    (first(["source", "master"]), first(["replica", "slave"]))
}

fn semi_sync(flavour: Flavour, facts: &Facts, aims: Aims) -> Vec<Finding> {
    let get = |name: &str| facts.variables.get(name).map_or("", String::as_str);
    let is_forbidden = aims.data_loss == DataLoss::Forbid;
    let unproven = "with data_loss = \"forbid\" nobody is promoted without its proof";
    let (Some(source), Some(replica)) = sides(facts) else {
        let install = "on a read-only server, which refuses it, between SET GLOBAL super_read_only = OFF and = ON: \
                       INSTALL PLUGIN rpl_semi_sync_source SONAME 'semisync_source.so'; \
                       INSTALL PLUGIN rpl_semi_sync_replica SONAME 'semisync_replica.so'; \
                       SET PERSIST rpl_semi_sync_source_enabled = ON; SET PERSIST rpl_semi_sync_replica_enabled = ON";
        let missing =
            Finding::problem(CHECK, format!("semi-sync is not installed on both sides, and {unproven}"), install);
        return if is_forbidden { vec![missing] } else { Vec::new() };
    };
    let mut found = Vec::new();
    let side = if facts.is_replica { replica } else { source };
    let enabled = format!("rpl_semi_sync_{side}_enabled");
    if is_forbidden && !is_yes(get(&enabled)) {
        let mut advice = set(flavour, &enabled, "ON");
        if side == replica {
            let [stop, start] = match flavour {
                Flavour::Mysql => ["STOP REPLICA IO_THREAD", "START REPLICA IO_THREAD"],
                Flavour::Mariadb => ["STOP SLAVE IO_THREAD", "START SLAVE IO_THREAD"],
            };
            advice = format!("{advice}; {stop}; {start}");
        }
        found.push(Finding::problem(CHECK, format!("{enabled} is off, and {unproven}"), advice));
    }
    if is_forbidden {
        found.extend(patience(flavour, facts, source));
    }
    let waits = is_yes(get(&format!("rpl_semi_sync_{source}_enabled")));
    let count = format!("rpl_semi_sync_{source}_wait_for_{replica}_count");
    if waits {
        found.extend(wait_count(flavour, &count, get(&count).parse().unwrap_or(1), aims));
    }
    found
}

/// Whether the source goes on without acknowledgements, and how soon.
fn patience(flavour: Flavour, facts: &Facts, source: &str) -> Vec<Finding> {
    let mut found = Vec::new();
    let timeout = format!("rpl_semi_sync_{source}_timeout");
    let ms = facts.variables.get(&timeout).and_then(|ms| ms.parse::<u64>().ok());
    if let Some(ms) = ms.filter(|ms| *ms < SHORTEST_TIMEOUT_MS) {
        found.push(Finding::warning(
            CHECK,
            format!("{timeout} is {ms} ms"),
            format!(
                "when no replica has acknowledged for so long, commits go on without, and no failover can prove that it loses \
                 nothing; with a long timeout they wait instead: {}",
                set(flavour, &timeout, &LONGEST_TIMEOUT_MS.to_string())
            ),
        ));
    }
    let missing = if source == "source" { "replica" } else { "slave" };
    let waits_anyway = format!("rpl_semi_sync_{source}_wait_no_{missing}");
    if facts.variables.get(&waits_anyway).is_some_and(|value| !is_yes(value)) {
        found.push(Finding::warning(
            CHECK,
            format!("{waits_anyway} is off"),
            format!(
                "commits go on without acknowledgement as soon as too few replicas are connected: {}",
                set(flavour, &waits_anyway, "ON")
            ),
        ));
    }
    found
}

fn wait_count(flavour: Flavour, name: &str, count: u64, aims: Aims) -> Option<Finding> {
    let replicas = aims.replicas;
    if count > replicas {
        return Some(Finding::problem(
            CHECK,
            format!("a commit waits for {count} replicas, and there are {replicas}"),
            format!("no commit comes back before its timeout: {}", set(flavour, name, &replicas.max(1).to_string())),
        ));
    }
    if replicas < 2 || aims.data_loss == DataLoss::Allow {
        return None;
    }
    if count == replicas {
        return Some(Finding::note(
            CHECK,
            format!("a commit waits for every one of the {replicas} replicas"),
            format!(
                "any single one proves what was acknowledged, and any single one that is lost stops all commits; to be able to \
                 lose one: {}",
                set(flavour, name, &(replicas - 1).to_string())
            ),
        ));
    }
    let heard = replicas - count + 1;
    let (what, more) = (format!("a commit waits for {count} of {replicas} replicas"), set(flavour, name, "N"));
    let cost = "a failover proves that it loses nothing only if it hears";
    Some(match flavour {
        Flavour::Mysql => {
            Finding::note(CHECK, what, format!("{cost} {heard} of them; to need fewer, wait for more: {more}"))
        }
        Flavour::Mariadb => {
            Finding::note(CHECK, what, format!("{cost} {heard} of them; MariaDB cannot wait for more than one"))
        }
    })
}

/// How it comes back from a crash, before anybody has looked at it.
fn start(flavour: Flavour, facts: &Facts, aims: Aims) -> Vec<Finding> {
    let read_only = match flavour {
        Flavour::Mysql => "super_read_only",
        Flavour::Mariadb => "read_only",
    };
    let (source, replica) = sides(facts);
    let mut wanted = vec![(read_only.to_owned(), "an old primary that returns would take writes")];
    if aims.data_loss == DataLoss::Forbid {
        let sides = [(source, "its commits would wait for nobody"), (replica, "it would acknowledge nothing")];
        let installed = sides.into_iter().filter_map(|(side, consequence)| Some((side?, consequence)));
        wanted.extend(installed.map(|(side, consequence)| (format!("rpl_semi_sync_{side}_enabled"), consequence)));
    }
    // Told already, with a statement that does both.
    let side_in_use = if facts.is_replica { replica } else { source };
    let in_use = side_in_use.map(|side| format!("rpl_semi_sync_{side}_enabled"));
    let is_off = |name: &String| facts.variables.get(name).is_some_and(|value| !is_yes(value));
    wanted.retain(|(name, _)| in_use.as_ref() != Some(name) || !is_off(name));
    let judged = wanted.into_iter().filter_map(|(name, consequence)| {
        let advice = match flavour {
            Flavour::Mysql => format!("SET PERSIST_ONLY {name} = ON"),
            Flavour::Mariadb => format!("write `{name} = ON` into its my.cnf"),
        };
        match facts.at_start.get(&name) {
            Some(true) => None,
            Some(false) => Some(Finding::warning(CHECK, format!("it starts with {name} off: {consequence}"), advice)),
            None => Some(Finding::note(
                CHECK,
                format!("{name} was set while it ran, so nobody can tell how it starts: with it off, {consequence}"),
                advice,
            )),
        }
    });
    judged.collect()
}

/// What a server has said to have, it must have after a crash, too.
fn durability(flavour: Flavour, facts: &Facts) -> Vec<Finding> {
    let loose = ["sync_binlog", "innodb_flush_log_at_trx_commit"].into_iter().filter_map(|name| {
        let value = facts.variables.get(name).filter(|value| *value != "1")?;
        Some(Finding::warning(
            CHECK,
            format!("{name} is {value}"),
            format!(
                "a crash of the host may take what was acknowledged, and the server comes back unlike the others: {}",
                set(flavour, name, "1")
            ),
        ))
    });
    let mut found: Vec<_> = loose.collect();
    let recovery = "relay_log_recovery";
    let is_off = facts.variables.get(recovery).is_some_and(|value| !is_yes(value));
    if flavour == Flavour::Mysql && is_off && facts.at_start.get(recovery) != Some(&true) {
        found.push(Finding::warning(
            CHECK,
            "relay_log_recovery is off",
            "a replica that crashed may not be able to go on by itself: SET PERSIST_ONLY relay_log_recovery = ON, and \
             restart it while its source is well, for what it has received and not applied is then fetched again",
        ));
    }
    found
}

fn replication(flavour: Flavour, facts: &Facts) -> Vec<Finding> {
    let mut found = Vec::new();
    if let Some(format) = facts.variables.get("binlog_format").filter(|format| !format.eq_ignore_ascii_case("ROW")) {
        let mut change = set(flavour, "binlog_format", "ROW");
        if flavour == Flavour::Mysql && facts.is_replica {
            // ERROR 3747 otherwise.
            change = format!("STOP REPLICA SQL_THREAD; {change}; START REPLICA SQL_THREAD");
        }
        found.push(Finding::warning(
            CHECK,
            format!("binlog_format is {format}"),
            format!("statements may come out differently on a replica, and cannot be salvaged row by row: {change}"),
        ));
    }
    if flavour == Flavour::Mariadb && facts.variables.get("gtid_strict_mode").is_some_and(|value| !is_yes(value)) {
        found.push(Finding::warning(
            CHECK,
            "gtid_strict_mode is off",
            format!(
                "a server that has parted ways with its source goes on as if nothing were amiss: {}",
                set(flavour, "gtid_strict_mode", "ON")
            ),
        ));
    }
    for name in ["replica_net_timeout", "slave_net_timeout"] {
        let seconds = facts.variables.get(name).and_then(|value| value.parse::<u64>().ok());
        if let Some(seconds) = seconds.filter(|seconds| *seconds > LONGEST_NET_TIMEOUT) {
            found.push(Finding::note(
                CHECK,
                format!("{name} is {seconds} s"),
                format!(
                    "for so long it takes a connection for alive whose source fell silent: {}",
                    set(flavour, name, &LONGEST_NET_TIMEOUT.to_string())
                ),
            ));
            break;
        }
    }
    found
}

#[cfg(test)]
#[path = "promoting_tests.rs"]
mod tests;
