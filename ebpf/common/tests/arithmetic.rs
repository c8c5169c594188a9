//! The arithmetic on packets, against the obvious way of doing the same.

use proptest::prelude::*;
use shunt_ebpf_common::checksum::{add, difference, fold, pseudo, pseudo_v6, replaced};
use shunt_ebpf_common::control::{Control, Ports, ports_beside};
use shunt_ebpf_common::flow::{Address, Tuple};
use shunt_ebpf_common::pool::{Pool, Range};
use shunt_ebpf_common::tcp::{Reset, Segment, after, flag};

/// The checksum of RFC 1071, computed from scratch over big-endian words.
fn full(bytes: &[u8]) -> u16 {
    let mut sum = 0_u64;
    for word in bytes.chunks(2) {
        sum += u64::from(u16::from_be_bytes([word[0], word.get(1).copied().unwrap_or(0)]));
    }
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

/// As it stands in a packet, read as the programs read it.
fn raw(checksum: u16) -> u16 {
    checksum.to_be()
}

/// 0 and 0xffff are the same number in one's complement.
fn same(a: u16, b: u16) -> bool {
    a == b || (a == 0 && b == 0xffff) || (a == 0xffff && b == 0)
}

fn words(bytes: [u8; 16]) -> [u32; 4] {
    Address::from_bytes(bytes).0
}

proptest! {
    #[test]
    fn replacing_words_changes_a_checksum_as_if_it_were_computed_anew(
        mut packet in prop::collection::vec(any::<u8>(), 32..200), new: [u8; 16], at in 0_usize..8,
    ) {
        let at = at * 2;
        let before = raw(full(&packet));
        let old: [u8; 16] = packet[at..at + 16].try_into().unwrap();
        packet[at..at + 16].copy_from_slice(&new);
        let after = replaced(before, difference(&words(old), &words(new)));
        prop_assert!(same(after, raw(full(&packet))), "{after:x} {:x}", raw(full(&packet)));
    }

    #[test]
    fn differences_of_parts_add_up(a: [u8; 16], b: [u8; 16], c: [u8; 16], before: u16) {
        let (a, b, c) = (words(a), words(b), words(c));
        let through = replaced(before, add(difference(&a, &b), difference(&b, &c)));
        prop_assert!(same(through, replaced(before, difference(&a, &c))));
    }

    #[test]
    fn a_pseudo_header_sums_up_to_what_its_bytes_do(source: [u8; 4], target: [u8; 4], length: u16) {
        let mut bytes = [source, target].concat();
        bytes.extend([0, 6]);
        bytes.extend(length.to_be_bytes());
        let sum = pseudo(u32::from_ne_bytes(source), u32::from_ne_bytes(target), length);
        prop_assert!(same(!fold(sum), raw(full(&bytes))));
    }

    #[test]
    fn a_pseudo_header_of_ipv6_does_too(source: [u8; 16], target: [u8; 16], length: u16) {
        let mut bytes = [source, target].concat();
        bytes.extend(u32::from(length).to_be_bytes());
        bytes.extend([0, 0, 0, 6]);
        let sum = pseudo_v6(&words(source), &words(target), length);
        prop_assert!(same(!fold(sum), raw(full(&bytes))));
    }

    #[test]
    fn a_port_is_never_one_of_the_hosts_own(first in 1_u16.., length: u16, number: u32) {
        let last = first.saturating_add(length);
        let control = Control { ports: ports_beside(first, last), ..Control::default() };
        match control.port(number) {
            Some(port) => prop_assert!(port >= 1024 && !(first..=last).contains(&port), "{port}"),
            None => prop_assert!(first <= 1024 && last == u16::MAX),
        }
    }

    #[test]
    fn a_sequence_number_comes_after_the_one_before_it(number: u32, step in 1_u32..0x8000_0000) {
        prop_assert!(after(number.wrapping_add(step), number));
        prop_assert!(!after(number, number.wrapping_add(step)));
    }

    #[test]
    fn a_tuple_reversed_twice_is_itself(source: [u8; 16], target: [u8; 16], source_port: u16, target_port: u16) {
        let (source, target) = (Address::from_bytes(source), Address::from_bytes(target));
        let tuple = Tuple { source, target, source_port, target_port, zero: 0 };
        prop_assert_eq!(tuple.reversed().reversed(), tuple);
    }

    #[test]
    fn a_segment_is_answered_with_the_number_that_its_sender_expects(sequence: u32, acknowledgement: u32, length in 0_u32..65536) {
        let data = Segment { sequence, acknowledgement, flags: flag::ACK, length };
        prop_assert_eq!(data.reset(), Some(Reset { sequence: acknowledgement, acknowledgement: 0, flags: flag::RST }));
        let syn = Segment { sequence, acknowledgement: 0, flags: flag::SYN, length: 0 };
        let next = sequence.wrapping_add(1);
        prop_assert_eq!(syn.reset(), Some(Reset { sequence: 0, acknowledgement: next, flags: flag::RST | flag::ACK }));
        prop_assert_eq!(Segment { flags: flag::RST | flag::ACK, ..data }.reset(), None);
    }
}

#[test]
fn every_port_of_both_ranges_is_reached() {
    let control =
        Control { ports: [Ports { first: 1024, number: 3 }, Ports { first: 61_000, number: 2 }], ..Control::default() };
    let ports: Vec<_> = (0..6).map(|number| control.port(number).unwrap()).collect();
    assert_eq!(ports, [1024, 1025, 1026, 61_000, 61_001, 1024]);
}

#[test]
fn every_address_of_a_pool_is_reached() {
    let range = |text: &str, number| Range {
        first: Address::from_bytes(text.parse::<std::net::Ipv4Addr>().unwrap().to_ipv6_mapped().octets()),
        number,
    };
    let pool = Pool::of(&[range("10.0.0.254", 3), range("10.9.9.9", 1)]).unwrap();
    let addresses: Vec<_> = (0..5).map(|number| pool.address(number).unwrap()).collect();
    let expected = ["10.0.0.254", "10.0.0.255", "10.0.1.0", "10.9.9.9", "10.0.0.254"].map(|text| range(text, 0).first);
    assert_eq!(addresses, expected);
    assert_eq!(Pool::of(&[]).unwrap().address(0), None);
    assert_eq!(Pool::of(&[range("255.255.255.254", 3)]), None, "beyond the last address");
    assert_eq!(Pool::of(&[range("10.0.0.1", 1); 9]), None);
}

#[test]
fn an_ipv4_address_is_a_mapped_one() {
    let address = Address::from_bytes(std::net::Ipv4Addr::new(10, 0, 0, 1).to_ipv6_mapped().octets());
    assert!(address.is_v4());
    assert_eq!(address, Address::v4(u32::from_ne_bytes([10, 0, 0, 1])));
    assert!(!Address::from_bytes(std::net::Ipv6Addr::LOCALHOST.octets()).is_v4());
}
