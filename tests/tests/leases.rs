//! An agent that is frozen or dead: with a lease the kernel stops by itself, without one it goes on.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use nix::sys::signal::Signal;
use shunt_tests::client::Pace;
use shunt_tests::ports::connect;
use shunt_tests::{Install, Scene, eventually, on_each_datapath_with_mysql};

const SOON: Duration = Duration::from_secs(30);
const LEASE: Duration = Duration::from_secs(2);
/// By then a lease has surely run out.
const LAPSED: Duration = Duration::from_secs(10);

/// A client that waits where an impatient one would take a slow disk for an outage.
const PATIENT: Pace = Pace { every: Duration::from_millis(10), connect: SOON, write: SOON, anew: false };

fn leased(install: &Install, lease: &str) -> Result<Scene> {
    let mut scene = Scene::prepare(install, 2)?;
    scene.agent.write_settings(&format!("[agent]\nhttp = \"\"\n{lease}\n"))?;
    scene.agent.write_cluster("orders", &scene.following())?;
    scene.agent.start()?;
    scene.wait_mapped(0)?;
    Ok(scene)
}

/// A connection that has been greeted and says nothing.
fn idle(scene: &Scene) -> Result<TcpStream> {
    let mut stream = connect(&scene.client, scene.listener(), SOON)?;
    ensure!(stream.read(&mut [0; 512])? > 0, "the server greets");
    Ok(stream)
}

/// Says something on it, and returns whether there was an answer.
fn is_answered(stream: &mut TcpStream) -> bool {
    stream.write_all(&[1, 0, 0, 1, 1]).is_ok() && stream.read(&mut [0; 512]).is_ok_and(|n| n > 0)
}

fn wait_until_served(scene: &Scene) -> Result<()> {
    eventually("a new connection to be served", SOON, || Ok(idle(scene).ok().map(drop)))
}

on_each_datapath_with_mysql! {
    fn a_frozen_agents_lease_ends_what_it_let_through_until_it_has_looked_anew(install) {
        let mut scene = leased(install, "lease = \"2s\"")?;
        // Renewed, a lease is not noticed, for however many times its length.
        let writer = scene.write(PATIENT)?;
        writer.wait_for_write(Instant::now() + LEASE * 3)?;
        let failed: Vec<_> = writer.finish()?.into_iter().filter_map(|a| a.outcome.err()).collect();
        ensure!(failed.is_empty(), "{failed:?}");

        let mut stream = idle(&scene)?;
        scene.agent.signal(Signal::SIGSTOP)?;
        let brief = Duration::from_secs(1);
        let closed = || Ok(connect(&scene.client, scene.listener(), brief).is_err().then_some(()));
        eventually("the kernel to stop a new connection", LAPSED, closed)?;
        ensure!(!is_answered(&mut stream), "an established connection was served though the lease had run out");
        scene.agent.signal(Signal::SIGCONT)?;
        wait_until_served(&scene)?;
        ensure!(scene.reached()? == 1 && scene.epoch()? == 1, "the same primary is the same epoch");
        ensure!(scene.events("lease_lapsed")?.len() == 1, "{:?}", scene.agent.events()?);
        let alarms = scene.alarms()?;
        ensure!(alarms.is_empty(), "{alarms:?}");

        // While it slept the other was promoted: it does not open where it was.
        scene.agent.signal(Signal::SIGSTOP)?;
        eventually("the kernel to stop a new connection", LAPSED, || {
            Ok(connect(&scene.client, scene.listener(), brief).is_err().then_some(()))
        })?;
        scene.cluster.planned_switch(0, 1)?;
        scene.agent.signal(Signal::SIGCONT)?;
        scene.wait_mapped(1)?;
        ensure!(scene.reached()? == 2 && scene.epoch()? == 2);

        // Dead is like frozen; the next agent looks before it opens.
        scene.agent.kill()?;
        eventually("the kernel to stop a new connection", LAPSED, || {
            Ok(connect(&scene.client, scene.listener(), brief).is_err().then_some(()))
        })?;
        scene.agent.start()?;
        wait_until_served(&scene)?;
        ensure!(scene.events("lease_lapsed")?.len() == 3, "{:?}", scene.agent.events()?);
        Ok(())
    }

    fn without_a_lease_a_frozen_agent_changes_nothing(install) {
        let mut scene = leased(install, "")?;
        let mut stream = idle(&scene)?;
        let writer = scene.write(PATIENT)?;
        scene.agent.signal(Signal::SIGSTOP)?;
        writer.wait_for_write(Instant::now() + LEASE * 2)?;
        ensure!(is_answered(&mut stream));
        wait_until_served(&scene)?;
        scene.agent.signal(Signal::SIGCONT)?;
        writer.wait_for_write(Instant::now() + LEASE)?;
        let failed: Vec<_> = writer.finish()?.into_iter().filter_map(|a| a.outcome.err()).collect();
        ensure!(failed.is_empty(), "{failed:?}");
        ensure!(scene.events("lease_lapsed")?.is_empty());
        Ok(())
    }

    fn a_lease_comes_and_goes_with_a_reload_and_no_connection_notices(install) {
        let scene = leased(install, "")?;
        let writer = scene.write(PATIENT)?;
        for lease in ["lease = \"2s\"", "lease = \"1s\"", "lease = \"1m\"", ""] {
            scene.agent.write_settings(&format!("[agent]\nhttp = \"\"\n{lease}\n"))?;
            scene.agent.shunt_ok(&["reload"])?;
            writer.wait_for_write(Instant::now() + LEASE * 2)?;
        }
        let failed: Vec<_> = writer.finish()?.into_iter().filter_map(|a| a.outcome.err()).collect();
        ensure!(failed.is_empty(), "{failed:?}");
        ensure!(scene.events("lease_lapsed")?.is_empty());
        Ok(())
    }
}
