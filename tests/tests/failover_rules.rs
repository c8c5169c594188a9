//! What keeps shunt from failing over by itself, and what an operator is told instead of being obeyed: rules, hooks, another
//! agent, a journal that cannot be written.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;
use shunt_tests::client::Pace;
use shunt_tests::scratch::Dir;
use shunt_tests::{Agent, Flavour, Install, Scene, agent, each_flavour, eventually, with_mysql};

const SOON: Duration = Duration::from_secs(60);
/// By then an agent that means to act has acted.
const LONG_ENOUGH: Duration = Duration::from_secs(4);
const ALLOW: &str = "data_loss = \"allow\"";

/// That it stays so for a while: nobody is promoted.
fn ensure_nobody_is_promoted(scene: &Scene, epoch: u64) -> Result<()> {
    let until = Instant::now() + LONG_ENOUGH;
    while Instant::now() < until {
        ensure!(scene.writable().is_empty(), "somebody was promoted:\n{}", scene.agent.log(40));
        std::thread::sleep(Duration::from_millis(100));
    }
    ensure!(scene.epoch()? == epoch);
    Ok(())
}

/// Everything of the servers that an operation might change.
fn state(scene: &Scene) -> Result<Vec<String>> {
    let servers = scene.cluster.servers();
    let position = match scene.cluster.flavour() {
        Flavour::Mysql => "SELECT @@global.gtid_executed",
        Flavour::Mariadb => "SELECT @@global.gtid_binlog_pos",
    };
    (0..servers.len())
        .map(|n| {
            let (writable, source) = (scene.cluster.is_writable(n)?, scene.cluster.source_of(n)?);
            Ok(format!("db{} {writable} {source:?} {}", n + 1, servers[n].value(position)?))
        })
        .collect()
}

fn without_binlog(scene: &Scene, server: usize, statements: &[&str]) -> Result<()> {
    let server = &scene.cluster.servers()[server];
    for statement in [&["SET SESSION sql_log_bin = 0"], statements, &["SET SESSION sql_log_bin = 1"]].concat() {
        server.sql(statement)?;
    }
    Ok(())
}

/// A scene whose agent has hooks.
fn with_hooks(install: &Install, hooks: &str) -> Result<Scene> {
    let mut scene = Scene::prepare(install, 3)?;
    scene.agent.write_settings(&format!("[hooks]\n{hooks}\n"))?;
    scene.start_as_promoter(ALLOW)?;
    scene.wait_verdict("healthy")?;
    Ok(scene)
}

each_flavour! {
    fn what_stands_against_a_change_is_found_before_anything_is_changed(install) {
        let mut scene = Scene::prepare(install, 3)?;
        let (privilege, option) = match install.flavour {
            Flavour::Mysql => ("REPLICATION_SLAVE_ADMIN", "--log-replica-updates=OFF"),
            Flavour::Mariadb => ("REPLICATION SLAVE ADMIN", "--log-slave-updates=OFF"),
        };
        // db2: a missing grant; db3: its replicas would lack what it received.
        scene.cluster.set_read_only(1, false)?;
        without_binlog(&scene, 1, &[&format!("REVOKE {privilege} ON *.* FROM shunt@'%'")])?;
        scene.cluster.set_read_only(1, true)?;
        scene.cluster.server(2).options.push(option.to_owned());
        scene.cluster.server(2).restart()?;
        scene.cluster.set_read_only(2, true)?;
        scene.start_as_promoter(ALLOW)?;
        scene.wait_verdict("healthy")?;
        let alarms = eventually("both to be told of", SOON, || {
            let list = scene.agent.list()?["alarms"].clone();
            let unready = list.as_array().cloned().unwrap_or_default();
            let unready: Vec<_> = unready.into_iter().filter(|alarm| alarm["alarm"] == "not_ready").collect();
            Ok((unready.len() == 2).then(|| format!("{unready:?}")))
        })?;
        ensure!(alarms.contains(&format!("GRANT {privilege} ON *.* TO")) && alarms.contains("log_replica_updates is off"), "{alarms}");

        let before = state(&scene)?;
        let [db1, db2, db3] = [0, 1, 2].map(|n| scene.addresses()[n].to_string());
        for (args, code, sentence) in [
            (&["switchover", "orders", "--to", &db1][..], 2, "is the primary already"),
            (&["failover", "orders", "--yes", "--to", &db1], 2, "is the primary already"),
            (&["switchover", "orders", "--to", "10.77.0.99:3306"], 2, "10.77.0.99:3306"),
            (&["switchover", "nobody"], 2, "nobody"),
            (&["switchover", "orders", "--to", &db2], 5, &format!("GRANT {privilege}")),
            (&["switchover", "orders", "--to", &db3], 5, "log_replica_updates is off"),
            (&["switchover", "orders", "--dry-run"], 5, &format!("GRANT {privilege}")),
            (&["switchover", "orders"], 5, "nothing was changed"),
            (&["failover", "orders", "--dry-run"], 5, &format!("GRANT {privilege}")),
            (&["failover", "orders", "--yes"], 5, "nothing was changed"),
            // Nobody is there to say yes.
            (&["failover", "orders"], 2, "--yes"),
        ] {
            let said = scene.refused(args, code)?;
            ensure!(said.contains(sentence), "shunt {}: {said}", args.join(" "));
        }
        ensure!(state(&scene)? == before && scene.epoch()? == 1, "{before:?} became {:?}", state(&scene)?);
        ensure!(scene.reached()? == 1);
        Ok(())
    }
}

each_flavour! {
    fn what_applying_salvaged_transactions_takes_is_asked_for_before_it_is_needed_and_again_when_it_is(install) {
        let (privilege, stop) = match install.flavour {
            Flavour::Mysql => ("REPLICATION_APPLIER", "STOP REPLICA IO_THREAD"),
            Flavour::Mariadb => ("BINLOG REPLAY", "STOP SLAVE IO_THREAD"),
        };
        let mut scene = Scene::start_promoting(install, 3, &format!("{ALLOW}\nsalvage = \"apply\""))?;
        scene.wait_verdict("healthy")?;
        let why = scene.wait_alarm("not_ready")?;
        ensure!(why.contains("nothing salvaged applied") && why.contains(privilege), "{why}");
        let grants = why.split_once("(run: ").and_then(|(_, rest)| rest.strip_suffix(')')).context("its grants")?.to_owned();

        // Nobody receives what the primary writes last.
        for replica in [1, 2] {
            scene.cluster.servers()[replica].sql(stop)?;
        }
        let last = "INSERT INTO app.t (id, note) VALUES (1000000, 'only there')";
        scene.cluster.servers()[0].sql(last)?;
        scene.cluster.server(0).kill()?;
        let primary = scene.wait_whole(&[0])?;
        scene.cluster.server(0).restart()?;
        let why = scene.wait_alarm("quarantined")?;
        ensure!(why.contains("none of 1 transactions is applied") && why.contains(privilege), "{why}");
        let there = || scene.cluster.servers()[primary].value("SELECT COUNT(*) FROM app.t WHERE id = 1000000");
        ensure!(there()? == "0" && scene.cluster.is_writable(primary)?);

        for grant in grants.split("; ") {
            scene.cluster.servers()[primary].sql(grant)?;
        }
        scene.agent.shunt_ok(&["rejoin", "orders", &scene.addresses()[0].to_string()])?;
        eventually("it to be applied", SOON, || Ok((there()? == "1").then_some(())))
            .with_context(|| scene.agent.log(60))?;
        eventually("it to be told", SOON, || {
            Ok(scene.wait_alarm("quarantined")?.contains("and applied to the primary").then_some(()))
        })?;
        ensure!(scene.cluster.is_writable(primary)?);
        Ok(())
    }
}

with_mysql! {
    fn without_a_proof_that_nothing_is_lost_only_an_operator_fails_over_and_none_does_again_too_soon(install) {
        let mut scene = Scene::start_promoting(install, 3, "")?;
        scene.wait_verdict("healthy")?;
        let writer = scene.write(Pace::default())?;
        scene.lose(0)?;
        let why = scene.wait_alarm("failover_barred")?;
        ensure!(why.contains("data_loss is \"forbid\"") && why.contains("--allow-data-loss"), "{why}");
        ensure_nobody_is_promoted(&scene, 1)?;
        let said = scene.refused(&["failover", "orders", "--yes"], 5)?;
        ensure!(said.contains("data_loss is \"forbid\"") && said.contains("--allow-data-loss"), "{said}");
        let said = scene.refused(&["switchover", "orders"], 5)?;
        ensure!(said.contains("does not answer") && said.contains("shunt failover orders"), "{said}");
        scene.agent.shunt_ok(&["failover", "orders", "--yes", "--allow-data-loss"])?;
        let second = scene.wait_whole(&[0])?;
        ensure!(scene.epoch()? == 2);
        writer.wait_for_write(Instant::now())?;
        scene.cluster.server(0).restart()?;
        ensure!(scene.wait_whole(&[])? == second);

        // The next within the cooldown; now data may be lost.
        let text = agent::promoting("orders", &scene.addresses(), scene.listener(), ALLOW);
        scene.agent.write_cluster("orders", &text)?;
        scene.agent.shunt_ok(&["reload"])?;
        scene.wait_verdict("healthy")?;
        scene.lose(second)?;
        let why = scene.wait_alarm("failover_barred")?;
        ensure!(why.contains("cooldown") && why.contains("shunt failover orders"), "{why}");
        ensure_nobody_is_promoted(&scene, 2)?;
        // Nor after a restart of the agent.
        scene.agent.stop()?;
        scene.agent.start()?;
        let why = scene.wait_alarm("failover_barred")?;
        ensure!(why.contains("cooldown"), "{why}");
        scene.agent.shunt_ok(&["failover", "orders", "--yes"])?;
        scene.wait_whole(&[second])?;
        ensure!(scene.epoch()? == 3);
        writer.wait_for_write(Instant::now())?;
        Ok(())
    }

    fn neither_a_pause_nor_a_pin_is_overruled_and_both_end_by_an_operators_word(install) {
        let mut scene = Scene::start_promoting(install, 3, &format!("{ALLOW}\ncooldown = \"0s\""))?;
        scene.wait_verdict("healthy")?;
        scene.agent.shunt_ok(&["pause", "orders", "--reason", "a new disk"])?;
        scene.lose(0)?;
        let why = scene.wait_alarm("failover_barred")?;
        ensure!(why.contains("paused (a new disk"), "{why}");
        ensure_nobody_is_promoted(&scene, 1)?;
        scene.agent.shunt_ok(&["resume", "orders"])?;
        let second = scene.wait_whole(&[0])?;
        scene.cluster.server(0).restart()?;
        ensure!(scene.wait_whole(&[])? == second && scene.epoch()? == 2);

        let address = scene.addresses()[second].to_string();
        scene.agent.shunt_ok(&["pin", "orders", &address])?;
        let epoch = scene.epoch()?;
        scene.lose(second)?;
        let why = scene.wait_alarm("failover_barred")?;
        ensure!(why.contains("pinned"), "{why}");
        ensure_nobody_is_promoted(&scene, epoch)?;
        let said = scene.refused(&["failover", "orders", "--yes"], 5)?;
        ensure!(said.contains("pinned") && said.contains("shunt unpin orders"), "{said}");
        scene.agent.shunt_ok(&["unpin", "orders"])?;
        scene.wait_whole(&[second])?;
        ensure!(scene.epoch()? == epoch + 1, "{}", scene.agent.log(40));
        Ok(())
    }

    fn a_fence_hook_that_fails_stops_a_failover(install) {
        let mut scene = with_hooks(install, "fence = \"echo the switch does not answer; exit 3\"")?;
        scene.lose(0)?;
        let why = scene.wait_ending("failed")?;
        ensure!(why.contains("the fence hook failed"), "{why}");
        ensure_nobody_is_promoted(&scene, 1)?;
        scene.ensure_cut_off(0)?;
        Ok(())
    }

    fn a_before_promote_hook_that_fails_stops_a_failover_and_an_operator_may_try_again(install) {
        let dir = Dir::new("hooks")?;
        let permit = dir.path().join("permit");
        let mut scene = with_hooks(install, &format!("before_promote = \"test -e {}\"", permit.display()))?;
        scene.lose(0)?;
        let why = scene.wait_ending("failed")?;
        ensure!(why.contains("before_promote hook failed"), "{why}");
        ensure_nobody_is_promoted(&scene, 1)?;
        scene.ensure_cut_off(0)?;
        fs::write(&permit, "")?;
        scene.agent.shunt_ok(&["failover", "orders", "--yes"])?;
        scene.wait_whole(&[0])?;
        ensure!(scene.epoch()? == 2);
        Ok(())
    }

    fn hooks_are_told_who_was_replaced_by_whom_and_why(install) {
        let dir = Dir::new("hooks")?;
        let folder = dir.path().display();
        let tell = |hook: &str| format!("{hook} = \"env | grep ^SHUNT_ > {folder}/{hook}.$SHUNT_EVENT\"\n");
        let hooks = ["fence", "before_promote", "after_failover", "notify"].map(tell).concat();
        let mut scene = with_hooks(install, &hooks)?;
        scene.lose(0)?;
        let primary = scene.wait_whole(&[0])?;
        let (old, new) = (scene.addresses()[0], scene.addresses()[primary]);
        for (file, event, knows_new) in [
            ("fence.fence", "fence", false),
            ("before_promote.before_promote", "before_promote", true),
            ("after_failover.failover_done", "failover_done", true),
            ("notify.failover_started", "failover_started", false),
            ("notify.failover_done", "failover_done", true),
        ] {
            let path = dir.path().join(file);
            let env = eventually(&format!("the hook's file {file}"), SOON, || Ok(fs::read_to_string(&path).ok().filter(|text| text.lines().count() >= 7)))?;
            let says = |line: String| env.lines().any(|l| l == line);
            ensure!(says("SHUNT_CLUSTER=orders".into()) && says(format!("SHUNT_EVENT={event}")), "{file}: {env}");
            ensure!(says(format!("SHUNT_OLD={old}")) && says("SHUNT_EPOCH=2".into()) && says("SHUNT_OP=orders/1".into()), "{file}: {env}");
            ensure!(!knows_new || says(format!("SHUNT_NEW={new}")), "{file}: {env}");
            ensure!(env.lines().any(|l| l.starts_with("SHUNT_REASON=") && l.len() > 20), "{file}: {env}");
        }
        // A hook that is only told and fails is reported, and changes nothing.
        scene.agent.write_settings("[hooks]\nnotify = \"exit 9\"\n")?;
        scene.agent.shunt_ok(&["reload"])?;
        scene.cluster.server(0).restart()?;
        scene.wait_whole(&[])?;
        let failed = eventually("the failed hook to be reported", SOON, || Ok(scene.events("hook_failed")?.pop()))?;
        ensure!(failed["message"].as_str().is_some_and(|m| m.contains("`notify` failed")), "{failed}");
        Ok(())
    }

    fn of_two_agents_only_the_one_that_holds_the_locks_promotes_frozen_or_not(install) {
        let mut scene = Scene::start_promoting(install, 3, ALLOW)?;
        scene.wait_verdict("healthy")?;
        let proxy = scene.lan.host("proxy2", 3)?;
        proxy.forward()?;
        let mut other = Agent::prepare(&proxy)?;
        let listener = proxy.at(shunt_tests::scene::PORT);
        other.write_cluster("orders", &agent::promoting("orders", &scene.addresses(), listener, ALLOW))?;
        other.start()?;
        other.wait_mapped(listener, scene.addresses()[0])?;
        let began = |agent: &Agent| -> Result<usize> {
            Ok(agent.events()?.iter().filter(|e| e["kind"] == "operation" && e["data"]["state"] == "begun").count())
        };
        scene.lose(0)?;
        let second = scene.wait_whole(&[0])?;
        other.wait_mapped(listener, scene.addresses()[second])?;
        ensure!(began(&scene.agent)? == 1 && began(&other)? == 0, "{}", other.log(40));
        scene.cluster.server(0).restart()?;
        ensure!(scene.wait_whole(&[])? == second);

        eventually("the old primary to be taken in", SOON, || Ok((!scene.events("rejoined")?.is_empty()).then_some(())))?;

        // Frozen, it is still in charge: it may wake up in the middle of something.
        scene.agent.signal(Signal::SIGSTOP)?;
        scene.lose(second)?;
        let why = eventually("the other one to say why it does nothing", SOON, || {
            let alarms = other.list()?["alarms"].as_array().cloned().unwrap_or_default();
            Ok(alarms.into_iter().find(|alarm| alarm["alarm"] == "failover_barred"))
        })
        .with_context(|| other.log(40))?;
        ensure!(why["message"].as_str().is_some_and(|m| m.contains("another agent may be in charge")), "{why}");
        let until = Instant::now() + LONG_ENOUGH;
        while Instant::now() < until {
            ensure!(scene.writable().is_empty() && began(&other)? == 0, "{}", other.log(40));
        }
        // Its death frees the locks.
        scene.agent.kill()?;
        let third = eventually("the other one to promote", SOON, || Ok(scene.writable().first().copied())).with_context(|| other.log(60))?;
        other.wait_mapped(listener, scene.addresses()[third])?;
        ensure!(began(&other)? == 1);
        // Back again, the first one follows.
        scene.agent.start()?;
        scene.wait_mapped(third).with_context(|| other.log(60))?;
        ensure!(began(&scene.agent)? == 1 && scene.writable() == [third]);
        Ok(())
    }

    fn on_a_full_disk_a_failover_goes_on_by_the_reserve(install) {
        let (mut scene, _program) = on_a_small_disk(install)?;
        let disk = disk_of(&scene)?;
        fill(&disk.join("ballast"))?;
        ensure!(disk.join("reserve").exists(), "the reserve is there until it is needed");
        let writer = scene.write(Pace::default())?;
        scene.lose(0)?;
        scene.wait_whole(&[0])?;
        ensure!(scene.epoch()? == 2);
        writer.wait_for_write(Instant::now())?;
        ensure!(!disk.join("reserve").exists(), "it went on without the reserve");
        Ok(())
    }

    fn what_cannot_be_written_down_is_not_done(install) {
        let dir = Dir::new("program")?;
        let mut scene = Scene::prepare(install, 3)?;
        // A disk that takes nothing, as far as the agent can see: a write beyond its limit fails, and does not end it.
        let script = format!("#!/bin/sh\ntrap '' XFSZ\nexec {} \"$@\"\n", agent::binary()?.display());
        scene.agent = Agent::prepare_program(&scene.proxy, program(&dir, &script)?)?;
        scene.start_as_promoter(ALLOW)?;
        scene.wait_verdict("healthy")?;
        let pid = scene.agent.pid().context("the agent runs")?.to_string();
        let limit = |size: &str| scene.proxy.ns().run("prlimit", &["--pid", &pid, &format!("--fsize={size}:unlimited")]);
        limit("0")?;
        scene.cluster.server(0).kill()?;
        let why = scene.wait_alarm("operation_stuck")?;
        ensure!(why.contains("could not be written into the journal"), "{why}");
        ensure_nobody_is_promoted(&scene, 1)?;
        scene.ensure_cut_off(0)?;
        limit("unlimited")?;
        scene.wait_whole(&[0])?;
        ensure!(scene.epoch()? == 2);
        Ok(())
    }
}

/// A scene whose agent keeps its state on a disk of 8 MiB, in a mount namespace of its own.
fn on_a_small_disk(install: &Install) -> Result<(Scene, Dir)> {
    let mut scene = Scene::prepare(install, 3)?;
    let dir = Dir::new("program")?;
    let shunt = agent::binary()?;
    let shunt = shunt.display();
    let program = program(
        &dir,
        &format!(
            "#!/bin/sh\n[ \"$1\" = agent ] || exec {shunt} \"$@\"\n\
             for word; do [ \"$before\" = --state ] && state=$word; before=$word; done\nexport state\n\
             exec unshare --mount --propagation private \
             sh -c 'mount -t tmpfs -o size=8m small \"$state\" && exec {shunt} \"$@\"' sh \"$@\"\n"
        ),
    )?;
    scene.agent = Agent::prepare_program(&scene.proxy, program)?;
    scene.start_as_promoter(ALLOW)?;
    scene.wait_verdict("healthy")?;
    Ok((scene, dir))
}

/// An executable file with that text.
fn program(dir: &Dir, text: &str) -> Result<PathBuf> {
    let path = dir.path().join("program");
    fs::write(&path, text)?;
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755))?;
    Ok(path)
}

/// The folder of its state, as the agent sees it.
fn disk_of(scene: &Scene) -> Result<PathBuf> {
    let pid = scene.agent.pid().context("the agent runs")?;
    let state = scene.agent.state();
    Ok(Path::new("/proc").join(pid.to_string()).join("root").join(state.strip_prefix("/")?))
}

/// Fills a disk to the last byte.
fn fill(ballast: &Path) -> Result<()> {
    use std::io::Write as _;
    let mut file = fs::File::create(ballast)?;
    for size in [1 << 16, 1 << 12, 1] {
        while file.write(&vec![1; size]).is_ok_and(|written| written > 0) {}
    }
    Ok(())
}
