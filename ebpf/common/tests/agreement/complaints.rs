//! ICMP errors about segments: whether it is one, and about which.

use etherparse::{IpNumber, Ipv4HeaderSlice, Ipv6HeaderSlice};
use shunt_ebpf_common::flow::{Address, Tuple};
use shunt_ebpf_common::packet::{Complaint, Header, beginning};

pub fn agree<I: Header>(frame: &[u8], is_icmp: bool) {
    let Some(complaint) = beginning::<Complaint<I>>(frame).filter(|_| is_icmp) else { return };
    let about = 14 + I::LENGTH as usize + 8;
    let quoted = &frame[about..];
    let kind = frame[about - 8];
    let (is_error, precedes, source, target) = if I::LENGTH == 20 {
        // Unreachable, time exceeded, parameter problem.
        let is_error = [3, 11, 12].contains(&kind);
        let header = Ipv4HeaderSlice::from_slice(quoted);
        let precedes = header.is_ok_and(|header| {
            header.ihl() == 5 && header.protocol() == IpNumber::TCP && header.fragments_offset().value() == 0
        });
        let address = |at: usize| Address::v4(u32::from_ne_bytes(quoted[at..at + 4].try_into().unwrap()));
        (is_error, precedes, address(12), address(16))
    } else {
        let precedes = Ipv6HeaderSlice::from_slice(quoted).map(|header| header.next_header() == IpNumber::TCP);
        let address = |at: usize| Address::from_bytes(quoted[at..at + 16].try_into().unwrap());
        // Of another version: nobody else reads it.
        (kind < 128, precedes.unwrap_or_else(|_| complaint.about.precedes_tcp()), address(8), address(24))
    };
    assert_eq!(complaint.is_about_tcp(), is_error && precedes, "{frame:x?}");
    let port = |at: usize| u16::from_ne_bytes([quoted[at], quoted[at + 1]]);
    let (source_port, target_port) = (port(I::LENGTH as usize), port(I::LENGTH as usize + 2));
    let left = Tuple { source, target, source_port, target_port, zero: 0 };
    assert_eq!(complaint.answer(), left.reversed(), "{frame:x?}");
}
