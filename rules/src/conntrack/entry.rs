//! One conntrack entry, from and to netlink attributes. Pure.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::{CTA_ID, CTA_PROTOINFO, CTA_STATUS, CTA_TUPLE_ORIG, CTA_TUPLE_REPLY, CTA_ZONE};
use shunt_core::flow::Tuple as Flow;

use crate::element::Pair;
use crate::netlink::HEADERS;
use crate::schema::Family;
use crate::tlv;

// linux/netfilter/nfnetlink_conntrack.h
const CTA_TUPLE_IP: u16 = 1;
const CTA_TUPLE_PROTO: u16 = 2;
const CTA_IP_V4_SRC: u16 = 1;
const CTA_IP_V4_DST: u16 = 2;
const CTA_IP_V6_SRC: u16 = 3;
const CTA_IP_V6_DST: u16 = 4;
const CTA_PROTO_NUM: u16 = 1;
const CTA_PROTO_SRC_PORT: u16 = 2;
const CTA_PROTO_DST_PORT: u16 = 3;
const CTA_PROTOINFO_TCP: u16 = 1;
const CTA_PROTOINFO_TCP_STATE: u16 = 1;

/// One direction of a TCP flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tuple {
    pub source: SocketAddr,
    pub destination: SocketAddr,
}

/// A TCP flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// From the client to the listener.
    pub original: Tuple,
    /// From the backend to the address that it sees.
    pub reply: Tuple,
    pub tcp_state: Option<u8>,
    pub status: u32,
    pub id: u32,
    pub zone: Option<u16>,
}

impl Entry {
    /// `None` for what is not TCP.
    pub fn parse(message: &[u8]) -> Option<Self> {
        let attributes = message.get(HEADERS..)?;
        let tcp_state = tlv::find(attributes, CTA_PROTOINFO)
            .and_then(|info| tlv::find(info.payload, CTA_PROTOINFO_TCP))
            .and_then(|tcp| tlv::find(tcp.payload, CTA_PROTOINFO_TCP_STATE))
            .and_then(|state| state.payload.first().copied());
        Some(Self {
            original: tuple(tlv::find(attributes, CTA_TUPLE_ORIG)?.payload)?,
            reply: tuple(tlv::find(attributes, CTA_TUPLE_REPLY)?.payload)?,
            tcp_state,
            status: tlv::find(attributes, CTA_STATUS)?.be_u32()?,
            id: tlv::find(attributes, CTA_ID)?.be_u32()?,
            zone: tlv::find(attributes, CTA_ZONE).and_then(|zone| zone.be_u16()),
        })
    }

    pub const fn flow(&self) -> Flow {
        Flow { client: self.original.source, listener: self.original.destination }
    }

    /// Whether an end may believe in the flow: it has begun, and conntrack has not seen both ends close it.
    pub fn is_open(&self) -> bool {
        // linux/netfilter/nf_conntrack_tcp.h: SYN_SENT, SYN_RECV, ESTABLISHED, FIN_WAIT, CLOSE_WAIT, LAST_ACK
        self.tcp_state.is_some_and(|state| (1..=6).contains(&state))
    }

    /// Whether the client's side of the handshake was seen to end: it knows that it is connected.
    pub const fn is_assured(&self) -> bool {
        // linux/netfilter/nf_conntrack_common.h
        const IPS_ASSURED: u32 = 1 << 2;
        self.status & IPS_ASSURED != 0
    }

    /// Whether a RST was seen. The guard's own count: where it has answered one end, the other may know nothing of it.
    pub fn is_reset(&self) -> bool {
        const CLOSE: u8 = 8;
        self.tcp_state == Some(CLOSE)
    }

    /// The pair that the flow belongs to, if the listener is one of ours.
    pub const fn pair(&self) -> Pair {
        Pair { listener: self.original.destination, backend: self.reply.source }
    }
}

/// An address that stands for any of the family.
pub fn unspecified(family: Family) -> SocketAddr {
    match family {
        Family::V4 => (Ipv4Addr::UNSPECIFIED, 0).into(),
        Family::V6 => (Ipv6Addr::UNSPECIFIED, 0).into(),
    }
}

pub fn put_tuple(message: &mut Vec<u8>, kind: u16, tuple: &Tuple) {
    tlv::nest(message, kind, |message| {
        tlv::nest(message, CTA_TUPLE_IP, |message| {
            for (address, v4, v6) in [
                (tuple.source.ip(), CTA_IP_V4_SRC, CTA_IP_V6_SRC),
                (tuple.destination.ip(), CTA_IP_V4_DST, CTA_IP_V6_DST),
            ] {
                match address {
                    IpAddr::V4(ip) => tlv::put(message, v4, &ip.octets()),
                    IpAddr::V6(ip) => tlv::put(message, v6, &ip.octets()),
                }
            }
        });
        tlv::nest(message, CTA_TUPLE_PROTO, |message| {
            tlv::put(message, CTA_PROTO_NUM, &[libc::IPPROTO_TCP as u8]);
            tlv::put(message, CTA_PROTO_SRC_PORT, &tuple.source.port().to_be_bytes());
            tlv::put(message, CTA_PROTO_DST_PORT, &tuple.destination.port().to_be_bytes());
        });
    });
}

fn tuple(attributes: &[u8]) -> Option<Tuple> {
    let ip = tlv::find(attributes, CTA_TUPLE_IP)?.payload;
    let proto = tlv::find(attributes, CTA_TUPLE_PROTO)?.payload;
    if tlv::find(proto, CTA_PROTO_NUM)?.payload != [libc::IPPROTO_TCP as u8] {
        return None;
    }
    let address = |v4: u16, v6: u16| -> Option<IpAddr> {
        if let Some(address) = tlv::find(ip, v4) {
            return <[u8; 4]>::try_from(address.payload).ok().map(|octets| Ipv4Addr::from(octets).into());
        }
        <[u8; 16]>::try_from(tlv::find(ip, v6)?.payload).ok().map(|octets| Ipv6Addr::from(octets).into())
    };
    let port = |kind: u16| tlv::find(proto, kind)?.be_u16();
    Some(Tuple {
        source: SocketAddr::new(address(CTA_IP_V4_SRC, CTA_IP_V6_SRC)?, port(CTA_PROTO_SRC_PORT)?),
        destination: SocketAddr::new(address(CTA_IP_V4_DST, CTA_IP_V6_DST)?, port(CTA_PROTO_DST_PORT)?),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tuple_comes_back_as_it_was_put() {
        for (source, destination) in [("10.0.0.1:40000", "10.0.0.2:3306"), ("[fd00::1]:1", "[fd00::2]:65535")] {
            let before = Tuple { source: source.parse().unwrap(), destination: destination.parse().unwrap() };
            let mut bytes = Vec::new();
            put_tuple(&mut bytes, CTA_TUPLE_ORIG, &before);
            assert_eq!(tuple(tlv::find(&bytes, CTA_TUPLE_ORIG).unwrap().payload), Some(before));
        }
    }

    #[test]
    fn an_entry_without_a_tuple_is_none() {
        assert_eq!(Entry::parse(&[]), None);
        assert_eq!(Entry::parse(&[0; 40]), None);
    }
}
