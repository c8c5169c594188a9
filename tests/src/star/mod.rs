//! A star: a proxy in the middle, and a client and two databases around it, each on a network of its own. Whatever they
//! say to one another passes the proxy. The databases are plain TCP servers.
//!
//! | network | hosts (N is 1 on the proxy, 2 on the other) |
//! | --- | --- |
//! | 10.77.1.N, fd77:1::N | the client; it has .3 as well, and the others' route to 10.78.0.0/16 and fd78::/64 leads to it |
//! | 10.77.2.N, fd77:2::N | db1 |
//! | 10.77.3.N, fd77:3::N | db2 |

mod conversation;
mod counters;
mod far;
mod server;

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use anyhow::{Context, Result};

use crate::Netns;
pub use conversation::{Conversation, has_ended};
pub use counters::Counters;
pub use far::Far;
pub use server::{End, Server};

/// How long a test waits for what must come about.
pub const PATIENCE: Duration = Duration::from_secs(20);
/// The databases' port, and that of the listeners.
pub const PORT: u16 = 3306;

pub const CLIENT: &str = "client";
pub const PROXY: &str = "proxy";
pub const DBS: [&str; 2] = ["db1", "db2"];

/// The family of addresses that a test speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ip {
    V4,
    V6,
}

impl Ip {
    pub const BOTH: [Self; 2] = [Self::V4, Self::V6];

    /// The address of a host on a network of the star.
    pub fn address(self, net: u8, host: u8) -> IpAddr {
        match self {
            Self::V4 => Ipv4Addr::new(10, 77, net, host).into(),
            Self::V6 => Ipv6Addr::new(0xfd77, net.into(), 0, 0, 0, 0, 0, host.into()).into(),
        }
    }

    /// The address of that number among those that the client's host speaks for, beside its own.
    pub fn throng(self, number: u16) -> IpAddr {
        let [high, low] = number.to_be_bytes();
        match self {
            Self::V4 => Ipv4Addr::new(10, 78, high, low).into(),
            Self::V6 => Ipv6Addr::new(0xfd78, 0, 0, 0, 0, 0, 0, number).into(),
        }
    }

    /// The proxy's address on the client's network.
    pub fn listener(self) -> SocketAddr {
        (self.address(1, 1), PORT).into()
    }

    /// The client's address; it has a second one.
    pub fn client(self) -> IpAddr {
        self.address(1, 2)
    }

    pub fn second_client(self) -> IpAddr {
        self.address(1, 3)
    }

    /// The database of a number, from 0.
    pub fn db(self, number: u8) -> SocketAddr {
        (self.address(number + 2, 2), PORT).into()
    }
}

pub struct Star {
    hosts: Vec<(&'static str, Netns)>,
    servers: Vec<Server>,
}

impl Star {
    pub fn new() -> Result<Self> {
        let mut star = Self { hosts: Vec::new(), servers: Vec::new() };
        for name in [PROXY, CLIENT, DBS[0], DBS[1]] {
            star.hosts.push((name, Netns::new(name)?));
        }
        for (net, name) in (1..).zip([CLIENT, DBS[0], DBS[1]]) {
            star.host(PROXY).ip(&format!(
                "link add to{net} type veth peer name eth0 netns {}\n\
                 address add 10.77.{net}.1/24 dev to{net}\naddress add fd77:{net}::1/64 dev to{net} nodad\n\
                 link set to{net} up",
                star.host(name).name()
            ))?;
            star.host(name).ip(&format!(
                "address add 10.77.{net}.2/24 dev eth0\naddress add fd77:{net}::2/64 dev eth0 nodad\n\
                 link set eth0 up\nroute add default via 10.77.{net}.1\nroute add default via fd77:{net}::1"
            ))?;
        }
        star.host(CLIENT).ip("address add 10.77.1.3/24 dev eth0\naddress add fd77:1::3/64 dev eth0 nodad\n\
             route add local 10.78.0.0/16 dev lo\nroute add local fd78::/64 dev lo")?;
        star.host(CLIENT).sysctl("ipv6/ip_nonlocal_bind", "1")?;
        // A SYN is repeated after 1, 3, 7 and 15 seconds, as on kernels before 6.5, so that tests can tell a connection
        // that was let in from one that knocked again. Older kernels don't have the setting.
        let _ = star.host(CLIENT).sysctl("ipv4/tcp_syn_linear_timeouts", "0");
        let _ = star.host(PROXY).sysctl("ipv4/tcp_syn_linear_timeouts", "0");
        star.host(PROXY).ip("route add 10.78.0.0/16 via 10.77.1.2\nroute add fd78::/64 via fd77:1::2")?;
        star.host(PROXY).sysctl("ipv4/ip_forward", "1")?;
        star.host(PROXY).sysctl("ipv6/conf/all/forwarding", "1")?;
        for name in DBS {
            let server = star.host(name).inside(|| Server::start(name, PORT))?;
            star.servers.push(server.with_context(|| format!("cannot listen on {name}"))?);
        }
        Ok(star)
    }

    pub fn host(&self, name: &str) -> &Netns {
        let found = self.hosts.iter().find(|(host, _)| *host == name);
        &found.unwrap_or_else(|| panic!("the star has no host {name}")).1
    }

    /// The server on the database of a number, from 0.
    pub fn server(&self, number: usize) -> &Server {
        &self.servers[number]
    }

    /// Runs `work` on a thread of its own in the host's namespace. A socket stays where it was made, so it can be taken out
    /// and used like any other.
    pub fn inside<T: Send>(&self, host: &str, work: impl FnOnce() -> T + Send) -> T {
        self.host(host).inside(work).unwrap_or_else(|error| panic!("{error:#}"))
    }

    /// Connects to the listener from a host.
    pub fn dial(&self, host: &str, listener: SocketAddr) -> io::Result<Conversation> {
        self.inside(host, || Conversation::open(listener, PATIENCE))
    }

    /// The same with a limit, for connections that should not come about.
    pub fn dial_for(&self, host: &str, listener: SocketAddr, limit: Duration) -> io::Result<Conversation> {
        self.inside(host, || Conversation::open(listener, limit))
    }

    /// From one of the client's addresses.
    pub fn dial_from(&self, source: IpAddr, listener: SocketAddr) -> io::Result<Conversation> {
        self.inside(CLIENT, || Conversation::open_from(source, listener, PATIENCE))
    }

    /// Takes a database's host off the network without a word.
    pub fn unplug(&self, db: usize) -> Result<()> {
        self.host(DBS[db]).ip("link set eth0 down")
    }

    /// Undoes [`Self::unplug`], with the address and routes that went with the link.
    pub fn plug(&self, db: usize) -> Result<()> {
        let net = db + 2;
        self.host(DBS[db]).ip(&format!(
            "link set eth0 up\naddress replace fd77:{net}::2/64 dev eth0 nodad\n\
             route replace default via 10.77.{net}.1\nroute replace default via fd77:{net}::1"
        ))
    }
}

impl Drop for Star {
    fn drop(&mut self) {
        // Before the hosts: a thread in accept(2) keeps its namespace.
        self.servers.clear();
    }
}
