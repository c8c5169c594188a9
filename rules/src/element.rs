//! Elements of the table's sets, typed, and their bytes.
//!
//! An element without its value is a [`Key`]. Keys sort by set and then by listener, so an ordered map of elements comes
//! out as runs that each belong to one set.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Instant;

use ipnet::IpNet;
use shunt_core::flow::Tuple;

use crate::schema::{Family, Kind, Reason, SetId};

/// A listener and a backend: the unit that passes packets or does not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Pair {
    pub listener: SocketAddr,
    pub backend: SocketAddr,
}

impl fmt::Display for Pair {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} → {}", self.listener, self.backend)
    }
}

/// What an element says, its value apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Key {
    Primary(SocketAddr),
    Spread(SocketAddr, u32),
    Live(Pair),
    Sparing(Pair),
    Blocked(Tuple),
    Listener(SocketAddr),
    Fenced(SocketAddr),
    Hold(SocketAddr),
    Masquerade(SocketAddr),
    Pool(SocketAddr, u32),
    Backend(SocketAddr),
    Restricted(SocketAddr),
    Allow(SocketAddr, IpNet),
    Limited(SocketAddr),
    PerSource(SocketAddr, u32),
    Refused(SocketAddr, Reason),
}

/// The rest of an element.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Value {
    /// Of a map's element; in a pool without a port.
    pub backend: Option<SocketAddr>,
    /// When the kernel forgets the element; `None`: never.
    pub deadline: Option<Instant>,
    /// A comment for whoever lists the table; of a listener also what adoption needs to know.
    pub note: Option<String>,
    /// Of a limited listener: the connections that it may have.
    pub limit: Option<u32>,
}

impl Key {
    pub const fn set(&self) -> SetId {
        let (kind, address) = match self {
            Self::Primary(listener) => (Kind::Primary, listener),
            Self::Spread(listener, _) => (Kind::Spread, listener),
            Self::Live(pair) => (Kind::Live, &pair.listener),
            Self::Sparing(pair) => (Kind::Sparing, &pair.listener),
            Self::Blocked(flow) => (Kind::Blocked, &flow.listener),
            Self::Listener(listener) => (Kind::Listeners, listener),
            Self::Fenced(listener) => (Kind::Fenced, listener),
            Self::Hold(listener) => (Kind::Hold, listener),
            Self::Masquerade(listener) => (Kind::Masquerade, listener),
            Self::Pool(listener, _) => (Kind::Pool, listener),
            Self::Backend(backend) => (Kind::Backends, backend),
            Self::Restricted(listener) => (Kind::Restricted, listener),
            Self::Allow(listener, _) => (Kind::Allow, listener),
            Self::Limited(listener) => (Kind::Limited, listener),
            Self::PerSource(listener, _) => (Kind::PerSource, listener),
            Self::Refused(listener, _) => (Kind::Refused, listener),
        };
        SetId { kind, family: Family::of(address) }
    }

    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(40);
        match self {
            Self::Primary(address)
            | Self::Listener(address)
            | Self::Fenced(address)
            | Self::Hold(address)
            | Self::Masquerade(address)
            | Self::Backend(address)
            | Self::Restricted(address)
            | Self::Limited(address) => put_address(&mut bytes, address),
            // numgen leaves its number in host order.
            Self::Spread(listener, number) | Self::Pool(listener, number) | Self::PerSource(listener, number) => {
                put_address(&mut bytes, listener);
                bytes.extend_from_slice(&number.to_ne_bytes());
            }
            Self::Refused(listener, reason) => {
                put_address(&mut bytes, listener);
                bytes.extend_from_slice(&reason.number().to_ne_bytes());
            }
            Self::Allow(listener, network) => {
                put_address(&mut bytes, listener);
                put_ip(&mut bytes, network.network());
            }
            Self::Live(pair) | Self::Sparing(pair) => {
                put_address(&mut bytes, &pair.listener);
                put_address(&mut bytes, &pair.backend);
            }
            Self::Blocked(flow) => {
                put_address(&mut bytes, &flow.client);
                put_address(&mut bytes, &flow.listener);
            }
        }
        bytes
    }

    /// Where a range ends; `None` for keys that are no ranges.
    pub fn encode_end(&self) -> Option<Vec<u8>> {
        let Self::Allow(listener, network) = self else { return None };
        let mut bytes = Vec::with_capacity(40);
        put_address(&mut bytes, listener);
        put_ip(&mut bytes, network.broadcast());
        Some(bytes)
    }

    /// `None` when the bytes are no key of `set`.
    pub fn decode(set: SetId, bytes: &[u8], end: Option<&[u8]>) -> Option<Self> {
        if bytes.len() != set.len(set.key()) {
            return None;
        }
        let (first, rest) = take_address(set.family, bytes)?;
        let number = || rest.try_into().ok().map(u32::from_ne_bytes);
        Some(match set.kind {
            Kind::Primary => Self::Primary(first),
            Kind::Spread => Self::Spread(first, number()?),
            Kind::Pool => Self::Pool(first, number()?),
            Kind::PerSource => Self::PerSource(first, number()?),
            Kind::Refused => Self::Refused(first, Reason::numbered(number()?)?),
            Kind::Allow => {
                let (from, _) = take_ip(set.family, rest)?;
                let (last, rest) = take_address(set.family, end?)?;
                let (to, _) = take_ip(set.family, rest)?;
                Self::Allow(first, network(from, to).filter(|_| last == first)?)
            }
            Kind::Restricted => Self::Restricted(first),
            Kind::Limited => Self::Limited(first),
            Kind::Sources => return None,
            Kind::Live => {
                let (backend, _) = take_address(set.family, rest)?;
                Self::Live(Pair { listener: first, backend })
            }
            Kind::Sparing => {
                let (backend, _) = take_address(set.family, rest)?;
                Self::Sparing(Pair { listener: first, backend })
            }
            Kind::Blocked => {
                let (listener, _) = take_address(set.family, rest)?;
                Self::Blocked(Tuple { client: first, listener })
            }
            Kind::Listeners => Self::Listener(first),
            Kind::Fenced => Self::Fenced(first),
            Kind::Hold => Self::Hold(first),
            Kind::Masquerade => Self::Masquerade(first),
            Kind::Backends => Self::Backend(first),
        })
    }
}

/// `element 10.0.0.2:3306 of map primary4`.
impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("element ")?;
        match self {
            Self::Primary(address)
            | Self::Listener(address)
            | Self::Fenced(address)
            | Self::Hold(address)
            | Self::Masquerade(address)
            | Self::Backend(address)
            | Self::Restricted(address)
            | Self::Limited(address) => write!(f, "{address}")?,
            Self::Spread(listener, slot) | Self::Pool(listener, slot) => write!(f, "{listener} slot {slot}")?,
            Self::Allow(listener, network) => write!(f, "{listener} from {network}")?,
            Self::PerSource(listener, limit) => write!(f, "{listener} limit {limit}")?,
            Self::Refused(listener, reason) => write!(f, "{listener} reason {}", reason.number())?,
            Self::Live(pair) | Self::Sparing(pair) => write!(f, "{pair}")?,
            Self::Blocked(flow) => write!(f, "{} → {}", flow.client, flow.listener)?,
        }
        let set = self.set();
        write!(f, " of {} {}", set.noun(), set.name())
    }
}

impl Value {
    pub fn encode(&self) -> Option<Vec<u8>> {
        self.backend.map(|backend| {
            let mut bytes = Vec::with_capacity(20);
            if backend.port() == 0 {
                put_ip(&mut bytes, backend.ip());
            } else {
                put_address(&mut bytes, &backend);
            }
            bytes
        })
    }
}

/// The address in a map element's value.
pub fn decode_value(set: SetId, bytes: &[u8]) -> Option<SocketAddr> {
    if bytes.len() != set.len(set.value()) {
        return None;
    }
    match set.kind {
        Kind::Pool => take_ip(set.family, bytes).map(|(ip, _)| SocketAddr::new(ip, 0)),
        _ => take_address(set.family, bytes).map(|(address, _)| address),
    }
}

/// The network that reaches from one address to another; `None`: they are not the ends of one.
fn network(from: IpAddr, to: IpAddr) -> Option<IpNet> {
    let differing = match (from, to) {
        (IpAddr::V4(from), IpAddr::V4(to)) => 32 - (from.to_bits() ^ to.to_bits()).leading_zeros(),
        (IpAddr::V6(from), IpAddr::V6(to)) => 128 - (from.to_bits() ^ to.to_bits()).leading_zeros(),
        _ => return None,
    };
    let width = if from.is_ipv4() { 32 } else { 128 };
    let network = IpNet::new(from, (width - differing) as u8).ok()?;
    (network.network() == from && network.broadcast() == to).then_some(network)
}

fn put_address(bytes: &mut Vec<u8>, address: &SocketAddr) {
    put_ip(bytes, address.ip());
    bytes.extend_from_slice(&address.port().to_be_bytes());
    bytes.extend_from_slice(&[0, 0]);
}

fn put_ip(bytes: &mut Vec<u8>, ip: IpAddr) {
    match ip {
        IpAddr::V4(ip) => bytes.extend_from_slice(&ip.octets()),
        IpAddr::V6(ip) => bytes.extend_from_slice(&ip.octets()),
    }
}

fn take_address(family: Family, bytes: &[u8]) -> Option<(SocketAddr, &[u8])> {
    let (ip, rest) = take_ip(family, bytes)?;
    let (port, rest) = rest.split_first_chunk::<4>()?;
    Some((SocketAddr::new(ip, u16::from_be_bytes([port[0], port[1]])), rest))
}

fn take_ip(family: Family, bytes: &[u8]) -> Option<(IpAddr, &[u8])> {
    match family {
        Family::V4 => bytes.split_first_chunk::<4>().map(|(ip, rest)| (Ipv4Addr::from(*ip).into(), rest)),
        Family::V6 => bytes.split_first_chunk::<16>().map(|(ip, rest)| (Ipv6Addr::from(*ip).into(), rest)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys() -> Vec<Key> {
        let mut keys = Vec::new();
        for (a, b) in [("10.0.0.2:3306", "10.9.8.7:33060"), ("[fd00::2]:3306", "[fd00:9::7]:1")] {
            let (a, b): (SocketAddr, SocketAddr) = (a.parse().unwrap(), b.parse().unwrap());
            let pair = Pair { listener: a, backend: b };
            keys.extend([Key::Primary(a), Key::Spread(a, 119), Key::Live(pair), Key::Listener(a)]);
            keys.extend([Key::Fenced(a), Key::Hold(a), Key::Masquerade(a), Key::Backend(b), Key::Pool(a, 3)]);
            keys.extend([Key::Sparing(pair), Key::Blocked(Tuple { client: b, listener: a })]);
            keys.extend([Key::Restricted(a), Key::Limited(a), Key::PerSource(a, 1000)]);
            keys.extend(Reason::ALL.map(|reason| Key::Refused(a, reason)));
            keys.extend([IpNet::from(a.ip()), IpNet::new(a.ip(), 9).unwrap().trunc()].map(|net| Key::Allow(a, net)));
        }
        keys
    }

    #[test]
    fn a_key_comes_back_from_its_bytes() {
        for key in keys() {
            let bytes = key.encode();
            assert_eq!(bytes.len(), key.set().len(key.set().key()));
            let end = key.encode_end();
            assert_eq!(Key::decode(key.set(), &bytes, end.as_deref()), Some(key));
            assert_eq!(Key::decode(key.set(), &bytes[1..], end.as_deref()), None);
        }
    }

    #[test]
    fn a_key_is_laid_out_as_the_registers_are() {
        let pair = Pair { listener: "10.0.0.2:3306".parse().unwrap(), backend: "10.9.8.7:1".parse().unwrap() };
        assert_eq!(Key::Live(pair).encode(), [10, 0, 0, 2, 0x0c, 0xea, 0, 0, 10, 9, 8, 7, 0, 1, 0, 0]);
    }

    #[test]
    fn an_element_is_named_as_an_operator_would_look_for_it() {
        let listener = "10.0.0.2:3306".parse().unwrap();
        assert_eq!(Key::Primary(listener).to_string(), "element 10.0.0.2:3306 of map primary4");
        let pair = Pair { listener, backend: "10.9.8.7:1".parse().unwrap() };
        assert_eq!(Key::Live(pair).to_string(), "element 10.0.0.2:3306 → 10.9.8.7:1 of set live4");
        assert_eq!(Key::Spread(listener, 3).to_string(), "element 10.0.0.2:3306 slot 3 of map spread4");
    }
}
