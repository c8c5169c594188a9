//! What the agent needs of its host, and says when it is not so.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use anyhow::{Result, ensure};
use shunt_tests::client::ask;
use shunt_tests::{Scene, agent, eventually, with_mysql};

const SOON: Duration = Duration::from_secs(30);

fn wait_for_alarm(scene: &Scene, kind: &str, wanted: bool) -> Result<()> {
    let what = format!("the alarm {kind} to be {}", if wanted { "raised" } else { "over" });
    eventually(&what, SOON, || Ok((scene.alarms()?.contains(&kind.to_owned()) == wanted).then_some(())))
}

with_mysql! {
    fn a_listeners_address_that_is_not_there_is_an_alarm_and_works_once_it_appears(install) {
        let mut scene = Scene::prepare(install, 2)?;
        let vip = IpAddr::from(Ipv4Addr::new(10, 77, 0, 200));
        let listener = SocketAddr::new(vip, 3306);
        scene.agent.write_cluster("orders", &agent::following("orders", &scene.addresses(), listener))?;
        scene.agent.start()?;
        scene.agent.wait_mapped(listener, scene.addresses()[0])?;
        wait_for_alarm(&scene, "address_absent", true)?;
        for round in 1..=2 {
            scene.proxy.add_addresses(&[vip])?;
            let id = ask(&scene.client, listener, install.flavour, "SELECT CAST(@@server_id AS CHAR)", SOON)?;
            ensure!(id == "1");
            wait_for_alarm(&scene, "address_absent", false)?;
            scene.proxy.ns().ip(&format!("address del {vip}/16 dev eth0"))?;
            wait_for_alarm(&scene, "address_absent", true)?;
            ensure!(scene.events("address_back")?.len() == round && scene.events("address_gone")?.len() == round + 1);
        }
        // A whole network may be this host's without being an interface's.
        scene.proxy.ns().ip("route add local 10.77.0.192/27 dev lo")?;
        wait_for_alarm(&scene, "address_absent", false)?;
        Ok(())
    }

    fn nat_of_somebody_else_for_a_listeners_port_is_an_alarm_while_it_is_there(install) {
        let scene = Scene::start(install, 1)?;
        scene.agent.shunt_ok(&["pin", "orders", &scene.addresses()[0].to_string(), "--yes"])?;
        let theirs = |rule: &str| format!("table ip theirs {{ chain pre {{ type nat hook prerouting priority 0; {rule}; }}; }}");
        scene.proxy.ns().nft(&theirs("tcp dport 8080 dnat to 10.9.9.9:1"))?;
        scene.proxy.ns().nft(&theirs("tcp dport 3306 dnat to 10.9.9.9:1"))?;
        wait_for_alarm(&scene, "foreign_nat", true)?;
        let found = scene.events("foreign_nat")?;
        ensure!(found.len() == 1 && found[0]["message"].as_str().is_some_and(|m| m.contains("theirs")), "{found:?}");
        scene.proxy.ns().nft("delete table ip theirs")?;
        wait_for_alarm(&scene, "foreign_nat", false)?;
        ensure!(scene.events("foreign_nat_gone")?.len() == 1);
        Ok(())
    }
}
