//! Writes the frames that the fuzzer and the tests begin with, one of each kind that headers know. To be run when a kind is
//! added: `cargo run -p shunt-ebpf-common --example seeds`.

use std::path::Path;
use std::{fs, io};

use etherparse::{IpFragOffset, Ipv4Options, PacketBuilder, PacketBuilderStep, TcpOptionElement, ip_number};

const CLIENT: [u8; 4] = [10, 77, 1, 2];
const LISTENER: [u8; 4] = [10, 77, 1, 1];
const ROUTER: [u8; 4] = [10, 77, 2, 77];

const HOP_BY_HOP: u8 = 0;
const ROUTING: u8 = 43;
const FRAGMENT: u8 = 44;
const DESTINATION: u8 = 60;

fn v6(last: u8) -> [u8; 16] {
    [0xfd, 0x77, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, last]
}

fn ethernet() -> PacketBuilderStep<etherparse::Ethernet2Header> {
    PacketBuilder::ethernet2([2; 6], [4; 6])
}

/// A segment with these flags and data, and with TCP options when it opens.
fn segment(is_v4: bool, flags: &str, data: &[u8]) -> Vec<u8> {
    let ip = if is_v4 { ethernet().ipv4(CLIENT, LISTENER, 64) } else { ethernet().ipv6(v6(2), v6(1), 64) };
    let mut tcp = ip.tcp(40_000, 3306, 7, 1000);
    for flag in flags.chars() {
        tcp = match flag {
            'S' => tcp.syn(),
            'A' => tcp.ack(9),
            'F' => tcp.fin(),
            'R' => tcp.rst(),
            _ => tcp.psh(),
        };
    }
    if flags.contains('S') {
        let options = [TcpOptionElement::MaximumSegmentSize(1460), TcpOptionElement::WindowScale(7)];
        tcp = tcp.options(&options).unwrap();
    }
    let mut frame = Vec::new();
    tcp.write(&mut frame, data).unwrap();
    frame
}

/// With these extension headers, each of eight bytes, between IPv6's header and the segment.
fn extended(extensions: &[u8]) -> Vec<u8> {
    let mut frame = segment(false, "A", b"data");
    for kind in extensions.iter().rev() {
        let next = std::mem::replace(&mut frame[20], *kind);
        frame.splice(54..54, [next, 0, 0, 0, 0, 0, 0, 0]);
        frame[19] += 8;
    }
    frame
}

fn changed(mut frame: Vec<u8>, at: usize, byte: u8) -> Vec<u8> {
    frame[at] = byte;
    frame
}

fn cut(mut frame: Vec<u8>, length: usize) -> Vec<u8> {
    frame.truncate(length);
    frame
}

fn with_options() -> Vec<u8> {
    let mut header = etherparse::Ipv4Header::new(20, 64, ip_number::TCP, CLIENT, LISTENER).unwrap();
    header.options = Ipv4Options::from([1, 1, 1, 0]);
    header.header_checksum = header.calc_header_checksum();
    spliced(header)
}

fn fragment(offset: u16, more: bool) -> Vec<u8> {
    let mut header = etherparse::Ipv4Header::new(20, 64, ip_number::TCP, CLIENT, LISTENER).unwrap();
    (header.fragment_offset, header.more_fragments) = (IpFragOffset::try_new(offset).unwrap(), more);
    header.header_checksum = header.calc_header_checksum();
    spliced(header)
}

/// A segment behind another IPv4 header.
fn spliced(mut header: etherparse::Ipv4Header) -> Vec<u8> {
    header.set_payload_len(20).unwrap();
    let mut frame = segment(true, "A", b"");
    frame.splice(14..34, header.to_bytes());
    frame
}

/// What a router says about what `about` begins with.
fn complaint(is_v4: bool, kind: u8, code: u8, about: &[u8]) -> Vec<u8> {
    let rest = [0, 0, 5, 0];
    let mut frame = Vec::new();
    if is_v4 {
        let builder = ethernet().ipv4(ROUTER, LISTENER, 64).icmpv4_raw(kind, code, rest);
        builder.write(&mut frame, about).unwrap();
    } else {
        ethernet().ipv6(v6(77), v6(1), 64).icmpv6_raw(kind, code, rest).write(&mut frame, about).unwrap();
    }
    frame
}

fn seeds() -> Vec<(&'static str, Vec<u8>)> {
    let (v4, v6) = (segment(true, "A", b"data"), segment(false, "A", b"data"));
    let error = complaint(true, 3, 4, &v4[14..]);
    let error6 = complaint(false, 2, 0, &v6[14..]);
    let mut udp = Vec::new();
    ethernet().ipv4(CLIENT, LISTENER, 64).udp(40_000, 3306).write(&mut udp, b"x").unwrap();
    let mut tagged = Vec::new();
    let vlan = ethernet().single_vlan(7.try_into().unwrap()).ipv4(CLIENT, LISTENER, 64);
    vlan.tcp(40_000, 3306, 7, 1000).syn().write(&mut tagged, &[]).unwrap();
    vec![
        ("v4_syn", segment(true, "S", b"")),
        ("v4_data", v4.clone()),
        ("v4_fin", segment(true, "AF", b"")),
        ("v4_rst", segment(true, "R", b"")),
        ("v4_everything_set", segment(true, "SAFRP", b"x")),
        ("v4_options", with_options()),
        ("v4_header_too_short", changed(v4.clone(), 14, 0x44)),
        ("v4_version_6", changed(v4.clone(), 14, 0x65)),
        ("v4_first_fragment", fragment(0, true)),
        ("v4_later_fragment", fragment(3, true)),
        ("v4_last_fragment", fragment(3, false)),
        ("v4_bad_checksum", changed(v4.clone(), 24, 0xee)),
        ("v4_offset_too_small", changed(v4.clone(), 46, 0x40)),
        ("v4_offset_beyond_the_end", changed(v4.clone(), 46, 0xf0)),
        ("v4_length_of_nothing", changed(v4.clone(), 17, 0)),
        ("v4_cut_in_tcp", cut(v4.clone(), 50)),
        ("v4_cut_in_ip", cut(v4.clone(), 30)),
        ("v4_padded", [v4.clone(), vec![0; 6]].concat()),
        ("v4_udp", udp),
        ("v4_vlan", tagged),
        ("v4_echo", complaint(true, 8, 0, &v4[14..])),
        ("v4_unreachable", complaint(true, 3, 3, &v4[14..])),
        ("v4_too_big", error.clone()),
        ("v4_too_big_quoting_the_least", complaint(true, 3, 4, &v4[14..42])),
        ("v4_error_about_options", complaint(true, 11, 0, &with_options()[14..])),
        ("v4_error_about_a_later_fragment", complaint(true, 11, 0, &fragment(3, false)[14..])),
        ("v4_error_about_an_error", complaint(true, 3, 4, &error[14..])),
        ("v6_syn", segment(false, "S", b"")),
        ("v6_data", v6.clone()),
        ("v6_rst", segment(false, "RA", b"")),
        ("v6_version_4", changed(v6.clone(), 14, 0x45)),
        ("v6_cut_in_tcp", cut(v6.clone(), 70)),
        ("v6_cut_in_ip", cut(v6.clone(), 50)),
        ("v6_length_of_nothing", changed(v6.clone(), 19, 0)),
        ("v6_hop_by_hop", extended(&[HOP_BY_HOP])),
        ("v6_all_extensions", extended(&[HOP_BY_HOP, ROUTING, DESTINATION])),
        ("v6_first_fragment", extended(&[DESTINATION, FRAGMENT])),
        ("v6_later_fragment", changed(extended(&[FRAGMENT]), 57, 8)),
        ("v6_too_many_extensions", extended(&[DESTINATION; 5])),
        ("v6_extension_beyond_the_end", changed(extended(&[DESTINATION]), 55, 200)),
        ("v6_authenticated", changed(v6.clone(), 20, 51)),
        ("v6_too_big", error6.clone()),
        ("v6_unreachable", complaint(false, 1, 4, &v6[14..])),
        ("v6_echo", complaint(false, 128, 0, &v6[14..])),
        ("v6_error_about_extensions", complaint(false, 3, 0, &extended(&[DESTINATION])[14..])),
        ("v6_error_about_an_error", complaint(false, 2, 0, &error6[14..])),
        ("nothing", Vec::new()),
        ("arp", [vec![0xff; 12], vec![8, 6], vec![0; 28]].concat()),
    ]
}

fn main() -> io::Result<()> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/corpus/headers");
    fs::create_dir_all(&folder)?;
    seeds().iter().try_for_each(|(name, frame)| fs::write(folder.join(name), frame))
}
