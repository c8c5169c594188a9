//! ICMP errors about flows, and packets that are too large for their way.

use std::io::{Read as _, Write as _};
use std::net::SocketAddr;

use anyhow::{Context as _, Result, ensure};
use shunt_ebpf::common::counter::Counter;
use shunt_ebpf::common::mapping::FOR_EVER;
use shunt_ebpf::endpoint;
use shunt_tests::Netns;
use shunt_tests::star::{CLIENT, Conversation, Counters, DBS, Far, PATIENCE, PORT, PROXY, Server};

use crate::lab::{LISTENER, Lab, PAIRS, on_both, to};

/// The least that IPv6 knows, in bytes.
const NARROW: u16 = 1280;

/// Counts the ICMP errors that tell a host to send smaller packets.
fn too_big(host: &Netns) -> Result<Counters> {
    let wanted =
        [("v4", "icmp type destination-unreachable icmp code frag-needed"), ("v6", "icmpv6 type packet-too-big")];
    Counters::incoming(host, &wanted)
}

fn told(counters: &mut Counters) -> Result<u64> {
    Ok(counters.read()?.values().sum())
}

/// Sends two megabytes and gets them back at the same time.
fn transfer(call: &Conversation) -> Result<()> {
    const LINES: usize = 250;
    let line = [vec![b'x'; 8191], vec![b'\n']].concat();
    let (mut reader, length) = (call.stream.try_clone()?, LINES * line.len());
    let reading = std::thread::spawn(move || reader.read_exact(&mut vec![0; length]));
    for _ in 0..LINES {
        (&call.stream).write_all(&line)?;
    }
    reading.join().map_err(|_| anyhow::anyhow!("the reader panicked"))?.context("what came back")
}

/// A backend behind a link that is narrow at that network, and a client on that host.
fn to_a_far_backend(mut lab: Lab<'_>, narrow: u8, host: &str) -> Result<()> {
    let far = Far::new(lab.star, narrow, NARROW)?;
    let _server = far.host.inside(|| Server::start("far", PORT))??;
    lab.attach()?;
    lab.object.attach("to4")?;
    let (listener, backend) = (lab.listener(), SocketAddr::new(far.address(lab.ip), PORT));
    let mut change = lab.tables.begin();
    change.assign(PAIRS[0], endpoint(listener), endpoint(backend));
    change.live(PAIRS[0], FOR_EVER);
    change.lead(LISTENER, to(PAIRS[0]));
    change.listen(endpoint(listener), LISTENER)?;
    change.commit();
    let mut at_the_client = too_big(lab.star.host(host))?;
    let call = lab.star.dial(host, lab.listener()).with_context(|| lab.counts())?;
    transfer(&call).with_context(|| lab.counts())?;
    ensure!(told(&mut at_the_client)? > 0, "the path was not narrow for the client");
    let (own, theirs) = (lab.count(Counter::TooBig), lab.count(Counter::Translated));
    ensure!(if narrow == 4 { own > 0 } else { own == 0 && theirs > 0 }, "{own} {theirs}");
    assert_eq!(lab.count(Counter::Failed), 0);
    Ok(())
}

#[test]
fn a_packet_too_large_for_the_proxys_own_link_is_answered_with_how_large_it_may_be() -> Result<()> {
    on_both("complaining::a_packet_too_large", |lab| to_a_far_backend(lab, 4, CLIENT))
}

#[test]
fn a_router_beyond_the_proxy_is_heard_by_the_client() -> Result<()> {
    on_both("complaining::a_router_beyond_the_proxy", |lab| to_a_far_backend(lab, 5, CLIENT))
}

#[test]
fn a_client_on_the_proxy_hears_both() -> Result<()> {
    on_both("complaining::a_client_on_the_proxy", |lab| to_a_far_backend(lab, 4, PROXY))?;
    on_both("complaining::a_client_on_the_proxy", |lab| to_a_far_backend(lab, 5, PROXY))
}

/// A client behind a link that is narrow at that network.
fn from_a_far_client(mut lab: Lab<'_>, narrow: u8) -> Result<()> {
    let far = Far::new(lab.star, narrow, NARROW)?;
    lab.attach()?;
    lab.object.attach("to4")?;
    lab.lead(0)?;
    let mut at_the_backend = too_big(lab.star.host(DBS[0]))?;
    let listener = lab.listener();
    let call = far.host.inside(|| Conversation::open(listener, PATIENCE))?.with_context(|| lab.counts())?;
    transfer(&call).with_context(|| lab.counts())?;
    ensure!(told(&mut at_the_backend)? > 0, "the path was not narrow for the backend");
    assert_eq!(lab.count(Counter::Failed), 0);
    Ok(())
}

#[test]
fn a_backend_hears_how_narrow_the_way_to_the_client_is() -> Result<()> {
    on_both("complaining::a_backend_hears", |lab| from_a_far_client(lab, 4))?;
    on_both("complaining::a_backend_hears", |lab| from_a_far_client(lab, 5))
}
