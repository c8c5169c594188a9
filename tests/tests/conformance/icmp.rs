//! Promise 11: ICMP errors are translated like the flows they are about, so there is no path-MTU black hole; and those
//! about a flow that is dead go nowhere.

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use shunt_core::config::Snat;
use shunt_core::mapping::{Mapping, Route};
use shunt_tests::Netns;
use shunt_tests::star::{CLIENT, Conversation, Counters, DBS, Far, Ip, PATIENCE, PORT, Server};
use socket2::{Domain, Protocol, Socket, Type};

use crate::lab::{Lab, SetOnDrop, eventually, set};

/// The least that IPv6 knows, in bytes.
const NARROW: u16 = 1280;

/// Counts the ICMP errors that tell a host to send smaller packets.
fn too_big(host: &Netns) -> Counters {
    let wanted =
        [("v4", "icmp type destination-unreachable icmp code frag-needed"), ("v6", "icmpv6 type packet-too-big")];
    Counters::incoming(host, &wanted).unwrap()
}

fn told(counters: &mut Counters) -> u64 {
    counters.read().unwrap().values().sum()
}

/// Sends four megabytes and gets them back at the same time.
fn transfer(conversation: &Conversation) {
    const LINES: usize = 500;
    // Each is sent in one piece by either end, and is longer than a packet of any link here.
    let line = format!("{}\n", "x".repeat(8191));
    thread::scope(|scope| {
        let sending = scope.spawn(|| {
            for _ in 0..LINES {
                (&conversation.stream).write_all(line.as_bytes()).expect("sent within the patience");
            }
        });
        let mut left = LINES * line.len();
        let mut buffer = vec![0; 64 * 1024];
        while left > 0 {
            let got = (&conversation.stream).read(&mut buffer).expect("received within the patience");
            assert!(got > 0, "closed with {left} bytes to come");
            left -= got;
        }
        sending.join().unwrap();
    });
}

/// A backend behind a link that is narrow at the network `narrow`: the client must be told to send smaller packets.
fn large_transfers_reach_a_far_backend(lab: &Lab, narrow: u8, snat: Snat) {
    let far = Far::new(lab, narrow, NARROW).unwrap();
    let _server = far.host.inside(|| Server::start("far", PORT)).unwrap().unwrap();
    let backend = (far.address(lab.ip), PORT).into();
    let mut datapath = lab.open();
    set(&mut *datapath, Mapping { snat, ..lab.mapping(Route::Single(backend)) });
    let mut at_the_client = too_big(lab.host(CLIENT));
    let conversation = lab.call();
    assert_eq!(conversation.server, "far");
    transfer(&conversation);
    assert!(told(&mut at_the_client) > 0, "the path was not narrow for the client");
}

pub fn p11_large_transfers_pass_a_narrow_link_of_the_proxys_own(lab: &Lab) {
    large_transfers_reach_a_far_backend(lab, 4, Snat::Masquerade);
}

pub fn p11_large_transfers_pass_a_narrow_link_beyond_the_proxy(lab: &Lab) {
    large_transfers_reach_a_far_backend(lab, 5, Snat::Masquerade);
}

pub fn p11_large_transfers_pass_a_narrow_link_without_snat(lab: &Lab) {
    large_transfers_reach_a_far_backend(lab, 5, Snat::None);
}

pub fn p11_large_transfers_reach_a_client_beyond_a_narrow_link(lab: &Lab) {
    let far = Far::new(lab, 5, NARROW).unwrap();
    let _datapath = lab.mapped();
    let mut at_the_backend = too_big(lab.host(DBS[0]));
    let conversation = far.host.inside(|| Conversation::open(lab.listener(), PATIENCE)).unwrap().unwrap();
    assert_eq!(conversation.server, "db1");
    transfer(&conversation);
    assert!(told(&mut at_the_backend) > 0, "the path was not narrow for the backend");
}

pub fn p11_errors_about_a_dead_flow_do_not_reach_the_old_backend(lab: &Lab) {
    let mut datapath = lab.mapped();
    let conversations = lab.calls(8);
    let mut at_the_backend = too_big(lab.host(DBS[0]));
    let socket = lab.inside(CLIENT, || raw_icmp(lab.ip));
    let errors: Vec<Vec<u8>> =
        conversations.iter().map(|conversation| too_big_error(lab.listener(), conversation.local().unwrap())).collect();
    let to = SocketAddr::new(lab.listener().ip(), 0).into();
    let done = AtomicBool::new(false);
    let after = thread::scope(|scope| {
        let _done = SetOnDrop(&done);
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                for error in &errors {
                    // The socket's buffer may be full for a moment.
                    let _ = socket.send_to(error, &to);
                }
            }
        });
        eventually("errors about live flows at their backend", || told(&mut at_the_backend) > 100);
        set(&mut *datapath, lab.to(1));
        at_the_backend.reset().unwrap();
        eventually("the end of the flows", || conversations.iter().all(Conversation::is_reset));
        told(&mut at_the_backend)
    });
    assert_eq!(after, 0);
}

fn raw_icmp(ip: Ip) -> Socket {
    let (domain, protocol) = match ip {
        Ip::V4 => (Domain::IPV4, Protocol::ICMPV4),
        Ip::V6 => (Domain::IPV6, Protocol::ICMPV6),
    };
    Socket::new(domain, Type::RAW, Some(protocol)).unwrap()
}

/// The ICMP message by which a router on the way to `to` complains of a packet from `from`: RFC 792 and RFC 1191, or
/// RFC 4443. The kernel itself makes the outer header, and ICMPv6's checksum.
fn too_big_error(from: SocketAddr, to: SocketAddr) -> Vec<u8> {
    const MTU: u16 = 1400;
    let mut message = match from.ip() {
        IpAddr::V4(_) => vec![3, 4, 0, 0, 0, 0],
        IpAddr::V6(_) => vec![2, 0, 0, 0, 0, 0],
    };
    message.extend(MTU.to_be_bytes());
    match (from.ip(), to.ip()) {
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            let mut header = vec![0x45, 0, 5, 0xdc, 0, 0, 0x40, 0, 64, 6, 0, 0];
            header.extend(from.octets());
            header.extend(to.octets());
            let sum = checksum(&header);
            header[10..12].copy_from_slice(&sum);
            message.extend(header);
        }
        (IpAddr::V6(from), IpAddr::V6(to)) => {
            message.extend([0x60, 0, 0, 0, 5, 0xb4, 6, 64]);
            message.extend(from.octets());
            message.extend(to.octets());
        }
        _ => unreachable!("both ends are of one family"),
    }
    message.extend(from.port().to_be_bytes());
    message.extend(to.port().to_be_bytes());
    // Sequence and acknowledgement number, then an ACK with a header of 20 bytes.
    message.extend([0, 0, 0, 1, 0, 0, 0, 1, 0x50, 0x10, 0, 100, 0, 0, 0, 0]);
    if from.is_ipv4() {
        let sum = checksum(&message);
        message[2..4].copy_from_slice(&sum);
    }
    message
}

/// RFC 1071, of an even number of bytes.
fn checksum(bytes: &[u8]) -> [u8; 2] {
    let sum: u32 = bytes.chunks_exact(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]]))).sum();
    let folded = (sum & 0xffff) + (sum >> 16);
    (!((folded & 0xffff) + (folded >> 16)) as u16).to_be_bytes()
}
