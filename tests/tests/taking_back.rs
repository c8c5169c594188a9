//! What becomes of an operation under way when somebody else has a word: an operator who aborts it, a file that is changed
//! or removed, a journal that nobody can read.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use shunt_tests::promoting::{let_go, said};
use shunt_tests::sql::Console;
use shunt_tests::{Scene, agent, each_flavour, eventually, with_mysql};

const SOON: Duration = Duration::from_secs(60);
const ALLOW: &str = "data_loss = \"allow\"";

/// The connection that holds the lock of each server.
fn lock_holders(scene: &Scene) -> Result<Vec<String>> {
    scene.cluster.servers().iter().map(|server| server.value("SELECT IS_USED_LOCK('shunt.promoter')")).collect()
}

/// Changes the agent's memory behind its back; the agent must not run.
fn change_memory(scene: &Scene, sql: &str) -> Result<()> {
    let file = scene.agent.state().join("shunt.db");
    rusqlite::Connection::open(&file)?.execute_batch(sql).with_context(|| file.display().to_string())
}

/// The primary has died, and its failover waits for appliers that are held back.
fn dead_at_drain(scene: &mut Scene) -> Result<[Console; 2]> {
    let held = [scene.hold_back(1)?, scene.hold_back(2)?];
    scene.cluster.servers()[0].sql("INSERT INTO app.t (note) VALUES ('left to be applied')")?;
    scene.wait_received(&[1, 2], 0)?;
    scene.lose(0)?;
    scene.wait_step("drain")?;
    Ok(held)
}

each_flavour! {
    fn an_aborted_switchover_leaves_the_old_primary_as_it_was(install) {
        let scene = Scene::start_promoting(install, 3, ALLOW)?;
        scene.wait_verdict("healthy")?;
        // Nobody applies any more, so it waits for the next primary, behind the fence.
        let held = [scene.hold_back(1)?, scene.hold_back(2)?];
        scene.cluster.servers()[0].sql("INSERT INTO app.t (note) VALUES ('left to be applied')")?;
        scene.wait_received(&[1, 2], 0)?;
        let mut watching = scene.agent.begin(&["switchover", "orders"])?;
        scene.wait_step("drain")?;
        let done = said(&scene.agent.shunt(&["abort", "orders"])?);
        ensure!(done.contains("switchover 1 of orders is taken back") && !done.contains("paused"), "{done}");
        let why = scene.wait_ending("undone")?;
        ensure!(why.contains("aborted by root"), "{why}");
        ensure!(scene.writable() == [0] && scene.epoch()? == 1, "{}", scene.agent.log(40));
        ensure!(scene.reached()? == 1, "clients connect again");
        let code = eventually("the command to end", SOON, || watching.status())?;
        ensure!(code.code() == Some(1), "{code:?}");
        held.iter().try_for_each(let_go)?;
        ensure!(scene.wait_whole(&[])? == 0);
        let said = scene.refused(&["abort", "orders"], 5)?;
        ensure!(said.contains("nothing is under way in orders") && said.contains("hint:"), "{said}");
        Ok(())
    }

    fn an_aborted_failover_promotes_nobody_until_the_cluster_is_resumed(install) {
        let mut scene = Scene::start_promoting(install, 3, &format!("{ALLOW}\ncooldown = \"0s\""))?;
        scene.wait_verdict("healthy")?;
        let held = dead_at_drain(&mut scene)?;
        let done = said(&scene.agent.shunt(&["abort", "orders"])?);
        ensure!(done.contains("orders is paused") && done.contains("shunt resume orders"), "{done}");
        scene.wait_ending("failed")?;
        held.iter().try_for_each(let_go)?;
        let why = scene.wait_alarm("failover_barred")?;
        ensure!(why.contains("aborted by root"), "{why}");
        // It survives the agent.
        scene.agent.kill()?;
        scene.agent.start()?;
        let why = scene.wait_alarm("failover_barred")?;
        ensure!(why.contains("aborted by root"), "{why}");
        ensure!(scene.writable().is_empty() && scene.epoch()? == 1, "{}", scene.agent.log(40));
        scene.ensure_cut_off(0)?;
        scene.agent.shunt_ok(&["resume", "orders"])?;
        scene.wait_whole(&[0])?;
        ensure!(scene.epoch()? == 2);
        Ok(())
    }
}

with_mysql! {
    fn a_reload_that_changes_no_probe_keeps_the_locks(install) {
        let scene = Scene::start_promoting(install, 3, ALLOW)?;
        scene.wait_verdict("healthy")?;
        let before = eventually("the locks to be held", SOON, || {
            let holders = lock_holders(&scene)?;
            Ok(holders.iter().all(|holder| holder.parse::<u64>().is_ok()).then_some(holders))
        })?;
        let second = scene.proxy.at(3307);
        let more = format!("[[listen]]\nrole = \"replica\"\naddress = \"{second}\"\n");
        let promoting = |servers: &[std::net::SocketAddr], more: &str| {
            let text = agent::promoting("orders", servers, scene.listener(), ALLOW);
            scene.agent.write_cluster("orders", &format!("{text}\n{more}"))
        };
        promoting(&scene.addresses(), &more)?;
        scene.agent.shunt_ok(&["reload"])?;
        ensure!(scene.agent.list()?["listeners"].as_array().is_some_and(|all| all.len() == 2));
        ensure!(lock_holders(&scene)? == before, "{before:?}");
        // One leaves, and only its connection ends.
        promoting(&scene.addresses()[..2], &more)?;
        scene.agent.shunt_ok(&["reload"])?;
        eventually("the lock of the one that left to be free", SOON, || {
            Ok((lock_holders(&scene)?[2].parse::<u64>().is_err()).then_some(()))
        })?;
        promoting(&scene.addresses(), &more)?;
        scene.agent.shunt_ok(&["reload"])?;
        eventually("its lock to be held again", SOON, || {
            Ok((lock_holders(&scene)?[2].parse::<u64>().is_ok()).then_some(()))
        })?;
        ensure!(lock_holders(&scene)?[..2] == before[..2], "{before:?}");
        Ok(())
    }

    fn what_a_removed_cluster_had_under_way_is_not_gone_on_with(install) {
        let mut scene = Scene::start_promoting(install, 3, ALLOW)?;
        scene.wait_verdict("healthy")?;
        let held = dead_at_drain(&mut scene)?;
        scene.agent.remove_cluster("orders")?;
        scene.agent.shunt_ok(&["reload"])?;
        let why = scene.wait_ending("failed")?;
        ensure!(why.contains("operation 1 was abandoned") && why.contains("removed"), "{why}");
        held.iter().try_for_each(let_go)?;
        // Not by itself: what it would do is to be seen.
        scene.agent.write_cluster(
            "orders",
            &agent::promoting("orders", &scene.addresses(), scene.listener(), ALLOW).replace("\"promote\"", "\"off\""),
        )?;
        scene.agent.shunt_ok(&["reload"])?;
        let show = scene.agent.show("orders")?;
        ensure!(show["operation"].is_null(), "{show}");
        let resumed = scene.events("operation")?.iter().any(|event| event["data"]["state"] == "resumed");
        ensure!(!resumed && scene.writable().is_empty(), "{}", scene.agent.log(40));
        Ok(())
    }

    fn an_operation_that_nobody_can_read_ends_by_an_operators_word_and_another_may_begin(install) {
        for command in [&["abort", "orders"][..], &["pin", "orders", "db1", "--yes"]] {
            let mut scene = Scene::start_promoting(install, 3, ALLOW)?;
            scene.wait_verdict("healthy")?;
            scene.start_to_crash_at("step:sessions")?;
            scene.wait_verdict("healthy")?;
            let mut asked = scene.agent.begin(&["switchover", "orders"])?;
            scene.wait_crash("step:sessions")?;
            asked.kill()?;
            change_memory(&scene, "UPDATE operations SET state = '{}' WHERE ended_ms IS NULL")?;
            scene.start_sound()?;
            let why = scene.wait_alarm("operation_stuck")?;
            ensure!(why.contains("cannot be read") && why.contains("shunt abort orders"), "{why}");
            let first = scene.addresses()[0].to_string();
            let command: Vec<_> = command.iter().map(|word| if *word == "db1" { first.as_str() } else { word }).collect();
            scene.agent.shunt_ok(&command)?;
            if command[0] == "pin" {
                scene.wait_mapped(0)?;
                scene.agent.shunt_ok(&["unpin", "orders"])?;
            } else {
                ensure!(scene.agent.list()?["listeners"][0]["paused"] == true);
                scene.agent.shunt_ok(&["resume", "orders"])?;
                scene.wait_mapped(0)?;
            }
            scene.wait_verdict("healthy")?;
            // The journal takes another one, also after a restart.
            scene.agent.kill()?;
            scene.agent.start()?;
            scene.wait_verdict("healthy")?;
            let second = scene.addresses()[1].to_string();
            eventually("a switchover", SOON, || {
                Ok(scene.agent.shunt(&["switchover", "orders", "--to", &second])?.status.success().then_some(()))
            })?;
            ensure!(scene.wait_whole(&[])? == 1);
        }
        Ok(())
    }
}
