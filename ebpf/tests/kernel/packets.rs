//! Packets made by hand, put through the program by `BPF_PROG_TEST_RUN`: which come out untouched, which do not come out.

use anyhow::Result;
use aya::programs::{TestRun as _, TestRunOptions};
use etherparse::PacketBuilder;
use shunt_ebpf::common::counter::Counter;

use crate::lab::{Lab, on_the_proxy};

const NEXT: u32 = -1_i32 as u32;
const DROP: u32 = 2;
const REDIRECT: u32 = 7;

const CLIENT: [u8; 4] = [10, 77, 1, 2];
const LISTENER: [u8; 4] = [10, 77, 1, 1];

/// What came out, and what is to become of it.
fn run(lab: &mut Lab<'_>, packet: &[u8]) -> Result<(u32, Vec<u8>)> {
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
    let builder = PacketBuilder::ethernet2([2; 6], [4; 6]).ipv4(CLIENT, to, 64).tcp(40_000, port, 7, 1000);
    let builder = if syn { builder.syn() } else { builder.ack(9) };
    let mut packet = Vec::new();
    builder.write(&mut packet, &[]).unwrap();
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
