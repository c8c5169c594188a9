//! What an operator does with the datapath itself: chooses it, changes it, has somebody meddle with it, takes it away.

use std::fs;
use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use shunt_tests::client::{Pace, ask};
use shunt_tests::ports::connect;
use shunt_tests::promoting::let_go;
use shunt_tests::scratch::Dir;
use shunt_tests::{
    Agent, Datapath, Host, Install, Scene, agent, each_flavour, eventually, on_each_datapath, with_mysql,
};

const SOON: Duration = Duration::from_secs(30);
const ON_EBPF: &str = "[agent]\nhttp = \"127.0.0.1:9306\"\n";

fn on_ebpf(install: &Install, count: u8) -> Result<Scene> {
    Datapath::Ebpf.run(|| Scene::start(install, count))
}

/// The folders of network namespaces that hold maps.
fn pinned(agent: &Agent) -> Vec<PathBuf> {
    let folders = fs::read_dir(agent.pins()).into_iter().flatten().flatten().map(|entry| entry.path());
    folders.filter(|folder| folder.join("maps/CONTROL").exists()).collect()
}

fn links(agent: &Agent) -> Result<Vec<PathBuf>> {
    let folder = pinned(agent).pop().context("nothing is pinned")?.join("links");
    Ok(fs::read_dir(folder)?.flatten().map(|entry| entry.path()).collect())
}

fn tables(scene: &Scene) -> Result<String> {
    scene.proxy.ns().run("nft", &["list", "tables"])
}

/// A connection that has been greeted and says nothing.
fn greeted(scene: &Scene) -> Result<TcpStream> {
    let mut stream = connect(&scene.client, scene.listener(), SOON)?;
    ensure!(stream.read(&mut [0; 512])? > 0, "the server greets");
    Ok(stream)
}

/// It ends without having said anything.
fn ensure_ended(mut stream: TcpStream) -> Result<()> {
    stream.set_read_timeout(Some(SOON))?;
    match stream.read(&mut [0; 512]) {
        Err(error) if error.kind() == ErrorKind::ConnectionReset => Ok(()),
        other => anyhow::bail!("it was not reset: {other:?}"),
    }
}

fn levels(report: &Value, check: &str) -> Vec<String> {
    let findings = report["findings"].as_array().map(Vec::as_slice).unwrap_or_default();
    let of_it = findings.iter().filter(|f| f["check"] == check);
    of_it.filter_map(|f| f["level"].as_str().map(str::to_owned)).collect()
}

each_flavour! {
    fn another_one_takes_over_at_a_restart_and_only_one_is_ever_in_force(install) {
        let mut scene = Scene::start(install, 2)?;
        for (datapath, from, to) in [(Datapath::Ebpf, "nft", "ebpf"), (Datapath::Nft, "ebpf", "nft")] {
            let idle = greeted(&scene)?;
            scene.agent.stop()?;
            scene.agent.use_datapath(datapath)?;
            scene.agent.start()?;
            ensure_ended(idle).with_context(|| scene.agent.log(60))?;
            scene.wait_mapped(0)?;
            ensure!(scene.reached()? == 1 && scene.epoch()? == 1);
            let changed = scene.events("datapath_changed")?.pop().context("it is in the history")?;
            let data = &changed["data"];
            ensure!(data["from"] == from && data["to"] == to, "{changed}");
            ensure!(data["connections"] == "1" && data["silent"] == "0", "{changed}");
            let is_nft = datapath == Datapath::Nft;
            ensure!(tables(&scene)?.contains("shunt") == is_nft && pinned(&scene.agent).is_empty() == is_nft, "{to}");
        }
        // Nothing to take away, nothing to tell.
        scene.agent.stop()?;
        scene.agent.start()?;
        ensure!(scene.events("datapath_changed")?.len() == 2);
        Ok(())
    }
}

on_each_datapath! {
    fn a_switchover_ends_the_sessions_and_loses_no_acknowledged_write(install) {
        let mut scene = Scene::start_promoting(install, 3, "data_loss = \"allow\"")?;
        scene.wait_verdict("healthy")?;
        let second = scene.addresses()[1].to_string();
        let (writer, idle) = (scene.write(Pace::default())?, greeted(&scene)?);
        scene.agent.shunt_ok(&["switchover", "orders", "--to", &second])?;
        scene.wait_mapped(1)?;
        writer.wait_for_write(Instant::now())?;
        ensure!(scene.reached()? == 2 && scene.epoch()? == 2);
        ensure_ended(idle)?;
        let acknowledged: Vec<String> = writer.finish()?.into_iter().filter_map(|a| a.outcome.ok()).collect();
        scene.ensure_kept(&acknowledged, 1)
    }

    fn a_connection_that_is_held_during_a_switchover_is_let_in_to_the_new_primary(install) {
        let scene = Scene::start_promoting(install, 3, "data_loss = \"allow\"")?;
        scene.wait_verdict("healthy")?;
        // Nobody applies any more, so it waits for the next primary, behind the fence.
        let held_back = [scene.hold_back(1)?, scene.hold_back(2)?];
        scene.cluster.servers()[0].sql("INSERT INTO app.t (note) VALUES ('left to be applied')")?;
        scene.wait_received(&[1, 2], 0)?;
        let second = scene.addresses()[1].to_string();
        let _asking = scene.agent.begin(&["switchover", "orders", "--to", &second])?;
        scene.wait_step("drain")?;
        let ensure_held = || -> Result<()> {
            let list = scene.agent.list()?;
            ensure!(list["listeners"][0]["state"] == "held", "{list}");
            Ok(())
        };
        ensure_held()?;
        let (client, to, flavour) = (&scene.client, scene.listener(), install.flavour);
        let reached = std::thread::scope(|scope| {
            let waiting = scope.spawn(|| ask(client, to, flavour, "SELECT CAST(@@server_id AS CHAR)", SOON));
            eventually("the client to knock", SOON, || Ok(knocks(client, to)?.then_some(())))?;
            ensure_held()?;
            ensure!(!waiting.is_finished(), "a held connection was answered");
            held_back.iter().try_for_each(let_go)?;
            waiting.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        });
        let reached = reached.with_context(|| scene.agent.log(60))?;
        ensure!(reached == "2", "it was let in to server {reached}");
        scene.wait_ending("done")?;
        ensure!(scene.epoch()? == 2 && scene.wait_whole(&[])? == 1);
        Ok(())
    }
}

/// Whether a socket of that host has sent a SYN there that is not answered.
fn knocks(from: &Host, to: SocketAddr) -> Result<bool> {
    // proc(5), /proc/net/tcp: local address, remote address, state; include/net/tcp_states.h.
    const SYN_SENT: &str = "02";
    let port = format!(":{:04X}", to.port());
    let sockets = from.ns().inside(|| fs::read_to_string("/proc/thread-self/net/tcp"))??;
    Ok(sockets.lines().any(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        fields.get(2).is_some_and(|remote| remote.ends_with(&port)) && fields.get(3) == Some(&SYN_SENT)
    }))
}

with_mysql! {
    fn what_the_programs_say_is_in_the_agents_log_when_it_is_asked_for(install) {
        const OPENED: &str = "a connection was opened";
        let mut scene = on_ebpf(install, 1)?;
        ensure!(scene.reached()? == 1);
        scene.agent.stop()?;
        scene.agent.write_settings("[agent]\nebpf_log = \"debug\"\n")?;
        ensure!(!scene.agent.log(1000).contains(OPENED), "{}", scene.agent.log(60));
        scene.agent.start()?;
        scene.wait_mapped(0)?;
        ensure!(scene.reached()? == 1);
        eventually("the programs to say so", SOON, || Ok(scene.agent.log(1000).contains(OPENED).then_some(())))
    }

    fn an_interface_that_is_not_there_is_named_and_costs_nothing_that_works(install) {
        let mut scene = Scene::start(install, 1)?;
        scene.agent.stop()?;
        scene.agent.use_datapath(Datapath::Ebpf)?;
        scene.agent.write_settings("[agent]\ninterfaces = [\"eth0\", \"eth7\"]\n")?;
        let error = format!("{:#}", scene.agent.start().expect_err("there is no eth7"));
        ensure!(error.contains("this host has no interface eth7; it has eth0, lo"), "{error}");
        ensure!(scene.reached()? == 1, "nftables goes on");
        ensure!(pinned(&scene.agent).is_empty());
        scene.agent.write_settings("[agent]\ninterfaces = [\"eth0\"]\n")?;
        scene.agent.start()?;
        scene.wait_mapped(0)?;
        ensure!(scene.reached()? == 1 && links(&scene.agent)?.len() == 1);
        Ok(())
    }

    fn somebody_takes_programs_and_maps_away_and_it_is_repaired_and_told(install) {
        let scene = on_ebpf(install, 1)?;
        let writer = scene.write(Pace { connect: SOON, write: SOON, ..Pace::default() })?;
        let folder = pinned(&scene.agent).pop().context("it is pinned")?;
        for victims in [links(&scene.agent)?, vec![folder.join("maps/FLOWS"), folder.join("maps/PAIRS")]] {
            let before = scene.events("drift")?.len();
            victims.iter().try_for_each(fs::remove_file)?;
            eventually("the repair to be in the history", SOON, || {
                Ok((scene.events("drift")?.len() > before).then_some(()))
            })?;
            ensure!(victims.iter().all(|path| path.exists()), "{victims:?}");
            writer.wait_for_write(Instant::now())?;
            ensure!(scene.reached()? == 1);
        }
        ensure!(scene.alarms()?.is_empty(), "{:?}", scene.alarms()?);
        Ok(())
    }

    fn an_interface_that_comes_later_is_no_drift_and_carries_connections(install) {
        let scene = on_ebpf(install, 1)?;
        let before = links(&scene.agent)?.len();
        scene.proxy.ns().ip("link add late type veth peer name far\nlink set late up\nlink set far up\naddress add 10.99.0.1/24 dev late")?;
        eventually("the programs to be attached to it", SOON, || {
            Ok((links(&scene.agent)?.len() > before).then_some(()))
        })?;
        scene.proxy.ns().ip("link delete late")?;
        eventually("its link to go", SOON, || Ok((links(&scene.agent)?.len() == before).then_some(())))?;
        ensure!(scene.events("drift")?.is_empty(), "{:?}", scene.events("drift")?);
        ensure!(scene.reached()? == 1);
        Ok(())
    }

    fn what_cannot_be_opened_does_not_cost_the_datapath_that_works(install) {
        let mut scene = on_ebpf(install, 1)?;
        let mut idle = greeted(&scene)?;
        scene.agent.stop()?;
        scene.proxy.ns().nft("table inet shunt { chain c { type filter hook input priority 0; tcp dport 9 drop; }; }")?;
        scene.agent.use_datapath(Datapath::Nft)?;
        let error = format!("{:#}", scene.agent.start().expect_err("the table is somebody else's"));
        ensure!(error.contains("is not shunt's"), "{error}");
        ensure!(scene.reached()? == 1, "eBPF goes on");
        idle.write_all(&[1, 0, 0, 1, 1])?;
        ensure!(idle.read(&mut [0; 512])? > 0, "a connection did not notice");
        Ok(())
    }

    fn purge_takes_the_ebpf_datapath_away_when_no_agent_uses_it(install) {
        let mut scene = on_ebpf(install, 1)?;
        let refused = scene.agent.shunt(&["purge", "--yes"])?;
        ensure!(refused.status.code() == Some(5), "{refused:?}");
        scene.agent.stop()?;
        ensure!(scene.reached()? == 1, "a stopped agent leaves the mapping");
        scene.agent.shunt_ok(&["purge", "--yes"])?;
        ensure!(pinned(&scene.agent).is_empty() && !scene.agent.pins().exists());
        let refused = connect(&scene.client, scene.listener(), SOON);
        ensure!(refused.is_err(), "nobody listens there any more");
        let again = scene.agent.shunt(&["purge", "--yes"])?;
        let said = String::from_utf8_lossy(&again.stderr).into_owned();
        ensure!(again.status.success() && said.contains("nothing was to be purged"), "{again:?}");
        scene.agent.start()?;
        scene.wait_mapped(0)?;
        ensure!(scene.reached()? == 1);
        Ok(())
    }

    fn what_is_pinned_for_a_network_namespace_goes_with_it_and_no_earlier(install) {
        let mut scene = on_ebpf(install, 1)?;
        let host = scene.lan.host("other", 9)?;
        let mut other = Agent::prepare(&host)?;
        other.share_pins(&scene.agent);
        other.use_datapath(Datapath::Ebpf)?;
        other.write_cluster("orders", &agent::following("orders", &scene.addresses(), host.at(3306)))?;
        other.start()?;
        other.wait_mapped(host.at(3306), scene.addresses()[0])?;
        other.stop()?;
        scene.agent.stop()?;
        scene.agent.start()?;
        ensure!(pinned(&scene.agent).len() == 2, "its agent may come back");
        drop((other, host));
        // The kernel takes namespaces away in its own time.
        eventually("the pins of the namespace to go", SOON, || {
            scene.agent.stop()?;
            scene.agent.start()?;
            Ok((pinned(&scene.agent).len() == 1).then_some(()))
        })?;
        ensure!(scene.reached()? == 1);
        Ok(())
    }

    fn an_agent_that_is_not_root_needs_what_the_unit_grants_and_no_more(install) {
        const UID: u32 = 65_534;
        const CAPABILITIES: &str = "+net_admin,+net_raw,+bpf,+perfmon";
        let mut scene = Datapath::Ebpf.run(|| Scene::prepare(install, 1))?;
        let dir = Dir::new("unprivileged")?;
        let (program, binary) = (dir.path().join("shunt"), dir.path().join("shunt-itself"));
        // Where it was built may be out of that user's reach.
        fs::copy(agent::binary()?, &binary)?;
        fs::write(
            &program,
            format!(
                "#!/bin/sh\nexec setpriv --reuid={UID} --regid={UID} --clear-groups --inh-caps=-all,{CAPABILITIES} \
                 --ambient-caps=-all,{CAPABILITIES} --bounding-set=-all,{CAPABILITIES} --no-new-privs {} \"$@\"\n",
                binary.display()
            ),
        )?;
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755))?;
        scene.agent = Datapath::Ebpf.run(|| Agent::prepare_program(&scene.proxy, program))?;
        scene.agent.write_cluster("orders", &scene.following())?;
        // As tmpfiles.d makes it: the file system is root's, the folder in it the user's.
        let bpf = scene.agent.pins().parent().context("a folder in a file system")?;
        fs::set_permissions(bpf, fs::Permissions::from_mode(0o711))?;
        fs::create_dir(scene.agent.pins())?;
        let home = scene.agent.config().parent().context("a folder of its own")?.to_path_buf();
        for path in [&home, &scene.agent.config(), &scene.agent.config().join("password"), &scene.agent.state()] {
            chown(path, Some(UID), Some(UID))?;
        }
        chown(scene.agent.pins(), Some(UID), Some(UID))?;
        scene.agent.start()?;
        scene.wait_mapped(0)?;
        ensure!(scene.reached()? == 1);
        let report: Value = serde_json::from_slice(&scene.agent.shunt(&["doctor", "--json"])?.stdout)?;
        for check in ["eBPF", "eBPF pins", "capabilities"] {
            ensure!(levels(&report, check) == ["ok"], "{check}: {report}");
        }
        let idle = greeted(&scene)?;
        scene.agent.stop()?;
        scene.agent.use_datapath(Datapath::Nft)?;
        chown(scene.agent.config().join("shunt.toml"), Some(UID), Some(UID))?;
        scene.agent.start()?;
        ensure_ended(idle)?;
        scene.wait_mapped(0)?;
        ensure!(scene.reached()? == 1 && pinned(&scene.agent).is_empty());
        Ok(())
    }

    fn doctor_and_metrics_speak_of_the_datapath_that_is_configured(install) {
        let mut scene = Datapath::Ebpf.run(|| Scene::prepare(install, 1))?;
        scene.agent.write_settings(ON_EBPF)?;
        scene.agent.write_cluster("orders", &scene.following())?;
        scene.agent.start()?;
        scene.wait_mapped(0)?;
        ensure!(scene.reached()? == 1);
        let doctor = |scene: &Scene| -> Result<Value> {
            Ok(serde_json::from_slice(&scene.agent.shunt(&["doctor", "--json"])?.stdout)?)
        };
        scene.proxy.ns().nft(
            "table ip other { chain pre { type nat hook prerouting priority -100; tcp dport 3306 dnat to 10.9.9.9:1; }; }",
        )?;
        let report = doctor(&scene)?;
        ensure!(levels(&report, "eBPF") == ["ok"] && levels(&report, "eBPF pins") == ["ok"], "{report}");
        ensure!(levels(&report, "capabilities") == ["ok"] && levels(&report, "nftables") == ["ok"], "{report}");
        for check in ["foreign NAT", "conntrack", "rp_filter"] {
            ensure!(levels(&report, check).is_empty(), "{check}: {report}");
        }
        ensure!(scene.alarms()?.is_empty(), "{:?}", scene.alarms()?);
        scene.proxy.ns().sysctl("ipv4/conf/eth0/forwarding", "0")?;
        let report = doctor(&scene)?;
        ensure!(levels(&report, "forwarding").contains(&"problem".to_owned()), "{report}");

        let mut stream = connect(&scene.proxy, SocketAddr::from(([127, 0, 0, 1], 9306)), SOON)?;
        stream.write_all(b"GET /metrics HTTP/1.0\r\n\r\n")?;
        let mut text = String::new();
        stream.read_to_string(&mut text)?;
        ensure!(text.contains("shunt_datapath_info{datapath=\"ebpf\"} 1"), "{text}");
        let opened = text.lines().find_map(|line| line.strip_prefix("shunt_ebpf_packets_total{event=\"opened\"} "));
        ensure!(opened.is_some_and(|count| count != "0"), "{text}");
        ensure!(!text.contains("shunt_conntrack"), "{text}");
        Ok(())
    }
}
