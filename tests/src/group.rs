//! MySQL servers as one single-primary Group Replication group, and what a test asks of it.

use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::cluster::hosts;
use crate::template::PASSWORD;
use crate::wait::PATIENCE;
use crate::{Cluster, Flavour, Host, Install, Lan, Server, eventually};

const PLUGIN: &str = "usr/lib/mysql/plugin/group_replication.so";
const NAME: &str = "5e1f0000-7aa7-4aa7-8aa7-5e1f00000001";
/// Where members talk to each other.
const PORT: u16 = 33061;
/// A member joins by reading the others' binary logs; a busy machine takes its time.
const JOINING: Duration = Duration::from_secs(120);

/// Why this installation cannot form a group.
pub fn ensure_available(install: &Install) -> Result<()> {
    ensure!(install.flavour == Flavour::Mysql, "only MySQL has Group Replication");
    ensure!(install.file(PLUGIN).exists(), "{} has no {PLUGIN}", install.title());
    Ok(())
}

/// `count` members, db1 the PRIMARY; returns once all are ONLINE.
pub fn start(lan: &Lan, install: &Install, count: u8) -> Result<Cluster> {
    ensure_available(install)?;
    let hosts = hosts(lan, count)?;
    let seeds = hosts.iter().map(|host| host.at(PORT).to_string()).collect::<Vec<_>>().join(",");
    let cluster = Cluster::unrelated(install, hosts, &|host| options(host, &seeds))?;
    for server in cluster.servers() {
        server.sql(&format!(
            "CHANGE REPLICATION SOURCE TO SOURCE_USER='repl', SOURCE_PASSWORD='{PASSWORD}' \
             FOR CHANNEL 'group_replication_recovery'"
        ))?;
    }
    let first = &cluster.servers()[0];
    first.sql("SET GLOBAL group_replication_bootstrap_group = ON")?;
    first.sql("START GROUP_REPLICATION")?;
    first.sql("SET GLOBAL group_replication_bootstrap_group = OFF")?;
    for server in &cluster.servers()[1..] {
        join(server)?;
    }
    for server in cluster.servers() {
        wait_for_members(server, cluster.servers().len())?;
    }
    Ok(cluster)
}

fn options(host: &Host, seeds: &str) -> Vec<String> {
    let local = host.at(PORT);
    [
        "--plugin-load-add=group_replication.so",
        &format!("--loose-group-replication-group-name={NAME}"),
        &format!("--loose-group-replication-local-address={local}"),
        &format!("--loose-group-replication-group-seeds={seeds}"),
        "--loose-group-replication-start-on-boot=OFF",
        "--loose-group-replication-recovery-use-ssl=ON",
        // A member that is silent for 5 s is suspected; then it is expelled at once.
        "--loose-group-replication-member-expel-timeout=0",
    ]
    .map(str::to_owned)
    .to_vec()
}

/// Joins a server to its group; returns once it is ONLINE.
pub fn join(server: &Server) -> Result<()> {
    server.sql("START GROUP_REPLICATION")?;
    wait_for_state(server, "ONLINE")
}

/// Waits until a member sees itself in that state.
pub fn wait_for_state(server: &Server, state: &str) -> Result<()> {
    let mut last = String::new();
    eventually(&format!("{} to be {state}", server.name()), JOINING, || {
        last = server.value(
            "SELECT MEMBER_STATE FROM performance_schema.replication_group_members WHERE MEMBER_ID = @@server_uuid",
        )?;
        Ok((last == state).then_some(()))
    })
    .with_context(|| format!("it is {last}:\n{}", server.log(20)))
}

/// Waits until a member sees so many ONLINE.
pub fn wait_for_members(server: &Server, count: usize) -> Result<()> {
    eventually(&format!("{} to see {count} members ONLINE", server.name()), PATIENCE, || {
        let online = "SELECT COUNT(*) FROM performance_schema.replication_group_members WHERE MEMBER_STATE = 'ONLINE'";
        Ok((server.value(online)? == count.to_string()).then_some(()))
    })
}

/// The number of the server that one member has as the ONLINE PRIMARY; none if it has none.
pub fn primary_by(cluster: &Cluster, number: usize) -> Result<Option<usize>> {
    let host = cluster.servers()[number].value(
        "SELECT MEMBER_HOST FROM performance_schema.replication_group_members \
         WHERE MEMBER_ROLE = 'PRIMARY' AND MEMBER_STATE = 'ONLINE'",
    )?;
    Ok(cluster.servers().iter().position(|server| server.host().v4().to_string() == host))
}

/// Waits until a member has another PRIMARY than that server, which takes writes; its number.
pub fn wait_for_successor(cluster: &Cluster, of: usize, by: usize) -> Result<usize> {
    eventually(&format!("{} to see a new PRIMARY", cluster.servers()[by].name()), JOINING, || {
        let Some(primary) = primary_by(cluster, by)?.filter(|&primary| primary != of) else { return Ok(None) };
        let writable = cluster.servers()[primary].value("SELECT @@global.super_read_only")? == "0";
        Ok(writable.then_some(primary))
    })
}
