//! The floor: a program that carries one client's connections to one server, and can do nothing else.
//!
//! ```text
//! carry CLIENT=MAC SERVER=MAC          the only order, given once; IPv4
//! ```

use std::io::BufRead as _;
use std::net::Ipv4Addr;

use aya::programs::{SchedClassifier, TcAttachType};
use aya::{Ebpf, EbpfLoader};
use nix::ifaddrs::getifaddrs;
use nix::net::if_::{InterfaceFlags, if_nametoindex};

use crate::Outcome;

/// Built by build.rs, beside the programs that shunt carries.
static FLOOR: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/floor"));

/// Carries to the end of the input: the program goes with the link, and that with this process.
pub fn serve() -> Outcome<()> {
    let mut carrying = None;
    for line in std::io::stdin().lock().lines() {
        let line = line?;
        let words: Vec<&str> = line.split_whitespace().collect();
        match words.as_slice() {
            ["carry", client, server] if carrying.is_none() => {
                carrying = Some(carry(&client.parse()?, &server.parse()?)?);
                println!("{{}}");
            }
            _ => return Err(format!("not an order: {line}").into()),
        }
    }
    Ok(())
}

/// A host on the link.
pub struct Neighbour {
    pub address: Ipv4Addr,
    mac: [u8; 6],
}

impl std::str::FromStr for Neighbour {
    type Err = Box<dyn std::error::Error>;

    fn from_str(text: &str) -> Outcome<Self> {
        let (address, mac) = text.split_once('=').ok_or_else(|| format!("not ADDRESS=MAC: {text}"))?;
        let bytes = mac.split(':').map(|byte| u8::from_str_radix(byte, 16)).collect::<Result<Vec<_>, _>>()?;
        let mac = bytes.try_into().map_err(|_| format!("not six bytes: {mac}"))?;
        Ok(Self { address: address.parse()?, mac })
    }
}

/// This host's one interface besides the loopback.
pub struct Interface {
    name: String,
    pub number: u32,
    pub address: Ipv4Addr,
    pub mac: [u8; 6],
}

impl Interface {
    pub fn find() -> Outcome<Self> {
        let (mut name, mut address, mut mac) = (None, None, None);
        for entry in getifaddrs()?.filter(|entry| !entry.flags.contains(InterfaceFlags::IFF_LOOPBACK)) {
            let Some(one) = entry.address else { continue };
            if let Some(ip) = one.as_sockaddr_in() {
                (name, address) = (Some(entry.interface_name), Some(ip.ip()));
            } else if let Some(link) = one.as_link_addr() {
                mac = link.addr();
            }
        }
        match (name, address, mac) {
            (Some(name), Some(address), Some(mac)) => {
                Ok(Self { number: if_nametoindex(name.as_str())?, name, address, mac })
            }
            _ => Err("no interface has an IPv4 address and an Ethernet header".into()),
        }
    }
}

fn carry(client: &Neighbour, server: &Neighbour) -> Outcome<Ebpf> {
    let here = Interface::find()?;
    let mut ebpf = load(&here, client, server)?;
    program(&mut ebpf)?.attach(&here.name, TcAttachType::Ingress)?;
    Ok(ebpf)
}

/// Loads it for these three, attached to nothing.
pub fn load(here: &Interface, client: &Neighbour, server: &Neighbour) -> Outcome<Ebpf> {
    let [from, proxy, to] = [client.address, here.address, server.address].map(|ip| u32::from_ne_bytes(ip.octets()));
    let mut ebpf = EbpfLoader::new()
        .override_global("CLIENT", &from, true)
        .override_global("PROXY", &proxy, true)
        .override_global("SERVER", &to, true)
        .override_global("CLIENT_MAC", &client.mac, true)
        .override_global("PROXY_MAC", &here.mac, true)
        .override_global("SERVER_MAC", &server.mac, true)
        .override_global("INTERFACE", &here.number, true)
        .load(FLOOR)?;
    program(&mut ebpf)?.load()?;
    Ok(ebpf)
}

pub fn program(ebpf: &mut Ebpf) -> Outcome<&mut SchedClassifier> {
    Ok(ebpf.program_mut("floor").ok_or("the object has no floor")?.try_into()?)
}
