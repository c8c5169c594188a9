//! kill -9 of the agent at every step: before the journal has the step, and after it, before anything is done. While no
//! agent lives the kernel keeps the fence; the next one ends what was begun, or takes it back.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use shunt_tests::client::{Pace, ask};
use shunt_tests::promoting::let_go;
use shunt_tests::{Process, Scene, agent, each_flavour, on_each_datapath};

const ALLOW: &str = "data_loss = \"allow\"";
/// Where the fence is down a client is answered long before this.
const BRIEF: Duration = Duration::from_millis(500);

/// Before the journal has the step, and after it.
fn places<'a>(steps: &'a [&'a str]) -> Vec<String> {
    steps.iter().flat_map(|step| ["journal", "step"].map(|kind| format!("{kind}:{step}"))).collect()
}

/// Starts an agent that dies at the first of the places, the next one when that is dead, and so on; a sound one at the end.
fn go_through(scene: &mut Scene, places: &[String], dead: impl Fn(&Scene, &str) -> Result<()>) -> Result<()> {
    for (number, place) in places.iter().enumerate() {
        scene.wait_crash(place)?;
        dead(scene, place).with_context(|| format!("after a crash at {place}"))?;
        match places.get(number + 1) {
            Some(next) => scene.start_to_crash_at(next)?,
            None => scene.start_sound()?,
        }
    }
    Ok(())
}

/// No client is answered by that living server.
fn ensure_fenced_off(scene: &Scene, living: usize) -> Result<()> {
    let (flavour, id) = (scene.cluster.flavour(), (living + 1).to_string());
    let answer = ask(&scene.client, scene.listener(), flavour, "SELECT CAST(@@server_id AS CHAR)", BRIEF);
    ensure!(answer.map_or(true, |server| server != id), "the old primary answered a client");
    Ok(())
}

each_flavour! {
    fn a_failover_whose_agent_dies_at_every_step_of_it_comes_to_its_end(install) {
        let places = places(&["fence", "disarm", "drain", "recheck", "promote", "open", "repoint"]);
        let mut scene = Scene::start_promoting(install, 3, ALLOW)?;
        // A primary that has just refused is not looked at again; a hook is asked in that step all the same.
        scene.agent.write_settings("[hooks]\nbefore_promote = \"true\"\n")?;
        scene.start_to_crash_at(&places[0])?;
        scene.wait_verdict("healthy")?;
        let writer = scene.write(Pace::default())?;
        // What they receive from here on is still to be applied when the primary dies.
        let held = [scene.hold_back(1)?, scene.hold_back(2)?];
        writer.wait_for_write(Instant::now())?;
        scene.lose(0)?;
        go_through(&mut scene, &places, |scene, place| {
            if place == "step:drain" {
                held.iter().try_for_each(let_go)?;
            }
            // Before the first step has been taken there is only a dead server to be reached.
            if place.ends_with(":fence") { Ok(()) } else { scene.ensure_cut_off(0) }
        })?;
        let primary = scene.wait_whole(&[0])?;
        ensure!(scene.epoch()? == 2, "{}", scene.agent.log(60));
        writer.wait_for_write(Instant::now())?;
        scene.cluster.server(0).restart()?;
        ensure!(scene.wait_whole(&[])? == primary);
        ensure!(scene.epoch()? == 2);
        writer.wait_for_write(Instant::now())?;
        scene.cluster.wait_caught_up(0, primary)?;
        Ok(())
    }

    fn a_failover_whose_agent_dies_while_the_preferred_replica_catches_up_from_another_goes_on(install) {
        let mut scene = Scene::prepare(install, 3)?;
        let behind = format!("\"{}\"", scene.addresses()[1]);
        let preferred = format!("{{ address = {behind}, promotion = \"prefer\" }}");
        let text = agent::promoting("orders", &scene.addresses(), scene.listener(), ALLOW).replace(&behind, &preferred);
        scene.agent.write_cluster("orders", &text)?;
        let places = places(&["catch_up"]);
        scene.start_to_crash_at(&places[0])?;
        scene.wait_verdict("healthy")?;
        let writer = scene.write(Pace::default())?;
        writer.wait_for_write(Instant::now())?;
        scene.cluster.stop_receiving(1)?;
        // Only db3 receives these.
        writer.wait_for_write(Instant::now())?;
        scene.cluster.servers()[0].sql("FLUSH TABLES WITH READ LOCK")?;
        scene.wait_received(&[2], 0)?;
        ensure!(!scene.cluster.has_received(1, 0)?, "db2 is to have something to catch up");
        scene.cluster.server(0).kill()?;
        go_through(&mut scene, &places, |scene, _| scene.ensure_cut_off(0))?;
        let primary = scene.wait_whole(&[0])?;
        ensure!(primary == 1 && scene.epoch()? == 2, "db{} was promoted\n{}", primary + 1, scene.agent.log(60));
        writer.wait_for_write(Instant::now())?;
        let acknowledged: Vec<String> = writer.finish()?.into_iter().filter_map(|a| a.outcome.ok()).collect();
        scene.ensure_kept(&acknowledged, primary)?;
        scene.cluster.server(0).restart()?;
        ensure!(scene.wait_whole(&[])? == primary);
        Ok(())
    }

    fn a_failover_whose_agent_dies_while_it_saves_what_only_the_old_primary_has_saves_it_after_that(install) {
        let places = places(&["salvage"]);
        let mut scene = Scene::start_promoting(install, 3, &format!("{ALLOW}\ncatch_up = \"2s\""))?;
        scene.start_to_crash_at(&places[0])?;
        scene.wait_verdict("healthy")?;
        scene.wait_whole(&[])?;
        // What only the living primary has can be read from it, but not by its replicas.
        scene.cluster.stop_receiving(1)?;
        scene.cluster.stop_receiving(2)?;
        let old = &scene.cluster.servers()[0];
        old.sql("INSERT INTO app.t (note) VALUES ('only there')")?;
        old.sql("SET SESSION sql_log_bin = 0")?;
        old.sql("ALTER USER repl@'%' IDENTIFIED BY 'another'")?;
        let _asking = scene.agent.begin(&["failover", "orders", "--yes"])?;
        go_through(&mut scene, &places, |scene, _| ensure_fenced_off(scene, 0))?;
        let primary = scene.wait_whole(&[0])?;
        ensure!(primary != 0 && scene.epoch()? == 2 && !scene.cluster.is_writable(0)?, "{}", scene.agent.log(60));
        let sentence = scene.wait_ending("done")?;
        let (_, file) = sentence.split_once("1 transactions are kept in ").with_context(|| sentence.clone())?;
        ensure!(Path::new(file.split([';', ' ']).next().unwrap_or_default()).exists(), "{sentence}");
        let why = scene.wait_alarm("quarantined")?;
        ensure!(why.contains("it has 1 transactions that the primary lacks"), "{why}");
        Ok(())
    }

    fn an_old_primary_that_comes_back_writable_while_no_agent_lives_gets_no_client(install) {
        let mut scene = Scene::start_promoting(install, 3, &format!("{ALLOW}\ncooldown = \"0s\""))?;
        let mut old = 0;
        let mut epoch = 1;
        for place in ["step:disarm", "step:promote", "journal:open", "step:repoint"] {
            scene.start_to_crash_at(place)?;
            scene.wait_verdict("healthy")?;
            scene.wait_whole(&[])?;
            let writer = scene.write(Pace::default())?;
            scene.lose(old)?;
            scene.wait_crash(place)?;
            scene.cluster.server(old).restart()?;
            scene.cluster.set_read_only(old, false)?;
            ensure_fenced_off(&scene, old).with_context(|| format!("after a crash at {place}"))?;
            scene.start_sound()?;
            let primary = scene.wait_whole(&[]).with_context(|| format!("after a crash at {place}"))?;
            if primary == old {
                // Taken back, which is allowed only before the promotion began.
                ensure!(place == "step:disarm" && scene.epoch()? == epoch, "{}", scene.agent.log(60));
            } else {
                epoch += 1;
                ensure!(scene.epoch()? == epoch, "{place}: {}", scene.agent.log(60));
            }
            writer.wait_for_write(Instant::now())?;
            old = primary;
        }
        Ok(())
    }

    fn a_candidate_that_is_lost_together_with_the_agent_at_its_promotion_is_replaced(install) {
        let mut scene = Scene::start_promoting(install, 3, ALLOW)?;
        scene.start_to_crash_at("step:promote")?;
        scene.wait_verdict("healthy")?;
        let writer = scene.write(Pace::default())?;
        scene.lose(0)?;
        scene.wait_crash("step:promote")?;
        // The best of two equals is the one with the lower address.
        scene.cluster.server(1).kill()?;
        // Two of three servers are dead, and nobody is left to be a majority with: an agent that is alone must not act.
        scene.start_sound()?;
        let why = scene.wait_alarm("operation_stuck")?;
        ensure!(why.contains("promote") && scene.epoch()? == 1 && scene.writable().is_empty(), "{why}");
        scene.ensure_cut_off(0)?;
        scene.cluster.server(0).restart()?;
        let primary = scene.wait_whole(&[1])?;
        ensure!(scene.epoch()? == 2, "{}", scene.agent.log(60));
        writer.wait_for_write(Instant::now())?;
        scene.cluster.server(1).restart()?;
        ensure!(scene.wait_whole(&[])? == primary);
        Ok(())
    }

    fn a_switchover_whose_agent_dies_before_the_promotion_is_taken_back(install) {
        let places = places(&["precheck", "hold", "sessions", "fence", "disarm", "drain", "recheck"]);
        let mut scene = Scene::start_promoting(install, 3, ALLOW)?;
        scene.start_to_crash_at(&places[0])?;
        let writer = scene.write(Pace::default())?;
        for (number, place) in places.iter().enumerate() {
            // Where nothing is left to be applied there is no such step.
            let held = if place.ends_with(":drain") { vec![scene.hold_back(1)?, scene.hold_back(2)?] } else { Vec::new() };
            writer.wait_for_write(Instant::now())?;
            switch_over_until_it_dies(&mut scene, place)?;
            held.iter().try_for_each(let_go)?;
            // From the disarming on the old primary gets no packet of anybody; before, established sessions go on.
            if [":disarm", ":drain", ":recheck"].iter().any(|step| place.ends_with(step)) {
                ensure_fenced_off(&scene, 0).with_context(|| format!("after a crash at {place}"))?;
            }
            match places.get(number + 1) {
                Some(next) => scene.start_to_crash_at(next)?,
                None => scene.start_sound()?,
            }
            let primary = scene.wait_whole(&[]).with_context(|| format!("after a crash at {place}"))?;
            ensure!(primary == 0 && scene.epoch()? == 1, "{place}: {}", scene.agent.log(60));
            writer.wait_for_write(Instant::now())?;
        }
        let acknowledged: Vec<String> = writer.finish()?.into_iter().filter_map(|a| a.outcome.ok()).collect();
        scene.ensure_kept(&acknowledged, 0)?;
        scene.cluster.wait_caught_up(2, 0)?;
        scene.ensure_kept(&acknowledged, 2)?;
        Ok(())
    }
}

on_each_datapath! {
    fn a_switchover_whose_agent_dies_at_every_step_after_the_promotion_began_goes_on(install) {
        let places = places(&["promote", "open", "repoint"]);
        let mut scene = Scene::start_promoting(install, 3, ALLOW)?;
        let writer = scene.write(Pace::default())?;
        // Not written down: nothing has begun.
        let (unwritten, written) = (&places[0], &places[1..]);
        scene.start_to_crash_at(unwritten)?;
        switch_over_until_it_dies(&mut scene, unwritten)?;
        ensure_fenced_off(&scene, 0)?;
        scene.start_to_crash_at(&written[0])?;
        ensure!(scene.wait_whole(&[])? == 0 && scene.epoch()? == 1);
        writer.wait_for_write(Instant::now())?;

        let _asking = begin_switchover(&scene)?;
        go_through(&mut scene, written, |scene, _| ensure_fenced_off(scene, 0))?;
        let primary = scene.wait_whole(&[])?;
        ensure!(primary != 0 && scene.epoch()? == 2, "{}", scene.agent.log(60));
        writer.wait_for_write(Instant::now())?;
        let acknowledged: Vec<String> = writer.finish()?.into_iter().filter_map(|a| a.outcome.ok()).collect();
        scene.ensure_kept(&acknowledged, primary)
    }
}

each_flavour! {
    fn a_switchover_that_is_being_taken_back_is_taken_back_though_the_agent_dies_at_that_too(install) {
        let undoing = places(&["undo", "reopen"]);
        let mut scene = Scene::start_promoting(install, 3, ALLOW)?;
        scene.start_to_crash_at("step:recheck")?;
        let writer = scene.write(Pace::default())?;
        switch_over_until_it_dies(&mut scene, "step:recheck")?;
        scene.start_to_crash_at(&undoing[0])?;
        go_through(&mut scene, &undoing, |scene, _| ensure_fenced_off(scene, 0))?;
        ensure!(scene.wait_whole(&[])? == 0 && scene.epoch()? == 1);
        writer.wait_for_write(Instant::now())?;
        let (outcome, sentence) = scene.ending()?.context("it ended")?;
        ensure!(outcome == "undone" && sentence.contains("it was being taken back when the agent was restarted"), "{sentence}");
        Ok(())
    }
}

/// Has an agent that is to die there begin a switchover. Its command only sees that the agent has gone.
fn switch_over_until_it_dies(scene: &mut Scene, place: &str) -> Result<()> {
    let _asking = begin_switchover(scene)?;
    scene.wait_crash(place)
}

fn begin_switchover(scene: &Scene) -> Result<Process> {
    scene.wait_verdict("healthy")?;
    scene.wait_whole(&[])?;
    scene.agent.begin(&["switchover", "orders"])
}
