//! Maps of ABI 2, with the programs of then (`tests/fixtures/abi2.o`) carrying connections on them, become today's.

mod older;

use std::io::ErrorKind;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use aya::maps::MapData;
use shunt_ebpf::common::ABI;
use shunt_ebpf::common::counter::Counter;
use shunt_ebpf::common::flow::state;
use shunt_ebpf::common::mapping::{FOR_EVER, kind};
use shunt_ebpf::{Error, Object, Pins, Step, Tables, abi2};
use shunt_tests::eventually;
use shunt_tests::star::{CLIENT, DBS, PATIENCE};

use crate::lab::{LISTENER, PAIRS, open, to};
use older::{Older, now, on_both};

/// Converted, by the agent of today.
fn converted(older: &Older<'_>) -> Result<(Object, Tables)> {
    let found = open(&older.folder)?;
    assert_eq!(found.1.abi(), ABI);
    ensure!(!older.folder.join("beside").exists(), "the old maps are still there");
    Ok(found)
}

fn flows(tables: &Tables) -> Result<usize> {
    Ok(tables.flows().collect::<Result<Vec<_>, _>>()?.len())
}

#[test]
fn connections_limits_and_lists_outlive_the_conversion() -> Result<()> {
    on_both("migrating::connections_limits_and_lists", |older| {
        older.lead(abi2::Way { allow: 7, limit: 3, limit_per_source: 2, ..older::to_the_first() })?;
        older.allow(7)?;
        let (busy, idle) = (older.dial()?, older.dial().context("the second one")?);
        busy.echo()?;
        let (mut object, mut tables) = converted(&older)?;
        busy.echo().context("in use")?;
        idle.echo().context("not in use")?;
        assert_eq!(flows(&tables)?, 4);
        assert_eq!(tables.tally(LISTENER).open, 2);
        assert_eq!(tables.count(Counter::Opened)?, 2, "what was counted before");
        let refused = older.dial().map(drop).map_err(|error| error.kind());
        assert_eq!(refused, Err(ErrorKind::ConnectionRefused), "two of that source are open");
        let nobody = older.star.dial_from(older.ip.second_client(), older.ip.listener());
        assert_eq!(
            nobody.map(drop).map_err(|error| error.kind()),
            Err(ErrorKind::ConnectionRefused),
            "not on the list"
        );
        busy.abort()?;
        eventually("the place of the one that has ended", PATIENCE, || {
            Ok((tables.tally(LISTENER).open == 1).then_some(()))
        })?;
        eventually("a place of its source", PATIENCE, || Ok(older.dial().ok()))?.echo()?;
        // The fence of today ends the flows of then.
        let mut change = tables.begin();
        change.live(PAIRS[0], 0);
        change.commit();
        ensure!(idle.is_reset(), "the fence does not hold for a flow that was converted");
        object.attach("to1")?;
        Ok(())
    })
}

#[test]
fn what_was_fenced_stays_fenced_and_a_lease_runs_on() -> Result<()> {
    on_both("migrating::what_was_fenced", |older| {
        older.lead(older::to_the_first())?;
        let call = older.dial()?;
        older.lead(abi2::Way { kind: kind::REFUSES, until: FOR_EVER, ..older::to_the_first() })?;
        older.live(0)?;
        let (_, tables) = converted(&older)?;
        assert_eq!(tables.mapping(LISTENER).0.kind, kind::REFUSES);
        ensure!(call.is_reset(), "a fenced flow lives again");
        let refused = older.dial().map(drop).map_err(|error| error.kind());
        assert_eq!(refused, Err(ErrorKind::ConnectionRefused));
        assert_eq!(older.star.server(0).accepted(), 1);
        Ok(())
    })?;
    on_both("migrating::a_lease_runs_on", |older| {
        older.lead(older::to_the_first())?;
        let call = older.dial()?;
        // Longer than any conversion takes.
        let until = now() + 3_600_000_000_000;
        older.live(until)?;
        let (_, tables) = converted(&older)?;
        assert_eq!(tables.pair(PAIRS[0]).2, until);
        call.echo().context("within its lease")
    })?;
    on_both("migrating::a_lease_ends", |older| {
        older.lead(older::to_the_first())?;
        let call = older.dial()?;
        // During the conversion or after it.
        let until = now() + 2_000_000_000;
        older.live(until)?;
        let (_, tables) = converted(&older)?;
        assert_eq!(tables.pair(PAIRS[0]).2, until);
        eventually("the end of the lease", PATIENCE, || Ok((now() >= until).then_some(())))?;
        ensure!(call.is_reset(), "the lease was forgotten");
        Ok(())
    })
}

#[test]
fn a_held_client_is_let_in_after_the_conversion() -> Result<()> {
    on_both("migrating::a_held_client", |older| {
        older.lead(abi2::Way { kind: kind::HOLDS, until: FOR_EVER, ..older::to_the_first() })?;
        let limit = Duration::from_secs(1);
        let held = older.star.dial_for(CLIENT, older.ip.listener(), limit).map(drop).map_err(|error| error.kind());
        assert_eq!(held, Err(ErrorKind::TimedOut));
        let (_, mut tables) = converted(&older)?;
        assert_eq!((tables.mapping(LISTENER).0.kind, tables.tally(LISTENER).waiting), (kind::HOLDS, 1));
        let mut change = tables.begin();
        change.lead(LISTENER, to(PAIRS[0]));
        change.commit();
        assert_eq!(tables.take_held(LISTENER)?.len(), 1);
        assert_eq!(older.dial()?.server, DBS[0]);
        Ok(())
    })
}

#[test]
fn an_agent_that_dies_at_any_step_leaves_it_to_the_next() -> Result<()> {
    for step in [Step::Made, Step::Placed, Step::Copied, Step::Linked, Step::LetIn] {
        on_both("migrating::an_agent_that_dies", |older| {
            older.lead(abi2::Way { limit: 2, ..older::to_the_first() })?;
            let call = older.dial()?;
            let size = older::SIZE;
            Object::migrate_until(Pins::at(&older.folder)?, size, step)?;
            call.echo().context("nobody is there, and the flow is to go on")?;
            // Once more, and no further.
            Object::migrate_until(Pins::at(&older.folder)?, size, step)?;
            call.echo().context("the second one has died, too")?;
            let (_, tables) = converted(&older)?;
            call.echo().context("the third one has finished")?;
            let other = older.dial()?;
            other.echo()?;
            assert_eq!((flows(&tables)?, tables.tally(LISTENER).open), (4, 2));
            ensure!(older.dial().is_err(), "one more than fits");
            Ok(())
        })
        .with_context(|| format!("{step:?}"))?;
    }
    Ok(())
}

#[test]
fn what_half_made_maps_say_is_nothing() -> Result<()> {
    on_both("migrating::what_half_made_maps_say", |older| {
        older.lead(older::to_the_first())?;
        let call = older.dial()?;
        // A folder with maps of nobody knows which layout, and without some.
        let beside = Pins::at(&older.folder.join("beside"))?;
        MapData::from_pin(older.folder.join("maps/PAIRS"))?.pin(beside.map("FLOWS"))?;
        let (_, tables) = converted(&older)?;
        call.echo()?;
        assert_eq!(flows(&tables)?, 2);
        Ok(())
    })
}

#[test]
fn a_connection_that_ends_while_its_agent_is_exchanged_gives_its_place_back() -> Result<()> {
    on_both("migrating::a_connection_that_ends", |older| {
        older.lead(abi2::Way { limit: 1, ..older::to_the_first() })?;
        let call = older.dial()?;
        Object::migrate_until(Pins::at(&older.folder)?, older::SIZE, Step::Copied)?;
        // As if nothing more were to be copied: the old programs see its end, and the new maps do not know.
        older.was_copied()?;
        call.abort().context("the flow was to go on")?;
        let closed = || Ok(older.flows()?.iter().any(|(_, flow)| flow.state & state::CLOSED != 0).then_some(()));
        eventually("its end", PATIENCE, closed)?;
        let (_, tables) = converted(&older)?;
        assert_eq!((flows(&tables)?, tables.tally(LISTENER).open), (0, 0));
        older.dial()?.echo()?;
        Ok(())
    })
}

#[test]
fn a_newer_layout_is_refused_in_words_that_help_and_nothing_is_touched() -> Result<()> {
    on_both("migrating::a_newer_layout", |older| {
        older.lead(older::to_the_first())?;
        let call = older.dial()?;
        for version in [ABI + 1, 1] {
            older.call_itself(version)?;
            let before = older.pinned()?;
            let Err(error) = open(&older.folder) else { anyhow::bail!("it was taken") };
            let told = error.to_string();
            ensure!(matches!(error.downcast_ref(), Some(Error::Abi { found, ours: ABI, .. }) if *found == version));
            ensure!(told.contains(&format!("version {version}")) && told.contains("shunt purge"), "{told}");
            assert_eq!(older.pinned()?, before);
            call.echo()?;
            older.dial()?.echo()?;
        }
        Ok(())
    })
}
