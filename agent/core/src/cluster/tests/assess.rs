//! What is recognised as the primary, and what is not.

use super::*;

#[test]
fn a_writable_source_of_the_others_is_mapped() {
    let world = World::healthy(3);
    assert_eq!(world.leads_to(), Some(db(1)));
    assert_eq!(world.machine.epoch(), Epoch(1));
}

#[test]
fn nothing_is_mapped_before_every_server_was_asked() {
    let mut world = World::new(3);
    world.ask(db(1));
    world.ask(db(2));
    assert_eq!(world.leads_to(), None);
    world.ask(db(3));
    assert_eq!(world.leads_to(), Some(db(1)));
}

#[test]
fn a_server_that_is_merely_writable_is_not_the_primary() {
    let mut world = World::new(3);
    for n in 2..=3 {
        world.fake(n).source = None;
    }
    world.ticks(3);
    assert_eq!((world.verdict(), world.leads_to()), (Verdict::None, None));
}

#[test]
fn a_server_alone_in_its_cluster_needs_nobody_to_vouch_for_it() {
    assert_eq!(World::healthy(1).leads_to(), Some(db(1)));
}

#[test]
fn two_writable_servers_without_a_source_fence_a_cluster_that_was_never_mapped() {
    let mut world = World::new(3);
    world.promote(2, &[]);
    world.ticks(3);
    assert_eq!((world.verdict(), world.leads_to()), (Verdict::Split, None));
}

#[test]
fn the_dead_primary_is_fenced_and_its_promoted_replica_followed() {
    let mut world = World::healthy(3);
    world.kill(1);
    world.ticks(3);
    assert_eq!((world.verdict(), world.leads_to()), (Verdict::Dead, None));
    world.promote(2, &[3]);
    world.tick();
    assert_eq!(world.leads_to(), Some(db(2)));
    assert_eq!(world.machine.epoch(), Epoch(2));
    world.tick();
    assert_eq!(world.verdict(), Verdict::Healthy);
}

#[test]
fn a_witnessed_promotion_needs_no_follower() {
    let mut world = World::healthy(2);
    world.kill(1);
    world.ticks(3);
    world.promote(2, &[]);
    world.tick();
    assert_eq!(world.leads_to(), Some(db(2)));
}

#[test]
fn a_replica_that_was_writable_all_along_is_not_followed_when_the_primary_dies() {
    let mut world = World::healthy(3);
    world.fake(2).writable = true;
    world.ticks(3);
    assert_eq!((world.verdict(), world.leads_to()), (Verdict::Split, Some(db(1))));
    world.kill(1);
    world.ticks(5);
    assert_eq!((world.verdict(), world.leads_to()), (Verdict::Dead, None));
}

#[test]
fn a_second_writer_beside_a_living_primary_is_not_its_heir_when_that_dies() {
    let mut world = World::healthy(3);
    world.promote(2, &[]);
    world.ticks(3);
    assert_eq!((world.verdict(), world.leads_to()), (Verdict::Split, Some(db(1))));
    world.kill(1);
    world.ticks(5);
    assert_eq!(world.leads_to(), None, "{:?}", world.machine.assessment());
}

#[test]
fn while_a_replica_receives_from_it_a_silent_primary_is_unreachable_not_dead() {
    let mut world = World::healthy(3);
    // The replicas' marks go on growing only while their source lives, so give them another sign of life.
    world.fake(1).fails = Some(FailureKind::Timeout);
    world.ticks(5);
    assert_eq!((world.verdict(), world.leads_to()), (Verdict::Unreachable, Some(db(1))));
}

#[test]
fn replicas_whose_heartbeats_stopped_do_not_receive_whatever_their_thread_says() {
    let mut world = World::healthy(3);
    world.fake(1).fails = Some(FailureKind::Timeout);
    world.ticks(40);
    assert_eq!((world.verdict(), world.leads_to()), (Verdict::Dead, None));
}

#[test]
fn a_primary_that_takes_connections_and_does_not_answer_is_saturated_while_replicas_receive() {
    let mut world = World::healthy(3);
    world.fake(1).fails = Some(FailureKind::NoAnswer);
    world.ticks(5);
    assert_eq!((world.verdict(), world.leads_to()), (Verdict::Saturated, Some(db(1))));
}

#[test]
fn when_nobody_answers_the_fault_is_ours_and_the_mapping_stays() {
    let mut world = World::healthy(3);
    for n in 1..=3 {
        world.fake(n).fails = Some(FailureKind::Timeout);
    }
    world.ticks(20);
    assert_eq!((world.verdict(), world.leads_to()), (Verdict::Unreachable, Some(db(1))));
}

#[test]
fn alive_but_failing_is_never_dead() {
    for kind in [
        FailureKind::AuthDenied,
        FailureKind::TooManyConnections,
        FailureKind::HostBlocked,
        FailureKind::StartingOrStopping,
        FailureKind::Tls,
        FailureKind::NotMysql,
        FailureKind::Query,
    ] {
        let mut world = World::healthy(3);
        world.fake(1).fails = Some(kind);
        world.ticks(50);
        assert_eq!(world.leads_to(), Some(db(1)), "{kind}");
        assert_ne!(world.verdict(), Verdict::Dead, "{kind}");
    }
}

#[test]
fn a_denied_login_is_an_alarm() {
    let mut world = World::healthy(3);
    world.fake(2).fails = Some(FailureKind::AuthDenied);
    world.ticks(2);
    let kinds: Vec<_> = world.machine.assessment().alarms.iter().map(|a| a.kind).collect();
    assert_eq!(kinds, [super::super::AlarmKind::AuthDenied]);
}

#[test]
fn a_planned_switch_by_sql_is_followed() {
    let mut world = World::healthy(3);
    world.fake(1).writable = false;
    world.tick();
    assert_eq!((world.verdict(), world.leads_to()), (Verdict::None, None));
    world.promote(3, &[1, 2]);
    world.tick();
    assert_eq!((world.leads_to(), world.machine.epoch()), (Some(db(3)), Epoch(2)));
}

#[test]
fn a_primary_that_turns_writable_again_is_opened_again_under_the_same_epoch() {
    let mut world = World::healthy(3);
    world.fake(1).writable = false;
    world.tick();
    world.fake(1).writable = true;
    world.tick();
    assert_eq!((world.leads_to(), world.machine.epoch()), (Some(db(1)), Epoch(1)));
}

#[test]
fn an_old_primary_that_returns_writable_changes_nothing() {
    let mut world = World::healthy(3);
    world.kill(1);
    world.ticks(3);
    world.promote(2, &[3]);
    world.ticks(2);
    world.fake(1).fails = None;
    world.ticks(5);
    assert_eq!((world.verdict(), world.leads_to()), (Verdict::Split, Some(db(2))));
}

#[test]
fn a_remembered_primary_is_not_opened_when_the_others_replicate_from_somebody_else() {
    let remembered = Remembered { epoch: Epoch(4), primary: Some(db(1)), ..Remembered::default() };
    let mut world = World::with(config(3), remembered);
    world.fake(2).fails = Some(FailureKind::Timeout);
    world.fake(3).source = Some(db(2));
    world.ask(db(2));
    world.fake(3).io = IoThread::Connecting;
    world.ask(db(3));
    world.ticks(5);
    assert_eq!((world.leads_to(), world.machine.epoch()), (None, Epoch(4)), "{:?}", world.machine.assessment());
}
