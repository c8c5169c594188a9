//! Addresses as they stand in the maps, and back.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use shunt_ebpf_common::flow::{Address, Endpoint};

pub fn endpoint(address: SocketAddr) -> Endpoint {
    let ip = match address.ip() {
        IpAddr::V4(v4) => v4.to_ipv6_mapped(),
        IpAddr::V6(v6) => v6,
    };
    Endpoint { address: Address::from_bytes(ip.octets()), port: address.port().to_be(), zero: 0 }
}

pub fn socket_address(endpoint: &Endpoint) -> SocketAddr {
    let ip = Ipv6Addr::from(endpoint.address.bytes());
    let ip = ip.to_ipv4_mapped().map_or(IpAddr::V6(ip), IpAddr::V4);
    SocketAddr::new(ip, u16::from_be(endpoint.port))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_comes_back_as_it_went() {
        for text in ["10.0.0.1:3306", "[2001:db8::1]:3306", "[::1]:1"] {
            let address: SocketAddr = text.parse().unwrap();
            assert_eq!(socket_address(&endpoint(address)), address);
        }
    }
}
