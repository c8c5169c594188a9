//! Flows that are ended one by one.

use anyhow::{Context as _, Result, ensure};
use shunt_ebpf::common::flow::{Tuple, mark};
use shunt_ebpf::common::manage::{Command, what};
use shunt_tests::eventually;
use shunt_tests::star::{CLIENT, Conversation, PATIENCE};

use crate::lab::{LISTENER, Lab, on_both};

fn order(lab: &mut Lab<'_>, flow: Tuple, what: u32) -> Result<u32> {
    Ok(lab.object.manage(&[Command { flow, unseen_since: u64::MAX, what, ..Command::default() }])?)
}

/// The key of its client's direction.
fn key(call: &Conversation, lab: &Lab<'_>) -> Result<Tuple> {
    let (client, listener) = (shunt_ebpf::endpoint(call.local()?), shunt_ebpf::endpoint(lab.listener()));
    Ok(Tuple {
        source: client.address,
        target: listener.address,
        source_port: client.port,
        target_port: listener.port,
        zero: 0,
    })
}

#[test]
fn a_flow_that_was_ended_is_dead_and_the_others_of_its_pair_are_not() -> Result<()> {
    on_both("ending::a_flow_that_was_ended", |mut lab| {
        lab.attach()?;
        lab.lead(0)?;
        let dial = |lab: &Lab<'_>| lab.star.dial(CLIENT, lab.listener());
        let (speaks, hears, other) = (dial(&lab)?, dial(&lab)?, dial(&lab)?);
        let flow = key(&speaks, &lab)?;
        assert_eq!(order(&mut lab, flow, what::FORGET_DEAD)?, 0, "it lives");
        assert_eq!(order(&mut lab, flow, what::END)?, 1);
        // By the key of either end.
        let flow = key(&hears, &lab)?;
        let (_, entry) = lab.flows()?.into_iter().find(|(key, _)| *key == flow).context("no such flow")?;
        assert_eq!(order(&mut lab, entry.rewritten.reversed(), what::END)?, 1);
        assert_eq!(lab.flows()?.iter().filter(|(_, flow)| flow.marks & mark::ENDED != 0).count(), 4);
        ensure!(speaks.is_reset(), "the client was not reset");
        lab.star.server(0).say(hears.seen_as, "hello")?;
        eventually("the server's end", PATIENCE, || Ok(lab.star.server(0).end_of(hears.seen_as)))?;
        other.echo()?;
        assert_eq!(lab.tables.tally(LISTENER).open, 2, "one client knows, and has given its place back");
        for (call, done) in [(&speaks, 1), (&hears, 1), (&hears, 0), (&other, 0)] {
            let flow = key(call, &lab)?;
            assert_eq!(order(&mut lab, flow, what::FORGET_DEAD)?, done);
        }
        assert_eq!((lab.flows()?.len(), lab.tables.tally(LISTENER).open), (2, 1));
        // A client that begins anew from the port of an ended flow has nothing to do with it.
        let flow = key(&other, &lab)?;
        assert_eq!(order(&mut lab, flow, what::END)?, 1);
        let again = other.local()?;
        other.abort()?;
        let listener = lab.listener();
        let anew = lab.star.inside(CLIENT, || Conversation::open_at(again, listener, PATIENCE))?;
        anew.echo()?;
        assert_eq!(order(&mut lab, flow, what::FORGET_DEAD)?, 0);
        Ok(())
    })
}
