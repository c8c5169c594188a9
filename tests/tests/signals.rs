//! What traffic tells: a server that falls silent is asked at once, and one that takes its time is left alone.

use std::io::{Read as _, Write as _};
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use shunt_tests::client::{Pace, ask};
use shunt_tests::ports::connect;
use shunt_tests::{Datapath, Host, Install, Scene, eventually, with_mysql};

const SOON: Duration = Duration::from_secs(30);

/// The servers are asked so seldom that nothing is noticed by itself while a test lasts.
const SELDOM: &str = "[probe]\ninterval = \"1m\"\n";

fn on_ebpf(install: &Install, count: u8) -> Result<Scene> {
    Datapath::Ebpf.run(|| {
        let mut scene = Scene::prepare(install, count)?;
        scene.agent.write_settings("[agent]\nhttp = \"127.0.0.1:9306\"\n")?;
        scene.agent.write_cluster("orders", &format!("{}\n{SELDOM}", scene.following()))?;
        scene.agent.start()?;
        scene.wait_mapped(0)?;
        scene.wait_verdict("healthy")?;
        Ok(scene)
    })
}

fn metrics(proxy: &Host) -> Result<String> {
    let mut stream = connect(proxy, SocketAddr::from(([127, 0, 0, 1], 9306)), SOON)?;
    stream.write_all(b"GET /metrics HTTP/1.0\r\n\r\n")?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    Ok(text)
}

fn id(event: &Value) -> Result<i64> {
    event["id"].as_i64().with_context(|| format!("{event} has no number"))
}

with_mysql! {
    fn a_silent_loss_is_suspected_by_clients_traffic_before_any_probe_would_have_asked(install) {
        let mut scene = on_ebpf(install, 2)?;
        let writer = scene.write(Pace::default())?;
        ensure!(scene.events("suspected")?.is_empty(), "{:?}", scene.events("suspected")?);
        scene.cluster.server(0).host().link_down()?;
        let told = eventually("a suspicion", SOON, || Ok(scene.events("suspected")?.into_iter().next()))
            .with_context(|| scene.agent.log(30))?;
        let message = told["message"].as_str().unwrap_or_default();
        let primary = scene.addresses()[0].to_string();
        ensure!(message.contains(&format!("clients get no answer from {primary} through {}", scene.listener())), "{told}");
        ensure!(told["data"]["server"] == primary.as_str() && told["cluster"] == "orders", "{told}");
        // What the probes then say is what counts, and they would not have asked for an hour.
        let verdict = eventually("the probes to say so as well", SOON, || {
            Ok(scene.events("verdict")?.into_iter().find(|event| event["data"]["verdict"] == "suspect"))
        })
        .with_context(|| scene.agent.log(30))?;
        ensure!(id(&told)? < id(&verdict)?, "{told} was first, {verdict} second");
        scene.wait_verdict("dead")?;
        drop(writer);
        Ok(())
    }

    fn a_long_statement_and_an_idle_connection_are_no_suspicion(install) {
        let scene = on_ebpf(install, 1)?;
        let (to, flavour) = (scene.listener(), scene.cluster.flavour());
        let slept = ask(&scene.client, to, flavour, "SELECT CAST(SLEEP(3) AS CHAR)", SOON)?;
        ensure!(slept == "0", "{slept}");
        ensure!(scene.events("suspected")?.is_empty(), "{:?}", scene.events("suspected")?);
        Ok(())
    }

    fn metrics_tell_how_backends_answer(install) {
        let scene = on_ebpf(install, 1)?;
        scene.reached()?;
        let text = metrics(&scene.proxy)?;
        let pair = format!(
            "{{cluster=\"orders\",listener=\"{}\",backend=\"{}\"",
            scene.listener(),
            scene.addresses()[0]
        );
        let told = |name: &str, more: &str| -> Result<&str> {
            let line = format!("{name}{pair}{more}}} ");
            text.lines().find_map(|one| one.strip_prefix(&line)).with_context(|| format!("no {line} in\n{text}"))
        };
        let signal = |name: &str| -> Result<u64> {
            Ok(told("shunt_backend_signals_total", &format!(",signal=\"{name}\""))?.parse()?)
        };
        let opened = signal("syn")?;
        ensure!(opened >= 1 && signal("syn_ack")? == opened && signal("refused")? == 0, "{text}");
        ensure!(told("shunt_connect_duration_seconds_count", "")?.parse::<u64>()? == opened, "{text}");
        ensure!(told("shunt_connect_duration_seconds_sum", "")?.parse::<f64>()? > 0.0, "{text}");
        Ok(())
    }
}
