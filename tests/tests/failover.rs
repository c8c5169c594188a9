//! shunt promotes by itself: real servers of both flavours, a real kernel.

use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use shunt_tests::client::Pace;
use shunt_tests::{Scene, each_flavour, eventually};

const SOON: Duration = Duration::from_secs(20);

each_flavour! {
    fn after_kill_9_a_replica_is_promoted_and_the_old_primary_rejoins(install) {
        let mut scene = Scene::start_promoting(install, 3, "data_loss = \"allow\"")?;
        scene.wait_verdict("healthy")?;
        let writer = scene.write(Pace::default())?;
        scene.cluster.server(0).kill()?;
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
        Ok(())
    }
}
