//! Packets that are not as they should be, of all the kinds that the fuzzer begins with, over IPv4 and IPv6.

use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use etherparse::{SlicedPacket, TransportSlice};
use shunt_ebpf::common::counter::Counter;
use shunt_ebpf::common::flow::state;
use shunt_ebpf::common::mapping::kind;
use shunt_tests::star::{CLIENT, Ip};

use crate::lab::{LISTENER, PAIRS, fence, on_both};
use crate::packets::{DROP, NEXT, REDIRECT, run};

/// The kernel tries no packet that is shorter than its IP header.
fn is_tried(frame: &[u8]) -> bool {
    match frame.get(12..14) {
        Some([0x08, 0x00]) => frame.len() >= 34,
        Some([0x86, 0xdd]) => frame.len() >= 54,
        Some(_) => frame.len() > 14,
        None => false,
    }
}

fn corpus() -> Result<Vec<(String, Vec<u8>)>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus/headers");
    let mut all = Vec::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        let name = path.file_name().and_then(|name| name.to_str()).context("no name")?.to_owned();
        all.push((name, fs::read(&path)?));
    }
    all.retain(|(_, frame)| is_tried(frame));
    all.sort_unstable();
    ensure!(all.len() > 30, "{} frames", all.len());
    Ok(all)
}

/// What becomes of those of a listener that cannot be carried, whether it leads somewhere or not.
const CANNOT_BE_CARRIED: [(&str, Counter); 9] = [
    ("v4_options", Counter::Options),
    ("v4_first_fragment", Counter::Fragment),
    ("v4_offset_too_small", Counter::Truncated),
    ("v4_offset_beyond_the_end", Counter::Truncated),
    ("v4_length_of_nothing", Counter::Truncated),
    ("v6_hop_by_hop", Counter::Options),
    ("v6_all_extensions", Counter::Options),
    ("v6_first_fragment", Counter::Fragment),
    ("v6_length_of_nothing", Counter::Truncated),
];

/// What is none of a listener's matters, or not said to whom it is.
const UNTOUCHED: [&str; 17] = [
    "arp",
    "v4_cut_in_tcp",
    "v4_echo",
    "v4_error_about_a_later_fragment",
    "v4_error_about_an_error",
    "v4_error_about_options",
    "v4_header_too_short",
    "v4_last_fragment",
    "v4_later_fragment",
    "v4_too_big",
    "v4_udp",
    "v4_vlan",
    "v6_cut_in_tcp",
    "v6_error_about_an_error",
    "v6_extension_beyond_the_end",
    "v6_later_fragment",
    "v6_too_many_extensions",
];

#[test]
fn every_kind_of_packet_has_the_answer_that_is_written_down() -> Result<()> {
    on_both("odd::every_kind_of_packet", |mut lab| {
        lab.lead(0)?;
        let family = if lab.ip == Ip::V4 { "v4" } else { "v6" };
        for (name, frame) in corpus()?.iter().filter(|(name, _)| name.starts_with(family)) {
            if let Some((_, counter)) = CANNOT_BE_CARRIED.iter().find(|(other, _)| other == name) {
                let before = lab.count(*counter);
                assert_eq!(run(&mut lab, frame)?.0, DROP, "{name}");
                assert_eq!(lab.count(*counter), before + 1, "{name}");
            } else if UNTOUCHED.contains(&name.as_str()) {
                assert_eq!(run(&mut lab, frame)?, (NEXT, frame.clone()), "{name}");
            }
        }
        Ok(())
    })
}

#[test]
fn no_kind_of_packet_passes_when_nothing_is_live() -> Result<()> {
    on_both("odd::no_kind_of_packet", |mut lab| {
        lab.lead(0)?;
        for kind in [kind::REFUSES, kind::HOLDS, kind::LEADS] {
            let mut change = lab.tables.begin();
            // Also of one that leads to a pair that is dead.
            change.lead(LISTENER, if kind == kind::LEADS { crate::lab::to(PAIRS[0]) } else { fence(kind) });
            change.live(PAIRS[0], 0);
            change.commit();
            for (name, frame) in corpus()? {
                let (verdict, out) = run(&mut lab, &frame).with_context(|| name.clone())?;
                match verdict {
                    NEXT => assert_eq!(out, frame, "{name}"),
                    DROP => {}
                    REDIRECT => {
                        let parsed = SlicedPacket::from_ethernet(&out).with_context(|| name.clone())?;
                        let Some(TransportSlice::Tcp(tcp)) = parsed.transport else { anyhow::bail!("{name}: no TCP") };
                        ensure!(tcp.rst() && tcp.payload().is_empty(), "{name}: {out:x?}");
                    }
                    other => anyhow::bail!("{name}: verdict {other}"),
                }
            }
            assert_eq!(lab.flows()?, [], "a flow was opened");
        }
        Ok(())
    })
}

#[test]
fn a_checksum_that_is_wrong_stays_wrong_by_as_much() -> Result<()> {
    on_both("odd::a_checksum_that_is_wrong", |mut lab| {
        lab.attach()?;
        lab.lead(0)?;
        let call = lab.star.dial(CLIENT, lab.listener())?;
        call.echo()?;
        let flows = lab.flows()?;
        let (key, flow) =
            *flows.iter().find(|(_, flow)| flow.state & state::FROM_CLIENT != 0).context("no client's")?;
        let (v4, tcp) = (lab.ip == Ip::V4, if lab.ip == Ip::V4 { 34 } else { 54 });
        let ethernet = etherparse::PacketBuilder::ethernet2([2; 6], [4; 6]);
        let (source, target) = (key.source.bytes(), key.target.bytes());
        let tail = |bytes: [u8; 16]| [bytes[12], bytes[13], bytes[14], bytes[15]];
        let ip = if v4 { ethernet.ipv4(tail(source), tail(target), 64) } else { ethernet.ipv6(source, target, 64) };
        let (from, to) = (u16::from_be(key.source_port), u16::from_be(key.target_port));
        let mut right = Vec::new();
        ip.tcp(from, to, flow.next, 1000).ack(flow.acknowledged).write(&mut right, &[])?;
        // TCP's, and IPv4's own.
        let mut places = vec![tcp + 16];
        places.extend(v4.then_some(24));
        for place in places {
            let word = |bytes: &[u8]| u16::from_be_bytes([bytes[place], bytes[place + 1]]);
            let (verdict, passed) = run(&mut lab, &right)?;
            assert_eq!(verdict, REDIRECT);
            let mut wrong = right.clone();
            wrong[place] ^= 0x40;
            let (verdict, spoilt) = run(&mut lab, &wrong)?;
            // It goes on as it came: its receiver drops it, as without a proxy.
            assert_eq!(verdict, REDIRECT);
            let by = |a: u16, b: u16| (u32::from(a) + 0xffff - u32::from(b)) % 0xffff;
            assert_eq!(by(word(&spoilt), word(&passed)), by(word(&wrong), word(&right)));
        }
        Ok(())
    })
}
