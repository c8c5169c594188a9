//! Without forwarding the kernel drops what the mapping sends on.

use std::collections::BTreeSet;
use std::net::SocketAddr;

use nix::ifaddrs::getifaddrs;
use nix::sys::socket::{AddressFamily, SockaddrLike as _};

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

/// The programs of the eBPF datapath ask the routing of the interface that a packet came in by, which has a switch of its own
/// (fib_lookup(): BPF_FIB_LKUP_RET_FWD_DISABLED). Those that are in order are not told of one by one.
pub fn by_interface(listeners: &[SocketAddr], wanted: &[String]) -> Vec<Finding> {
    let Ok(addresses) = getifaddrs() else { return Vec::new() };
    let interfaces: BTreeSet<(String, &str)> = addresses
        .filter(|entry| wanted.is_empty() || wanted.contains(&entry.interface_name))
        .filter_map(|entry| match entry.address?.family()? {
            AddressFamily::Inet => Some((entry.interface_name, "IPv4")),
            AddressFamily::Inet6 => Some((entry.interface_name, "IPv6")),
            _ => None,
        })
        .collect();
    let needed = families(listeners);
    interfaces
        .into_iter()
        .filter(|(_, family)| needed.iter().any(|(name, _)| name == family))
        .filter_map(|(interface, family)| {
            let folder = if family == "IPv4" { "ipv4" } else { "ipv6" };
            let path = format!("/proc/sys/net/{folder}/conf/{interface}/forwarding");
            (number(&path) == Some(0)).then(|| {
                Finding::problem(
                    CHECK,
                    format!("{family} forwarding is off on {interface} ({path} is 0): what comes in there is dropped"),
                    format!("set net.{folder}.conf.{interface}.forwarding = 1, or leave it out of `interfaces`"),
                )
            })
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
