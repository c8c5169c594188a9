//! Allow-lists and pools of source addresses, as mappings have them and as they lie in the maps. Pure.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use ipnet::IpNet;
use shunt_ebpf_common::admission::Listed;
use shunt_ebpf_common::flow::Endpoint;
use shunt_ebpf_common::pool::{Pool, Range};

use crate::{endpoint, socket_address};

/// A pool in a slot; `None`: it has too many ranges, one that ends before it begins, one of two families, or one that is
/// too wide.
pub fn pool(ranges: &[(IpAddr, IpAddr)]) -> Option<Pool> {
    let bits = |ip: IpAddr| match ip {
        IpAddr::V4(v4) => v4.to_ipv6_mapped().to_bits(),
        IpAddr::V6(v6) => v6.to_bits(),
    };
    let range = |(first, last): &(IpAddr, IpAddr)| {
        let same_family = first.is_ipv4() == last.is_ipv4();
        let number = bits(*last).checked_sub(bits(*first)).filter(|_| same_family)?;
        let number = u32::try_from(number).ok()?.checked_add(1)?;
        Some(Range { first: endpoint(SocketAddr::new(*first, 0)).address, number })
    };
    let ranges: Option<Vec<Range>> = ranges.iter().map(range).collect();
    Pool::of(&ranges?).filter(|pool| pool.addresses > 0)
}

/// The ranges of a pool.
pub fn ranges(pool: &Pool) -> Vec<(IpAddr, IpAddr)> {
    let list = pool.list.iter().take(pool.ranges as usize);
    list.map(|range| {
        let first = socket_address(&Endpoint { address: range.first, port: 0, zero: 0 }).ip();
        let more = range.number.saturating_sub(1);
        let last = match first {
            IpAddr::V4(v4) => IpAddr::V4(v4.to_bits().wrapping_add(more).into()),
            IpAddr::V6(v6) => IpAddr::V6(Ipv6Addr::from_bits(v6.to_bits().wrapping_add(more.into()))),
        };
        (first, last)
    })
    .collect()
}

/// The network that a key of the trie stands for, from the key's own length; `None`: for none.
pub fn network(listed: &Listed, prefix: u32) -> Option<IpNet> {
    let address = socket_address(&Endpoint { address: listed.address, port: 0, zero: 0 }).ip();
    let before = Listed::prefix(0, address.is_ipv4());
    IpNet::new(address, u8::try_from(prefix.checked_sub(before)?).ok()?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(first: &str, last: &str) -> (IpAddr, IpAddr) {
        (first.parse().unwrap(), last.parse().unwrap())
    }

    #[test]
    fn a_pool_comes_back_as_it_went() {
        for all in
            [vec![range("10.0.0.250", "10.0.1.5"), range("10.9.0.1", "10.9.0.1")], vec![range("fd00::1", "fd00::ffff")]]
        {
            assert_eq!(ranges(&pool(&all).unwrap()), all);
        }
        let many = vec![range("10.0.0.1", "10.0.0.1"); 9];
        let wrong = [
            vec![],
            many,
            vec![range("10.0.0.2", "10.0.0.1")],
            vec![range("10.0.0.1", "fd00::1")],
            vec![range("fd00::", "fd00:1::")],
        ];
        for all in wrong {
            assert_eq!(pool(&all), None, "{all:?}");
        }
    }

    #[test]
    fn a_network_comes_back_as_it_went() {
        for text in ["10.0.0.0/8", "0.0.0.0/0", "192.0.2.7/32", "fd00::/16", "::/0", "fd00::1/128"] {
            let net: IpNet = text.parse().unwrap();
            let address = endpoint(SocketAddr::new(net.addr(), 0)).address;
            let prefix = Listed::prefix(net.prefix_len(), net.addr().is_ipv4());
            assert_eq!(network(&Listed { list: 7, address }, prefix), Some(net));
        }
    }
}
