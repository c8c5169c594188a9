//! The lab proves itself: what the tests of the product rest on. No agent takes part.

use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use shunt_tests::client::{Pace, ask};
use shunt_tests::ports::{Echo, who};
use shunt_tests::sql::Console;
use shunt_tests::watch::KernelWatch;
use shunt_tests::{Cluster, Host, Lan, Netns, Process, Writer, each_flavour, eventually, rooted, scratch};

const SOON: Duration = Duration::from_secs(10);
const BRIEFLY: Duration = Duration::from_millis(500);

/// The stand-in for the agent: the listener 10.77.0.2:3306 leads to `to`.
fn forward(proxy: &Host, to: IpAddr) -> Result<()> {
    proxy.ns().nft(&format!(
        "table ip lab_nat {{}}
         flush table ip lab_nat
         table ip lab_nat {{
            chain pre {{ type nat hook prerouting priority -100; ip daddr {} tcp dport 3306 dnat to {to}:3306; }}
            chain post {{ type nat hook postrouting priority 100; masquerade; }}
         }}",
        proxy.v4()
    ))
}

each_flavour! {
    fn a_cluster_replicates_and_a_promoted_replica_takes_writes(install) {
        let lan = Lan::new()?;
        let mut cluster = Cluster::start(&lan, install, 3)?;
        cluster.server(0).sql("INSERT INTO app.t (note) VALUES ('first')")?;
        cluster.wait_caught_up(1, 0)?;
        cluster.wait_caught_up(2, 0)?;
        ensure!(cluster.server(2).value("SELECT note FROM app.t")? == "first");

        cluster.server(0).kill()?;
        cluster.promote(1)?;
        cluster.repoint(2, 1)?;
        cluster.server(1).sql("INSERT INTO app.t (note) VALUES ('second')")?;
        cluster.wait_caught_up(2, 1)?;
        ensure!(cluster.server(2).value("SELECT COUNT(*) FROM app.t")? == "2");
        Ok(())
    }

    fn a_paused_client_has_no_write_under_way(install) {
        let lan = Lan::new()?;
        let client = lan.host("client", 1)?;
        let cluster = Cluster::start(&lan, install, 1)?;
        let server = &cluster.servers()[0];
        let pace = Pace { write: SOON, ..Pace::default() };
        let writer = Writer::start(&client, server.address(), install.flavour, pace)?;
        writer.wait_for_write(Instant::now())?;
        let locking = Console::new(&server.socket());
        locking.query("LOCK TABLES app.t READ")?;
        let waiting = "SELECT COUNT(*) FROM information_schema.processlist WHERE user = 'app' AND state LIKE '%metadata lock%'";
        eventually("a write that waits for the lock", SOON, || Ok((server.value(waiting)? == "1").then_some(())))?;
        let written = std::thread::scope(|scope| {
            let pausing = scope.spawn(|| {
                writer.pause(true);
                writer.acknowledged()
            });
            std::thread::sleep(BRIEFLY);
            let early = pausing.is_finished();
            locking.query("UNLOCK TABLES")?;
            let acknowledged = pausing.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            ensure!(!early, "it paused in the middle of a write");
            Ok(acknowledged)
        })?;
        let there = server.value("SELECT COUNT(*) FROM app.t")?;
        ensure!(there == written.to_string(), "{there} are there, and {written} were acknowledged when the pause began");
        Ok(())
    }

    fn a_killed_server_comes_back_with_its_data_and_rejoins(install) {
        let lan = Lan::new()?;
        let mut cluster = Cluster::start(&lan, install, 2)?;
        cluster.server(0).sql("INSERT INTO app.t (note) VALUES ('kept')")?;
        cluster.wait_caught_up(1, 0)?;
        cluster.server(0).kill()?;
        cluster.promote(1)?;
        cluster.server(0).restart()?;
        ensure!(cluster.server(0).value("SELECT note FROM app.t")? == "kept");
        cluster.set_read_only(0, true)?;
        cluster.repoint(0, 1)?;
        cluster.server(1).sql("INSERT INTO app.t (note) VALUES ('new')")?;
        cluster.wait_caught_up(0, 1)?;
        Ok(())
    }

    fn a_planned_switch_loses_no_acknowledged_write_and_can_be_undone(install) {
        let lan = Lan::new()?;
        let client = lan.host("client", 1)?;
        let mut cluster = Cluster::start(&lan, install, 3)?;
        let writer = Writer::start(&client, cluster.server(0).address(), install.flavour, Pace::default())?;
        writer.wait_for_write(Instant::now())?;
        cluster.planned_switch(0, 2)?;
        cluster.planned_switch(2, 0)?;
        writer.wait_for_write(Instant::now())?;
        let acknowledged: Vec<String> = writer.finish()?.into_iter().filter_map(|a| a.outcome.ok()).collect();
        cluster.wait_caught_up(1, 0)?;
        let rows = cluster.server(1).sql("SELECT note FROM app.t")?;
        let there: std::collections::HashSet<String> = rows.into_iter().flatten().flatten().collect();
        for note in &acknowledged {
            ensure!(there.contains(note), "{note} was acknowledged and is lost");
        }
        Ok(())
    }

    fn a_client_behind_nat_sees_the_outage_of_a_killed_primary_and_its_end(install) {
        let lan = Lan::new()?;
        let (client, proxy) = (lan.host("client", 1)?, lan.host("proxy", 2)?);
        proxy.forward()?;
        let mut cluster = Cluster::start(&lan, install, 2)?;
        let watch = KernelWatch::start(&proxy)?;
        forward(&proxy, cluster.server(0).host().v4())?;
        let writer = Writer::start(&client, proxy.at(3306), install.flavour, Pace::default())?;
        writer.wait_for_write(Instant::now())?;

        let killed = Instant::now();
        cluster.server(0).kill()?;
        cluster.promote(1)?;
        let (swapped, to) = (Instant::now(), cluster.server(1).host().v4());
        forward(&proxy, to)?;
        let seen = eventually("the kernel's word", SOON, || Ok(watch.first(swapped, |l| l.contains(&to.to_string()))))?;
        let written = writer.wait_for_write(swapped)?;
        let outage = writer.outage(killed).context("there was an outage")?;
        ensure!(seen <= written, "a write came through before the mapping");
        ensure!(outage >= seen - killed, "the outage {outage:?} is shorter than the gap in the mapping");
        Ok(())
    }

    fn the_users_of_the_lab_can_log_in_over_the_network(install) {
        let lan = Lan::new()?;
        let client = lan.host("client", 1)?;
        let mut cluster = Cluster::start(&lan, install, 1)?;
        for address in [cluster.server(0).address(), cluster.server(0).address_v6()] {
            let user = ask(&client, address, install.flavour, "SELECT CURRENT_USER()", SOON)?;
            ensure!(user == "app@%", "{user}");
        }
        Ok(())
    }

    fn a_frozen_server_is_silent_and_a_thawed_one_answers(install) {
        let lan = Lan::new()?;
        let client = lan.host("client", 1)?;
        let mut cluster = Cluster::start(&lan, install, 1)?;
        let address = cluster.server(0).address();
        cluster.server(0).freeze()?;
        ensure!(ask(&client, address, install.flavour, "SELECT 1", BRIEFLY).is_err());
        cluster.server(0).thaw()?;
        ensure!(ask(&client, address, install.flavour, "SELECT 1", SOON)? == "1");
        Ok(())
    }
}

rooted! {
    fn hosts_reach_each_other_over_both_families() {
        let lan = Lan::new()?;
        let (a, b) = (lan.host("a", 1)?, lan.host("b", 2)?);
        for address in [b.v4(), b.v6()] {
            let echo = Echo::start(&b, SocketAddr::new(address, 4000))?;
            ensure!(who(&a, echo.address(), SOON)? == "b");
        }
        Ok(())
    }

    fn a_link_that_is_down_is_silent_and_comes_back_with_its_addresses() {
        let lan = Lan::new()?;
        let (a, b) = (lan.host("a", 1)?, lan.host("b", 2)?);
        let (four, six) = (Echo::start(&b, b.at(4000))?, Echo::start(&b, SocketAddr::new(b.v6(), 4000))?);
        ensure!(who(&a, four.address(), SOON)? == "b");
        b.link_down()?;
        ensure!(who(&a, four.address(), BRIEFLY).is_err());
        b.link_up()?;
        for echo in [&four, &six] {
            eventually("the link to be back", SOON, || Ok(who(&a, echo.address(), BRIEFLY).ok()))?;
        }
        Ok(())
    }

    fn a_cut_separates_two_hosts_only_and_heals() {
        let lan = Lan::new()?;
        let (a, b, c) = (lan.host("a", 1)?, lan.host("b", 2)?, lan.host("c", 3)?);
        let echo = Echo::start(&b, b.at(4000))?;
        b.cut(&a)?;
        ensure!(who(&a, echo.address(), BRIEFLY).is_err());
        ensure!(who(&c, echo.address(), SOON)? == "b");
        b.heal()?;
        eventually("the cut to heal", SOON, || Ok(who(&a, echo.address(), BRIEFLY).ok()))?;
        Ok(())
    }

    fn added_addresses_answer() {
        let lan = Lan::new()?;
        let (a, b) = (lan.host("a", 1)?, lan.host("b", 2)?);
        let extra: IpAddr = "10.77.9.9".parse()?;
        b.add_addresses(&[extra, "fd77::909".parse()?])?;
        let echo = Echo::start(&b, SocketAddr::new(extra, 4000))?;
        ensure!(who(&a, echo.address(), SOON)? == "b");
        Ok(())
    }

    fn a_dropped_namespace_takes_its_name_and_its_processes_along() {
        let ns = Netns::new("gone")?;
        let (name, file) = (ns.name().to_owned(), ns.path().to_path_buf());
        let mut sleeper = Process::spawn("sleep", { let mut c = ns.command("sleep")?; c.arg("1000"); c }, None)?;
        drop(ns);
        sleeper.wait(SOON)?;
        ensure!(!file.exists(), "{name} is still there");
        ensure!(!std::fs::read_to_string("/proc/self/mountinfo")?.contains(&name), "{name} is still mounted");
        Ok(())
    }

    fn a_panic_inside_a_lab_leaves_nothing() {
        let seen = std::sync::Mutex::new((String::new(), 0));
        let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            let lan = Lan::new().expect("a LAN");
            let host = lan.host("victim", 1).expect("a host");
            let mut command = host.ns().command("sleep").expect("a command");
            command.arg("1000");
            let sleeper = Process::spawn("sleep", command, None).expect("a process");
            *seen.lock().expect("no other thread") = (host.ns().name().to_owned(), sleeper.pid());
            panic!("on purpose");
        }));
        ensure!(panicked.is_err());
        let (name, pid) = seen.into_inner()?;
        ensure!(!Path::new(scratch::NETNS_DIR).join(&name).exists(), "{name} is still there");
        ensure!(!Path::new("/proc").join(pid.to_string()).exists(), "process {pid} still runs");
        Ok(())
    }

    fn a_lab_killed_with_9_leaves_nothing() {
        // This test program again, as a process of its own that makes a lab and waits for its death.
        if std::env::var_os("LAB_VICTIM").is_some() {
            let lan = Lan::new()?;
            let host = lan.host("victim", 1)?;
            let _file = scratch::Dir::new("victim")?;
            let mut command = host.ns().command("sleep")?;
            command.arg("1000");
            let _sleeper = Process::spawn("sleep", command, None)?;
            loop {
                std::thread::park();
            }
        }
        let test = "a_lab_killed_with_9_leaves_nothing";
        let mut command = Command::new(std::env::current_exe()?);
        command.args(["--exact", test, "--nocapture"]).env("LAB_VICTIM", "1");
        let mut victim = Process::spawn("the victim", command, None)?;
        let folder = std::env::temp_dir().join(format!("shunt-{}", victim.pid()));
        let prefix = format!("shunt-{}-", victim.pid());
        let ours = || shunt_tests::netns::names_with(&prefix);
        eventually("the victim's lab", SOON, || {
            let sleeps = ours().iter().any(|name| name.ends_with("victim")) && folder.exists();
            Ok(sleeps.then_some(()))
        })?;
        victim.kill()?;
        eventually("the undertaker", SOON, || Ok((ours().is_empty() && !folder.exists()).then_some(())))?;
        Ok(())
    }
}
