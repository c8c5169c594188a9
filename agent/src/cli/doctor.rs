//! `shunt doctor`: every check, and what to do about what it finds. It needs no agent.

use serde::Serialize;
use shunt_core::config::{FailoverMode, Salvage};

use super::{Args, args, block_on};
use crate::config;
use crate::control::api::SCHEMA_VERSION;
use crate::doctor::{self, Aims, Finding, Level, Login};
use crate::output::{self, Failure};

#[derive(Serialize)]
struct Report<'a> {
    schema_version: u32,
    findings: &'a [Finding],
}

pub fn run(args: &Args, options: &args::Doctor) -> Result<(), Failure> {
    let loaded = config::load(&args.config, &config::system_resolver);
    // With an error in its own file the host is judged by what an agent without a file would be told.
    let agent = loaded.agent.clone().unwrap_or_default();
    let mut findings = vec![configuration(&loaded)];
    if options.fix {
        let listeners: Vec<_> = loaded.clusters.iter().flat_map(|c| c.listeners.iter().map(|l| l.address)).collect();
        findings.extend(doctor::fix_forwarding(&listeners));
    }
    findings.extend(doctor::host(&loaded.clusters, &agent));
    if let Some(agent) = &loaded.agent {
        findings.extend(doctor::hooks(&agent.hooks));
    }
    findings.extend(block_on(async { Ok(doctor::servers(logins(&loaded)).await) })?);
    if options.json {
        output::say_json(&Report { schema_version: SCHEMA_VERSION, findings: &findings })?;
    } else {
        print(&findings);
    }
    let problems = findings.iter().filter(|f| f.level == Level::Problem).count();
    if problems > 0 {
        return Err(Failure::new(format!("{problems} problems stand in the way of a working agent")));
    }
    Ok(())
}

fn configuration(loaded: &config::Loaded) -> Finding {
    let what = format!("{}: {} clusters", loaded.dir.display(), loaded.clusters.len());
    if loaded.has_errors() {
        return Finding::problem("configuration", format!("{what}, and errors"), "`shunt config check` shows them");
    }
    if loaded.diagnostics.is_empty() {
        return Finding::ok("configuration", what);
    }
    Finding::warning("configuration", format!("{what}, and warnings"), "`shunt config check` shows them")
}

fn logins(loaded: &config::Loaded) -> Vec<Login> {
    let Some(agent) = &loaded.agent else { return Vec::new() };
    let of = |cluster: &shunt_core::config::ClusterConfig| -> Vec<Login> {
        let Some(credentials) = agent.credentials.get(&cluster.credentials) else { return Vec::new() };
        let login = |server: &shunt_core::config::ServerConfig| Login {
            cluster: cluster.name.clone(),
            server: server.address,
            label: server.label.clone(),
            credentials: credentials.clone(),
            timeout: cluster.probe.timeout,
            promoting: (cluster.failover == FailoverMode::Promote).then(|| Aims {
                data_loss: cluster.data_loss,
                replicas: cluster.servers.len() as u64 - 1,
                applies: cluster.promoting.salvage == Salvage::Apply,
            }),
        };
        cluster.servers.iter().map(login).collect()
    };
    loaded.clusters.iter().flat_map(of).collect()
}

fn print(findings: &[Finding]) {
    let colour = output::has_colour();
    for finding in findings {
        let (word, code) = match finding.level {
            Level::Ok => ("ok     ", "32"),
            Level::Note => ("note   ", "36"),
            Level::Warning => ("warning", "33"),
            Level::Problem => ("problem", "31"),
        };
        let word = if colour { format!("\x1b[{code}m{word}\x1b[0m") } else { word.to_owned() };
        output::say(&format!("{word}  {:<13}  {}", finding.check, finding.what));
        if let Some(advice) = &finding.advice {
            output::say(&format!("{:24}→ {advice}", ""));
        }
    }
}
