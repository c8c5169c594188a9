//! Frames that etherparse writes, whatever is in them, are what the programs read.

mod agreement;

use etherparse::PacketBuilder;
use proptest::prelude::*;
use shunt_ebpf_common::flow::{Address, Tuple};
use shunt_ebpf_common::packet::v4::V4;
use shunt_ebpf_common::packet::v6::V6;
use shunt_ebpf_common::packet::{Content, Header, Headers, beginning};
use shunt_ebpf_common::tcp::{Segment, flag};

/// Eight bytes an extension header.
const UNIT: u8 = 8;

fn read<I: Header>(frame: &[u8]) -> (Content, Tuple, Option<Segment>) {
    let head = beginning::<Headers<I>>(frame).unwrap();
    (head.ip.content(|at| agreement::load(frame, at)), head.tuple(), head.segment())
}

fn tuple(source: Address, target: Address, source_port: u16, target_port: u16) -> Tuple {
    Tuple { source, target, source_port: source_port.to_be(), target_port: target_port.to_be(), zero: 0 }
}

proptest! {
    #[test]
    fn a_segment_over_ipv4_is_read_as_it_was_written(
        source: [u8; 4], target: [u8; 4], ports: (u16, u16), sequence: u32, acknowledgement: u32,
        data in prop::collection::vec(any::<u8>(), 0..1400), ttl: u8,
    ) {
        let mut frame = Vec::new();
        let builder = PacketBuilder::ethernet2([2; 6], [4; 6]).ipv4(source, target, ttl);
        builder.tcp(ports.0, ports.1, sequence, 1000).ack(acknowledgement).write(&mut frame, &data).unwrap();
        let (content, read, segment) = read::<V4>(&frame);
        let address = |bytes| Address::v4(u32::from_ne_bytes(bytes));
        let expected = Segment { sequence, acknowledgement, flags: flag::ACK, length: data.len() as u32 };
        prop_assert_eq!((content, segment), (Content::Tcp, Some(expected)));
        prop_assert_eq!(read, tuple(address(source), address(target), ports.0, ports.1));
        agreement::agree(&frame);
    }

    #[test]
    fn a_segment_over_ipv6_is_found_behind_up_to_four_extension_headers(
        source: [u8; 16], target: [u8; 16], ports: (u16, u16), sequence: u32,
        extensions in prop::collection::vec((prop::sample::select(vec![0_u8, 43, 60]), 0_u8..4), 0..6),
    ) {
        let mut frame = Vec::new();
        let builder = PacketBuilder::ethernet2([2; 6], [4; 6]).ipv6(source, target, 64);
        builder.tcp(ports.0, ports.1, sequence, 1000).syn().write(&mut frame, &[]).unwrap();
        let mut behind = 40;
        for (kind, units) in extensions.iter().rev() {
            let next = std::mem::replace(&mut frame[20], *kind);
            let length = usize::from(UNIT) * (usize::from(*units) + 1);
            let mut header = vec![0; length];
            (header[0], header[1]) = (next, *units);
            frame.splice(54..54, header);
            frame[19] += length as u8;
            behind += length as u32;
        }
        let (content, read, segment) = read::<V6>(&frame);
        match extensions.len() {
            0 => {
                let (source, target) = (Address::from_bytes(source), Address::from_bytes(target));
                prop_assert_eq!((content, read), (Content::Tcp, tuple(source, target, ports.0, ports.1)));
                prop_assert_eq!(segment, Some(Segment { sequence, acknowledgement: 0, flags: flag::SYN, length: 0 }));
            }
            1..=4 => prop_assert_eq!(content, Content::Behind(behind)),
            _ => prop_assert_eq!(content, Content::Other),
        }
        agreement::agree(&frame);
    }

    #[test]
    fn bytes_of_all_kinds_are_read_alike(v4: bool, bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let mut frame = vec![0; 12];
        frame.extend(if v4 { [0x08, 0x00] } else { [0x86, 0xdd] });
        frame.extend(bytes);
        agreement::agree(&frame);
    }
}
