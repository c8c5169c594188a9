//! Connections through the programs, from a client's socket to a server's.

use std::collections::BTreeSet;
use std::io::{ErrorKind, Read as _, Write as _};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use shunt_ebpf::common::counter::Counter;
use shunt_ebpf::common::flow::state;
use shunt_ebpf::common::mapping::{Way, kind, source};
use shunt_ebpf::common::pool::{Pool, Range};
use shunt_ebpf::endpoint;
use shunt_tests::star::{CLIENT, PATIENCE};
use shunt_tests::{Star, eventually};

use crate::lab::{LISTENER, Lab, PAIRS, fence, on_both, to};

fn mapped(mut lab: Lab<'_>, work: impl FnOnce(&mut Lab<'_>, &Star) -> Result<()>) -> Result<()> {
    lab.attach()?;
    lab.lead(0)?;
    let star = lab.star;
    let done = work(&mut lab, star);
    done.with_context(|| lab.counts())
}

#[test]
fn a_connection_reaches_the_backend_and_comes_from_the_proxy() -> Result<()> {
    on_both("carrying::a_connection_reaches_the_backend", |lab| {
        mapped(lab, |lab, star| {
            let call = star.dial(CLIENT, lab.listener())?;
            call.echo()?;
            assert_eq!(call.server, "db1");
            assert_eq!(call.seen_as.ip(), lab.ip.address(2, 1));
            ensure!(!(32_768..=60_999).contains(&call.seen_as.port()), "{} is the host's own", call.seen_as);
            let flows = lab.flows()?;
            assert_eq!(flows.len(), 2);
            let (key, flow) = flows.iter().find(|(_, f)| f.state & state::FROM_CLIENT != 0).context("no client's")?;
            let (other, answer) =
                flows.iter().find(|(_, f)| f.state & state::FROM_CLIENT == 0).context("no server's")?;
            assert_eq!((*other, answer.rewritten), (flow.rewritten.reversed(), key.reversed()));
            assert_eq!(lab.count(Counter::Opened), 1);
            Ok(())
        })
    })
}

#[test]
fn a_connection_comes_from_its_pool_or_from_the_client() -> Result<()> {
    on_both("carrying::a_connection_comes_from_its_pool", |lab| {
        mapped(lab, |lab, star| {
            let ip = lab.ip;
            let range = |host, number| Range { first: endpoint((ip.address(200, host), 0).into()).address, number };
            lab.tables.set_pool(9, Pool::of(&[range(1, 2), range(5, 2)]).context("no pool")?);
            let pool: BTreeSet<_> = [1, 2, 5, 6].map(|host| ip.address(200, host)).into();
            for source in [source::POOL, source::CLIENT] {
                let mut change = lab.tables.begin();
                change.lead(LISTENER, Way { source, pool: 9, ..to(PAIRS[0]) });
                change.commit();
                let calls: Vec<_> = (0..40).map(|_| star.dial(CLIENT, lab.listener())).collect::<Result<_, _>>()?;
                let seen: BTreeSet<_> = calls.iter().map(|call| call.seen_as.ip()).collect();
                if source == source::POOL {
                    ensure!(seen.len() > 1 && seen.is_subset(&pool), "{seen:?}");
                } else {
                    let own: BTreeSet<_> = calls.iter().map(|call| Ok(call.local()?.ip())).collect::<Result<_>>()?;
                    assert_eq!(seen, own);
                }
                calls.iter().try_for_each(shunt_tests::star::Conversation::echo)?;
            }
            Ok(())
        })
    })
}

#[test]
fn megabytes_pass_in_both_directions() -> Result<()> {
    on_both("carrying::megabytes_pass", |lab| {
        mapped(lab, |lab, star| {
            let call = star.dial(CLIENT, lab.listener())?;
            let line = [vec![b'x'; 999], vec![b'\n']].concat();
            let text = line.repeat(4000);
            let (mut reader, mut writer) = (call.stream.try_clone()?, &call.stream);
            let (expected, length) = (text.clone(), text.len());
            let back = std::thread::spawn(move || {
                let mut got = vec![0; length];
                reader.read_exact(&mut got).map(|()| got == expected)
            });
            writer.write_all(&text)?;
            ensure!(matches!(back.join(), Ok(Ok(true))), "the echo is not what was sent");
            Ok(())
        })
    })
}

#[test]
fn a_transfer_is_reset_in_its_midst() -> Result<()> {
    on_both("carrying::a_transfer_is_reset", |lab| {
        mapped(lab, |lab, star| {
            let call = star.dial(CLIENT, lab.listener())?;
            let (mut reader, mut writer) = (call.stream.try_clone()?, call.stream.try_clone()?);
            // Large segments in both directions, which the stack has not cut yet.
            let line = [vec![b'x'; 65_535], vec![b'\n']].concat();
            let sending = std::thread::spawn(move || {
                loop {
                    if let Err(error) = writer.write_all(&line) {
                        return error.kind();
                    }
                }
            });
            let reading = std::thread::spawn(move || std::io::copy(&mut reader, &mut std::io::sink()).is_err());
            eventually("some megabytes", PATIENCE, || {
                let bytes: u64 = lab.flows()?.iter().map(|(_, flow)| flow.bytes).sum();
                Ok((bytes > 4_000_000).then_some(()))
            })?;
            lab.lead(1)?;
            let ends = [ErrorKind::ConnectionReset, ErrorKind::BrokenPipe];
            ensure!(sending.join().is_ok_and(|kind| ends.contains(&kind)), "the client was not reset");
            ensure!(reading.join().is_ok(), "the reader panicked");
            eventually("the old server's end", PATIENCE, || Ok(star.server(0).end_of(call.seen_as)))?;
            assert_eq!(lab.count(Counter::Failed), 0);
            Ok(())
        })
    })
}

#[test]
fn when_the_pair_is_live_no_more_both_ends_are_reset_and_the_next_connection_goes_elsewhere() -> Result<()> {
    on_both("carrying::when_the_pair_is_live_no_more", |lab| {
        mapped(lab, |lab, star| {
            let (busy, idle) = (star.dial(CLIENT, lab.listener())?, star.dial(CLIENT, lab.listener())?);
            lab.lead(1)?;
            // The client speaks, and is answered for.
            ensure!(busy.is_reset(), "the client was not reset");
            // The old server speaks to a client that is silent.
            star.server(0).say(idle.seen_as, "hello")?;
            eventually("the old server's end", PATIENCE, || Ok(star.server(0).end_of(idle.seen_as)))?;
            let call = star.dial(CLIENT, lab.listener())?;
            assert_eq!(call.server, "db2");
            Ok(())
        })
    })
}

#[test]
fn an_expired_lease_ends_the_flow() -> Result<()> {
    on_both("carrying::an_expired_lease", |lab| {
        mapped(lab, |lab, star| {
            let call = star.dial(CLIENT, lab.listener())?;
            let mut change = lab.tables.begin();
            // One nanosecond after the boot is over.
            change.live(PAIRS[0], 1);
            change.commit();
            ensure!(call.is_reset(), "the client was not reset");
            let refused = star.dial(CLIENT, lab.listener()).map(drop).map_err(|error| error.kind());
            assert_eq!(refused, Err(ErrorKind::ConnectionRefused));
            Ok(())
        })
    })
}

#[test]
fn a_fence_refuses_at_once_or_does_not_answer() -> Result<()> {
    on_both("carrying::a_fence_refuses", |lab| {
        mapped(lab, |lab, star| {
            let kinds = [(kind::REFUSES, ErrorKind::ConnectionRefused), (kind::HOLDS, ErrorKind::TimedOut)];
            for (kind, expected) in kinds {
                let mut change = lab.tables.begin();
                change.lead(LISTENER, fence(kind));
                change.live(PAIRS[0], 0);
                change.commit();
                let limit = Duration::from_secs(2);
                let found = star.dial_for(CLIENT, lab.listener(), limit).map(drop).map_err(|error| error.kind());
                assert_eq!(found, Err(expected));
            }
            assert_eq!(star.server(0).accepted(), 0);
            Ok(())
        })
    })
}

#[test]
fn the_proxys_own_connections_to_the_backend_are_left_alone() -> Result<()> {
    on_both("carrying::the_proxys_own", |lab| {
        mapped(lab, |lab, star| {
            let own = star.dial("proxy", lab.ip.db(0))?;
            let calls: Vec<_> = (0..50).map(|_| star.dial(CLIENT, lab.listener())).collect::<Result<_, _>>()?;
            own.echo()?;
            for call in &calls {
                call.echo()?;
            }
            assert_eq!(lab.flows()?.len(), 100);
            Ok(())
        })
    })
}

#[test]
fn a_full_table_turns_new_connections_away_and_keeps_the_old() -> Result<()> {
    on_both("carrying::a_full_table", |lab| {
        mapped(lab, |lab, star| {
            let mut calls = Vec::new();
            let refused = loop {
                match star.dial(CLIENT, lab.listener()) {
                    Ok(call) => calls.push(call),
                    Err(error) => break error.kind(),
                }
                ensure!(calls.len() < 1100, "a thousand flows were to fit");
            };
            assert_eq!(refused, ErrorKind::ConnectionRefused);
            ensure!(lab.count(Counter::Full) > 0);
            for call in &calls {
                call.echo()?;
            }
            Ok(())
        })
    })
}
