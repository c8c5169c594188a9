//! A LAN: a bridge in a namespace of its own, and hosts plugged into it. Addresses are 10.77.0.N/16 and fd77::N/64;
//! two LANs never meet, so every lab may use the same ones.

use std::net::{Ipv4Addr, Ipv6Addr};

use anyhow::Result;

use crate::{Host, Netns, scratch};

pub struct Lan {
    switch: Netns,
}

impl Lan {
    pub fn new() -> Result<Self> {
        let switch = Netns::new("switch")?;
        // Without snooping a bridge forwards neighbour discovery from the first packet on.
        switch.ip("link add br0 type bridge forward_delay 0 mcast_snooping 0\nlink set br0 up")?;
        Ok(Self { switch })
    }

    /// A host with the addresses 10.77.0.`number` and fd77::`number`.
    pub fn host(&self, name: &str, number: u8) -> Result<Host> {
        let ns = Netns::new(name)?;
        // Without it the kernel forgets global IPv6 addresses when the link goes down.
        ns.sysctl("ipv6/conf/default/keep_addr_on_down", "1")?;
        ns.sysctl("ipv6/conf/all/keep_addr_on_down", "1")?;
        let (v4, v6) = (Ipv4Addr::new(10, 77, 0, number), Ipv6Addr::new(0xfd77, 0, 0, 0, 0, 0, 0, u16::from(number)));
        let port = format!("p{}", scratch::unique());
        self.switch.ip(&format!(
            "link add {port} type veth peer name eth0 netns {}\nlink set {port} master br0 up",
            ns.name()
        ))?;
        ns.ip(&format!("address add {v4}/16 dev eth0\naddress add {v6}/64 dev eth0 nodad\nlink set eth0 up"))?;
        Ok(Host { ns, name: name.to_owned(), v4, v6 })
    }

    /// The bridge's own namespace: a place to listen to all traffic.
    pub fn switch(&self) -> &Netns {
        &self.switch
    }
}
