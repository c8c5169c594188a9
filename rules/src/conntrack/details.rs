//! What an entry tells of its flow beyond who is who: how far it has come, what it has carried, how old and idle it is. Pure.

use std::time::Duration;

use shunt_core::flow::{Phase, Traffic};

use super::{CTA_COUNTERS_ORIG, CTA_COUNTERS_REPLY, CTA_PROTOINFO, CTA_TIMEOUT, CTA_TIMESTAMP};
use crate::netlink::HEADERS;
use crate::tlv;

// linux/netfilter/nfnetlink_conntrack.h
const CTA_COUNTERS_BYTES: u16 = 2;
const CTA_TIMESTAMP_START: u16 = 1;
const CTA_PROTOINFO_TCP: u16 = 1;
const CTA_PROTOINFO_TCP_STATE: u16 = 1;
const CTA_PROTOINFO_TCP_FLAGS_ORIGINAL: u16 = 4;
const CTA_PROTOINFO_TCP_FLAGS_REPLY: u16 = 5;

// linux/netfilter/nf_conntrack_tcp.h
const TCP_CONNTRACK_NONE: u8 = 0;
const TCP_CONNTRACK_SYN_SENT: u8 = 1;
const TCP_CONNTRACK_SYN_RECV: u8 = 2;
const TCP_CONNTRACK_ESTABLISHED: u8 = 3;
const TCP_CONNTRACK_SYN_SENT2: u8 = 9;
const IP_CT_TCP_FLAG_DATA_UNACKNOWLEDGED: u8 = 0x10;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Details {
    pub phase: Phase,
    /// Whether data is on its way that the other end has not acknowledged, at either end.
    pub unacknowledged: bool,
    pub traffic: Option<Traffic>,
    /// The wall clock's nanoseconds at the first packet.
    pub began: Option<u64>,
    /// Until the entry goes, if no packet comes. Whole seconds.
    pub remaining: Option<Duration>,
}

/// How long conntrack keeps an established TCP flow after its last packet: a namespace's own settings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timeouts {
    pub established: Duration,
    /// While data is unacknowledged.
    pub unacknowledged: Duration,
    /// After several retransmissions of one packet.
    pub retransmitting: Duration,
}

impl Details {
    pub fn parse(message: &[u8]) -> Self {
        let attributes = message.get(HEADERS..).unwrap_or_default();
        let inside = |outer, inner| tlv::find(tlv::find(attributes, outer)?.payload, inner);
        let tcp = inside(CTA_PROTOINFO, CTA_PROTOINFO_TCP).map_or(&[][..], |tcp| tcp.payload);
        let first = |kind| tlv::find(tcp, kind)?.payload.first().copied();
        let flags = [CTA_PROTOINFO_TCP_FLAGS_ORIGINAL, CTA_PROTOINFO_TCP_FLAGS_REPLY].into_iter().filter_map(first);
        let bytes = |direction| inside(direction, CTA_COUNTERS_BYTES)?.be_u64();
        let began = inside(CTA_TIMESTAMP, CTA_TIMESTAMP_START).and_then(|start| start.be_u64());
        Self {
            phase: phase(first(CTA_PROTOINFO_TCP_STATE).unwrap_or(TCP_CONNTRACK_NONE)),
            unacknowledged: flags.fold(0, |all, flags| all | flags) & IP_CT_TCP_FLAG_DATA_UNACKNOWLEDGED != 0,
            traffic: bytes(CTA_COUNTERS_ORIG)
                .zip(bytes(CTA_COUNTERS_REPLY))
                .map(|(to_backend, to_client)| Traffic { to_backend, to_client }),
            // Nought is what the kernel says of a flow that began before it kept the time.
            began: began.filter(|&nanoseconds| nanoseconds != 0),
            remaining: tlv::find(attributes, CTA_TIMEOUT)
                .and_then(|seconds| seconds.be_u32())
                .map(|seconds| Duration::from_secs(seconds.into())),
        }
    }

    /// `now`: the wall clock's time since 1970. A beginning in the future, after the clock was set back, tells nothing.
    pub fn age(&self, now: Duration) -> Option<Duration> {
        now.checked_sub(Duration::from_nanos(self.began?))
    }

    /// The time since the last packet: each sets what remains to one of the timeouts, and it runs down from there. Which of
    /// them is only known of an established flow (nf_conntrack_proto_tcp.c, the end of `nf_conntrack_tcp_packet`).
    pub fn idle(&self, timeouts: &Timeouts) -> Option<Duration> {
        if self.phase != Phase::Established {
            return None;
        }
        let remaining = self.remaining?;
        // A packet may have come between the reading of the one and the other; then the long timeout is still the one.
        if self.unacknowledged && remaining <= timeouts.unacknowledged {
            return timeouts.established.min(timeouts.unacknowledged).checked_sub(remaining);
        }
        // A closed window or a third retransmission sets the short one too, and the entry does not tell of it.
        if remaining <= timeouts.retransmitting && timeouts.retransmitting < timeouts.established {
            return None;
        }
        timeouts.established.checked_sub(remaining)
    }
}

const fn phase(tcp_state: u8) -> Phase {
    match tcp_state {
        TCP_CONNTRACK_NONE | TCP_CONNTRACK_SYN_SENT | TCP_CONNTRACK_SYN_RECV | TCP_CONNTRACK_SYN_SENT2 => {
            Phase::Opening
        }
        TCP_CONNTRACK_ESTABLISHED => Phase::Established,
        // FIN_WAIT, CLOSE_WAIT, LAST_ACK, TIME_WAIT, CLOSE
        _ => Phase::Closing,
    }
}
