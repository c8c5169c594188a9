//! Whether nf_tables does what the datapath needs, proved by a real transaction, and who else rewrites the same ports.

use std::net::SocketAddr;

use super::Finding;
use crate::config::{AgentConfig, DatapathKind};
use crate::driver::error_chain;

const CHECK: &str = "nftables";
const FOREIGN: &str = "foreign NAT";

pub fn check(agent: &AgentConfig) -> Finding {
    let needs = "the kernel needs nf_tables with nat, ct, reject, masq, numgen: load its modules, or run this as root";
    match shunt_rules::scratch_transaction(&format!("{}_doctor", agent.table)) {
        Ok(()) => {
            Finding::ok(CHECK, "a scratch table with a map, a set with timeouts and NAT rules was made and removed")
        }
        Err(error) if agent.datapath == DatapathKind::Nft => Finding::problem(CHECK, error_chain(&error), needs),
        Err(error) => Finding::note(
            CHECK,
            error_chain(&error),
            format!("nothing: the datapath is eBPF. For `datapath = \"nft\"`: {needs}"),
        ),
    }
}

/// Rules that may see a connection first.
pub fn foreign_nat(table: &str, listeners: &[SocketAddr]) -> Vec<Finding> {
    let mut found = Vec::new();
    match shunt_rules::foreign_nat(table, listeners) {
        Ok(rules) if rules.is_empty() => {
            found.push(Finding::ok(FOREIGN, "nobody else rewrites destinations on this host"));
        }
        Ok(rules) => found.extend(rules.into_iter().map(|rule| {
            Finding::warning(
                FOREIGN,
                rule.to_string(),
                "whichever rule sees a connection first wins: take the other one away",
            )
        })),
        Err(error) => found.push(Finding::note(FOREIGN, error_chain(&error), "other tables could not be read")),
    }
    found
}
