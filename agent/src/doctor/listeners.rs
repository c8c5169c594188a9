//! A listener's address must be this host's, or be routed to it; a VIP may come later.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr, TcpListener, UdpSocket};

use super::Finding;

const CHECK: &str = "listeners";

pub fn check(listeners: &[SocketAddr]) -> Vec<Finding> {
    let addresses: BTreeSet<IpAddr> = listeners.iter().map(SocketAddr::ip).collect();
    let mut found: Vec<_> = addresses
        .into_iter()
        .map(|address| match UdpSocket::bind((address, 0)) {
            Ok(_) => Finding::ok(CHECK, format!("{address} is an address of this host")),
            Err(_) => Finding::note(
                CHECK,
                format!("{address} is not an address of this host"),
                "right for a VIP that is elsewhere now; connections work as soon as it is here",
            ),
        })
        .collect();
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
