//! Packets made by hand, put through the program by `BPF_PROG_TEST_RUN`: which come out untouched, which do not come out.

use std::net::Ipv6Addr;

use anyhow::{Context as _, Result};
use aya::programs::{TestRun as _, TestRunOptions};
use etherparse::PacketBuilder;
use shunt_ebpf::common::counter::Counter;
use shunt_ebpf::common::kept::MAX_WAITING;
use shunt_ebpf::common::mapping::kind;
use shunt_ebpf::common::tally::Event;
use shunt_tests::star::Ip;

use crate::lab::{LISTENER as LISTENER_SLOT, Lab, PAIRS, fence, on_both, on_the_proxy};

pub const NEXT: u32 = -1_i32 as u32;
pub const DROP: u32 = 2;
pub const REDIRECT: u32 = 7;

const CLIENT: [u8; 4] = [10, 77, 1, 2];
const LISTENER: [u8; 4] = [10, 77, 1, 1];
const CLIENT6: Ipv6Addr = Ipv6Addr::new(0xfd77, 1, 0, 0, 0, 0, 0, 2);
const LISTENER6: Ipv6Addr = Ipv6Addr::new(0xfd77, 1, 0, 0, 0, 0, 0, 1);

/// What came out, and what is to become of it. It comes in by the loopback interface, and is addressed to it.
pub fn run(lab: &mut Lab<'_>, packet: &[u8]) -> Result<(u32, Vec<u8>)> {
    let mut addressed = packet.to_vec();
    addressed[..6].fill(0);
    let (verdict, mut out) = run_to_anybody(lab, &addressed)?;
    if out[..6] == [0; 6] {
        out[..6].copy_from_slice(&packet[..6]);
    }
    Ok((verdict, out))
}

fn run_to_anybody(lab: &mut Lab<'_>, packet: &[u8]) -> Result<(u32, Vec<u8>)> {
    let mut out = vec![0; packet.len() + 64];
    let mut options = TestRunOptions::new();
    options.data_in = Some(packet);
    options.data_out = Some(&mut out);
    let result = lab.object.program()?.test_run(options)?;
    let length = result.data_size_out as usize;
    out.truncate(length);
    Ok((result.return_value, out))
}

fn segment(to: [u8; 4], port: u16, syn: bool) -> Vec<u8> {
    segment_from(CLIENT, to, port, syn)
}

fn segment_from(client: [u8; 4], to: [u8; 4], port: u16, syn: bool) -> Vec<u8> {
    let builder = PacketBuilder::ethernet2([2; 6], [4; 6]).ipv4(client, to, 64).tcp(40_000, port, 7, 1000);
    let builder = if syn { builder.syn() } else { builder.ack(9) };
    let mut packet = Vec::new();
    builder.write(&mut packet, &[]).unwrap();
    packet
}

/// With these extension headers.
fn segment_v6(port: u16, extensions: &[u8]) -> Vec<u8> {
    let builder = PacketBuilder::ethernet2([2; 6], [4; 6]).ipv6(CLIENT6.octets(), LISTENER6.octets(), 64);
    let mut packet = Vec::new();
    builder.tcp(40_000, port, 7, 1000).ack(9).write(&mut packet, &[]).unwrap();
    // From the last to the first, each goes between the IPv6 header and what was there.
    for kind in extensions.iter().rev() {
        let next = std::mem::replace(&mut packet[20], *kind);
        packet.splice(54..54, [next, 0, 0, 0, 0, 0, 0, 0]);
        packet[19] += 8;
    }
    packet
}

#[test]
fn what_is_for_no_listener_passes_untouched() -> Result<()> {
    on_the_proxy("packets::what_is_for_no_listener", |mut lab| {
        lab.lead(0)?;
        let mut udp = Vec::new();
        PacketBuilder::ethernet2([2; 6], [4; 6]).ipv4(CLIENT, LISTENER, 64).udp(40_000, 3306).write(&mut udp, b"x")?;
        let mut short = segment(LISTENER, 3306, true);
        short.truncate(40);
        for packet in [segment(LISTENER, 3307, true), segment([10, 77, 1, 9], 3306, true), udp, short, vec![0; 60]] {
            assert_eq!(run(&mut lab, &packet)?, (NEXT, packet.clone()), "{packet:x?}");
        }
        Ok(())
    })
}

#[test]
fn a_frame_that_is_addressed_to_somebody_else_is_nothing_to_us() -> Result<()> {
    on_the_proxy("packets::a_frame_that_is_addressed_to_somebody_else", |mut lab| {
        lab.lead(0)?;
        for syn in [true, false] {
            // To another host's interface, to a group, to everybody.
            for target in [[4; 6], [1; 6], [0xff; 6]] {
                let mut packet = segment(LISTENER, 3306, syn);
                packet[..6].copy_from_slice(&target);
                assert_eq!(run_to_anybody(&mut lab, &packet)?, (NEXT, packet.clone()), "{target:x?}");
            }
        }
        assert_eq!((lab.flows()?.len(), lab.count(Counter::Reset)), (0, 0));
        Ok(())
    })
}

#[test]
fn a_segment_of_no_connection_becomes_the_reset_that_its_sender_accepts() -> Result<()> {
    on_the_proxy("packets::a_segment_of_no_connection", |mut lab| {
        lab.lead(0)?;
        let (verdict, answer) = run(&mut lab, &segment(LISTENER, 3306, false))?;
        assert_eq!((verdict, answer.len()), (REDIRECT, 54));
        let parsed = etherparse::SlicedPacket::from_ethernet(&answer)?;
        let Some(etherparse::NetSlice::Ipv4(ip)) = parsed.net else { anyhow::bail!("no IPv4") };
        let Some(etherparse::TransportSlice::Tcp(tcp)) = parsed.transport else { anyhow::bail!("no TCP") };
        assert_eq!((ip.header().source(), ip.header().destination()), (LISTENER, CLIENT));
        assert_eq!((tcp.source_port(), tcp.destination_port(), tcp.sequence_number()), (3306, 40_000, 9));
        assert!(tcp.rst() && !tcp.ack() && !tcp.syn());
        assert_eq!(ip.header().header_checksum(), ip.header().to_header().calc_header_checksum());
        assert_eq!(tcp.checksum(), tcp.calc_checksum_ipv4(LISTENER, CLIENT)?);
        Ok(())
    })
}

#[test]
fn over_ipv6_it_is_the_same() -> Result<()> {
    on_both("packets::over_ipv6", |mut lab| {
        if lab.ip == Ip::V4 {
            return Ok(());
        }
        lab.lead(0)?;
        let (verdict, answer) = run(&mut lab, &segment_v6(3306, &[]))?;
        assert_eq!((verdict, answer.len()), (REDIRECT, 74));
        let parsed = etherparse::SlicedPacket::from_ethernet(&answer)?;
        let Some(etherparse::NetSlice::Ipv6(ip)) = parsed.net else { anyhow::bail!("no IPv6") };
        let Some(etherparse::TransportSlice::Tcp(tcp)) = parsed.transport else { anyhow::bail!("no TCP") };
        let header = ip.header();
        assert_eq!((header.source_addr(), header.destination_addr()), (LISTENER6, CLIENT6));
        assert_eq!((tcp.source_port(), tcp.destination_port(), tcp.sequence_number()), (3306, 40_000, 9));
        assert!(tcp.rst() && !tcp.ack());
        assert_eq!(tcp.checksum(), tcp.calc_checksum_ipv6(header.source(), header.destination())?);
        Ok(())
    })
}

#[test]
fn extension_headers_are_looked_behind() -> Result<()> {
    on_both("packets::extension_headers", |mut lab| {
        if lab.ip == Ip::V4 {
            return Ok(());
        }
        lab.lead(0)?;
        // Hop by hop, then destination options; each has the next one's number first and is eight bytes long.
        const HOP_BY_HOP: u8 = 0;
        const FRAGMENT: u8 = 44;
        const DESTINATION: u8 = 60;
        assert_eq!(run(&mut lab, &segment_v6(3306, &[HOP_BY_HOP, DESTINATION]))?.0, DROP);
        assert_eq!(lab.count(Counter::Options), 1);
        assert_eq!(run(&mut lab, &segment_v6(3306, &[DESTINATION, FRAGMENT]))?.0, DROP);
        assert_eq!(lab.count(Counter::Fragment), 1);
        // Of another port, and with more of them than anybody needs.
        for packet in [segment_v6(3307, &[HOP_BY_HOP]), segment_v6(3306, &[DESTINATION; 20])] {
            assert_eq!(run(&mut lab, &packet)?, (NEXT, packet.clone()));
        }
        Ok(())
    })
}

#[test]
fn what_cannot_be_carried_for_a_listener_is_dropped_and_counted() -> Result<()> {
    on_the_proxy("packets::what_cannot_be_carried", |mut lab| {
        lab.lead(0)?;
        let mut fragment = segment(LISTENER, 3306, true);
        fragment[20] = 0x20;
        let mut options = segment(LISTENER, 3306, true);
        options.splice(34..34, [1, 1, 1, 1]);
        options[14] = 0x46;
        let mut contradicting = segment(LISTENER, 3306, true);
        contradicting[46] = 0xf0;
        let cases = [(fragment, Counter::Fragment), (options, Counter::Options), (contradicting, Counter::Truncated)];
        for (packet, counter) in cases {
            assert_eq!(run(&mut lab, &packet)?.0, DROP, "{counter:?}");
            assert_eq!(lab.count(counter), 1, "{counter:?}");
        }
        Ok(())
    })
}

#[test]
fn a_flood_of_held_syns_takes_a_quarter_of_the_room() -> Result<()> {
    on_the_proxy("packets::a_flood_of_held_syns", |mut lab| {
        lab.lead(0)?;
        let mut change = lab.tables.begin();
        change.lead(LISTENER_SLOT, fence(kind::HOLDS));
        change.commit();
        const SYNS: u32 = 5000;
        for number in 0..SYNS {
            let [_, _, high, low] = number.to_be_bytes();
            assert_eq!(run(&mut lab, &segment_from([10, 78, high, low], LISTENER, 3306, true))?.0, DROP);
        }
        assert_eq!(lab.tables.tally(LISTENER_SLOT).count(Event::Held), u64::from(SYNS));
        assert_eq!((lab.tables.tally(LISTENER_SLOT).waiting, lab.count(Counter::Kept)), (MAX_WAITING, MAX_WAITING));
        // Whoever knocks again has a place already.
        run(&mut lab, &segment_from([10, 78, 0, 0], LISTENER, 3306, true))?;
        assert_eq!((lab.tables.tally(LISTENER_SLOT).waiting, lab.count(Counter::Kept)), (MAX_WAITING, MAX_WAITING + 1));
        let held = lab.tables.take_held(LISTENER_SLOT)?;
        assert_eq!(held.len() as u64, MAX_WAITING);
        // The newest is the last, though its client came first.
        assert_eq!(held.last().map(|frame| &frame.bytes[26..30]), Some(&[10, 78, 0, 0][..]));
        assert_eq!(lab.tables.take_held(LISTENER_SLOT)?.len(), 0);
        Ok(())
    })
}

#[test]
fn an_rst_is_not_answered() -> Result<()> {
    on_the_proxy("packets::an_rst_is_not_answered", |mut lab| {
        lab.lead(0)?;
        let mut rst = segment(LISTENER, 3306, false);
        rst[47] = 0x14;
        assert_eq!(run(&mut lab, &rst)?.0, DROP);
        assert_eq!(lab.count(Counter::Stray), 1);
        Ok(())
    })
}

/// Bytes from a seed (xorshift), so that a failure can be had again.
pub struct Noise(pub u64);

impl Noise {
    pub fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % limit as u64) as usize
    }
}

#[test]
fn whatever_comes_in_leaves_untouched_or_not_at_all_or_as_a_reset_to_its_sender_when_nothing_is_live() -> Result<()> {
    const ROUNDS: usize = 20_000;
    on_both("packets::whatever_comes_in", |mut lab| {
        lab.lead(0)?;
        let mut change = lab.tables.begin();
        change.lead(LISTENER_SLOT, fence(kind::REFUSES));
        change.live(PAIRS[0], 0);
        change.commit();
        let mut noise = Noise(0x5eed);
        let (mut resets, mut dropped, mut passed) = (0, 0, 0);
        for round in 0..ROUNDS {
            let mut packet = match lab.ip {
                Ip::V4 => segment(LISTENER, 3306, noise.below(2) == 0),
                Ip::V6 => segment_v6(3306, &[0, 60, 44, 60, 43][..noise.below(6)]),
            };
            let addresses = if lab.ip == Ip::V4 { 26..34 } else { 22..54 };
            for _ in 0..noise.below(4) {
                // Behind the Ethernet addresses, which mean nothing here.
                let at = 12 + noise.below(packet.len() - 12);
                packet[at] = noise.below(256) as u8;
            }
            if noise.below(4) == 0 {
                // The kernel tries no packet that is shorter than its IP header.
                packet.truncate(addresses.end + noise.below(packet.len() - addresses.end));
            }
            let (verdict, out) = run(&mut lab, &packet).with_context(|| format!("round {round}: {packet:x?}"))?;
            match verdict {
                NEXT => {
                    assert_eq!(out, packet, "round {round}");
                    passed += 1;
                }
                DROP => dropped += 1,
                REDIRECT => {
                    let half = addresses.len() / 2;
                    let (before, after) = (&packet[addresses.clone()], &out[addresses]);
                    assert_eq!((&after[..half], &after[half..]), (&before[half..], &before[..half]), "round {round}");
                    let reset = etherparse::SlicedPacket::from_ethernet(&out)?;
                    let Some(etherparse::TransportSlice::Tcp(tcp)) = reset.transport else { anyhow::bail!("no TCP") };
                    assert!(tcp.rst() && tcp.payload().is_empty(), "round {round}: {out:x?}");
                    resets += 1;
                }
                other => anyhow::bail!("round {round}: verdict {other} on {packet:x?}"),
            }
        }
        assert!(resets > 0 && dropped > 0 && passed > 0, "{resets} {dropped} {passed}");
        assert_eq!(lab.flows()?, []);
        Ok(())
    })
}
