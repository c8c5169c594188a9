//! Headers that are changed or made anew: what their sums come to.

use etherparse::checksum::Sum16BitWords;
use shunt_ebpf_common::checksum::{add, difference, fold, replaced};
use shunt_ebpf_common::flow::{Address, Tuple};
use shunt_ebpf_common::packet::{Header, Headers, TCP, sum};

/// 0 and 0xffff are the same number in one's complement.
fn same(a: u32, b: u32) -> bool {
    let canonical = |sum: u32| match fold(sum) {
        u16::MAX => 0,
        other => other,
    };
    canonical(a) == canonical(b)
}

fn elsewhere<I: Header>() -> Tuple {
    let address = |last: u8| {
        let mut bytes = [0; 16];
        bytes[..2].copy_from_slice(&[0xfd, 0x77]);
        bytes[15] = last;
        if I::LENGTH == 20 { Address::v4(u32::from_ne_bytes([10, 77, 2, last])) } else { Address::from_bytes(bytes) }
    };
    Tuple { source: address(1), target: address(2), source_port: 0xabcd, target_port: 0x1234, zero: 0 }
}

/// Rewritten as a flow's packets are, all sums are as right or wrong as they were.
pub fn keeps_sums<I: Header>(frame: &[u8], head: &Headers<I>) {
    let (before, to) = (head.tuple(), elsewhere::<I>());
    let ports = |tuple: &Tuple| [u32::from(tuple.source_port), u32::from(tuple.target_port)];
    let (address_sum, port_sum) = (I::difference(&before, &to), difference(&ports(&before), &ports(&to)));
    let mut after = *head;
    after.ip.set_addresses(&to.source, &to.target);
    after.ip.correct(address_sum);
    after.tcp.source_port = to.source_port;
    after.tcp.target_port = to.target_port;
    after.tcp.checksum = replaced(after.tcp.checksum, add(address_sum, port_sum));
    assert_eq!(after.tuple(), to, "{frame:x?}");
    if I::SUMMED {
        assert!(same(sum(&head.ip), sum(&after.ip)), "{frame:x?}");
    }
    let pseudo = |tuple: &Tuple| I::pseudo(&tuple.source, &tuple.target, head.ip.length() as u16);
    let whole = |head: &Headers<I>| add(pseudo(&head.tuple()), sum(&head.tcp));
    assert!(same(whole(head), whole(&after)), "{frame:x?}");
}

/// The header in front of an answer leads back to the sender, and its sums are right by another's arithmetic.
pub fn is_answered<I: Header>(head: &Headers<I>) {
    const LENGTH: u16 = 20;
    let ends = head.tuple().reversed();
    let ip = I::with(&ends.source, &ends.target, TCP, LENGTH);
    assert_eq!(ip.addresses(), (ends.source, ends.target));
    assert_eq!(ip.length(), I::LENGTH + u32::from(LENGTH));
    assert!(ip.precedes_tcp() && (!I::SUMMED || same(sum(&ip), 0)));
    let by_bytes = |protocol: u8| {
        let covered = if I::LENGTH == 20 {
            let v4 = |address: Address| address.raw_v4().to_ne_bytes();
            Sum16BitWords::new().add_4bytes(v4(ends.source)).add_4bytes(v4(ends.target))
        } else {
            Sum16BitWords::new().add_16bytes(ends.source.bytes()).add_16bytes(ends.target.bytes())
        };
        !covered.add_2bytes([0, protocol]).add_2bytes(LENGTH.to_be_bytes()).ones_complement()
    };
    assert!(same(I::pseudo(&ends.source, &ends.target, LENGTH), u32::from(by_bytes(TCP))));
    // ICMP's has a pseudo-header over IPv6 only.
    let icmp = I::icmp_pseudo(&ends.source, &ends.target, LENGTH);
    let expected = if I::LENGTH == 20 { 0 } else { by_bytes(I::ICMP) };
    assert!(same(icmp, u32::from(expected)));
}
