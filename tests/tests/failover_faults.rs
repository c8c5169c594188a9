//! Failovers in which servers do what they should not: they lag, they die on the way, they come back writable, they have
//! transactions that nobody else has, they hang.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use shunt_tests::client::{Pace, ask};
use shunt_tests::promoting::{let_go, with_semi_sync};
use shunt_tests::{Flavour, Scene, each_flavour, eventually};

const SOON: Duration = Duration::from_secs(60);
/// Where the fence is down a client is answered long before this.
const BRIEF: Duration = Duration::from_millis(500);
const ALLOW: &str = "data_loss = \"allow\"";

fn write_on(scene: &Scene, server: usize, note: &str) -> Result<()> {
    scene.cluster.servers()[server].sql(&format!("INSERT INTO app.t (note) VALUES ('{note}')")).map(drop)
}

fn has(scene: &Scene, server: usize, note: &str) -> Result<bool> {
    let found = format!("SELECT COUNT(*) FROM app.t WHERE note = '{note}'");
    let server = &scene.cluster.servers()[server];
    // The agent ends whatever sessions it finds on a server that it makes read-only, this one too.
    Ok(server.value(&found).or_else(|_| server.value(&found))? != "0")
}

/// Which server answers a client, if one does within a moment.
fn answering(scene: &Scene) -> Option<String> {
    let query = "SELECT CAST(@@server_id AS CHAR)";
    ask(&scene.client, scene.listener(), scene.cluster.flavour(), query, BRIEF).ok()
}

each_flavour! {
    fn while_every_replica_lags_the_fence_holds_progress_is_told_and_nothing_received_is_lost(install) {
        let mut scene = Scene::start_promoting(install, 3, &format!("{ALLOW}\ncatch_up = \"1s\""))?;
        scene.wait_verdict("healthy")?;
        write_on(&scene, 0, "before")?;
        scene.cluster.wait_caught_up(1, 0)?;
        scene.cluster.wait_caught_up(2, 0)?;
        let held = [scene.hold_back(1)?, scene.hold_back(2)?];
        let writer = scene.write(Pace::default())?;
        writer.wait_for_write(Instant::now())?;
        write_on(&scene, 0, "received")?;
        scene.wait_received(&[1, 2], 0)?;
        scene.cluster.server(0).kill()?;
        scene.wait_step("drain")?;
        let why = scene.wait_alarm("operation_stuck")?;
        ensure!(why.contains("drain") && why.contains("transactions are still to be applied"), "{why}");
        let show = scene.agent.show("orders")?;
        ensure!(show["operation"]["step"] == "drain" && show["epoch"] == 1, "{show}");
        ensure!(scene.agent.list()?["listeners"][0]["state"] == "held");
        scene.ensure_cut_off(0)?;
        ensure!(scene.writable().is_empty());

        // Whoever asks for something else meanwhile is told what is under way.
        for verb in [&["switchover", "orders"][..], &["failover", "orders", "--yes", "--allow-data-loss"]] {
            let said = scene.refused(verb, 5)?;
            ensure!(said.contains("failover 1 of orders is under way: step drain"), "{said}");
        }
        held.iter().try_for_each(let_go)?;
        let primary = scene.wait_whole(&[0])?;
        ensure!(scene.epoch()? == 2 && has(&scene, primary, "received")?);
        writer.wait_for_write(Instant::now())?;
        Ok(())
    }

    fn a_candidate_that_dies_while_it_applies_is_replaced_by_another_one(install) {
        let mut scene = Scene::start_promoting(install, 3, ALLOW)?;
        scene.wait_verdict("healthy")?;
        write_on(&scene, 0, "before")?;
        scene.cluster.wait_caught_up(1, 0)?;
        scene.cluster.wait_caught_up(2, 0)?;
        let _held = scene.hold_back(1)?;
        write_on(&scene, 0, "received")?;
        scene.wait_received(&[1, 2], 0)?;
        // The best of two equals is the one with the lower address.
        scene.cluster.server(0).kill()?;
        scene.wait_step("drain")?;
        scene.cluster.server(1).kill()?;
        // One of three servers is no majority, so it waits for another one; here that is the candidate itself.
        let why = scene.wait_alarm("operation_stuck")?;
        ensure!(scene.epoch()? == 1 && scene.writable().is_empty(), "{why}");
        scene.cluster.server(1).restart()?;
        scene.cluster.set_read_only(1, true)?;
        let primary = scene.wait_whole(&[0])?;
        ensure!(scene.epoch()? == 2 && has(&scene, primary, "received")?, "{}", scene.agent.log(60));
        scene.cluster.server(0).restart()?;
        ensure!(scene.wait_whole(&[])? == primary);
        Ok(())
    }

    fn a_candidate_that_freezes_while_it_applies_is_replaced_by_another_one(install) {
        // Two of four are no majority, three of five are one.
        let mut scene = Scene::start_promoting(install, 5, ALLOW)?;
        scene.wait_verdict("healthy")?;
        write_on(&scene, 0, "before")?;
        (1..5).try_for_each(|replica| scene.cluster.wait_caught_up(replica, 0))?;
        let held = scene.hold_back(1)?;
        write_on(&scene, 0, "received")?;
        scene.wait_received(&[1, 2, 3, 4], 0)?;
        // The best of equals is the one with the lower address.
        scene.cluster.server(0).kill()?;
        scene.wait_step("drain")?;
        scene.cluster.server(1).freeze()?;
        eventually("another one to be promoted", SOON, || Ok((scene.epoch()? == 2).then_some(())))
            .with_context(|| scene.agent.log(80))?;
        let primary = scene.reached()?;
        ensure!(primary > 2, "db{primary} is reached");
        let told = scene.events("passed_over")?;
        let is_told = |why: &str| why.starts_with("10.77.0.12:3306 is not") && why.contains("it was lost while it applied");
        ensure!(told.iter().any(|event| event["message"].as_str().is_some_and(is_told)), "{told:?}");

        // It wakes up with everything to be applied, and follows.
        scene.cluster.server(1).thaw()?;
        let_go(&held)?;
        let whole = scene.wait_whole(&[0])?;
        ensure!(u32::try_from(whole + 1)? == primary && scene.epoch()? == 2, "{}", scene.agent.log(60));
        ensure!(has(&scene, whole, "received")?);
        scene.cluster.wait_caught_up(1, whole)
    }

    fn a_replica_that_applies_later_on_purpose_is_passed_over_and_follows_as_late_as_before(install) {
        const HOUR: u32 = 3_600;
        let (stop, change, start, status) = match install.flavour {
            Flavour::Mysql => ("STOP REPLICA", "REPLICATION SOURCE TO SOURCE", "START REPLICA", "SHOW REPLICA STATUS"),
            Flavour::Mariadb => ("STOP SLAVE", "MASTER TO MASTER", "START SLAVE", "SHOW SLAVE STATUS"),
        };
        let mut scene = Scene::prepare(install, 3)?;
        for statement in [stop, &format!("CHANGE {change}_DELAY = {HOUR}"), start] {
            scene.cluster.servers()[1].sql(statement)?;
        }
        scene.start_as_promoter(ALLOW)?;
        scene.wait_verdict("healthy")?;
        let why = scene.wait_alarm("not_ready")?;
        ensure!(why.contains("10.77.0.12") && why.contains("it applies what it receives 3600 s later (delayed)"), "{why}");
        let asked = scene.addresses()[1].to_string();
        let said = scene.refused(&["switchover", "orders", "--to", &asked], 5)?;
        ensure!(said.contains("3600 s later (delayed)"), "{said}");

        write_on(&scene, 0, "received")?;
        scene.wait_received(&[1, 2], 0)?;
        scene.cluster.server(0).kill()?;
        let primary = scene.wait_whole(&[0])?;
        ensure!(primary == 2 && scene.epoch()? == 2, "{}", scene.agent.log(60));
        ensure!(has(&scene, 2, "received")? && !has(&scene, 1, "received")?, "it is as late as it was told to be");
        let delay = scene.cluster.servers()[1].row(status)?.get("SQL_Delay").cloned();
        ensure!(delay.as_deref() == Some("3600"), "{delay:?}");
        Ok(())
    }

    fn an_old_primary_that_comes_back_writable_in_the_middle_is_made_read_only_and_loses_nothing(install) {
        let mut scene = Scene::start_promoting(install, 3, ALLOW)?;
        scene.wait_verdict("healthy")?;
        write_on(&scene, 0, "before")?;
        scene.cluster.wait_caught_up(1, 0)?;
        scene.cluster.wait_caught_up(2, 0)?;
        let held = [scene.hold_back(1)?, scene.hold_back(2)?];
        write_on(&scene, 0, "received")?;
        scene.wait_received(&[1, 2], 0)?;
        scene.cluster.stop_receiving(1)?;
        scene.cluster.stop_receiving(2)?;
        write_on(&scene, 0, "unreplicated")?;
        scene.cluster.server(0).kill()?;
        scene.wait_step("drain")?;
        scene.cluster.server(0).restart()?;
        // It takes writes, but none from a client.
        ensure!(answering(&scene).is_none_or(|server| server != "1"), "a client got to the old primary");
        eventually("the agent to see it", SOON, || {
            Ok(scene.agent.show("orders")?["servers"][0]["observed_ms_ago"].as_u64().filter(|ms| *ms < 2_000))
        })?;
        ensure!(answering(&scene).is_none_or(|server| server != "1"), "a client got to the old primary");
        held.iter().try_for_each(let_go)?;
        let primary = scene.wait_whole(&[])?;
        if primary == 0 {
            ensure!(scene.epoch()? == 1);
        } else {
            ensure!(scene.epoch()? == 2);
            scene.cluster.wait_caught_up(0, primary)?;
        }
        ensure!(has(&scene, primary, "unreplicated")?, "what only the old primary had is gone:\n{}", scene.agent.log(60));
        Ok(())
    }

    fn who_has_transactions_of_its_own_is_neither_chosen_nor_taken_back_and_what_it_has_is_kept(install) {
        let mut scene = Scene::start_promoting(install, 3, ALLOW)?;
        write_on(&scene, 0, "before")?;
        scene.cluster.wait_caught_up(1, 0)?;
        scene.cluster.set_read_only(1, false)?;
        write_on(&scene, 1, "errant")?;
        scene.cluster.set_read_only(1, true)?;
        scene.wait_verdict("healthy")?;
        let writer = scene.write(Pace::default())?;
        writer.pause(true);
        scene.cluster.stop_receiving(1)?;
        scene.cluster.wait_caught_up(2, 0)?;
        scene.cluster.stop_receiving(2)?;
        write_on(&scene, 0, "unreplicated")?;
        writer.pause(false);
        scene.cluster.server(0).kill()?;
        eventually("the new epoch", SOON, || Ok((scene.epoch()? == 2).then_some(()))).with_context(|| scene.agent.log(60))?;
        ensure!(scene.reached()? == 3, "the one with an errant transaction was promoted");
        let quarantined = |scene: &Scene, host: &str| -> Result<Option<String>> {
            let events = scene.events("quarantined")?;
            let found = events.iter().find(|event| event["message"].as_str().is_some_and(|m| m.starts_with(host)));
            Ok(found.map(|event| event["message"].as_str().unwrap_or_default().to_owned()))
        };
        eventually("db2 to be in quarantine", SOON, || quarantined(&scene, "10.77.0.12")).with_context(|| scene.agent.log(60))?;

        scene.cluster.server(0).restart()?;
        let why = eventually("db1 to be in quarantine", SOON, || quarantined(&scene, "10.77.0.11"))
            .with_context(|| scene.agent.log(60))?;
        let file = why.split_whitespace().find(|word| word.starts_with('/')).context("a file is named")?;
        ensure!(Path::new(file.trim_end_matches([',', '.', ';'])).exists(), "{why}");
        ensure!(!scene.cluster.is_writable(0)? && !scene.cluster.is_writable(1)? && scene.cluster.is_writable(2)?);
        ensure!(scene.alarms()?.iter().filter(|alarm| *alarm == "quarantined").count() == 2, "{:?}", scene.alarms()?);
        ensure!(scene.reached()? == 3 && scene.epoch()? == 2);
        writer.wait_for_write(Instant::now())?;
        // Comparing again finds the same.
        let before = scene.events("quarantined")?.len();
        scene.agent.shunt_ok(&["rejoin", "orders", "10.77.0.11:3306"])?;
        eventually("it to be compared anew", SOON, || Ok((scene.events("quarantined")?.len() > before).then_some(())))?;
        ensure!(!scene.cluster.is_writable(0)? && has(&scene, 0, "unreplicated")?);
        Ok(())
    }

    fn with_semi_sync_a_failover_needs_no_word_and_loses_no_acknowledged_write(install) {
        let mut scene = Scene::prepare(install, 3)?;
        with_semi_sync(&scene)?;
        scene.start_as_promoter("")?;
        scene.wait_verdict("healthy")?;
        let pace = Pace { every: Duration::from_millis(50), write: Duration::from_secs(5), ..Pace::default() };
        let writer = scene.write(pace)?;
        writer.wait_for_write(Instant::now() + Duration::from_secs(2))?;
        scene.cluster.server(0).kill()?;
        let primary = scene.wait_whole(&[0])?;
        ensure!(scene.epoch()? == 2, "{}", scene.agent.log(60));
        writer.wait_for_write(Instant::now())?;
        let acknowledged: Vec<String> = writer.finish()?.into_iter().filter_map(|a| a.outcome.ok()).collect();
        scene.ensure_kept(&acknowledged, primary)?;
        // The new one waits for acknowledgements, too.
        ensure!(scene.cluster.servers()[primary].value(&format!("SELECT @@global.{}_enabled", source_words(install.flavour)))? == "1");
        Ok(())
    }

    fn an_old_primary_whose_read_only_hangs_behind_an_acknowledgement_does_not_hold_up_a_failover(install) {
        let mut scene = Scene::prepare(install, 3)?;
        with_semi_sync(&scene)?;
        scene.start_as_promoter(ALLOW)?;
        scene.wait_verdict("healthy")?;
        let writer = scene.write(Pace { write: Duration::from_secs(600), ..Pace::default() })?;
        scene.cluster.stop_receiving(1)?;
        scene.cluster.stop_receiving(2)?;
        // From here on no commit is acknowledged any more.
        eventually("a commit that waits", SOON, || {
            let waiting = format!("SHOW GLOBAL STATUS LIKE '{}_wait_sessions'", source_words(install.flavour));
            Ok((scene.cluster.servers()[0].row(&waiting)?.get("Value").is_some_and(|n| n != "0")).then_some(()))
        })?;
        let said = scene.agent.shunt_ok(&["failover", "orders", "--yes", "--json"])?;
        ensure!(scene.epoch()? == 2, "{said}\n{}", scene.agent.log(60));
        let reached = scene.reached()?;
        ensure!(reached != 1, "{reached}");
        // It hangs no more once somebody lets the commit go; then it is met as an old primary is.
        // The agent ends whatever sessions it finds there, this one too.
        let off = format!("SET GLOBAL {}_enabled = OFF", source_words(install.flavour));
        eventually("semi-sync to be switched off", SOON, || scene.cluster.servers()[0].sql(&off).map(Some))?;
        eventually("the old primary to be read-only", SOON, || Ok((!scene.cluster.is_writable(0)?).then_some(())))
            .with_context(|| scene.agent.log(60))?;
        ensure!(scene.reached()? == reached && scene.epoch()? == 2);
        drop(writer);
        Ok(())
    }
}

/// How the variables and the status of a source's semi-sync begin.
fn source_words(flavour: Flavour) -> String {
    match flavour {
        Flavour::Mysql => "rpl_semi_sync_source".to_owned(),
        Flavour::Mariadb => "rpl_semi_sync_master".to_owned(),
    }
}
