//! The agent among operators and accidents: pins, restarts, drift, bad input.

use std::io::{Read as _, Write as _};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use shunt_tests::client::Pace;
use shunt_tests::ports::connect;
use shunt_tests::{Agent, Scene, agent, each_flavour, eventually, on_each_datapath, with_mysql};

const SOON: Duration = Duration::from_secs(30);

fn exit_code(agent: &Agent, args: &[&str]) -> Result<(Option<i32>, String)> {
    let output = agent.shunt(args)?;
    Ok((output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned()))
}

on_each_datapath! {
    fn kill_9_and_restart_of_the_agent_under_traffic_lose_no_connection(install) {
        let mut scene = Scene::start(install, 3)?;
        let writer = scene.write(Pace::default())?;
        for _ in 0..3 {
            scene.agent.kill()?;
            writer.wait_for_write(Instant::now())?;
            scene.agent.start()?;
            scene.wait_verdict("healthy")?;
            writer.wait_for_write(Instant::now())?;
        }
        scene.agent.stop()?;
        writer.wait_for_write(Instant::now())?;
        let failed: Vec<_> = writer.finish()?.into_iter().filter_map(|a| a.outcome.err()).collect();
        ensure!(failed.is_empty(), "{failed:?}");
        scene.agent.start()?;
        ensure!(scene.epoch()? == 1);
        Ok(())
    }
}

each_flavour! {
    fn a_pin_overrides_observation_and_survives_the_agent(install) {
        let mut scene = Scene::start(install, 3)?;
        let second = scene.addresses()[1].to_string();
        let (code, error) = exit_code(&scene.agent, &["pin", "orders", &second])?;
        ensure!(code == Some(5) && error.contains("read-only"), "{code:?} {error}");
        scene.agent.shunt_ok(&["pin", "orders", &second, "--yes"])?;
        scene.wait_mapped(1)?;
        ensure!(scene.reached()? == 2);
        ensure!(scene.agent.list()?["listeners"][0]["pinned"] == true);

        scene.agent.kill()?;
        ensure!(scene.reached()? == 2, "a dead agent leaves the kernel forwarding");
        scene.agent.start()?;
        ensure!(scene.agent.list()?["listeners"][0]["pinned"] == true);
        ensure!(scene.reached()? == 2);
        let epoch = scene.epoch()?;
        ensure!(epoch == 2, "a pin to another server is a new epoch: {epoch}");

        scene.agent.shunt_ok(&["unpin", "orders"])?;
        scene.wait_mapped(0)?;
        ensure!(scene.epoch()? == 3);
        Ok(())
    }

    fn a_pause_keeps_the_mapping_whatever_happens(install) {
        let mut scene = Scene::start(install, 2)?;
        let (code, _) = exit_code(&scene.agent, &["pause", "orders"])?;
        ensure!(code == Some(2), "a pause needs a reason");
        scene.agent.shunt_ok(&["pause", "orders", "--for", "1h", "--reason", "maintenance"])?;
        scene.cluster.server(0).kill()?;
        scene.wait_verdict("dead")?;
        scene.cluster.promote(1)?;
        let list = scene.agent.list()?;
        ensure!(list["listeners"][0]["paused"] == true, "{list}");
        ensure!(agent::backends(&list, scene.listener()) == Some(vec![scene.addresses()[0].to_string()]), "{list}");
        scene.agent.shunt_ok(&["resume", "orders"])?;
        scene.wait_mapped(1)?;
        Ok(())
    }

    fn somebody_flushes_the_ruleset_and_it_is_repaired_and_told(install) {
        let scene = Scene::start(install, 2)?;
        let writer = scene.write(Pace::default())?;
        for script in ["flush ruleset", "delete table inet shunt"] {
            let before = scene.events("drift")?.len();
            scene.proxy.ns().nft(script)?;
            eventually("the repair to be in the history", SOON, || {
                Ok((scene.events("drift")?.len() > before).then_some(()))
            })?;
            writer.wait_for_write(Instant::now())?;
            ensure!(scene.reached()? == 1);
        }
        ensure!(scene.agent.list()?["alarms"].as_array().is_some_and(Vec::is_empty));
        Ok(())
    }

    fn wrong_passwords_and_strange_servers_are_alarms_and_not_deaths(install) {
        let mut scene = Scene::start(install, 2)?;
        // The password changes behind the agent's back; the next login is denied.
        let user = if install.flavour == shunt_tests::Flavour::Mysql { "'shunt'@'%'" } else { "shunt@'%'" };
        scene.cluster.server(0).sql(&format!("ALTER USER {user} IDENTIFIED BY 'changed'"))?;
        scene.agent.kill()?;
        scene.agent.start()?;
        eventually("the primary to deny us", SOON, || {
            Ok((scene.agent.show("orders")?["servers"][0]["state"] == "auth denied").then_some(()))
        })?;
        ensure!(scene.alarms()?.contains(&"auth_denied".to_owned()));
        ensure!(scene.reached()? == 1, "a server that denies us is alive, and its mapping stays");
        Ok(())
    }
}

on_each_datapath! {
    fn a_reload_is_all_or_nothing_and_a_bad_file_takes_no_other_down(install) {
        let mut scene = Scene::start(install, 2)?;
        let writer = scene.write(Pace::default())?;
        scene.agent.write_cluster("bad", "name = \"bad\"\nservrs = []\n")?;
        let (code, error) = exit_code(&scene.agent, &["config", "check"])?;
        ensure!(code == Some(2) && error.contains("did you mean `servers`?"), "{code:?} {error}");
        let (code, error) = exit_code(&scene.agent, &["reload"])?;
        ensure!(code == Some(2) && error.contains("what ran before still runs"), "{code:?} {error}");
        ensure!(scene.reached()? == 1);

        // At a start the good file is served, the bad one is an alarm.
        scene.agent.stop()?;
        scene.agent.start()?;
        scene.wait_mapped(0)?;
        ensure!(scene.alarms()?.contains(&"config_broken".to_owned()));
        ensure!(scene.reached()? == 1);

        // A second cluster is dropped in; the first does not notice.
        let second = scene.proxy.at(3307);
        let servers = scene.addresses();
        scene.agent.remove_cluster("bad")?;
        scene.agent.write_cluster("more", &agent::following("more", &servers, second))?;
        scene.agent.signal(nix::sys::signal::Signal::SIGHUP)?;
        scene.agent.wait_mapped(second, servers[0])?;
        ensure!(scene.agent.list()?["alarms"].as_array().is_some_and(Vec::is_empty));
        ensure!(who_answers(&scene, second)?.is_some());

        // Its file goes while a flow exists: the flow goes on for a while, a new connection is refused at once.
        let mut flow = connect(&scene.client, second, SOON)?;
        let mut greeting = [0; 16];
        ensure!(flow.read(&mut greeting)? > 0, "the server greets");
        scene.agent.remove_cluster("more")?;
        scene.agent.shunt_ok(&["reload"])?;
        let refused = connect(&scene.client, second, SOON).expect_err("the listener is gone");
        ensure!(format!("{refused:#}").contains("refused"), "{refused:#}");
        let list = scene.agent.list()?;
        let drained = list["listeners"].as_array().into_iter().flatten().find(|l| l["listener"] == second.to_string());
        ensure!(drained.is_some_and(|l| l["state"] == "drained" && l["cluster"] == "more" && l["connections"] == 1), "{list}");
        flow.write_all(&[1, 0, 0, 1, 1])?;
        ensure!(flow.read(&mut greeting)? > 0, "the flow is still there to be answered");

        let failed: Vec<_> = writer.finish()?.into_iter().filter_map(|a| a.outcome.err()).collect();
        ensure!(failed.is_empty(), "{failed:?}");
        Ok(())
    }
}

each_flavour! {
    fn two_agents_do_not_share_a_state_folder_a_socket_or_a_table(install) {
        let scene = Scene::start(install, 1)?;
        let run = |config: std::path::PathBuf, state: std::path::PathBuf, socket: std::path::PathBuf| -> Result<String> {
            let mut command = std::process::Command::new("timeout");
            shunt_tests::netns::enter_before_exec(&mut command, scene.proxy.ns().path())?;
            command.arg("20").arg(scene.agent.binary()).arg("agent");
            command.arg("--config").arg(config).arg("--state").arg(state).arg("--socket").arg(socket);
            let output = command.env("NO_COLOR", "1").output()?;
            ensure!(output.status.code() == Some(1), "{output:?}");
            Ok(String::from_utf8_lossy(&output.stderr).into_owned())
        };
        let (config, state, socket) = (scene.agent.config(), scene.agent.state(), scene.agent.socket());
        let other = shunt_tests::scratch::Dir::new("other")?;
        let (state2, socket2) = (other.path().join("state"), other.path().join("sock"));

        let said = run(config.clone(), state2.clone(), socket.clone())?;
        ensure!(said.contains("another agent already answers on"), "{said}");
        let said = run(config.clone(), state, socket2.clone())?;
        ensure!(said.contains("uses the state folder"), "{said}");
        let said = run(config.clone(), state2.clone(), socket2.clone())?;
        ensure!(said.contains("another shunt agent already drives table"), "{said}");
        std::fs::write(&socket2, "a file")?;
        let said = run(config, state2, socket2.clone())?;
        ensure!(said.contains("is not a socket"), "{said}");
        ensure!(std::fs::read_to_string(&socket2)? == "a file");
        ensure!(scene.reached()? == 1);
        Ok(())
    }

    fn systemd_is_told_of_readiness_of_the_state_and_of_life(install) {
        let mut scene = Scene::prepare(install, 1)?;
        scene.agent.write_cluster("orders", &scene.following())?;
        scene.agent.set_env("WATCHDOG_USEC", "1500000");
        scene.agent.start()?;
        scene.wait_mapped(0)?;
        let told = |agent: &Agent, what: &str| {
            agent.notices().iter().flat_map(|n| n.lines()).filter(|line| line.starts_with(what)).count()
        };
        ensure!(told(&scene.agent, "READY=1") == 1);
        eventually("the watchdog to be fed twice", SOON, || Ok((told(&scene.agent, "WATCHDOG=1") >= 2).then_some(())))?;
        eventually("the status line", SOON, || {
            Ok((told(&scene.agent, "STATUS=1 clusters, 1 listeners open, 0 fenced") > 0).then_some(()))
        })?;
        scene.agent.stop()?;
        ensure!(told(&scene.agent, "STOPPING=1") == 1);
        Ok(())
    }

    fn a_server_that_speaks_something_else_is_not_taken_for_the_primary(install) {
        let mut scene = Scene::prepare(install, 1)?;
        let strange = scene.lan.host("strange", 99)?;
        let _echo = shunt_tests::ports::Echo::start(&strange, strange.at(3306))?;
        let servers = [scene.addresses()[0], strange.at(3306)];
        scene.agent.write_cluster("orders", &agent::following("orders", &servers, scene.listener()))?;
        scene.agent.start()?;
        eventually("the strange server to be told", SOON, || {
            let show = scene.agent.show("orders")?;
            let state = show["servers"][1]["state"].as_str().unwrap_or_default().to_owned();
            Ok((state == "not MySQL" || state == "down").then_some(()))
        })?;
        // db1 has no replica to vouch for it, so nobody is mapped until an operator says so.
        let alarm = || Ok(scene.alarms()?.contains(&"no_primary".to_owned()).then_some(()));
        eventually("db1 to be asked, and not trusted", SOON, alarm)?;
        let list = scene.agent.list()?;
        ensure!(list["listeners"][0]["state"] == "held", "{list}");
        scene.agent.shunt_ok(&["pin", "orders", &servers[0].to_string()])?;
        ensure!(scene.reached()? == 1);
        Ok(())
    }
}

with_mysql! {
    fn a_follower_of_events_outlives_the_agent(install) {
        let mut scene = Scene::start(install, 1)?;
        let (code, error) = exit_code(&scene.agent, &["events", "--follow", "ordres"])?;
        ensure!(code == Some(2) && error.contains("did you mean `orders`?"), "{code:?} {error}");

        let dir = shunt_tests::scratch::Dir::new("follower")?;
        let log = dir.path().join("log");
        let mut command = std::process::Command::new(scene.agent.binary());
        command.args(["events", "-f", "--json", "--socket"]).arg(scene.agent.socket());
        let mut follower = shunt_tests::Process::spawn("events -f", command, Some(&log))?;
        let heard = |what: &str| {
            eventually(&format!("the follower to hear of {what}"), SOON, || {
                let lines = std::fs::read_to_string(&log)?;
                Ok(lines.contains(what).then_some(()))
            })
        };
        heard("\"started\"")?;
        scene.agent.kill()?;
        heard("waiting for it")?;
        scene.agent.start()?;
        scene.agent.shunt_ok(&["pause", "orders", "--reason", "to be heard"])?;
        heard("to be heard")?;
        ensure!(follower.is_running());
        let lines = std::fs::read_to_string(&log)?;
        ensure!(lines.matches("\"started\"").count() == 2, "each event once: {lines}");
        Ok(())
    }
}

each_flavour! {
    fn a_mended_file_starts_its_cluster_and_a_listener_that_no_file_names_goes(install) {
        let mut scene = Scene::start(install, 1)?;
        // Broken at the start: its listener stays as it is.
        scene.agent.stop()?;
        scene.agent.write_cluster("orders", "name = \"orders\"\n")?;
        scene.agent.start()?;
        ensure!(scene.alarms()?.contains(&"config_broken".to_owned()));
        ensure!(scene.reached()? == 1);
        // Mended with another address: the old listener is nobody's any more.
        let (old, new) = (scene.listener(), scene.proxy.at(3309));
        scene.agent.write_cluster("orders", &agent::following("orders", &scene.addresses(), new))?;
        scene.agent.shunt_ok(&["reload"])?;
        scene.agent.wait_mapped(new, scene.addresses()[0])?;
        ensure!(connect(&scene.client, old, SOON).is_err(), "the old listener still leads somewhere");
        Ok(())
    }
}

each_flavour! {
    fn a_cluster_that_is_followed_is_not_operated_on(install) {
        let scene = Scene::start(install, 2)?;
        let second = scene.addresses()[1].to_string();
        for args in [
            &["switchover", "orders", "--dry-run"][..],
            &["switchover", "orders", "--to", &second],
            &["failover", "orders", "--yes"],
            &["drill", "orders", "--yes"],
            &["rejoin", "orders", &second],
        ] {
            let (code, error) = exit_code(&scene.agent, args)?;
            ensure!(code == Some(5) && error.contains("shunt follows orders"), "{args:?}: {code:?} {error}");
            ensure!(error.contains("hint:"), "{args:?}: {error}");
        }
        let (code, error) = exit_code(&scene.agent, &["switchover", "orders", "--to", "db9"])?;
        ensure!(code == Some(2) && error.contains("has no server `db9`") && error.contains(&second), "{code:?} {error}");
        let (code, error) = exit_code(&scene.agent, &["failover", "orders"])?;
        ensure!(code == Some(2) && error.contains("no terminal to ask on"), "{code:?} {error}");
        ensure!(scene.reached()? == 1 && scene.epoch()? == 1);
        ensure!(scene.events("operation")?.is_empty(), "nothing was begun");
        Ok(())
    }

    fn a_drill_fails_a_healthy_cluster_over_and_tells_what_it_cost(install) {
        let mut scene = Scene::prepare(install, 3)?;
        let promoting = scene.following().replace("\"follow\"", "\"promote\"");
        scene.agent.write_cluster("orders", &promoting)?;
        scene.agent.start()?;
        scene.wait_mapped(0)?;
        scene.wait_verdict("healthy")?;
        let output = scene.agent.shunt(&["drill", "orders", "--yes", "--json"])?;
        let told: serde_json::Value = serde_json::from_slice(&output.stdout)
            .with_context(|| format!("{output:?}\n{}", scene.agent.log(60)))?;
        ensure!(output.status.success() && told["outcome"] == "done", "{told} {output:?}\n{}", scene.agent.log(60));
        let first = scene.addresses()[0].to_string();
        ensure!(told["old"] == first && told["new"] != first && told["epoch"] == 2, "{told}");
        ensure!(told["steps"].as_array().is_some_and(|steps| steps.iter().any(|s| s["step"] == "promote")), "{told}");
        ensure!(told["drill"]["verdict"] == "healthy" && told["drill"]["hold_ms"].is_u64(), "{told}");
        ensure!(told["drill"]["old_primary"]["state"] == "rejoined", "{told}\n{}", scene.agent.log(60));
        let show = scene.agent.show("orders")?;
        ensure!(show["primary"] == told["new"] && show["outcasts"] == serde_json::json!([]), "{show}");
        ensure!(show["operation"].is_null(), "{show}");
        Ok(())
    }
}

fn who_answers(scene: &Scene, at: std::net::SocketAddr) -> Result<Option<u8>> {
    let mut stream = connect(&scene.client, at, SOON)?;
    let mut first = [0; 5];
    stream.read_exact(&mut first).context("a MySQL server greets")?;
    Ok(first.last().copied())
}
