//! A host two routers away from the proxy, with a narrow link on the way: packets that are too large for it are answered
//! by ICMP from there, and only the ends can make them smaller.
//!
//! ```text
//! proxy ──10.77.4.0/24── near ──10.77.5.0/24── remote ──10.77.6.0/24── far
//! ```

use std::net::IpAddr;

use anyhow::Result;

use super::{Ip, PROXY, Star};
use crate::Netns;

pub struct Far {
    pub near: Netns,
    pub remote: Netns,
    pub host: Netns,
}

impl Far {
    /// `mtu`: that of the link in network `narrow`, 4 or 5, in bytes.
    pub fn new(star: &Star, narrow: u8, mtu: u16) -> Result<Self> {
        let far = Self { near: Netns::new("near")?, remote: Netns::new("remote")?, host: Netns::new("far")? };
        for router in [&far.near, &far.remote] {
            router.sysctl("ipv4/ip_forward", "1")?;
            router.sysctl("ipv6/conf/all/forwarding", "1")?;
        }
        let proxy = star.host(PROXY);
        for (net, (left, right)) in (4..).zip([(proxy, &far.near), (&far.near, &far.remote), (&far.remote, &far.host)])
        {
            let mtu = if net == narrow { mtu } else { 1500 };
            left.ip(&format!(
                "link add to{net} mtu {mtu} type veth peer name from{net} mtu {mtu} netns {}\n{}",
                right.name(),
                addresses(net, 1, "to")
            ))?;
            right.ip(&addresses(net, 2, "from"))?;
        }
        for (host, nets, via) in [
            (proxy, &[5, 6][..], "4 2"),
            (&far.near, &[6], "5 2"),
            (&far.near, &[0], "4 1"),
            (&far.remote, &[0], "5 1"),
            (&far.host, &[0], "6 1"),
        ] {
            let (net, number) = via.split_once(' ').unwrap_or_default();
            for to in nets {
                let (v4, v6) = match to {
                    0 => ("0.0.0.0/0".to_owned(), "::/0".to_owned()),
                    to => (format!("10.77.{to}.0/24"), format!("fd77:{to}::/64")),
                };
                host.ip(&format!("route add {v4} via 10.77.{net}.{number}\nroute add {v6} via fd77:{net}::{number}"))?;
            }
        }
        Ok(far)
    }

    pub fn address(&self, ip: Ip) -> IpAddr {
        ip.address(6, 2)
    }
}

fn addresses(net: u8, number: u8, link: &str) -> String {
    format!(
        "address add 10.77.{net}.{number}/24 dev {link}{net}\n\
         address add fd77:{net}::{number}/64 dev {link}{net} nodad\nlink set {link}{net} up"
    )
}
