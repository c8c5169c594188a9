//! One host of the lab: a namespace with one link into the LAN.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use anyhow::Result;

use crate::Netns;

/// The table in a host's own namespace that cuts it off from others.
const CUT: &str = "lab_cut";

pub struct Host {
    pub(crate) ns: Netns,
    pub(crate) name: String,
    pub(crate) v4: Ipv4Addr,
    pub(crate) v6: Ipv6Addr,
}

impl Host {
    pub fn name(&self) -> &str {
        &self.name
    }

    pub fn ns(&self) -> &Netns {
        &self.ns
    }

    pub fn v4(&self) -> IpAddr {
        self.v4.into()
    }

    pub fn v6(&self) -> IpAddr {
        self.v6.into()
    }

    /// The IPv4 address with that port.
    pub fn at(&self, port: u16) -> SocketAddr {
        SocketAddr::new(self.v4(), port)
    }

    /// More addresses on the same link.
    pub fn add_addresses(&self, addresses: &[IpAddr]) -> Result<()> {
        let lines: Vec<String> = addresses
            .iter()
            .map(|address| match address {
                IpAddr::V4(a) => format!("address add {a}/16 dev eth0"),
                IpAddr::V6(a) => format!("address add {a}/64 dev eth0 nodad"),
            })
            .collect();
        self.ns.ip(&lines.join("\n"))
    }

    /// The silent death: nothing is refused, nothing answers.
    pub fn link_down(&self) -> Result<()> {
        self.ns.ip("link set eth0 down")
    }

    /// Undoes [`Self::link_down`]. Global IPv6 addresses stay, too (see `keep_addr_on_down` in [`crate::Lan::host`]).
    pub fn link_up(&self) -> Result<()> {
        self.ns.ip("link set eth0 up")
    }

    /// Lets the host forward packets between others.
    pub fn forward(&self) -> Result<()> {
        self.ns.sysctl("ipv4/ip_forward", "1")?;
        self.ns.sysctl("ipv6/conf/all/forwarding", "1")
    }

    /// Drops everything to and from `other`, in this host's own namespace.
    pub fn cut(&self, other: &Host) -> Result<()> {
        self.cut_all(&[other])
    }

    /// The same for several hosts at once: the rest of the LAN is still there.
    pub fn cut_all(&self, others: &[&Host]) -> Result<()> {
        let set = |of: fn(&Host) -> String| others.iter().map(|host| of(host)).collect::<Vec<_>>().join(", ");
        let (v4, v6) = (set(|host| host.v4.to_string()), set(|host| host.v6.to_string()));
        // Negative priorities: before anybody's NAT or tracking sees the packet.
        self.ns.nft(&format!(
            "table inet {CUT} {{
                chain in {{ type filter hook prerouting priority -400; ip saddr {{ {v4} }} drop; ip6 saddr {{ {v6} }} drop; }}
                chain out {{ type filter hook postrouting priority 400; ip daddr {{ {v4} }} drop; ip6 daddr {{ {v6} }} drop; }}
            }}"
        ))
    }

    /// Undoes every [`Self::cut`].
    pub fn heal(&self) -> Result<()> {
        self.ns.nft(&format!("table inet {CUT} {{}}\ndelete table inet {CUT}"))
    }
}
