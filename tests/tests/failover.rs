//! shunt promotes by itself: real servers of both flavours, a real kernel.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use shunt_tests::client::Pace;
use shunt_tests::{Flavour, Scene, Server, eventually, on_each_datapath};

const SOON: Duration = Duration::from_secs(20);

on_each_datapath! {
    fn after_kill_9_a_replica_is_promoted_and_the_old_primary_rejoins(install) {
        let mut scene = Scene::start_promoting(install, 3, "data_loss = \"allow\"")?;
        scene.wait_verdict("healthy")?;
        let writer = scene.write(Pace::default())?;
        scene.lose(0)?;
        eventually("the new epoch", SOON, || Ok((scene.epoch()? == 2).then_some(()))).with_context(|| scene.agent.log(60))?;
        writer.wait_for_write(Instant::now())?;
        let reached = scene.reached()?;
        ensure!(reached == 2 || reached == 3, "{reached}");
        let new = reached as usize - 1;
        let other = if new == 1 { 2 } else { 1 };
        eventually("the other replica to follow", SOON, || Ok(scene.cluster.replicates(other)?.then_some(())))?;

        // It comes back as it was configured: writable.
        scene.cluster.server(0).restart()?;
        eventually("the old primary to follow", SOON, || Ok(scene.cluster.replicates(0)?.then_some(())))?;
        eventually("it to be taken in", SOON, || Ok((!scene.events("rejoined")?.is_empty()).then_some(())))?;
        scene.wait_verdict("healthy")?;
        ensure!(scene.reached()? == reached);
        scene.cluster.wait_caught_up(0, new)?;

        // What tells a silent death of the new primary: a CHANGE that does not say it sets it back to half a minute.
        for replica in [0, other] {
            let period = heartbeat_period(&scene.cluster.servers()[replica])?;
            ensure!(period > 0.0 && period <= 1.0, "a heartbeat every {period} s");
        }
        Ok(())
    }
}

/// How often a replica has asked its source for a heartbeat, in seconds.
fn heartbeat_period(server: &Server) -> Result<f64> {
    let period = match server.flavour() {
        Flavour::Mysql => {
            server.value("SELECT HEARTBEAT_INTERVAL FROM performance_schema.replication_connection_configuration")?
        }
        Flavour::Mariadb => {
            let status = server.row("SHOW ALL SLAVES STATUS")?;
            status.get("Slave_heartbeat_period").cloned().context("a replica has a heartbeat")?
        }
    };
    Ok(period.parse()?)
}
