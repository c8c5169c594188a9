//! What the programs note of how backends answer: packets made by hand, and connections whose backend falls silent.

use std::io::ErrorKind;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use etherparse::PacketBuilder;
use shunt_ebpf::common::flow::{Flow, Tuple, state};
use shunt_ebpf::common::mapping::FOR_EVER;
use shunt_ebpf::common::signal::{Sign, Signals};
use shunt_ebpf::endpoint;
use shunt_tests::eventually;
use shunt_tests::star::{CLIENT, PATIENCE, PROXY};

use crate::lab::{LISTENER, Lab, PAIRS, on_both, on_the_proxy, to};
use crate::packets::{REDIRECT, run};

const CLIENT_AT: ([u8; 4], u16) = ([10, 77, 1, 2], 40_000);
const LISTENER_AT: ([u8; 4], u16) = ([10, 77, 1, 1], 3306);

fn signals(lab: &Lab<'_>) -> Signals {
    lab.tables.signals(PAIRS[0])
}

/// All counts: SYNs, SYN-ACKs, SYNs again, data again, refusals, resets.
fn counts(lab: &Lab<'_>) -> [u64; Sign::NUMBER] {
    signals(lab).counts
}

/// The listener leads to the first database, and the proxy knows its neighbours: the kernel has a packet that is made by hand
/// come in by `lo`, and the host's own would be asked to wait.
fn lead(lab: &mut Lab<'_>) -> Result<()> {
    drop(lab.star.dial(PROXY, lab.ip.db(0))?);
    let refused = lab.star.dial(CLIENT, lab.listener()).map(drop).map_err(|error| error.kind());
    assert_eq!(refused, Err(ErrorKind::ConnectionRefused), "nobody listens yet");
    lab.lead(0)
}

/// The two ends of one flow, and the packets that they send.
struct Ends {
    backend: ([u8; 4], u16),
    proxy: ([u8; 4], u16),
}

impl Ends {
    /// Opens a flow by its SYN.
    fn open(lab: &mut Lab<'_>) -> Result<Self> {
        passes(lab, &segment(CLIENT_AT, LISTENER_AT, "S", 100, b""))?;
        let flows = lab.flows()?;
        let (_, flow) = flows.iter().find(|(_, flow)| flow.state & state::FROM_CLIENT != 0).context("no flow")?;
        let Tuple { source, target, source_port, target_port, .. } = flow.rewritten;
        let at = |raw: u32, port: u16| (raw.to_ne_bytes(), u16::from_be(port));
        Ok(Self { backend: at(target.raw_v4(), target_port), proxy: at(source.raw_v4(), source_port) })
    }

    fn client(lab: &mut Lab<'_>, flags: &str, sequence: u32, data: &[u8]) -> Result<()> {
        passes(lab, &segment(CLIENT_AT, LISTENER_AT, flags, sequence, data))
    }

    fn backend(&self, lab: &mut Lab<'_>, flags: &str, sequence: u32, data: &[u8]) -> Result<()> {
        passes(lab, &segment(self.backend, self.proxy, flags, sequence, data))
    }
}

/// The flags as letters: S, A, F, R.
fn segment(from: ([u8; 4], u16), to: ([u8; 4], u16), flags: &str, sequence: u32, data: &[u8]) -> Vec<u8> {
    let ip = PacketBuilder::ethernet2([2; 6], [4; 6]).ipv4(from.0, to.0, 64);
    let mut builder = ip.tcp(from.1, to.1, sequence, 1000);
    for flag in flags.chars() {
        builder = match flag {
            'S' => builder.syn(),
            'A' => builder.ack(9),
            'F' => builder.fin(),
            'R' => builder.rst(),
            _ => unreachable!("no flag of ours"),
        };
    }
    let mut packet = Vec::new();
    builder.write(&mut packet, data).unwrap();
    packet
}

fn passes(lab: &mut Lab<'_>, packet: &[u8]) -> Result<()> {
    let (verdict, _) = run(lab, packet)?;
    ensure!(verdict == REDIRECT, "verdict {verdict}: {}", lab.counts());
    Ok(())
}

#[test]
fn a_syn_is_awaited_until_its_answer_and_counted_again_when_it_is_sent_again() -> Result<()> {
    on_the_proxy("signals::a_syn_is_awaited", |mut lab| {
        lead(&mut lab)?;
        assert_eq!(signals(&lab), Signals::default());
        let ends = Ends::open(&mut lab)?;
        let first = signals(&lab);
        assert_eq!((first.counts, first.awaited_since()), ([1, 0, 0, 0, 0, 0], Some(first.asked)));
        Ends::client(&mut lab, "S", 100, b"")?;
        assert_eq!((counts(&lab), signals(&lab).asked), ([1, 0, 1, 0, 0, 0], first.asked));
        ends.backend(&mut lab, "SA", 500, b"")?;
        ends.backend(&mut lab, "SA", 500, b"")?;
        let answered = signals(&lab);
        assert_eq!((answered.counts, answered.awaited_since()), ([1, 1, 1, 0, 0, 0], None));
        assert_eq!(answered.connects.iter().sum::<u64>(), 1);
        ensure!(answered.connecting > 0 && answered.connecting <= answered.heard - first.asked);
        Ok(())
    })
}

#[test]
fn data_and_fins_ask_and_are_counted_when_they_come_again_and_bare_acknowledgements_are_not() -> Result<()> {
    on_the_proxy("signals::data_and_fins_ask", |mut lab| {
        lead(&mut lab)?;
        let ends = Ends::open(&mut lab)?;
        ends.backend(&mut lab, "SA", 500, b"")?;
        Ends::client(&mut lab, "A", 101, b"")?;
        assert_eq!(signals(&lab).awaited_since(), None, "an acknowledgement wants no answer");
        Ends::client(&mut lab, "A", 101, b"select 1")?;
        let asked = signals(&lab).awaited_since().context("data want an answer")?;
        Ends::client(&mut lab, "A", 109, b"select 2")?;
        assert_eq!((counts(&lab), signals(&lab).asked), ([1, 1, 0, 0, 0, 0], asked));
        Ends::client(&mut lab, "A", 101, b"select 1")?;
        Ends::client(&mut lab, "A", 105, b"ct 1select 2")?;
        assert_eq!(counts(&lab), [1, 1, 0, 2, 0, 0]);
        Ends::client(&mut lab, "A", 105, b"ct 1select 2select 3")?;
        assert_eq!(counts(&lab), [1, 1, 0, 2, 0, 0], "some of it is new");
        ends.backend(&mut lab, "A", 501, b"")?;
        assert_eq!(
            signals(&lab).awaited_since(),
            None,
            "that it was received is answer enough: a statement may take long"
        );
        Ends::client(&mut lab, "FA", 125, b"")?;
        Ends::client(&mut lab, "FA", 125, b"")?;
        assert_eq!(counts(&lab), [1, 1, 0, 3, 0, 0]);
        ensure!(signals(&lab).awaited_since().is_some(), "a FIN wants an answer");
        Ok(())
    })
}

#[test]
fn a_reset_is_a_refusal_when_it_answers_a_syn() -> Result<()> {
    on_the_proxy("signals::a_reset_is_a_refusal", |mut lab| {
        lead(&mut lab)?;
        let ends = Ends::open(&mut lab)?;
        ends.backend(&mut lab, "RA", 0, b"")?;
        assert_eq!((counts(&lab), signals(&lab).awaited_since()), ([1, 0, 0, 0, 1, 0], None));
        let ends = Ends::open(&mut lab)?;
        ends.backend(&mut lab, "SA", 500, b"")?;
        Ends::client(&mut lab, "A", 101, b"select 1")?;
        ends.backend(&mut lab, "R", 501, b"")?;
        assert_eq!((counts(&lab), signals(&lab).awaited_since()), ([2, 1, 0, 0, 1, 1], None));
        assert_eq!(signals(&lab).connects.iter().sum::<u64>(), 1);
        Ok(())
    })
}

/// As MySQL answers the goodbye of a client by TLS.
#[test]
fn a_reset_behind_the_clients_fin_and_one_that_nobody_takes_are_no_signals() -> Result<()> {
    on_the_proxy("signals::a_reset_behind_the_clients_fin", |mut lab| {
        lead(&mut lab)?;
        let ends = Ends::open(&mut lab)?;
        ends.backend(&mut lab, "SA", 500, b"")?;
        Ends::client(&mut lab, "A", 101, b"select 1")?;
        ends.backend(&mut lab, "R", 77_000, b"")?;
        Ends::client(&mut lab, "FA", 109, b"")?;
        ends.backend(&mut lab, "R", 501, b"")?;
        assert_eq!(counts(&lab), [1, 1, 0, 0, 0, 0]);
        Ok(())
    })
}

/// Whoever knows the addresses and ports of a connection could otherwise have it forgotten.
#[test]
fn a_reset_that_its_receiver_would_not_take_closes_nothing() -> Result<()> {
    on_the_proxy("signals::a_reset_that_its_receiver_would_not_take", |mut lab| {
        lead(&mut lab)?;
        let ends = Ends::open(&mut lab)?;
        ends.backend(&mut lab, "SA", 500, b"")?;
        Ends::client(&mut lab, "A", 101, b"select 1")?;
        ends.backend(&mut lab, "A", 501, b"")?;
        let closed = |lab: &Lab<'_>| -> Result<usize> {
            Ok(lab.flows()?.iter().filter(|(_, flow)| flow.state & state::CLOSED != 0).count())
        };
        let before = lab.flows()?;
        for sequence in [0, 110, 400_000] {
            Ends::client(&mut lab, "R", sequence, b"")?;
            ends.backend(&mut lab, "RA", sequence, b"")?;
        }
        let numbers = |flows: &[(Tuple, Flow)]| -> Vec<(u32, u32)> {
            flows.iter().map(|(_, flow)| (flow.next, flow.acknowledged)).collect()
        };
        assert_eq!((closed(&lab)?, numbers(&lab.flows()?)), (0, numbers(&before)));
        assert_eq!(lab.tables.tally(LISTENER).open, 1);
        // What the client has sent, though the backend has not acknowledged all of it.
        Ends::client(&mut lab, "R", 109, b"")?;
        assert_eq!((closed(&lab)?, lab.tables.tally(LISTENER).open), (2, 0));
        Ok(())
    })
}

#[test]
fn another_pair_in_the_slot_begins_with_nothing() -> Result<()> {
    on_the_proxy("signals::another_pair", |mut lab| {
        lead(&mut lab)?;
        Ends::open(&mut lab)?;
        ensure!(signals(&lab) != Signals::default());
        let (listener, backend) = (endpoint(lab.listener()), endpoint(lab.ip.db(1)));
        let mut change = lab.tables.begin();
        change.assign(PAIRS[0], listener, backend);
        change.live(PAIRS[0], FOR_EVER);
        change.lead(LISTENER, to(PAIRS[0]));
        change.commit();
        assert_eq!(signals(&lab), Signals::default());
        Ok(())
    })
}

#[test]
fn connections_that_are_answered_leave_nothing_awaited() -> Result<()> {
    on_both("signals::connections_that_are_answered", |mut lab| {
        lab.attach()?;
        lab.lead(0)?;
        let calls: Vec<_> = (0..10).map(|_| lab.star.dial(CLIENT, lab.listener())).collect::<Result<_, _>>()?;
        for call in calls.iter().cycle().take(50) {
            call.echo()?;
        }
        // The server's host takes it, and the server says nothing: a statement that takes its time.
        calls[0].order("linger")?;
        eventually("all that was asked to be received", PATIENCE, || {
            Ok(signals(&lab).awaited_since().is_none().then_some(()))
        })?;
        let told = signals(&lab);
        assert_eq!((told.count(Sign::Syn), told.count(Sign::SynAck), told.count(Sign::Refused)), (10, 10, 0));
        assert_eq!(told.connects.iter().sum::<u64>(), 10);
        Ok(())
    })
}

#[test]
fn a_silent_backend_is_awaited_and_what_clients_send_it_again_is_counted() -> Result<()> {
    on_both("signals::a_silent_backend", |mut lab| {
        lab.attach()?;
        lab.lead(0)?;
        let call = lab.star.dial(CLIENT, lab.listener())?;
        call.echo()?;
        // Not by its link: the proxy would ask for its neighbour, and keep packets whose sender, being of this very kernel, does
        // not send them again as long as they wait.
        let chain = |hook| {
            format!(
                "add chain inet silent {hook} {{ type filter hook {hook} priority 0; }}\nadd rule inet silent {hook} meta l4proto tcp drop\n"
            )
        };
        let silent = format!("add table inet silent\n{}{}", chain("input"), chain("output"));
        lab.star.host("db1").nft(&silent)?;
        let before = signals(&lab);
        call.order("ping")?;
        eventually("data that are sent again", PATIENCE, || {
            Ok((signals(&lab).count(Sign::DataAgain) > before.count(Sign::DataAgain)).then_some(()))
        })?;
        let after = signals(&lab);
        assert_eq!(after.heard, before.heard);
        ensure!(after.awaited_since().is_some_and(|since| since > before.heard), "{after:?}");
        let error = lab.star.dial_for(CLIENT, lab.listener(), Duration::from_secs(2)).map(drop);
        assert_eq!(error.map_err(|error| error.kind()), Err(ErrorKind::TimedOut));
        let last = signals(&lab);
        let counted = (last.count(Sign::Syn) - before.count(Sign::Syn), last.count(Sign::SynAgain) > 0);
        ensure!(counted == (1, true), "{last:?}, {}", lab.counts());
        assert_eq!((last.asked, last.count(Sign::SynAck)), (after.asked, before.count(Sign::SynAck)));
        lab.star.host("db1").nft("delete table inet silent")?;
        eventually("the backend to be heard again", PATIENCE, || {
            Ok(signals(&lab).awaited_since().is_none().then_some(()))
        })
    })
}

#[test]
fn a_backend_that_listens_no_more_refuses() -> Result<()> {
    on_both("signals::a_backend_that_listens_no_more", |mut lab| {
        lab.attach()?;
        lab.lead(0)?;
        // The same host, where nobody listens.
        let mut nobody = lab.ip.db(0);
        nobody.set_port(1);
        let listener = endpoint(lab.listener());
        let mut change = lab.tables.begin();
        change.assign(PAIRS[0], listener, endpoint(nobody));
        change.live(PAIRS[0], FOR_EVER);
        change.commit();
        let refused = lab.star.dial(CLIENT, lab.listener()).map(drop).map_err(|error| error.kind());
        assert_eq!(refused, Err(ErrorKind::ConnectionRefused));
        let told = signals(&lab);
        assert_eq!((told.counts, told.awaited_since()), ([1, 0, 0, 0, 1, 0], None));
        Ok(())
    })
}
