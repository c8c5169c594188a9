//! Somebody else promotes, the proxy port follows: real servers of both flavours, a real kernel.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use shunt_tests::client::{Pace, ask};
use shunt_tests::{Scene, Server, agent, each_flavour, eventually, on_each_datapath};

const SOON: Duration = Duration::from_secs(30);

/// The mapping is on `to` and a client's writes arrive there.
fn ensure_writes_reach(scene: &Scene, writer: &shunt_tests::Writer, to: usize) -> Result<()> {
    scene.wait_mapped(to)?;
    writer.wait_for_write(Instant::now())?;
    ensure!(scene.reached()? == u32::try_from(to)? + 1);
    Ok(())
}

/// The client writes nothing until told otherwise, and db1 carries nothing out any more of what it wrote.
fn let_finish(scene: &Scene, writer: &shunt_tests::Writer) -> Result<()> {
    writer.pause(true);
    // A write that the client has given up may still be carried out, until that session has ended. The session that is kept
    // has been answered.
    let kept = u8::from(writer.attempts().last().is_some_and(|attempt| attempt.outcome.is_ok())).to_string();
    let sessions = "SELECT COUNT(*) FROM information_schema.processlist WHERE user = 'app'";
    eventually("the client's other sessions to end", SOON, || {
        Ok((scene.cluster.servers()[0].value(sessions)? == kept).then_some(()))
    })
}

on_each_datapath! {
    fn after_kill_9_of_the_primary(install) {
        let mut scene = Scene::start(install, 3)?;
        let writer = scene.write(Pace::default())?;
        ensure!(scene.reached()? == 1);
        scene.cluster.server(0).kill()?;
        scene.wait_verdict("dead")?;
        let list = scene.agent.list()?;
        ensure!(list["listeners"][0]["state"] == "held", "{list}");
        ensure!(list["listeners"][0]["backends"].as_array().is_some_and(Vec::is_empty), "{list}");

        scene.cluster.promote(1)?;
        scene.cluster.repoint(2, 1)?;
        ensure_writes_reach(&scene, &writer, 1)?;
        ensure!(scene.epoch()? == 2);
        scene.wait_verdict("healthy")?;

        // The old primary returns as it was: writable. That is a split, and changes nothing.
        scene.cluster.server(0).restart()?;
        scene.cluster.set_read_only(0, false)?;
        scene.wait_verdict("split")?;
        ensure!(scene.alarms()?.contains(&"split".to_owned()));
        ensure!(scene.reached()? == 2);
        ensure!(scene.epoch()? == 2);
        Ok(())
    }

    fn after_a_silent_loss_of_the_primarys_link(install) {
        let mut scene = Scene::start(install, 3)?;
        let writer = scene.write(Pace::default())?;
        // What one replica alone received would keep it from following the other.
        let_finish(&scene, &writer)?;
        for replica in [1, 2] {
            scene.cluster.wait_caught_up(replica, 0)?;
        }
        scene.cluster.server(0).host().link_down()?;
        writer.pause(false);
        // Its replicas' threads still say that they receive; it is the missing heartbeats that make it dead.
        scene.wait_verdict("dead")?;
        scene.cluster.promote(1)?;
        scene.cluster.repoint(2, 1)?;
        ensure_writes_reach(&scene, &writer, 1)?;
        Ok(())
    }

    fn after_a_planned_switch_by_sql(install) {
        let mut scene = Scene::start(install, 3)?;
        let writer = scene.write(Pace::default())?;
        scene.cluster.planned_switch(0, 2)?;
        ensure_writes_reach(&scene, &writer, 2)?;
        scene.wait_verdict("healthy")?;
        let acknowledged: Vec<String> = writer.finish()?.into_iter().filter_map(|a| a.outcome.ok()).collect();
        scene.cluster.wait_caught_up(1, 2)?;
        scene.ensure_kept(&acknowledged, 1)?;
        Ok(())
    }

    fn a_connection_to_the_old_primary_ends_at_its_next_packet(install) {
        let scene = Scene::start(install, 2)?;
        // A client whose connection outlives the switch, and that notices only when it speaks.
        let (client, to, flavour) = (&scene.client, scene.listener(), install.flavour);
        let (sender, go) = std::sync::mpsc::channel();
        let (ready, connected) = std::sync::mpsc::channel();
        let said = std::thread::scope(|scope| -> Result<Result<String, mysql_async::Error>> {
            let pooled = scope.spawn(move || {
                client.ns().inside_async(move || async move {
                    use mysql_async::prelude::Queryable as _;
                    let mut conn = mysql_async::Conn::new(shunt_tests::client::login(to, flavour)).await?;
                    let _ = ready.send(());
                    let _: Result<(), _> = go.recv();
                    let id: Option<String> = conn.query_first("SELECT CAST(@@server_id AS CHAR)").await?;
                    Ok(id.unwrap_or_default())
                })
            });
            connected.recv()?;
            scene.cluster.planned_switch(0, 1)?;
            scene.wait_mapped(1)?;
            eventually("the switch to be committed in full", SOON, || Ok((scene.epoch()? == 2).then_some(())))?;
            sender.send(())?;
            pooled.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })?;
        ensure!(said.is_err(), "the old connection was answered by server {said:?}");
        // The history says so, for its cluster.
        let told = eventually("the history to tell of the severing", SOON, || Ok(scene.events("severed")?.pop()))?;
        let message = told["message"].as_str().unwrap_or_default();
        ensure!(told["cluster"] == "orders" && message.contains("at both ends"), "{told}");
        ensure!(scene.reached()? == 2);
        Ok(())
    }

    fn a_cluster_without_a_writable_server_is_fenced_and_opens_again(install) {
        let scene = Scene::start(install, 2)?;
        scene.cluster.set_read_only(0, true)?;
        scene.wait_verdict("none")?;
        ensure!(scene.alarms()?.contains(&"no_primary".to_owned()));
        // A new connection waits in the hold; it goes through as soon as the listener opens.
        let (client, to, flavour) = (&scene.client, scene.listener(), install.flavour);
        let held = std::thread::scope(|scope| {
            let waiting = scope.spawn(|| ask(client, to, flavour, "SELECT CAST(@@server_id AS CHAR)", SOON));
            std::thread::sleep(Duration::from_millis(300));
            ensure!(!waiting.is_finished(), "a held connection was answered");
            scene.cluster.set_read_only(0, false)?;
            waiting.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })?;
        ensure!(held == "1");
        ensure!(scene.epoch()? == 1, "the same primary is the same epoch");
        Ok(())
    }

    fn over_ipv6(install) {
        let mut scene = Scene::prepare(install, 3)?;
        let servers: Vec<_> = scene.cluster.servers().iter().map(Server::address_v6).collect();
        let listener = std::net::SocketAddr::new(scene.proxy.v6(), 3306);
        scene.agent.write_cluster("six", &agent::following("six", &servers, listener))?;
        scene.agent.start()?;
        scene.agent.wait_mapped(listener, servers[0])?;
        let query = "SELECT CAST(@@server_id AS CHAR)";
        ensure!(ask(&scene.client, listener, install.flavour, query, SOON)? == "1");
        scene.cluster.server(0).kill()?;
        scene.cluster.promote(2)?;
        scene.cluster.repoint(1, 2)?;
        scene.agent.wait_mapped(listener, servers[2])?;
        ensure!(ask(&scene.client, listener, install.flavour, query, SOON)? == "3");
        Ok(())
    }

    fn readers_are_spread_over_the_replicas(install) {
        let mut scene = Scene::prepare(install, 3)?;
        let reader = scene.proxy.at(3307);
        let file = format!(
            "{}\n[[listen]]\nrole = \"replica\"\naddress = \"{reader}\"\nmax_lag = \"60s\"\nfallback = \"primary\"\n",
            scene.following()
        );
        scene.agent.write_cluster("orders", &file)?;
        scene.agent.start()?;
        let both = |list: &serde_json::Value| agent::backends(list, reader).is_some_and(|b| b.len() == 2);
        scene.agent.wait_for("both replicas to take readers", SOON, both)?;
        let mut seen = std::collections::BTreeSet::new();
        for _ in 0..40 {
            seen.insert(ask(&scene.client, reader, install.flavour, "SELECT CAST(@@server_id AS CHAR)", SOON)?);
        }
        ensure!(seen.iter().map(String::as_str).eq(["2", "3"]), "readers reached {seen:?}");
        scene.cluster.server(2).kill()?;
        scene.agent.wait_mapped(reader, scene.addresses()[1])?;
        scene.cluster.server(1).kill()?;
        scene.agent.wait_mapped(reader, scene.addresses()[0])?;
        Ok(())
    }
}

each_flavour! {
    fn two_writable_servers_are_a_split_that_keeps_the_mapping(install) {
        let mut scene = Scene::start(install, 3)?;
        scene.cluster.set_read_only(1, false)?;
        let show = scene.wait_verdict("split")?;
        ensure!(show["primary"] == scene.addresses()[0].to_string(), "{show}");
        ensure!(scene.alarms()?.contains(&"split".to_owned()));
        ensure!(scene.reached()? == 1);
        // Nor is the second writer the heir when the primary dies.
        scene.cluster.server(0).kill()?;
        scene.wait_verdict("dead")?;
        let list = scene.agent.list()?;
        ensure!(list["listeners"][0]["state"] == "held", "{list}");
        Ok(())
    }
}
