//! ICMP errors made by hand, put through the program by `BPF_PROG_TEST_RUN`.

use std::net::{IpAddr, SocketAddr};

use anyhow::{Context as _, Result, ensure};
use etherparse::{PacketBuilder, checksum::Sum16BitWords};
use shunt_ebpf::common::counter::Counter;
use shunt_ebpf::common::flow::{Tuple, state};
use shunt_ebpf::socket_address;
use shunt_tests::star::{CLIENT, Ip};

use crate::lab::{Lab, PAIRS, on_both};
use crate::packets::{DROP, NEXT, Noise, REDIRECT, run};

const ROUTER: u8 = 77;

/// Where the inner IP header begins, and where it ends.
fn inside(ip: Ip) -> (usize, usize) {
    if ip == Ip::V4 { (14 + 20 + 8, 14 + 20 + 8 + 20) } else { (14 + 40 + 8, 14 + 40 + 8 + 40) }
}

/// What a router near the backend says of a packet: of its first bytes, with a header that sums up.
fn complaint(ip: Ip, from: SocketAddr, to: SocketAddr) -> Result<Vec<u8>> {
    let mut about = Vec::new();
    match (from.ip(), to.ip()) {
        (IpAddr::V4(a), IpAddr::V4(b)) => PacketBuilder::ipv4(a.octets(), b.octets(), 60)
            .tcp(from.port(), to.port(), 7, 1000)
            .write(&mut about, &[0; 20])?,
        (IpAddr::V6(a), IpAddr::V6(b)) => PacketBuilder::ipv6(a.octets(), b.octets(), 60)
            .tcp(from.port(), to.port(), 7, 1000)
            .write(&mut about, &[0; 20])?,
        _ => anyhow::bail!("two families"),
    }
    let ethernet = PacketBuilder::ethernet2([2; 6], [4; 6]);
    let mut packet = Vec::new();
    match (ip.address(2, ROUTER), from.ip()) {
        (IpAddr::V4(router), IpAddr::V4(from)) => ethernet
            .ipv4(router.octets(), from.octets(), 64)
            .icmpv4_raw(3, 4, [0, 0, 5, 0])
            .write(&mut packet, &about)?,
        (IpAddr::V6(router), IpAddr::V6(from)) => ethernet
            .ipv6(router.octets(), from.octets(), 64)
            .icmpv6_raw(2, 0, [0, 0, 5, 0])
            .write(&mut packet, &about)?,
        _ => anyhow::bail!("two families"),
    }
    Ok(packet)
}

/// Whether all checksums of an ICMP error are right but for the quoted segment's, which nobody has all data for.
fn sums_up(ip: Ip, packet: &[u8]) -> bool {
    let add = |sum: Sum16BitWords, bytes: &[u8]| sum.add_slice(bytes);
    let is_zero = |sum: Sum16BitWords| sum.ones_complement() == 0;
    if ip == Ip::V4 {
        let (begin, end) = inside(ip);
        return is_zero(add(Sum16BitWords::new(), &packet[14..34]))
            && is_zero(add(Sum16BitWords::new(), &packet[34..]))
            && is_zero(add(Sum16BitWords::new(), &packet[begin..end]));
    }
    let length = (packet.len() - 54) as u16;
    let sum = add(Sum16BitWords::new(), &packet[22..54]).add_2bytes(length.to_be_bytes()).add_2bytes([0, 58]);
    is_zero(add(sum, &packet[54..]))
}

/// Source and target of the packet itself, and of the one that it is about.
fn ends(ip: Ip, packet: &[u8]) -> Result<((IpAddr, IpAddr), (SocketAddr, SocketAddr))> {
    let address = |at: usize| -> Result<IpAddr> {
        Ok(match ip {
            Ip::V4 => <[u8; 4]>::try_from(&packet[at..at + 4])?.into(),
            Ip::V6 => <[u8; 16]>::try_from(&packet[at..at + 16])?.into(),
        })
    };
    let (begin, end) = inside(ip);
    let (at, size) = if ip == Ip::V4 { (12, 4) } else { (8, 16) };
    let port = |at: usize| u16::from_be_bytes([packet[at], packet[at + 1]]);
    Ok((
        (address(14 + at)?, address(14 + at + size)?),
        ((address(begin + at)?, port(end)).into(), (address(begin + at + size)?, port(end + 2)).into()),
    ))
}

/// A client's connection, and what its packets look like when they leave.
fn connected(lab: &mut Lab<'_>) -> Result<(shunt_tests::star::Conversation, Tuple, Tuple)> {
    lab.attach()?;
    lab.lead(0)?;
    let call = lab.star.dial(CLIENT, lab.listener())?;
    let flows = lab.flows()?;
    let (key, flow) = flows.iter().find(|(_, flow)| flow.state & state::FROM_CLIENT != 0).context("no client's")?;
    Ok((call, *key, flow.rewritten))
}

fn source(tuple: &Tuple) -> SocketAddr {
    socket_address(&shunt_ebpf::common::flow::Endpoint { address: tuple.source, port: tuple.source_port, zero: 0 })
}

fn target(tuple: &Tuple) -> SocketAddr {
    source(&tuple.reversed())
}

#[test]
fn an_error_about_a_flow_is_told_to_the_end_that_sent_the_packet() -> Result<()> {
    on_both("complaints::an_error_about_a_flow", |mut lab| {
        let ip = lab.ip;
        let (_call, key, out) = connected(&mut lab)?;
        // Of what went to the server, and of what went to the client.
        for (sent, known) in [(out, key), (key.reversed(), out.reversed())] {
            let packet = complaint(ip, source(&sent), target(&sent))?;
            ensure!(sums_up(ip, &packet), "the test's own packet");
            let (verdict, told) = run(&mut lab, &packet)?;
            assert_eq!(verdict, REDIRECT);
            let (outer, inner) = ends(ip, &told)?;
            assert_eq!(outer, (target(&known).ip(), source(&known).ip()));
            assert_eq!(inner, (source(&known), target(&known)));
            ensure!(sums_up(ip, &told), "{told:x?}");
            assert_eq!(told[if ip == Ip::V4 { 22 } else { 21 }], 63, "a step less to live");
        }
        assert_eq!(lab.count(Counter::Translated), 2);
        Ok(())
    })
}

#[test]
fn an_error_about_a_dead_flow_is_told_to_nobody() -> Result<()> {
    on_both("complaints::an_error_about_a_dead_flow", |mut lab| {
        let ip = lab.ip;
        let (_call, key, out) = connected(&mut lab)?;
        lab.lead(1)?;
        for sent in [out, key.reversed()] {
            assert_eq!(run(&mut lab, &complaint(ip, source(&sent), target(&sent))?)?.0, DROP);
        }
        assert_eq!(lab.count(Counter::AboutDead), 2);
        Ok(())
    })
}

#[test]
fn what_is_about_no_flow_or_is_no_error_passes_untouched() -> Result<()> {
    on_both("complaints::what_is_about_no_flow", |mut lab| {
        let ip = lab.ip;
        let (_call, _, out) = connected(&mut lab)?;
        let other = SocketAddr::new(source(&out).ip(), 9);
        let mut echo = complaint(ip, source(&out), target(&out))?;
        echo[if ip == Ip::V4 { 34 } else { 54 }] = if ip == Ip::V4 { 8 } else { 128 };
        let mut short = complaint(ip, source(&out), target(&out))?;
        short.truncate(inside(ip).1 + 4);
        for packet in [complaint(ip, other, target(&out))?, echo, short] {
            assert_eq!(run(&mut lab, &packet)?, (NEXT, packet));
        }
        Ok(())
    })
}

#[test]
fn spoilt_errors_never_reach_a_backend_that_is_not_live() -> Result<()> {
    const ROUNDS: usize = 5000;
    on_both("complaints::spoilt_errors", |mut lab| {
        let ip = lab.ip;
        let (_call, key, out) = connected(&mut lab)?;
        let mut noise = Noise(0x5eed);
        let (mut told, mut dropped, mut passed) = (0, 0, 0);
        for round in 0..ROUNDS {
            if round == ROUNDS / 2 {
                let mut change = lab.tables.begin();
                change.live(PAIRS[0], 0);
                change.commit();
            }
            let sent = if noise.below(2) == 0 { out } else { key.reversed() };
            let mut packet = complaint(ip, source(&sent), target(&sent))?;
            for _ in 0..noise.below(3) {
                let at = 12 + noise.below(packet.len() - 12);
                packet[at] = noise.below(256) as u8;
            }
            if noise.below(4) == 0 {
                let least = inside(ip).0 - 8;
                packet.truncate(least + noise.below(packet.len() - least));
            }
            match run(&mut lab, &packet).with_context(|| format!("round {round}: {packet:x?}"))? {
                (NEXT, same) => {
                    assert_eq!(same, packet, "round {round}");
                    passed += 1;
                }
                (DROP, _) => dropped += 1,
                (REDIRECT, _) => {
                    ensure!(round < ROUNDS / 2, "round {round}: {packet:x?}");
                    told += 1;
                }
                (other, _) => anyhow::bail!("round {round}: verdict {other} on {packet:x?}"),
            }
        }
        ensure!(told > 0 && dropped > 0 && passed > 0, "{told} {dropped} {passed}");
        Ok(())
    })
}
