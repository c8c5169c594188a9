//! TCP segments as the programs, the agent and etherparse read them.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use etherparse::TcpHeaderSlice;
use etherparse::err::tcp::HeaderSliceError;
use shunt_ebpf_common::flow::{Address, Tuple};
use shunt_ebpf_common::packet::v4::V4;
use shunt_ebpf_common::packet::v6::V6;
use shunt_ebpf_common::packet::{Content, Header, Headers, beginning};
use shunt_wire::packet::{Segment, Whole};

/// A packet with TCP right behind its IP header.
pub fn read_alike<I: Header>(frame: &[u8], head: &Headers<I>) {
    let segment = head.segment();
    let tcp = match TcpHeaderSlice::from_slice(&frame[I::TCP as usize..]) {
        Ok(tcp) => tcp,
        Err(HeaderSliceError::Content(_)) => {
            assert_eq!(segment, None, "{frame:x?}");
            return;
        }
        // Its options are cut off: nobody looks at them.
        Err(HeaderSliceError::Len(_)) => return,
    };
    let tuple = head.tuple();
    assert_eq!(
        (u16::from_be(tuple.source_port), u16::from_be(tuple.target_port)),
        (tcp.source_port(), tcp.destination_port())
    );
    let headers = I::LENGTH + u32::from(tcp.data_offset()) * 4;
    let told = head.ip.length();
    assert_eq!(segment.is_some(), told >= headers, "{frame:x?}");
    let Some(segment) = segment else { return };
    assert_eq!(segment.length, told - headers);
    assert_eq!(
        (segment.sequence, segment.acknowledgement),
        (tcp.sequence_number(), tcp.acknowledgment_number()),
        "{frame:x?}"
    );
    let flags = [tcp.fin(), tcp.syn(), tcp.rst(), tcp.psh(), tcp.ack(), tcp.urg(), tcp.ece(), tcp.cwr()];
    assert_eq!([0, 1, 2, 3, 4, 5, 6, 7].map(|bit| segment.flags & 1 << bit != 0), flags, "{frame:x?}");
    let next = segment.length + u32::from(tcp.syn()) + u32::from(tcp.fin());
    assert_eq!(segment.next().wrapping_sub(segment.sequence), next);
    assert_eq!(segment.opens(), tcp.syn() && !tcp.ack() && !tcp.rst() && !tcp.fin());
}

/// A packet as the agent reads it: it comes back as it was, and the programs read the same ends.
pub fn agree(packet: &[u8]) {
    let read = Segment::parse(packet);
    if let Some(segment) = &read {
        let ends = (segment.source(), segment.destination());
        assert_eq!(tuple(ends.0, ends.1), tuple_of(packet), "{packet:x?}");
        let bytes = segment.clone().bytes().expect("headers alone are never too long");
        let again = Segment::parse(&bytes).expect("what was read once");
        assert_eq!((again.source(), again.destination()), ends);
        assert_eq!((again.is_syn(), again.is_reset()), (segment.is_syn(), segment.is_reset()));
        assert_eq!(Segment::parse(&again.bytes().expect("as before")).map(|last| last.source()), Some(ends.0));
        let sent = segment.clone().to(ends.0).expect("of the same family");
        assert_eq!(sent.destination(), ends.0);
    }
    if let Some(whole) = Whole::parse(packet) {
        let to = whole.head.destination();
        let carries = whole.carries();
        let arrived: usize =
            whole.pieces(to).iter().map(|piece| Whole::parse(piece).expect("a piece of ours").carries()).sum();
        assert_eq!(arrived, carries, "{packet:x?}");
    }
}

fn tuple(source: SocketAddr, target: SocketAddr) -> Tuple {
    let address = |ip: IpAddr| match ip {
        IpAddr::V4(ip) => Address::v4(u32::from_ne_bytes(ip.octets())),
        IpAddr::V6(ip) => Address::from_bytes(Ipv6Addr::octets(&ip)),
    };
    Tuple {
        source: address(source.ip()),
        target: address(target.ip()),
        source_port: source.port().to_be(),
        target_port: target.port().to_be(),
        zero: 0,
    }
}

/// By the programs' reading, which takes IP options for something else than a segment.
fn tuple_of(packet: &[u8]) -> Tuple {
    let mut frame = vec![0; 14];
    frame.extend(packet);
    if packet[0] >> 4 == 6 {
        let head = beginning::<Headers<V6>>(&frame).expect("long enough to be read");
        assert_eq!(head.ip.content(|at| super::load(&frame, at)), Content::Tcp);
        return head.tuple();
    }
    // A header with options is longer than what is looked at.
    frame.resize(frame.len().max(54), 0);
    let head = beginning::<Headers<V4>>(&frame).expect("long enough to be read");
    let at = match head.ip.content(|at| super::load(&frame, at)) {
        Content::Tcp => V4::TCP as usize,
        Content::Behind(at) => 14 + at as usize,
        other => panic!("{other:?}: {packet:x?}"),
    };
    let port = |at: usize| u16::from_ne_bytes([frame[at], frame[at + 1]]);
    Tuple { source_port: port(at), target_port: port(at + 2), ..head.tuple() }
}
