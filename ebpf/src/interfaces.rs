//! The interfaces that clients' and servers' packets come in by.

use std::collections::BTreeSet;
use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};

use nix::ifaddrs::getifaddrs;
use nix::net::if_::{InterfaceFlags, if_nameindex};
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, SockaddrLike as _, bind, recv, socket,
};

/// Those that the host routes by: with an address, and with an Ethernet header, which programs look for. Ports of bridges
/// and bonds have no address, and what comes in by them comes in by the bridge or bond once more. The loopback has a header
/// of that kind, too: clients on the host itself come in by it.
pub fn routed() -> io::Result<BTreeSet<String>> {
    let (mut ethernet, mut addressed) = (BTreeSet::new(), BTreeSet::new());
    for entry in getifaddrs()? {
        if entry.flags.contains(InterfaceFlags::IFF_LOOPBACK) {
            ethernet.insert(entry.interface_name.clone());
        }
        let Some(address) = entry.address else { continue };
        if let Some(link) = address.as_link_addr() {
            if link.hatype() == libc::ARPHRD_ETHER {
                ethernet.insert(entry.interface_name);
            }
        } else if matches!(address.family(), Some(AddressFamily::Inet | AddressFamily::Inet6)) {
            addressed.insert(entry.interface_name);
        }
    }
    Ok(&ethernet & &addressed)
}

/// Which of these are there, and which are not.
pub fn named(wanted: &[String]) -> io::Result<(BTreeSet<String>, BTreeSet<String>)> {
    let all = if_nameindex()?;
    let names: BTreeSet<&str> = all.iter().filter_map(|interface| interface.name().to_str().ok()).collect();
    Ok(wanted.iter().cloned().partition(|name| names.contains(name.as_str())))
}

/// Says whether interfaces or their addresses have changed.
pub struct Changes(OwnedFd);

/// linux/rtnetlink.h: RTMGRP_LINK, RTMGRP_IPV4_IFADDR, RTMGRP_IPV6_IFADDR.
const GROUPS: u32 = 0x1 | 0x10 | 0x100;

impl Changes {
    /// Of the calling thread's network namespace.
    pub fn subscribe() -> io::Result<Self> {
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let netlink = socket(AddressFamily::Netlink, SockType::Raw, flags, SockProtocol::NetlinkRoute)?;
        bind(netlink.as_raw_fd(), &NetlinkAddr::new(0, GROUPS))?;
        Ok(Self(netlink))
    }

    /// Since this was last asked.
    pub fn any(&self) -> bool {
        let mut any = false;
        let mut notice = [0; 4096];
        loop {
            match recv(self.0.as_fd().as_raw_fd(), &mut notice, MsgFlags::empty()) {
                Ok(length) if length > 0 => any = true,
                // More came than fits.
                Err(nix::errno::Errno::ENOBUFS) => any = true,
                Err(nix::errno::Errno::EINTR) => {}
                _ => return any,
            }
        }
    }
}
