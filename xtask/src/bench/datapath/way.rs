//! The ways from client to server that are compared. Each has a proxy host of its own, and all those hosts are made
//! alike: conntrack in a namespace costs whatever passes through that namespace, and no way shall pay for another.

use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result};
use shunt_tests::jail::INSIDE;
use shunt_tests::scratch::Dir;
use shunt_tests::{Host, Lan, Process, eventually, netns};

use super::load::{Row, connect};
use super::select::Selects;
use super::{MYSQL, TCP};
use crate::bench::driver::{Datapath, Driver};
use crate::setup::rivals::Rival;

/// A way's proxy must serve within this time of its start.
const START: Duration = Duration::from_secs(20);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Direct,
    Iptables,
    /// The reference: what NAT by a map costs, with nothing else.
    BareMap,
    ShuntNft,
    /// The least that a tc program can do: fixed addresses, no table.
    Floor,
    ShuntEbpf,
    Rival(Rival),
}

impl Kind {
    pub const ALL: [Self; 8] = [
        Self::Direct,
        Self::Floor,
        Self::ShuntEbpf,
        Self::Iptables,
        Self::BareMap,
        Self::ShuntNft,
        Self::Rival(Rival::Haproxy),
        Self::Rival(Rival::MysqlRouter),
    ];

    pub const fn title(self) -> &'static str {
        match self {
            Self::Direct => "direct",
            Self::Iptables => "iptables, DNAT + MASQUERADE",
            Self::BareMap => "bare nft map",
            Self::ShuntNft => "shunt-nft",
            Self::Floor => "floor: fixed, by eBPF",
            Self::ShuntEbpf => "shunt-ebpf",
            Self::Rival(Rival::Haproxy) => "HAProxy, tcp mode",
            Self::Rival(Rival::MysqlRouter) => "MySQL Router, passthrough",
        }
    }

    pub const fn key(self) -> &'static str {
        match self {
            Self::Direct => "direct",
            Self::Iptables => "iptables",
            Self::BareMap => "bare_map",
            Self::ShuntNft => "shunt_nft",
            Self::Floor => "floor",
            Self::ShuntEbpf => "shunt_ebpf",
            Self::Rival(Rival::Haproxy) => "haproxy",
            Self::Rival(Rival::MysqlRouter) => "mysql_router",
        }
    }

    pub const fn is_shunt(self) -> bool {
        matches!(self, Self::ShuntNft | Self::ShuntEbpf)
    }

    pub fn carries(self, row: Row) -> bool {
        // It speaks MySQL only.
        self != Self::Rival(Rival::MysqlRouter) || row == Row::Select
    }
}

/// A way that is ready.
pub struct Way {
    pub kind: Kind,
    /// What exactly it is: a version.
    pub version: Option<String>,
    /// Where its clients connect.
    address: IpAddr,
    // Fields drop in order: what runs on the host ends before it.
    running: Running,
    host: Option<Host>,
}

/// What a way needs while it is used.
#[derive(Default)]
struct Running {
    driver: Option<Driver>,
    _process: Option<Process>,
    _dir: Option<Dir>,
}

impl Way {
    /// Sets it up; an error is the reason why there is none.
    pub fn open(kind: Kind, number: u8, lan: &Lan, client: &Host, server: &Host, driver: &Path) -> Result<Self> {
        let way = if kind == Kind::Direct {
            Self { kind, version: None, address: server.v4(), running: Running::default(), host: None }
        } else {
            let host = lan.host(kind.key(), number)?;
            ready_for_many(&host)?;
            if kind == Kind::ShuntEbpf {
                leave_ports(&host)?;
            }
            host.forward()?;
            // First, for it knows best why there is none.
            let version = version(kind, &host)?;
            let running = lead(kind, &host, client, server, driver)?;
            if matches!(kind, Kind::Iptables | Kind::BareMap | Kind::ShuntNft) {
                forget_closed_soon(&host)?;
            }
            Self { kind, version, address: host.v4(), running, host: Some(host) }
        };
        let to = |row| way.to(row);
        eventually(&format!("a way through {}", kind.title()), START, || {
            client.ns().inside(|| -> Result<()> {
                Selects::open(to(Row::Select))?.next()?;
                if kind.carries(Row::RequestReply) {
                    connect(to(Row::RequestReply))?;
                }
                Ok(())
            })??;
            Ok(Some(()))
        })?;
        Ok(way)
    }

    /// Takes the chains away that shunt's table has beside those for NAT.
    pub fn unguard(&self) -> Result<()> {
        let chains = ["early", "input", "forward", "output"];
        let taken = chains.map(|chain| format!("flush chain inet shunt {chain}; delete chain inet shunt {chain}\n"));
        self.host.as_ref().context("there is nothing to guard")?.ns().nft(&taken.concat())
    }

    /// Has the datapath put back what is missing.
    pub fn guard(&mut self) -> Result<()> {
        self.running.driver.as_mut().context("there is nobody to guard")?.repair()
    }

    /// Where an operation's connections go.
    pub fn to(&self, row: Row) -> SocketAddr {
        SocketAddr::new(self.address, if row == Row::Select { MYSQL } else { TCP })
    }
}

fn version(kind: Kind, host: &Host) -> Result<Option<String>> {
    Ok(match kind {
        // iptables v1.8.9 (nf_tables)
        Kind::Iptables => {
            let text = host.ns().run("iptables", &["--version"])?;
            text.split_whitespace().nth(1).map(|word| word.trim_start_matches('v').to_owned())
        }
        Kind::Rival(rival) => Some(rival.version()?),
        Kind::Direct | Kind::BareMap | Kind::ShuntNft | Kind::Floor | Kind::ShuntEbpf => None,
    })
}

/// Has the proxy's host lead both ports to the server.
fn lead(kind: Kind, host: &Host, client: &Host, server: &Host, driver: &Path) -> Result<Running> {
    let (here, there) = (host.v4(), server.v4());
    match kind {
        Kind::Direct => {}
        Kind::Iptables => {
            for port in [MYSQL, TCP] {
                let to = format!("PREROUTING -d {here} --dport {port} -j DNAT --to-destination {there}:{port}");
                iptables(host, &to)?;
                iptables(host, &format!("POSTROUTING -d {there} --dport {port} -j MASQUERADE"))?;
            }
        }
        Kind::BareMap => host.ns().nft(&format!(
            "table ip bare {{
                map to {{
                    type ipv4_addr . inet_service : ipv4_addr . inet_service
                    elements = {{ {here} . {MYSQL} : {there} . {MYSQL}, {here} . {TCP} : {there} . {TCP} }}
                }}
                chain prerouting {{ type nat hook prerouting priority dstnat; dnat ip to ip daddr . tcp dport map @to; }}
                chain postrouting {{ type nat hook postrouting priority srcnat; ct status dnat masquerade; }}
            }}"
        ))?,
        Kind::Floor => {
            let driver = Driver::floor(driver, host, client, server)?;
            return Ok(Running { driver: Some(driver), ..Running::default() });
        }
        Kind::ShuntNft | Kind::ShuntEbpf => {
            let datapath = if kind == Kind::ShuntNft { Datapath::Nft } else { Datapath::Ebpf };
            let mut driver = Driver::start(driver, datapath, host)?;
            driver.lead(&[MYSQL, TCP].map(|port| (host.at(port), server.at(port))))?;
            return Ok(Running { driver: Some(driver), ..Running::default() });
        }
        Kind::Rival(rival) => return start(rival, host, server),
    }
    Ok(Running::default())
}

fn start(rival: Rival, host: &Host, server: &Host) -> Result<Running> {
    let dir = Dir::new(host.name())?;
    let config = match rival {
        Rival::Haproxy => haproxy(host, server),
        Rival::MysqlRouter => router(host, server),
    };
    std::fs::write(dir.path().join("config"), config)?;
    let inside = format!("{INSIDE}/config");
    let mut command = rival.command(dir.path())?;
    match rival {
        Rival::Haproxy => command.args(["-db", "-f", &inside]),
        Rival::MysqlRouter => command.args(["--user", "root", "-c", &inside]),
    };
    netns::enter_before_exec(&mut command, host.ns().path())?;
    let log = dir.path().join("output");
    let process = Process::spawn(rival.title(), command, Some(&log))?;
    Ok(Running { _process: Some(process), _dir: Some(dir), driver: None })
}

/// Thousands of connections a second must not run out of ports: one that was closed is free again after a second.
pub fn ready_for_many(host: &Host) -> Result<()> {
    host.ns().sysctl("ipv4/ip_local_port_range", "1024 65535")?;
    host.ns().sysctl("ipv4/tcp_tw_reuse", "1")
}

/// shunt-ebpf gives its flows the ports that the host does not keep for its own clients, of which there are few here.
fn leave_ports(host: &Host) -> Result<()> {
    host.ns().sysctl("ipv4/ip_local_port_range", "1024 1151")
}

/// The same for the ports that NAT gives out. Conntrack must have been put to use before, or there is no such setting.
pub fn forget_closed_soon(host: &Host) -> Result<()> {
    host.ns().sysctl("netfilter/nf_conntrack_tcp_timeout_time_wait", "1")
}

fn iptables(host: &Host, rule: &str) -> Result<()> {
    let mut words = vec!["--wait", "-t", "nat", "-p", "tcp", "-A"];
    words.extend(rule.split(' '));
    host.ns().run("iptables", &words).map(drop).context("iptables takes no rules here")
}

fn haproxy(host: &Host, server: &Host) -> String {
    let mut text = "global\n  maxconn 2000\ndefaults\n  mode tcp\n  timeout connect 5s\n  timeout client 1m\n  timeout server 1m\n".to_owned();
    for port in [MYSQL, TCP] {
        text += &format!("listen port{port}\n  bind {}\n  server db {}\n", host.at(port), server.at(port));
    }
    text
}

fn router(host: &Host, server: &Host) -> String {
    format!(
        "[DEFAULT]
logging_folder=
runtime_folder={INSIDE}
data_folder={INSIDE}
[logger]
level=WARNING
[routing:bench]
bind_address={}
bind_port={MYSQL}
destinations={}
routing_strategy=first-available
protocol=classic
client_ssl_mode=PASSTHROUGH
server_ssl_mode=AS_CLIENT
",
        host.v4(),
        server.at(MYSQL)
    )
}
