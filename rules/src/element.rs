//! Elements of the table's sets, typed, and their bytes.
//!
//! An element without its value is a [`Key`]. Keys sort by set and then by listener, so an ordered map of elements comes
//! out as runs that each belong to one set.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Instant;

use crate::schema::{Family, Field, Kind, SetId};

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
    Listener(SocketAddr),
    Fenced(SocketAddr),
    Hold(SocketAddr),
    Masquerade(SocketAddr),
    Backend(SocketAddr),
}

/// The rest of an element.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Value {
    /// Of a map's element.
    pub backend: Option<SocketAddr>,
    /// When the kernel forgets the element; `None`: never.
    pub deadline: Option<Instant>,
    /// A comment for whoever lists the table; of a listener also what adoption needs to know.
    pub note: Option<String>,
}

impl Key {
    pub const fn set(&self) -> SetId {
        let (kind, address) = match self {
            Self::Primary(listener) => (Kind::Primary, listener),
            Self::Spread(listener, _) => (Kind::Spread, listener),
            Self::Live(pair) => (Kind::Live, &pair.listener),
            Self::Listener(listener) => (Kind::Listeners, listener),
            Self::Fenced(listener) => (Kind::Fenced, listener),
            Self::Hold(listener) => (Kind::Hold, listener),
            Self::Masquerade(listener) => (Kind::Masquerade, listener),
            Self::Backend(backend) => (Kind::Backends, backend),
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
            | Self::Backend(address) => put_address(&mut bytes, address),
            Self::Spread(listener, slot) => {
                put_address(&mut bytes, listener);
                // numgen leaves its number in host order.
                bytes.extend_from_slice(&slot.to_ne_bytes());
            }
            Self::Live(pair) => {
                put_address(&mut bytes, &pair.listener);
                put_address(&mut bytes, &pair.backend);
            }
        }
        bytes
    }

    /// `None` when the bytes are no key of `set`.
    pub fn decode(set: SetId, bytes: &[u8]) -> Option<Self> {
        if bytes.len() != set.len(set.key()) {
            return None;
        }
        let (first, rest) = take_address(set.family, bytes)?;
        Some(match set.kind {
            Kind::Primary => Self::Primary(first),
            Kind::Spread => Self::Spread(first, u32::from_ne_bytes(rest.try_into().ok()?)),
            Kind::Live => {
                let (backend, _) = take_address(set.family, rest)?;
                Self::Live(Pair { listener: first, backend })
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
            | Self::Backend(address) => write!(f, "{address}")?,
            Self::Spread(listener, slot) => write!(f, "{listener} slot {slot}")?,
            Self::Live(pair) => write!(f, "{pair}")?,
        }
        let set = self.set();
        write!(f, " of {} {}", set.noun(), set.name())
    }
}

impl Value {
    pub fn encode(&self) -> Option<Vec<u8>> {
        self.backend.map(|backend| {
            let mut bytes = Vec::with_capacity(20);
            put_address(&mut bytes, &backend);
            bytes
        })
    }
}

/// The address in a map element's value.
pub fn decode_value(set: SetId, bytes: &[u8]) -> Option<SocketAddr> {
    if bytes.len() != set.len(&[Field::Address, Field::Port]) {
        return None;
    }
    take_address(set.family, bytes).map(|(address, _)| address)
}

fn put_address(bytes: &mut Vec<u8>, address: &SocketAddr) {
    match address.ip() {
        IpAddr::V4(ip) => bytes.extend_from_slice(&ip.octets()),
        IpAddr::V6(ip) => bytes.extend_from_slice(&ip.octets()),
    }
    bytes.extend_from_slice(&address.port().to_be_bytes());
    bytes.extend_from_slice(&[0, 0]);
}

fn take_address(family: Family, bytes: &[u8]) -> Option<(SocketAddr, &[u8])> {
    let (ip, rest): (IpAddr, _) = match family {
        Family::V4 => bytes.split_first_chunk::<4>().map(|(ip, rest)| (Ipv4Addr::from(*ip).into(), rest))?,
        Family::V6 => bytes.split_first_chunk::<16>().map(|(ip, rest)| (Ipv6Addr::from(*ip).into(), rest))?,
    };
    let (port, rest) = rest.split_first_chunk::<4>()?;
    Some((SocketAddr::new(ip, u16::from_be_bytes([port[0], port[1]])), rest))
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
            keys.extend([Key::Fenced(a), Key::Hold(a), Key::Masquerade(a), Key::Backend(b)]);
        }
        keys
    }

    #[test]
    fn a_key_comes_back_from_its_bytes() {
        for key in keys() {
            let bytes = key.encode();
            assert_eq!(bytes.len(), key.set().len(key.set().key()));
            assert_eq!(Key::decode(key.set(), &bytes), Some(key));
            assert_eq!(Key::decode(key.set(), &bytes[1..]), None);
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
