//! A listener's address must be this host's, or be routed to it; a VIP may come later. The same goes for pools.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr, TcpListener};

use super::Finding;
use crate::route;

const CHECK: &str = "listeners";

pub fn check(listeners: &[SocketAddr], pooled: &BTreeSet<IpAddr>) -> Vec<Finding> {
    let addresses: BTreeSet<IpAddr> = listeners.iter().map(SocketAddr::ip).collect();
    let advice =
        "right for a VIP that is elsewhere now, and for an address that is routed here; else give it to this host";
    let mut found: Vec<_> = addresses
        .into_iter()
        .map(|address| match route::is_local(address) {
            Ok(true) => Finding::ok(CHECK, format!("{address} is an address of this host")),
            Ok(false) => Finding::note(CHECK, format!("{address} is not an address of this host"), advice),
            Err(error) => Finding::warning(
                CHECK,
                format!("cannot ask the kernel whose address {address} is: {error}"),
                "allow this user a netlink socket (AF_NETLINK)",
            ),
        })
        .collect();
    found.extend(pooled.iter().filter(|&&address| matches!(route::is_local(address), Ok(false))).map(|address| {
        Finding::note(
            CHECK,
            format!("{address}, of a pool of source addresses, is not an address of this host"),
            advice,
        )
    }));
    found.extend(listeners.iter().filter(|l| l.ip().is_loopback()).map(|listener| {
        Finding::warning(
            CHECK,
            format!("{listener} is a loopback address"),
            "only this host's own programs can reach it, and the kernel sends 127.0.0.0/8 nowhere unless route_localnet is set",
        )
    }));
    // NAT comes before a local socket, so a program that listens there is never reached.
    found.extend(listeners.iter().filter(|l| is_taken(l)).map(|listener| {
        Finding::warning(
            CHECK,
            format!("a program of this host listens on {listener}"),
            "it gets no connections while shunt maps that listener: stop it, or choose another port",
        )
    }));
    found
}

fn is_taken(listener: &SocketAddr) -> bool {
    matches!(TcpListener::bind(listener), Err(error) if error.kind() == std::io::ErrorKind::AddrInUse)
}
