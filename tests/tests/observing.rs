//! What the agent sees in servers that work as they should, or only seem to: semi-sync, and the lock of who may promote.

use std::time::Duration;

use anyhow::{Result, ensure};
use shunt_tests::{Agent, Flavour, Host, Scene, Server, agent, each_flavour, eventually};

const SOON: Duration = Duration::from_secs(30);

/// Switches semi-sync on: db1 waits for one replica.
fn switch_semi_sync_on(scene: &Scene) -> Result<()> {
    for (number, server) in scene.cluster.servers().iter().enumerate() {
        let is_source = number == 0;
        match (server.flavour(), is_source) {
            (Flavour::Mysql, _) => {
                // The table of plugins is one like any other.
                scene.cluster.set_read_only(number, false)?;
                server.sql("INSTALL PLUGIN rpl_semi_sync_source SONAME 'semisync_source.so'")?;
                server.sql("INSTALL PLUGIN rpl_semi_sync_replica SONAME 'semisync_replica.so'")?;
                let side = if is_source { "source" } else { "replica" };
                server.sql(&format!("SET GLOBAL rpl_semi_sync_{side}_enabled = ON"))?;
                scene.cluster.set_read_only(number, !is_source)?;
            }
            (Flavour::Mariadb, true) => drop(server.sql("SET GLOBAL rpl_semi_sync_master_enabled = ON")?),
            (Flavour::Mariadb, false) => drop(server.sql("SET GLOBAL rpl_semi_sync_slave_enabled = ON")?),
        }
        if !is_source {
            // It takes effect with the next connection.
            set_receiving(server, false)?;
            set_receiving(server, true)?;
        }
    }
    Ok(())
}

fn set_receiving(server: &Server, on: bool) -> Result<()> {
    let verb = if on { "START" } else { "STOP" };
    let replica = if server.flavour() == Flavour::Mysql { "REPLICA" } else { "SLAVE" };
    server.sql(&format!("{verb} {replica} IO_THREAD"))?;
    Ok(())
}

/// What `shunt show` says of a server's semi-sync.
fn semi_sync(scene: &Scene, number: usize) -> Result<String> {
    let show = scene.agent.show("orders")?;
    Ok(show["servers"][number]["semi_sync"].as_str().unwrap_or_default().to_owned())
}

fn wait_semi_sync(scene: &Scene, number: usize, wanted: &str) -> Result<()> {
    let mut last = String::new();
    eventually(&format!("db{} to be: {wanted}", number + 1), SOON, || {
        last = semi_sync(scene, number)?;
        Ok((last == wanted).then_some(()))
    })
    .map_err(|error| error.context(format!("it is: {last}")))
}

/// The host whose connection holds a server's lock; empty: nobody's does.
fn promoter(server: &Server) -> Result<String> {
    server.value(
        "SELECT PROCESSLIST_HOST FROM performance_schema.threads WHERE PROCESSLIST_ID = IS_USED_LOCK('shunt.promoter')",
    )
}

fn wait_promoter(scene: &Scene, wanted: Option<&Host>) -> Result<()> {
    let wanted = wanted.map(|host| host.v4().to_string()).unwrap_or_default();
    for server in scene.cluster.servers() {
        let mut last = String::new();
        eventually(&format!("the lock of {} to be held by {wanted:?}", server.name()), SOON, || {
            last = promoter(server)?;
            Ok((last == wanted).then_some(()))
        })
        .map_err(|error| error.context(format!("it is held by {last:?}")))?;
    }
    Ok(())
}

/// The cluster's file for an agent on that host.
fn file(scene: &Scene, host: &Host, name: &str, mode: &str) -> String {
    let text = agent::following(name, &scene.addresses(), host.at(3306));
    text.replace("failover = \"follow\"", &format!("failover = \"{mode}\""))
}

each_flavour! {
    fn semi_sync_that_loses_its_replicas_is_an_alarm_until_one_is_back(install) {
        let mut scene = Scene::prepare(install, 3)?;
        switch_semi_sync_on(&scene)?;
        scene.agent.write_cluster("orders", &scene.following())?;
        scene.agent.start()?;
        scene.wait_mapped(0)?;
        wait_semi_sync(&scene, 0, "source, 2 replicas acknowledge")?;
        wait_semi_sync(&scene, 2, "replica")?;
        let degraded = "semi_sync_degraded".to_owned();
        ensure!(!scene.alarms()?.contains(&degraded), "{:?}", scene.alarms()?);
        let at_risk = scene.agent.show("orders")?["at_risk"].take();
        ensure!(at_risk.as_str().is_some_and(|words| words.starts_with("nothing that was acknowledged")), "{at_risk}");

        for replica in &scene.cluster.servers()[1..] {
            set_receiving(replica, false)?;
        }
        eventually("the alarm", SOON, || Ok(scene.alarms()?.contains(&degraded).then_some(())))?;
        wait_semi_sync(&scene, 2, "off")?;

        set_receiving(&scene.cluster.servers()[1], true)?;
        eventually("the alarm to go", SOON, || Ok((!scene.alarms()?.contains(&degraded)).then_some(())))?;
        wait_semi_sync(&scene, 0, "source, 1 replicas acknowledge")?;
        Ok(())
    }

    fn of_two_agents_one_holds_the_promoters_lock_of_every_server(install) {
        let mut scene = Scene::prepare(install, 2)?;
        scene.agent.write_cluster("orders", &file(&scene, &scene.proxy, "orders", "promote"))?;
        scene.agent.start()?;
        scene.wait_mapped(0)?;
        wait_promoter(&scene, Some(&scene.proxy))?;

        // The other calls the cluster by another name, and means the same servers.
        scene.client.forward()?;
        let mut other = Agent::prepare(&scene.client)?;
        other.write_cluster("sales", &file(&scene, &scene.client, "sales", "promote"))?;
        other.start()?;
        other.wait_mapped(scene.client.at(3306), scene.addresses()[0])?;
        wait_promoter(&scene, Some(&scene.proxy))?;

        // Who only follows has no use for it.
        scene.agent.write_cluster("orders", &file(&scene, &scene.proxy, "orders", "follow"))?;
        scene.agent.shunt_ok(&["reload"])?;
        wait_promoter(&scene, Some(&scene.client))?;

        // A lock that is held through a reload of the same mode may be lost for a moment, and comes back.
        scene.agent.write_cluster("orders", &file(&scene, &scene.proxy, "orders", "promote"))?;
        scene.agent.shunt_ok(&["reload"])?;
        other.kill()?;
        wait_promoter(&scene, Some(&scene.proxy))?;

        scene.agent.remove_cluster("orders")?;
        scene.agent.shunt_ok(&["reload"])?;
        wait_promoter(&scene, None)?;
        Ok(())
    }
}
