//! Which of conntrack's entries are wanted: told to the kernel, which may leave the others out of a dump, and asked again of
//! what comes, since older kernels leave out nothing.

use std::net::SocketAddr;

use super::entry::{self, Entry, put_tuple};
use super::{CTA_STATUS, CTA_TUPLE_ORIG, CTA_TUPLE_REPLY, IPCTNL_MSG_CT_GET, IPS_DST_NAT, IPS_SRC_NAT, nfproto};
use crate::element::Pair;
use crate::netlink::{ctnetlink, finish, header};
use crate::schema::Family;
use crate::tlv;

const CTA_FILTER: u16 = 25;
const CTA_STATUS_MASK: u16 = 26;
const CTA_FILTER_ORIG_FLAGS: u16 = 1;
const CTA_FILTER_REPLY_FLAGS: u16 = 2;

// net/netfilter/nf_conntrack_netlink.c: CTA_FILTER_F_*
const IP_SRC: u32 = 1 << 0;
const IP_DST: u32 = 1 << 1;
const PROTO_NUM: u32 = 1 << 3;
const PROTO_SRC_PORT: u32 = 1 << 4;
const PROTO_DST_PORT: u32 = 1 << 5;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Filter {
    /// Flows whose destination was rewritten.
    Mapped,
    /// Of these, those whose source was rewritten too: each takes a port of the address that it was rewritten to.
    Rewritten,
    /// Of the mapped flows, those whose client has this port as the backend sees it.
    SeenPort(u16),
    /// Flows of this pair.
    Pair(Pair),
}

impl Filter {
    pub fn lets_through(&self, entry: &Entry) -> bool {
        let has = |status| entry.status & status == status;
        match self {
            Self::Mapped => has(IPS_DST_NAT),
            Self::Rewritten => has(IPS_DST_NAT | IPS_SRC_NAT),
            Self::SeenPort(port) => has(IPS_DST_NAT) && entry.reply.destination.port() == *port,
            Self::Pair(pair) => entry.pair() == *pair,
        }
    }

    /// Asks for a dump.
    pub fn request(&self, family: Family, seq: u32) -> Vec<u8> {
        let mut message = header(ctnetlink(IPCTNL_MSG_CT_GET), libc::NLM_F_DUMP, seq, nfproto(family));
        self.put(family, &mut message);
        finish(message)
    }

    fn put(&self, family: Family, message: &mut Vec<u8>) {
        let any = entry::unspecified(family);
        match self {
            Self::Mapped => put_status(message, IPS_DST_NAT),
            Self::Rewritten => put_status(message, IPS_DST_NAT | IPS_SRC_NAT),
            Self::SeenPort(port) => {
                put_status(message, IPS_DST_NAT);
                let reply = entry::Tuple { source: any, destination: SocketAddr::new(any.ip(), *port) };
                put_tuple(message, CTA_TUPLE_REPLY, &reply);
                put_flags(message, 0, PROTO_NUM | PROTO_DST_PORT);
            }
            Self::Pair(pair) => {
                let original = entry::Tuple { source: any, destination: pair.listener };
                let reply = entry::Tuple { source: pair.backend, destination: any };
                put_tuple(message, CTA_TUPLE_ORIG, &original);
                put_tuple(message, CTA_TUPLE_REPLY, &reply);
                // Seen on Linux 6.18: asked for an IPv6 address, the kernel leaves out exactly the flows that have it.
                let (listener, backend) = match family {
                    Family::V4 => (IP_DST, IP_SRC),
                    Family::V6 => (0, 0),
                };
                put_flags(message, listener | PROTO_NUM | PROTO_DST_PORT, backend | PROTO_NUM | PROTO_SRC_PORT);
            }
        }
    }
}

/// All of these bits are set.
fn put_status(message: &mut Vec<u8>, bits: u32) {
    tlv::put(message, CTA_STATUS, &bits.to_be_bytes());
    tlv::put(message, CTA_STATUS_MASK, &bits.to_be_bytes());
}

/// Which parts of the two tuples count.
fn put_flags(message: &mut Vec<u8>, original: u32, reply: u32) {
    tlv::nest(message, CTA_FILTER, |filter| {
        tlv::put(filter, CTA_FILTER_ORIG_FLAGS, &original.to_ne_bytes());
        tlv::put(filter, CTA_FILTER_REPLY_FLAGS, &reply.to_ne_bytes());
    });
}
