//! `shunt doctor`: a file a check. A check looks, and says what it found and what to do about it; only `--fix` changes
//! anything, and only on this host.

mod capabilities;
mod conntrack;
mod ebpf;
mod forwarding;
mod grants;
mod hooks;
mod listeners;
mod nftables;
mod promoting;
mod rp_filter;
mod servers;
mod sessions;
mod settings;

use std::net::SocketAddr;
use std::path::Path;

use serde::Serialize;
use shunt_core::config::ClusterConfig;

use crate::config::{AgentConfig, DatapathKind};

pub use forwarding::fix as fix_forwarding;
pub use hooks::check as hooks;
pub use promoting::Aims;
pub use servers::{Login, servers};

/// What one check found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    pub check: &'static str,
    pub level: Level,
    /// What was found, on what.
    pub what: String,
    /// What to do about it.
    pub advice: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Level {
    Ok,
    /// Worth knowing.
    Note,
    /// Works now, and will hurt some day.
    Warning,
    /// Does not work.
    Problem,
}

impl Finding {
    pub fn ok(check: &'static str, what: impl Into<String>) -> Self {
        Self { check, level: Level::Ok, what: what.into(), advice: None }
    }

    pub fn note(check: &'static str, what: impl Into<String>, advice: impl Into<String>) -> Self {
        Self { check, level: Level::Note, what: what.into(), advice: Some(advice.into()) }
    }

    pub fn warning(check: &'static str, what: impl Into<String>, advice: impl Into<String>) -> Self {
        Self { check, level: Level::Warning, what: what.into(), advice: Some(advice.into()) }
    }

    pub fn problem(check: &'static str, what: impl Into<String>, advice: impl Into<String>) -> Self {
        Self { check, level: Level::Problem, what: what.into(), advice: Some(advice.into()) }
    }
}

/// Every check of this host. What only one of the datapaths needs is no matter where the other one is configured.
pub fn host(clusters: &[ClusterConfig], agent: &AgentConfig) -> Vec<Finding> {
    let listeners: Vec<SocketAddr> = clusters.iter().flat_map(|c| c.listeners.iter().map(|l| l.address)).collect();
    let mut found = vec![capabilities::check(agent.datapath)];
    found.push(nftables::check(agent));
    if agent.datapath == DatapathKind::Nft {
        found.extend(nftables::foreign_nat(&agent.table, &listeners));
    }
    found.extend(ebpf::check(agent));
    found.extend(forwarding::check(&listeners));
    match agent.datapath {
        DatapathKind::Nft => {
            found.extend(conntrack::check());
            found.extend(rp_filter::check());
        }
        DatapathKind::Ebpf => found.extend(forwarding::by_interface(&listeners, &agent.interfaces)),
    }
    let pooled =
        clusters.iter().flat_map(|c| &c.listeners).flat_map(|l| crate::route::pool_addresses(&l.snat)).collect();
    found.extend(listeners::check(&listeners, &pooled));
    found
}

/// A number that the kernel shows as a file.
fn number(path: impl AsRef<Path>) -> Option<u64> {
    std::fs::read_to_string(path).ok()?.trim().parse().ok()
}
