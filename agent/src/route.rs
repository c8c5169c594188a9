//! Whether an address is this host's, as the kernel's routing sees it: `ip route get ADDRESS` says `local`.
//!
//! That is more than an interface's own addresses: a whole network may be local (`ip route add local 10.1.0.0/16 dev lo`),
//! and a sysctl that lets programs bind to anything does not mislead it. The one request is composed by hand, see
//! rtnetlink(7).

use std::io;
use std::net::IpAddr;
use std::os::fd::AsRawFd;

use nix::errno::Errno;
use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, recv, send, socket};
use shunt_core::config::Snat;

/// Of `struct nlmsghdr` and `struct rtmsg`.
const HEADER: usize = 16;
const ROUTE: usize = 12;
/// `rtm_type` within `struct rtmsg`.
const TYPE: usize = 7;
const RTA_DST: u16 = 1;
const RTN_LOCAL: u8 = 2;

/// Whether packets to the address are delivered on this host (in this thread's network namespace).
pub fn is_local(address: IpAddr) -> io::Result<bool> {
    let socket = socket(AddressFamily::Netlink, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::NetlinkRoute)?;
    send(socket.as_raw_fd(), &request(address), MsgFlags::empty())?;
    let mut answer = [0; 4096];
    let length = recv(socket.as_raw_fd(), &mut answer, MsgFlags::empty())?;
    read(&answer[..length])
}

/// Every address of a pool; none for other translations.
pub fn pool_addresses(snat: &Snat) -> Vec<IpAddr> {
    let Snat::Pool(ranges) = snat else { return Vec::new() };
    let addresses = ranges.iter().flat_map(|range| match *range {
        (IpAddr::V4(first), IpAddr::V4(last)) => {
            (first.to_bits()..=last.to_bits()).map(|b| IpAddr::V4(b.into())).collect()
        }
        (IpAddr::V6(first), IpAddr::V6(last)) => {
            (first.to_bits()..=last.to_bits()).map(|b| IpAddr::V6(b.into())).collect()
        }
        // The loader refuses a range of two families.
        _ => Vec::new(),
    });
    addresses.collect()
}

fn request(address: IpAddr) -> Vec<u8> {
    let (family, bytes) = match address {
        IpAddr::V4(v4) => (libc::AF_INET, v4.octets().to_vec()),
        IpAddr::V6(v6) => (libc::AF_INET6, v6.octets().to_vec()),
    };
    let attribute = 4 + bytes.len();
    let mut message = Vec::with_capacity(HEADER + ROUTE + attribute);
    message.extend(((HEADER + ROUTE + attribute) as u32).to_ne_bytes());
    message.extend(libc::RTM_GETROUTE.to_ne_bytes());
    message.extend((libc::NLM_F_REQUEST as u16).to_ne_bytes());
    // Sequence number and port: one question, one answer, on a socket of its own.
    message.extend([0; 8]);
    message.extend([family as u8, (bytes.len() * 8) as u8]);
    message.extend([0; ROUTE - 2]);
    message.extend((attribute as u16).to_ne_bytes());
    message.extend(RTA_DST.to_ne_bytes());
    message.extend(bytes);
    message
}

fn read(answer: &[u8]) -> io::Result<bool> {
    let garbled = || io::Error::new(io::ErrorKind::InvalidData, "rtnetlink's answer is cut short");
    let kind = answer.get(4..6).and_then(|b| b.try_into().ok()).map(u16::from_ne_bytes).ok_or_else(garbled)?;
    if kind == libc::RTM_NEWROUTE {
        return answer.get(HEADER + TYPE).map(|&kind| kind == RTN_LOCAL).ok_or_else(garbled);
    }
    let error = answer.get(HEADER..HEADER + 4).and_then(|b| b.try_into().ok()).map(i32::from_ne_bytes);
    match Errno::from_raw(-error.ok_or_else(garbled)?) {
        // No route, or one that refuses, prohibits or drops (`fib_props` in the kernel).
        Errno::ENETUNREACH | Errno::EHOSTUNREACH | Errno::EACCES | Errno::EINVAL | Errno::EAGAIN => Ok(false),
        error => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_is_local_and_an_address_for_examples_is_not() {
        let is_local = |address: &str| is_local(address.parse().unwrap()).unwrap();
        assert!(is_local("127.0.0.1"));
        assert!(is_local("127.9.9.9"), "the whole network is local, though no interface has this address");
        assert!(!is_local("192.0.2.1"));
        assert!(!is_local("2001:db8::1"));
    }

    #[test]
    fn a_pool_is_all_its_addresses() {
        let range = |first: &str, last: &str| (first.parse().unwrap(), last.parse().unwrap());
        let pool = Snat::Pool(vec![range("10.0.0.254", "10.0.1.1"), range("fd00::1", "fd00::2")]);
        let addresses: Vec<_> = pool_addresses(&pool).iter().map(ToString::to_string).collect();
        assert_eq!(addresses, ["10.0.0.254", "10.0.0.255", "10.0.1.0", "10.0.1.1", "fd00::1", "fd00::2"]);
        assert!(pool_addresses(&Snat::Masquerade).is_empty());
    }

    #[test]
    fn an_answer_that_is_cut_short_is_an_error() {
        for length in 0..HEADER {
            assert!(read(&vec![0; length]).is_err());
        }
    }
}
