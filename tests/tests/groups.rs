//! Groups elect, the proxy port follows: real MySQL servers with Group Replication, real MariaDB servers with Galera.

use std::time::Instant;

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use shunt_tests::client::{Pace, ask};
use shunt_tests::wait::PATIENCE;
use shunt_tests::{Flavour, Install, Scene, Writer, agent, eventually, galera, group, skip};

/// A test with servers that can form a group, `name::mysql` or `name::mariadb`, or skipped by that name.
macro_rules! grouped {
    ($flavour:ident, $as:ident, $available:path; $(fn $name:ident($install:ident) $body:block)*) => {$(
        mod $name {
            #[allow(unused_imports, clippy::allow_attributes, clippy::wildcard_imports, reason = "a test may need none")]
            use super::*;

            fn body($install: &Install) -> Result<()> $body

            #[test]
            fn $as() -> Result<()> {
                const NAME: &str = concat!(module_path!(), "::", stringify!($as));
                skip::with_server(NAME, Flavour::$flavour, |install| match $available(install) {
                    Ok(_) => body(install),
                    Err(reason) => {
                        skip::skip(NAME, &format!("{reason:#}"));
                        Ok(())
                    }
                })
            }
        }
    )*};
}

/// Where readers are led.
const READERS: u16 = 3307;

/// The agent following three members; `max_lag` is that of a replica listener.
fn scene(install: &Install, max_lag: &str) -> Result<Scene> {
    let mut scene = Scene::prepare_with(|lan| match install.flavour {
        Flavour::Mysql => group::start(lan, install, 3),
        Flavour::Mariadb => galera::start(lan, install, 3),
    })?;
    let readers = format!(
        "{}\n[[listen]]\nrole = \"replica\"\naddress = \"{}\"\nmax_lag = \"{max_lag}\"\nfallback = \"none\"\n",
        scene.following(),
        scene.proxy.at(READERS)
    );
    scene.agent.write_cluster("orders", &readers)?;
    scene.agent.start()?;
    scene.wait_mapped(0)?;
    Ok(scene)
}

/// Waits until exactly those servers take readers.
fn wait_for_readers(scene: &Scene, servers: &[usize]) -> Result<Value> {
    let wanted: Vec<String> = servers.iter().map(|&n| scene.addresses()[n].to_string()).collect();
    let is_so = |list: &Value| agent::backends(list, scene.proxy.at(READERS)).is_some_and(|found| found == wanted);
    scene
        .agent
        .wait_for(&format!("readers to be led to {wanted:?}"), PATIENCE, is_so)
        .with_context(|| scene.agent.log(30))
}

/// The mapping is on `to`, and the client's writes arrive there.
fn ensure_writes_reach(scene: &Scene, writer: &Writer, to: usize) -> Result<()> {
    scene.wait_mapped(to)?;
    writer.wait_for_write(Instant::now())?;
    ensure!(scene.reached()? == u32::try_from(to)? + 1);
    Ok(())
}

/// Everything that was acknowledged is there, and the history has no more changes of the primary than those.
fn ensure_kept_after(scene: &mut Scene, writer: Writer, on: usize, epoch: u64) -> Result<()> {
    let acknowledged: Vec<String> = writer.finish()?.into_iter().filter_map(|attempt| attempt.outcome.ok()).collect();
    ensure!(!acknowledged.is_empty());
    scene.ensure_kept(&acknowledged, on)?;
    ensure!(scene.epoch()? == epoch, "{:?}", scene.events("primary")?);
    Ok(())
}

/// Cuts a server off from the other two, and from nobody else.
fn isolate(scene: &Scene, server: usize) -> Result<()> {
    let servers = scene.cluster.servers();
    let others: Vec<_> = servers.iter().enumerate().filter(|&(n, _)| n != server).map(|(_, s)| s.host()).collect();
    servers[server].host().cut_all(&others)
}

/// A client with a connection that stays idle while `meanwhile` runs; what it is answered then.
fn idle_connection<T>(
    scene: &Scene,
    meanwhile: impl FnOnce() -> Result<T>,
) -> Result<Result<String, mysql_async::Error>> {
    let (client, to, flavour) = (&scene.client, scene.listener(), scene.cluster.flavour());
    let (sender, go) = std::sync::mpsc::channel();
    let (ready, connected) = std::sync::mpsc::channel();
    std::thread::scope(|scope| {
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
        let done = meanwhile();
        sender.send(())?;
        let said = pooled.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        done.and(said)
    })
}

grouped! { Mysql, mysql, group::ensure_available;

    fn after_kill_9_the_groups_new_primary_is_followed(install) {
        let mut scene = scene(install, "60s")?;
        let writer = scene.write(Pace::default())?;
        scene.wait_verdict("healthy")?;
        wait_for_readers(&scene, &[1, 2])?;
        scene.cluster.server(0).kill()?;
        let new = group::wait_for_successor(&scene.cluster, 0, 1)?;
        ensure_writes_reach(&scene, &writer, new)?;
        scene.wait_verdict("healthy")?;
        wait_for_readers(&scene, &[3 - new])?;

        // Back, it has to join and to recover before it takes readers; nothing else changes.
        scene.cluster.server(0).restart()?;
        ensure!(scene.reached()? == u32::try_from(new)? + 1);
        group::join(scene.cluster.server(0))?;
        wait_for_readers(&scene, &[0, 3 - new])?;
        ensure_kept_after(&mut scene, writer, new, 2)
    }

    fn a_primary_that_is_cut_off_from_the_others_and_not_from_us_gives_way_to_the_majoritys(install) {
        let mut scene = scene(install, "60s")?;
        let writer = scene.write(Pace::default())?;
        let mut new = 0;
        let said = idle_connection(&scene, || {
            isolate(&scene, 0)?;
            new = group::wait_for_successor(&scene.cluster, 0, 1)?;
            scene.wait_mapped(new)?;
            eventually("the old connections to be severed", PATIENCE, || Ok(scene.events("severed")?.pop()))
        })?;
        ensure!(said.is_err(), "the old connection was answered by server {said:?}");
        ensure_writes_reach(&scene, &writer, new)?;
        // It still answers, is writable, and says that it is ONLINE and PRIMARY.
        let old = scene.cluster.server(0);
        ensure!(old.value("SELECT @@global.super_read_only")? == "0");
        ensure!(group::primary_by(&scene.cluster, 0)? == Some(0));
        wait_for_readers(&scene, &[3 - new])?;
        let show = scene.wait_verdict("healthy")?;
        let told = show["servers"][0].to_string();
        ensure!(told.contains("lost the majority"), "{told}");

        // With its way back it learns that it was expelled, joins again, and is a secondary from then on.
        scene.cluster.server(0).host().heal()?;
        group::wait_for_state(scene.cluster.server(0), "ERROR")?;
        group::wait_for_state(scene.cluster.server(0), "ONLINE")?;
        wait_for_readers(&scene, &[0, 3 - new])?;
        ensure_kept_after(&mut scene, writer, new, 2)
    }

    fn a_primary_that_falls_silent_for_all_gives_way_to_the_majoritys(install) {
        let mut scene = scene(install, "60s")?;
        let writer = scene.write(Pace::default())?;
        scene.cluster.server(0).host().link_down()?;
        let new = group::wait_for_successor(&scene.cluster, 0, 1)?;
        ensure_writes_reach(&scene, &writer, new)?;
        ensure_kept_after(&mut scene, writer, new, 2)
    }

    fn a_planned_change_of_the_primary_is_followed(install) {
        let mut scene = scene(install, "60s")?;
        let writer = scene.write(Pace::default())?;
        let uuid = scene.cluster.server(2).value("SELECT @@server_uuid")?;
        scene.cluster.server(0).sql(&format!("SELECT group_replication_set_as_primary('{uuid}')"))?;
        ensure_writes_reach(&scene, &writer, 2)?;
        wait_for_readers(&scene, &[0, 1])?;
        ensure_kept_after(&mut scene, writer, 2, 2)
    }

    fn with_several_primaries_one_is_mapped_and_kept_until_it_is_lost(install) {
        let mut scene = scene(install, "60s")?;
        let writer = scene.write(Pace::default())?;
        scene.cluster.server(0).sql("SELECT group_replication_switch_to_multi_primary_mode()")?;
        for server in scene.cluster.servers() {
            eventually(&format!("{} to be writable", server.name()), PATIENCE, || {
                Ok((server.value("SELECT @@global.super_read_only")? == "0").then_some(()))
            })?;
        }
        let takes_two = |show: &Value| show["reasons"].to_string().contains("2 of 2 others could take its place");
        eventually("the agent to see three primaries", PATIENCE, || {
            Ok(takes_two(&scene.agent.show("orders")?).then_some(()))
        })?;
        ensure!(scene.alarms()?.is_empty(), "{:?}", scene.alarms()?);
        ensure_writes_reach(&scene, &writer, 0)?;
        wait_for_readers(&scene, &[1, 2])?;
        isolate(&scene, 0)?;
        ensure_writes_reach(&scene, &writer, 1)?;
        wait_for_readers(&scene, &[2])?;
        ensure_kept_after(&mut scene, writer, 1, 2)
    }

    fn an_expelled_member_takes_no_readers(install) {
        let mut scene = scene(install, "60s")?;
        wait_for_readers(&scene, &[1, 2])?;
        isolate(&scene, 2)?;
        wait_for_readers(&scene, &[1])?;
        // By its own view it is ONLINE.
        group::wait_for_state(scene.cluster.server(2), "ONLINE")?;
        let reader = scene.proxy.at(READERS);
        for _ in 0..10 {
            let id = ask(&scene.client, reader, install.flavour, "SELECT CAST(@@server_id AS CHAR)", PATIENCE)?;
            ensure!(id == "2", "a reader reached {id}");
        }
        scene.cluster.server(2).host().heal()?;
        wait_for_readers(&scene, &[1, 2])?;
        ensure!(scene.epoch()? == 1);
        Ok(())
    }

    fn a_secondary_that_falls_behind_takes_no_readers_until_it_has_caught_up(install) {
        let mut scene = scene(install, "2s")?;
        wait_for_readers(&scene, &[1, 2])?;
        // Its applier waits for the lock.
        let behind = scene.cluster.server(1);
        behind.sql("FLUSH TABLES app.t WITH READ LOCK")?;
        let writer = scene.write(Pace::default())?;
        wait_for_readers(&scene, &[2])?;
        scene.cluster.server(1).sql("UNLOCK TABLES")?;
        wait_for_readers(&scene, &[1, 2])?;
        ensure_kept_after(&mut scene, writer, 0, 1)
    }

    fn in_promote_mode_a_group_is_followed_and_an_alarm_says_so(install) {
        let mut scene = scene(install, "60s")?;
        let file = scene.following().replace("\"follow\"", "\"promote\"");
        scene.agent.write_cluster("orders", &file)?;
        scene.agent.shunt_ok(&["reload"])?;
        eventually("the alarm", PATIENCE, || Ok(scene.alarms()?.contains(&"not_in_force".to_owned()).then_some(())))?;
        let writer = scene.write(Pace::default())?;
        scene.cluster.server(0).kill()?;
        let new = group::wait_for_successor(&scene.cluster, 0, 1)?;
        ensure_writes_reach(&scene, &writer, new)?;
        ensure_kept_after(&mut scene, writer, new, 2)
    }
}

grouped! { Mariadb, mariadb, galera::provider;

    fn nobody_but_one_node_is_mapped_while_all_take_writes(install) {
        let mut scene = scene(install, "60s")?;
        let writer = scene.write(Pace::default())?;
        wait_for_readers(&scene, &[1, 2])?;
        let show = scene.wait_verdict("healthy")?;
        ensure!(show["alarms"].as_array().is_none_or(Vec::is_empty), "{show}");
        for _ in 0..10 {
            ensure!(scene.reached()? == 1);
        }
        ensure_kept_after(&mut scene, writer, 0, 1)
    }

    fn after_kill_9_of_the_mapped_node_another_takes_over(install) {
        let mut scene = scene(install, "60s")?;
        let writer = scene.write(Pace::default())?;
        scene.cluster.server(0).kill()?;
        scene.wait_mapped(1)?;
        galera::wait_for_size(scene.cluster.server(1), 2)?;
        ensure_writes_reach(&scene, &writer, 1)?;
        scene.wait_verdict("healthy")?;
        wait_for_readers(&scene, &[2])?;
        ensure_kept_after(&mut scene, writer, 1, 2)
    }

    fn a_node_that_is_cut_off_from_the_others_and_not_from_us_is_left(install) {
        let mut scene = scene(install, "60s")?;
        let writer = scene.write(Pace::default())?;
        let said = idle_connection(&scene, || {
            isolate(&scene, 0)?;
            galera::wait_for_component(&scene.cluster.servers()[0], "non-Primary")?;
            scene.wait_mapped(1)?;
            eventually("the old connections to be severed", PATIENCE, || Ok(scene.events("severed")?.pop()))
        })?;
        ensure!(said.is_err(), "the old connection was answered by server {said:?}");
        ensure_writes_reach(&scene, &writer, 1)?;
        wait_for_readers(&scene, &[2])?;
        let show = scene.wait_verdict("healthy")?;
        ensure!(show["servers"][0].to_string().contains("not in a primary component"), "{show}");
        ensure_kept_after(&mut scene, writer, 1, 2)
    }

    fn without_a_primary_component_nobody_is_mapped(install) {
        let mut scene = scene(install, "60s")?;
        isolate(&scene, 0)?;
        scene.wait_mapped(1)?;
        isolate(&scene, 1)?;
        scene.wait_verdict("none")?;
        let list = scene.agent.list()?;
        ensure!(list["listeners"][0]["state"] == "held", "{list}");
        ensure!(scene.alarms()?.contains(&"no_primary".to_owned()));
        // The two that were together last are one again.
        scene.cluster.server(1).host().heal()?;
        let mapped = eventually("one of them to be mapped", PATIENCE, || {
            Ok(agent::backends(&scene.agent.list()?, scene.listener()).and_then(|mut backends| backends.pop()))
        })?;
        ensure!(scene.addresses()[1..].iter().any(|server| server.to_string() == mapped), "{mapped}");
        Ok(())
    }

    fn a_desynchronised_node_is_kept_and_takes_readers_unless_it_is_blocked(install) {
        let mut scene = scene(install, "2s")?;
        let writer = scene.write(Pace::default())?;
        wait_for_readers(&scene, &[1, 2])?;
        for number in [0, 1] {
            scene.cluster.server(number).sql("SET GLOBAL wsrep_desync = ON")?;
            galera::wait_for_state(scene.cluster.server(number), "Donor/Desynced")?;
        }
        // It is kept where it is mapped, and takes readers where it was a reader.
        let told = |show: &Value, number: usize| show["servers"][number].to_string().contains("Donor/Desynced");
        eventually("the agent to see both", PATIENCE, || {
            let show = scene.agent.show("orders")?;
            Ok((told(&show, 0) && told(&show, 1)).then_some(()))
        })?;
        ensure_writes_reach(&scene, &writer, 0)?;
        wait_for_readers(&scene, &[1, 2])?;
        // Blocked, as one is that feeds another by copying its files.
        scene.cluster.server(1).sql("FLUSH TABLES WITH READ LOCK")?;
        wait_for_readers(&scene, &[2])?;
        scene.cluster.server(1).sql("UNLOCK TABLES")?;
        wait_for_readers(&scene, &[1, 2])?;
        // When the mapped one dies, the one that is Synced is preferred.
        scene.cluster.server(0).kill()?;
        ensure_writes_reach(&scene, &writer, 2)?;
        ensure_kept_after(&mut scene, writer, 2, 2)
    }
}
