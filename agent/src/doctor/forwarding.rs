//! Without forwarding the kernel drops what the mapping sends on.

use std::net::SocketAddr;

use super::{Finding, number};

const CHECK: &str = "forwarding";
const V4: &str = "/proc/sys/net/ipv4/ip_forward";
const V6: &str = "/proc/sys/net/ipv6/conf/all/forwarding";

pub fn check(listeners: &[SocketAddr]) -> Vec<Finding> {
    families(listeners)
        .into_iter()
        .map(|(name, path)| match number(path) {
            Some(0) => Finding::problem(
                CHECK,
                format!("{name} forwarding is off ({path} is 0)"),
                "`shunt doctor --fix` turns it on until the next boot; sysctl.d/50-shunt.conf does so for good",
            ),
            Some(_) => Finding::ok(CHECK, format!("{name} forwarding is on")),
            None => Finding::problem(CHECK, format!("cannot read {path}"), format!("does this kernel have {name}?")),
        })
        .collect()
}

/// Turns on what the listeners need and is off; says what it did.
pub fn fix(listeners: &[SocketAddr]) -> Vec<Finding> {
    families(listeners)
        .into_iter()
        .filter(|(_, path)| number(path) == Some(0))
        .map(|(name, path)| match std::fs::write(path, "1\n") {
            Ok(()) => Finding::ok(CHECK, format!("{name} forwarding has been turned on until the next boot")),
            Err(error) => Finding::problem(CHECK, format!("cannot write {path}: {error}"), "run this as root"),
        })
        .collect()
}

fn families(listeners: &[SocketAddr]) -> Vec<(&'static str, &'static str)> {
    // A host without listeners yet will most likely have IPv4 ones.
    let v4 = listeners.is_empty() || listeners.iter().any(SocketAddr::is_ipv4);
    let v6 = listeners.iter().any(SocketAddr::is_ipv6);
    [(v4, ("IPv4", V4)), (v6, ("IPv6", V6))].into_iter().filter(|(wanted, _)| *wanted).map(|(_, f)| f).collect()
}
