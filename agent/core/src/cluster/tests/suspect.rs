//! What traffic tells hastens the probes and decides nothing, under whatever verdict.

use super::transitions::under;
use super::*;
use crate::signal::{Sign, Suspicion};

const SIGNS: [Sign; 5] = [Sign::Retransmissions, Sign::Resets, Sign::UnansweredSyns, Sign::Refusals, Sign::Silence];

fn suspicion(server: SocketAddr, sign: Sign) -> Suspicion {
    Suspicion { listener: writer(), backend: server, sign, awaited: Some(Duration::from_millis(210)) }
}

/// What follows from a suspicion.
fn follows(world: &mut World, server: u8, sign: Sign) -> Vec<Action> {
    world.machine.handle(Event::Suspected(suspicion(db(server), sign)), world.now)
}

#[test]
fn a_signal_alone_never_changes_a_verdict_or_a_mapping() {
    for verdict in Verdict::ALL {
        for server in 1..=3 {
            let mut world = under(verdict);
            // Later than everything that time alone would change.
            world.now = world.now + Duration::from_secs(3600);
            let before = (world.machine.assessment().clone(), world.machine.committed().cloned());
            let told = (world.machine.epoch(), world.machine.primary(), world.machine.trouble_since());
            let deadline = world.machine.next_deadline();
            for sign in SIGNS {
                let actions = follows(&mut world, server, sign);
                let asks = |action: &Action| matches!(action, Action::Hasten | Action::Record(_));
                assert!(actions.iter().all(asks), "{verdict}, db{server}, {sign:?}: {actions:?}");
            }
            assert_eq!(before, (world.machine.assessment().clone(), world.machine.committed().cloned()));
            assert_eq!(told, (world.machine.epoch(), world.machine.primary(), world.machine.trouble_since()));
            assert_eq!(deadline, world.machine.next_deadline());
        }
    }
}

#[test]
fn a_healthy_server_that_is_suspect_has_all_servers_asked() {
    let mut world = World::healthy(3);
    for server in 1..=3 {
        assert!(follows(&mut world, server, Sign::Silence).contains(&Action::Hasten), "db{server}");
    }
}

#[test]
fn what_the_probes_know_already_is_no_suspicion() {
    let mut world = World::healthy(3);
    world.fake(2).fails = Some(FailureKind::Timeout);
    world.ask(db(2));
    assert_eq!(follows(&mut world, 2, Sign::Silence), []);
    assert_eq!(follows(&mut world, 9, Sign::Silence), [], "it is none of the cluster's");
}

#[test]
fn a_suspicion_is_in_the_history_with_its_reason_and_again_after_a_while() {
    let mut world = World::healthy(3);
    for (seconds, sign, lines) in [
        (0, Sign::Silence, 1),
        (1, Sign::Silence, 1),
        (2, Sign::Refusals, 2),
        (11, Sign::Refusals, 2),
        (12, Sign::Refusals, 3),
        (13, Sign::Silence, 4),
    ] {
        let start = Mono::from_millis(1_000_000);
        world.now = start + Duration::from_secs(seconds);
        world.event(Event::Suspected(suspicion(db(1), sign)));
        assert_eq!(world.told("suspected").len(), lines, "after {seconds} s");
    }
    let expected =
        format!("clients get no answer from {} through {} for 210 ms: the servers are asked at once", db(1), writer());
    assert_eq!(world.told("suspected")[0], expected);
}

#[test]
fn a_suspicion_shows_until_the_server_has_answered_a_question_that_was_asked_since() {
    let mut world = World::healthy(3);
    let shown = |world: &World| world.machine.status(world.now).servers[0].suspected.clone();
    assert_eq!(shown(&world), None);
    world.now = world.now + Duration::from_millis(100);
    world.event(Event::Suspected(suspicion(db(1), Sign::Refusals)));
    assert_eq!(shown(&world), Some(format!("{} refuses connections through {}", db(1), writer())));
    world.now = world.now + Duration::from_millis(100);
    world.ask(db(1));
    assert_eq!(shown(&world), None);
}
