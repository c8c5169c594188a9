//! Who may connect, how many at a time, and what is counted for each mapping.

use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use anyhow::{Result, ensure};
use shunt_ebpf::common::flow::state;
use shunt_ebpf::common::manage::{Command, what};
use shunt_ebpf::common::mapping::Way;
use shunt_ebpf::common::tally::Event;
use shunt_ebpf::endpoint;
use shunt_tests::eventually;
use shunt_tests::star::{Conversation, Ip, PATIENCE};

use crate::lab::{LISTENER, Lab, PAIRS, on_both, to};

const LIST: u32 = 7;

/// The listener leads to the first database, under these conditions.
fn admit(lab: &mut Lab<'_>, conditions: Way) -> Result<()> {
    lab.attach()?;
    lab.lead(0)?;
    let mut change = lab.tables.begin();
    change.lead(LISTENER, conditions);
    change.commit();
    Ok(())
}

fn limited(limit: u32, limit_per_source: u32) -> Way {
    Way { limit, limit_per_source, ..to(PAIRS[0]) }
}

fn told(lab: &Lab<'_>, event: Event) -> u64 {
    lab.tables.tally(LISTENER).count(event)
}

fn dial(lab: &Lab<'_>, source: IpAddr) -> std::io::Result<Conversation> {
    lab.star.dial_from(source, lab.listener())
}

#[test]
fn who_is_on_the_list_is_served_and_nobody_else() -> Result<()> {
    on_both("admitting::who_is_on_the_list", |mut lab| {
        let ip = lab.ip;
        let (whole, everybody) =
            if ip == Ip::V4 { (32, Ipv4Addr::UNSPECIFIED.into()) } else { (128, Ipv6Addr::UNSPECIFIED.into()) };
        let network = |address: IpAddr| endpoint((address, 0).into());
        // Another list has everybody, and ours a network of nobody here beside the client.
        lab.tables.allow(LIST + 1, network(everybody), 0)?;
        lab.tables.allow(LIST, network(ip.client()), whole)?;
        lab.tables.allow(LIST, network(ip.address(99, 0)), whole - 8)?;
        admit(&mut lab, Way { allow: LIST, ..to(PAIRS[0]) })?;
        dial(&lab, ip.client())?.echo()?;
        let refused = dial(&lab, ip.second_client()).map(drop).map_err(|error| error.kind());
        assert_eq!(refused, Err(ErrorKind::ConnectionRefused));
        assert_eq!((told(&lab, Event::NotAllowed), told(&lab, Event::Opened), told(&lab, Event::Reset)), (1, 1, 1));
        let mut change = lab.tables.begin();
        change.lead(LISTENER, Way { allow: LIST + 1, ..to(PAIRS[0]) });
        change.commit();
        dial(&lab, ip.second_client())?.echo()?;
        Ok(())
    })
}

/// As many as fit; one more is refused, and gets in when one of them has closed.
fn a_place_is_given_back(lab: &Lab<'_>, source: IpAddr, limit: usize) -> Result<Vec<Conversation>> {
    let mut all: Vec<_> = (0..limit).map(|_| dial(lab, source)).collect::<Result<_, _>>()?;
    let refused = dial(lab, source).map(drop).map_err(|error| error.kind());
    assert_eq!(refused, Err(ErrorKind::ConnectionRefused));
    drop(all.pop());
    eventually("a free place", PATIENCE, || Ok(dial(lab, source).ok().map(|call| all.push(call))))?;
    ensure!(dial(lab, source).is_err(), "one more than fits");
    for call in &all {
        call.echo()?;
    }
    Ok(all)
}

#[test]
fn a_listener_takes_so_many_and_one_more_when_one_closes() -> Result<()> {
    on_both("admitting::a_listener_takes_so_many", |mut lab| {
        admit(&mut lab, limited(5, 0))?;
        let all = a_place_is_given_back(&lab, lab.ip.client(), 5)?;
        assert_eq!(lab.tables.tally(LISTENER).open, 5);
        ensure!(told(&lab, Event::OverLimit) >= 2);
        all.into_iter().try_for_each(Conversation::abort)?;
        eventually("nobody", PATIENCE, || Ok((lab.tables.tally(LISTENER).open == 0).then_some(())))
    })
}

#[test]
fn a_source_takes_so_many_and_others_take_theirs() -> Result<()> {
    on_both("admitting::a_source_takes_so_many", |mut lab| {
        admit(&mut lab, limited(0, 3))?;
        let _one = a_place_is_given_back(&lab, lab.ip.client(), 3)?;
        let _other = a_place_is_given_back(&lab, lab.ip.second_client(), 3)?;
        let mut taken: Vec<_> = lab.tables.sources()?;
        taken.sort_by_key(|(source, _)| source.address.bytes());
        assert_eq!(
            taken.iter().map(|(source, places)| (source.mapping, places.taken)).collect::<Vec<_>>(),
            [(LISTENER, 3), (LISTENER, 3)]
        );
        ensure!(told(&lab, Event::OverSourceLimit) >= 4 && told(&lab, Event::OverLimit) == 0);
        Ok(())
    })
}

#[test]
fn a_slot_that_is_given_away_counts_what_its_former_mapping_has_left_over() -> Result<()> {
    on_both("admitting::a_slot_that_is_given_away", |mut lab| {
        admit(&mut lab, limited(2, 0))?;
        let _calls: Vec<_> = (0..2).map(|_| dial(&lab, lab.ip.client())).collect::<Result<_, _>>()?;
        let left_over = lab.flows()?;
        // They are dead, and not forgotten yet, when another mapping gets the slot.
        lab.lead(1)?;
        lab.tables.clear_tally(LISTENER);
        let mut change = lab.tables.begin();
        change.lead(LISTENER, Way { limit: 2, ..to(PAIRS[1]) });
        change.commit();
        assert_eq!((told(&lab, Event::Opened), lab.tables.tally(LISTENER).open), (0, 2));
        let forget =
            |(flow, _): &(_, _)| Command { flow: *flow, unseen_since: u64::MAX, what: what::FORGET_DEAD, mapping: 0 };
        lab.object.manage(&left_over.iter().map(forget).collect::<Vec<_>>())?;
        assert_eq!(lab.tables.tally(LISTENER).open, 0);
        dial(&lab, lab.ip.client())?.echo()?;
        Ok(())
    })
}

#[test]
fn forgotten_flows_give_their_places_back_once() -> Result<()> {
    on_both("admitting::forgotten_flows", |mut lab| {
        admit(&mut lab, limited(4, 4))?;
        let calls: Vec<_> = (0..4).map(|_| lab.star.dial("client", lab.listener())).collect::<Result<_, _>>()?;
        let forget = |lab: &mut Lab<'_>, what: u32, unseen_since: u64| -> Result<u32> {
            let flows = lab.flows()?;
            // Of some the client's entry is named, of others the server's, of all of them twice.
            let commands: Vec<_> =
                flows.iter().map(|(flow, _)| Command { flow: *flow, unseen_since, what, mapping: 0 }).collect();
            Ok(lab.object.manage(&commands)?)
        };
        for what in [what::FORGET_DEAD, what::FORGET_CLOSED] {
            assert_eq!(forget(&mut lab, what, u64::MAX)?, 0, "they are neither dead nor closed");
        }
        assert_eq!(forget(&mut lab, what::FORGET_IDLE, 1)?, 0, "they were seen since");
        for call in &calls {
            call.echo()?;
        }
        assert_eq!(lab.tables.tally(LISTENER).open, 4);
        lab.lead(1)?;
        // The client of one is told, which gives its place back before the flow is forgotten.
        ensure!(calls[0].is_reset());
        assert_eq!(lab.flows()?.iter().filter(|(_, flow)| flow.state & state::RESET != 0).count(), 1);
        assert_eq!(forget(&mut lab, what::FORGET_DEAD, u64::MAX)?, 4);
        assert_eq!((lab.flows()?.len(), lab.tables.tally(LISTENER).open), (0, 0));
        ensure!(lab.tables.sources()?.iter().all(|(_, places)| places.taken == 0));
        Ok(())
    })
}
