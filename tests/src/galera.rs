//! MariaDB servers as one Galera cluster, and what a test asks of it.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::cluster::hosts;
use crate::{Cluster, Flavour, Host, Install, Lan, Server, eventually, template};

const PROVIDERS: [&str; 2] = ["usr/lib/galera/libgalera_smm.so", "usr/lib64/galera-4/libgalera_smm.so"];
/// Names the cluster's history, which all data of the template belong to.
const HISTORY: &str = "5e1f0000-7aa7-11ee-8aa7-5e1f00000001";
const JOINING: Duration = Duration::from_secs(120);

/// The provider as the server itself sees it; the reason, if there is none.
pub fn provider(install: &Install) -> Result<PathBuf> {
    ensure!(install.flavour == Flavour::Mariadb, "only MariaDB has Galera");
    let found = PROVIDERS.iter().find(|path| install.file(path).exists());
    let found = found.with_context(|| {
        format!(
            "{} has no Galera library (cargo xtask setup gets it, where the package sources have it)",
            install.title()
        )
    })?;
    Ok(PathBuf::from("/").join(found))
}

/// `count` nodes, db1 the first of them; returns once all are Synced.
pub fn start(lan: &Lan, install: &Install, count: u8) -> Result<Cluster> {
    let provider = provider(install)?;
    template::prepare(install)?;
    let hosts = hosts(lan, count)?;
    let all = hosts.iter().map(|host| host.v4().to_string()).collect::<Vec<_>>().join(",");
    let mut servers: Vec<Server> = Vec::new();
    for (id, host) in (1..).zip(hosts) {
        let mut options = options(&host, &provider.display().to_string(), &all);
        if servers.is_empty() {
            options.push("--wsrep-new-cluster".to_owned());
        }
        let options: Vec<&str> = options.iter().map(String::as_str).collect();
        // All nodes begin with the same data. A joiner that says that it stands where the others stand needs no transfer of
        // them, so no script and no other tool is needed for one.
        let position = servers.first().map_or(Ok("0".to_owned()), |first| status(first, "wsrep_last_committed"))?;
        let server = Server::start_with(host, install, id, &options, &[("grastate.dat", &saved_state(&position))])?;
        wait_for_state(&server, "Synced")?;
        servers.push(server);
    }
    // Whoever founds a cluster founds it anew at every start.
    servers[0].options.retain(|option| option != "--wsrep-new-cluster");
    for server in &servers {
        wait_for_size(server, servers.len())?;
    }
    Ok(Cluster::of(servers))
}

fn saved_state(seqno: &str) -> String {
    format!("# GALERA saved state\nversion: 2.1\nuuid:    {HISTORY}\nseqno:   {seqno}\nsafe_to_bootstrap: 1\n")
}

fn options(host: &Host, provider: &str, all: &str) -> Vec<String> {
    let ip = host.v4();
    [
        "--wsrep-on=ON",
        &format!("--wsrep-provider={provider}"),
        "--wsrep-cluster-name=lab",
        &format!("--wsrep-cluster-address=gcomm://{all}"),
        &format!("--wsrep-node-address={ip}"),
        &format!("--wsrep-node-name={}", host.name()),
        "--wsrep-sst-method=skip",
        "--wsrep-slave-threads=1",
        &format!(
            "--wsrep-provider-options=gcache.size=16M;gcache.page_size=16M;pc.recovery=false;\
             gmcast.listen_addr=tcp://{ip}:4567"
        ),
        "--binlog-format=ROW",
        "--gtid-strict-mode=OFF",
        "--innodb-autoinc-lock-mode=2",
    ]
    .map(str::to_owned)
    .to_vec()
}

/// One of a node's status variables.
pub fn status(server: &Server, name: &str) -> Result<String> {
    let row = server.row(&format!("SHOW GLOBAL STATUS LIKE '{name}'"))?;
    Ok(row.get("Value").cloned().unwrap_or_default())
}

/// Waits until a node says that of itself: `Synced`, `Donor/Desynced` …
pub fn wait_for_state(server: &Server, state: &str) -> Result<()> {
    wait_for(server, "wsrep_local_state_comment", state)
}

/// Waits until a node sees so many in its component.
pub fn wait_for_size(server: &Server, count: usize) -> Result<()> {
    wait_for(server, "wsrep_cluster_size", &count.to_string())
}

/// Waits until a node is in the primary component, `Primary`, or is not, `non-Primary`.
pub fn wait_for_component(server: &Server, status: &str) -> Result<()> {
    wait_for(server, "wsrep_cluster_status", status)
}

fn wait_for(server: &Server, name: &str, wanted: &str) -> Result<()> {
    let mut last = String::new();
    eventually(&format!("{} of {} to be {wanted}", name, server.name()), JOINING, || {
        last = status(server, name)?;
        Ok((last == wanted).then_some(()))
    })
    .with_context(|| format!("it is {last}:\n{}", server.log(20)))
}
