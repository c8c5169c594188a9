//! The commands that need no agent, or find none.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use shunt_tests::{Flavour, Scene, agent, each_flavour, eventually, with_mariadb};

const SOON: Duration = Duration::from_secs(30);

fn levels<'a>(report: &'a Value, check: &str) -> Vec<&'a str> {
    let findings = report["findings"].as_array().map(Vec::as_slice).unwrap_or_default();
    findings.iter().filter(|f| f["check"] == check).filter_map(|f| f["level"].as_str()).collect()
}

/// What of an advice can be run: what follows its explanation, up to what a statement cannot do.
fn statements(advice: &str) -> Vec<String> {
    let said = advice.rsplit_once(": ").map_or(advice, |(_, said)| said);
    let said = said.split_once(", and").map_or(said, |(said, _)| said);
    let is_sql =
        |said: &&str| ["SET ", "GRANT ", "INSTALL ", "START ", "STOP "].iter().any(|word| said.starts_with(word));
    said.split("; ").filter(is_sql).map(str::to_owned).collect()
}

each_flavour! {
    fn the_statements_of_the_doctor_prepare_a_cluster_for_promotion(install) {
        let scene = Scene::prepare(install, 2)?;
        scene.cluster.servers()[0].sql("REVOKE RELOAD ON *.* FROM shunt@'%'")?;
        scene.cluster.wait_caught_up(1, 0)?;
        let promoting =
            scene.following().replace("failover = \"follow\"", "failover = \"promote\"\nsalvage = \"apply\"");
        scene.agent.write_cluster("orders", &promoting)?;
        let findings = || -> Result<Vec<Value>> {
            let output = scene.agent.shunt(&["doctor", "--json"])?;
            let mut report: Value = serde_json::from_slice(&output.stdout)?;
            let all: Vec<Value> = serde_json::from_value(report["findings"].take())?;
            Ok(all.into_iter().filter(|f| ["grants", "promotion"].iter().any(|check| f["check"] == *check)).collect())
        };
        let is_problem = |finding: &Value| finding["level"] == "problem";
        let before = findings()?;
        let applier = if install.flavour == Flavour::Mysql { "REPLICATION_APPLIER" } else { "BINLOG REPLAY" };
        let lacks = |f: &&Value| f["level"] == "warning" && f["advice"].as_str().is_some_and(|a| a.contains(applier));
        ensure!(before.iter().filter(lacks).count() == 2, "{before:?}");
        ensure!(before.iter().filter(|f| f["check"] == "grants" && is_problem(f)).count() == 2, "{before:?}");
        ensure!(before.iter().filter(|f| f["check"] == "promotion" && is_problem(f)).count() == 2, "{before:?}");
        // What one round installs the next one sees.
        for _ in 0..2 {
            for (number, server) in scene.cluster.servers().iter().enumerate() {
                scene.cluster.set_read_only(number, false)?;
                let of_this = |f: &Value| f["what"].as_str().is_some_and(|what| what.contains(&server.address().to_string()));
                for finding in findings()?.iter().filter(|f| of_this(f)) {
                    for statement in finding["advice"].as_str().map(statements).unwrap_or_default() {
                        // A replica gets its grants from its source.
                        if number == 0 || !statement.starts_with("GRANT") {
                            server.sql(&statement).with_context(|| format!("{statement}: {finding}"))?;
                        }
                    }
                }
                scene.cluster.set_read_only(number, number > 0)?;
            }
        }
        let mut left = Vec::new();
        eventually("the last problem to be gone", SOON, || {
            left = findings()?;
            Ok((!left.iter().any(is_problem)).then_some(()))
        })
        .with_context(|| format!("{left:?}"))?;
        ensure!(left.iter().filter(lacks).count() == 0, "{left:?}");
        // MariaDB's configuration files are not within reach of a statement.
        let is_warning = |finding: &Value| finding["level"] == "warning";
        ensure!(install.flavour == Flavour::Mariadb || !left.iter().any(is_warning), "{left:?}");
        Ok(())
    }

    fn doctor_finds_what_is_amiss_and_mends_forwarding(install) {
        let mut scene = Scene::prepare(install, 2)?;
        scene.proxy.ns().sysctl("ipv4/ip_forward", "0")?;
        scene.proxy.ns().nft(
            "table ip other { chain pre { type nat hook prerouting priority -100; tcp dport 3306 dnat to 10.9.9.9:1; }; }",
        )?;
        scene.agent.write_cluster("orders", &scene.following())?;
        let doctor = |scene: &Scene, args: &[&str]| -> Result<(Option<i32>, Value)> {
            let output = scene.agent.shunt(&[&["doctor", "--json"], args].concat())?;
            Ok((output.status.code(), serde_json::from_slice(&output.stdout)?))
        };
        let (code, report) = doctor(&scene, &[])?;
        ensure!(code == Some(1), "{report}");
        ensure!(levels(&report, "forwarding") == ["problem"], "{report}");
        ensure!(levels(&report, "capabilities") == ["ok"], "{report}");
        ensure!(levels(&report, "nftables") == ["ok"], "{report}");
        ensure!(levels(&report, "foreign NAT") == ["warning"], "{report}");
        ensure!(levels(&report, "eBPF") == ["ok"], "{report}");
        ensure!(levels(&report, "login") == ["ok", "ok"], "{report}");
        ensure!(levels(&report, "grants") == ["ok", "ok"], "{report}");
        let (_, report) = doctor(&scene, &["--fix"])?;
        ensure!(!levels(&report, "forwarding").contains(&"problem"), "{report}");
        ensure!(scene.proxy.ns().run("sysctl", &["-n", "net.ipv4.ip_forward"])?.trim() == "1");

        scene.cluster.server(1).kill()?;
        let (code, report) = doctor(&scene, &[])?;
        ensure!(code == Some(1) && levels(&report, "login") == ["ok", "problem"], "{report}");
        Ok(())
    }

    fn without_an_agent_commands_say_so_and_purge_takes_the_table_away(install) {
        let mut scene = Scene::start(install, 1)?;
        let refused = scene.agent.shunt(&["purge", "--yes"])?;
        ensure!(refused.status.code() == Some(5), "{refused:?}");
        scene.agent.stop()?;
        let list = scene.agent.shunt(&["list"])?;
        ensure!(list.status.code() == Some(3), "{list:?}");
        ensure!(String::from_utf8_lossy(&list.stderr).contains("hint:"), "{list:?}");
        ensure!(scene.reached()? == 1, "a stopped agent leaves the mapping");
        ensure!(scene.agent.shunt(&["purge"])?.status.code() == Some(5), "purge asks first");
        scene.agent.shunt_ok(&["purge", "--yes"])?;
        let tables = scene.proxy.ns().run("nft", &["list", "tables"])?;
        ensure!(tables.trim().is_empty(), "{tables}");
        let again = scene.agent.shunt(&["purge", "--yes"])?;
        ensure!(again.status.success(), "{again:?}");
        let said = String::from_utf8_lossy(&again.stderr).into_owned();
        ensure!(said.contains("nothing was to be purged"), "{said}");
        let to = scene.listener();
        let refused = shunt_tests::ports::connect(&scene.client, to, Duration::from_secs(10));
        ensure!(refused.is_err(), "nobody listens there any more");
        Ok(())
    }

    fn a_foreign_table_of_our_name_is_never_touched(install) {
        let mut scene = Scene::prepare(install, 1)?;
        let theirs = "table inet shunt { chain c { type filter hook input priority 0; tcp dport 9 drop; }; }";
        scene.proxy.ns().nft(theirs)?;
        let before = scene.proxy.ns().run("nft", &["list", "ruleset"])?;
        scene.agent.write_cluster("orders", &scene.following())?;
        scene.agent.start().expect_err("the table is somebody else's");
        ensure!(scene.agent.log(30).contains("is not shunt's"), "{}", scene.agent.log(30));
        ensure!(scene.proxy.ns().run("nft", &["list", "ruleset"])? == before);
        // Under another name it works beside it.
        scene.agent.write_settings("[agent]\ntable = \"shunt_two\"\nhttp = \"\"\n")?;
        scene.agent.start()?;
        scene.wait_mapped(0)?;
        ensure!(scene.reached()? == 1);
        ensure!(agent::backends(&scene.agent.list()?, scene.listener()).is_some());
        Ok(())
    }
}

with_mariadb! {
    fn doctor_says_which_sessions_a_switchover_cannot_see_until_it_can(install) {
        let scene = Scene::prepare(install, 1)?;
        let server = &scene.cluster.servers()[0];
        let promoting = scene.following().replace("failover = \"follow\"", "failover = \"promote\"");
        scene.agent.write_cluster("orders", &promoting)?;
        let advice = || -> Result<Option<String>> {
            let output = scene.agent.shunt(&["doctor", "--json"])?;
            let report: Value = serde_json::from_slice(&output.stdout)?;
            ensure!(levels(&report, "sessions").iter().all(|level| *level == "note"), "{report}");
            let mut findings = report["findings"].as_array().into_iter().flatten();
            Ok(findings.find(|f| f["check"] == "sessions").map(|f| f["advice"].as_str().unwrap_or_default().to_owned()))
        };
        let mut told = Vec::new();
        while let Some(advice) = advice()? {
            ensure!(told.len() < 5, "it is never satisfied: {told:?}");
            let (_, statements) = advice.split_once("; to see it: ").context("an advice")?;
            for statement in statements.split("; ").map(|statement| statement.trim_start_matches("for locks: ")) {
                if ["GRANT ", "UPDATE ", "INSTALL "].iter().any(|word| statement.starts_with(word)) {
                    server.sql(statement).with_context(|| statement.to_owned())?;
                }
            }
            told.push(advice);
        }
        // The lab's servers have performance_schema, but the agent's user may not read it.
        ensure!(told.len() == 2 && told[0].contains("GRANT SELECT ON performance_schema.*"), "{told:?}");
        Ok(())
    }
}
