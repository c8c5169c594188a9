//! Pins, pauses, restarts, failing commits, replica listeners.

use std::collections::BTreeSet;

use super::*;
use crate::mapping::Leaving;

#[test]
fn a_pin_overrides_observation_until_it_is_taken_back() {
    let mut world = World::healthy(3);
    world.event(Event::Pin { listener: None, server: db(3) });
    assert_eq!((world.leads_to(), world.machine.epoch()), (Some(db(3)), Epoch(2)));
    world.ticks(3);
    assert_eq!(world.leads_to(), Some(db(3)));
    world.kill(3);
    world.ticks(10);
    assert_eq!(world.leads_to(), Some(db(3)), "not even its death moves a pin");
    world.fake(3).fails = None;
    world.event(Event::Unpin { listener: None });
    world.ticks(3);
    // db3 is read-only, and db1 is the source of the others.
    assert_eq!((world.leads_to(), world.machine.epoch()), (Some(db(1)), Epoch(3)));
}

#[test]
fn a_listeners_pin_moves_that_listener_only() {
    let mut world = World::healthy(3);
    world.event(Event::Pin { listener: Some(reader()), server: db(1) });
    assert_eq!((world.readers(), world.machine.epoch()), (vec![db(1)], Epoch(1)));
    world.event(Event::Unpin { listener: Some(reader()) });
    assert_eq!(world.readers(), [db(2), db(3)]);
}

#[test]
fn pinning_to_a_read_only_or_silent_server_raises_doubts() {
    let mut world = World::healthy(3);
    assert_eq!(world.machine.pin_doubts(db(1)), Vec::<String>::new());
    assert_eq!(world.machine.pin_doubts(db(2)), ["db2 is read-only"]);
    world.kill(2);
    world.ticks(2);
    assert_eq!(world.machine.pin_doubts(db(2)), ["db2 does not answer: refused by the test", "db2 is read-only"]);
}

#[test]
fn a_paused_cluster_keeps_its_mapping_until_the_pause_is_over() {
    let mut world = World::healthy(3);
    let until = world.now + Duration::from_secs(60);
    world.event(Event::Pause { until: Some(until), reason: "maintenance".to_owned() });
    world.kill(1);
    world.promote(2, &[3]);
    world.ticks(10);
    assert_eq!((world.verdict(), world.leads_to()), (Verdict::Dead, Some(db(1))));
    assert_eq!(world.machine.next_deadline(), Some(until));
    world.now = until;
    world.event(Event::Deadline);
    assert_eq!(world.leads_to(), Some(db(2)));
}

#[test]
fn a_cluster_whose_failover_is_off_moves_by_pins_only() {
    let mut world = World::with(ClusterConfig { failover: FailoverMode::Off, ..config(3) }, Remembered::default());
    world.ticks(3);
    assert_eq!((world.verdict(), world.leads_to()), (Verdict::Healthy, None));
    world.event(Event::Pin { listener: None, server: db(1) });
    assert_eq!(world.leads_to(), Some(db(1)));
}

#[test]
fn a_restarted_agent_keeps_what_the_kernel_holds_until_there_is_evidence() {
    let held = BTreeMap::from([(writer(), vec![db(2)]), (reader(), vec![db(3)])]);
    let remembered = Remembered { epoch: Epoch(5), primary: Some(db(2)), held, ..Remembered::default() };
    let world = World::with(config(3), remembered);
    assert_eq!((world.leads_to(), world.readers(), world.machine.epoch()), (Some(db(2)), vec![db(3)], Epoch(5)));
}

#[test]
fn an_agent_that_died_between_writing_the_epoch_and_telling_the_kernel_fences_the_old_primary() {
    let held = BTreeMap::from([(writer(), vec![db(1)])]);
    let remembered = Remembered { epoch: Epoch(5), primary: Some(db(2)), held, ..Remembered::default() };
    let world = World::with(config(3), remembered);
    assert_eq!((world.leads_to(), world.machine.epoch()), (None, Epoch(5)));
}

#[test]
fn without_a_store_the_kernels_mapping_is_adopted_under_a_new_epoch() {
    let held = BTreeMap::from([(writer(), vec![db(1)])]);
    let world = World::with(config(3), Remembered { held, ..Remembered::default() });
    assert_eq!((world.leads_to(), world.machine.epoch(), world.written), (Some(db(1)), Epoch(1), Epoch(1)));
}

#[test]
fn a_new_primary_stays_fenced_while_its_epoch_cannot_be_written_down() {
    let mut world = World::healthy(3);
    world.fail_at = Some(Stage::State);
    world.fake(1).writable = false;
    world.promote(2, &[1, 3]);
    world.ticks(3);
    assert_eq!((world.leads_to(), world.written), (None, Epoch(1)));
    assert!(world.machine.status(world.now).alarms.iter().any(|a| a.kind == super::super::AlarmKind::StateFailed));
    world.fail_at = None;
    world.now = world.machine.next_deadline().expect("it is tried again");
    world.event(Event::Deadline);
    assert_eq!((world.leads_to(), world.written), (Some(db(2)), Epoch(2)));
    assert!(world.machine.status(world.now).alarms.is_empty());
}

#[test]
fn a_mapping_that_the_kernel_refuses_is_tried_again() {
    let mut world = World::healthy(3);
    world.fail_at = Some(Stage::Datapath);
    world.kill(1);
    world.ticks(3);
    assert_eq!(world.leads_to(), Some(db(1)));
    world.fail_at = None;
    world.now = world.machine.next_deadline().expect("it is tried again");
    world.event(Event::Deadline);
    assert_eq!(world.leads_to(), None);
}

#[test]
fn the_servers_are_asked_urgently_while_there_is_no_primary_but_not_for_ever() {
    let mut world = World::healthy(3);
    assert_eq!(world.pace, Pace::Normal);
    world.fake(1).fails = Some(FailureKind::Reset);
    world.ask(db(1));
    assert_eq!(world.pace, Pace::Urgent);
    world.kill(1);
    world.ticks(3);
    world.now = world.machine.next_deadline().expect("urgency ends");
    world.event(Event::Deadline);
    assert_eq!(world.pace, Pace::Normal);
}

#[test]
fn a_lagging_replica_takes_no_connections_and_is_back_at_half_the_limit() {
    let mut world = World::healthy(3);
    assert_eq!(world.readers(), [db(2), db(3)]);
    for (lag, readers) in [(6, vec![db(3)]), (4, vec![db(3)]), (2, vec![db(2), db(3)]), (4, vec![db(2), db(3)])] {
        world.fake(2).lag = Some(Duration::from_secs(lag));
        world.tick();
        assert_eq!(world.readers(), readers, "at a lag of {lag} s");
    }
}

#[test]
fn the_readers_keep_their_replicas_while_the_primary_is_gone() {
    let mut world = World::healthy(3);
    world.kill(1);
    world.ticks(5);
    assert_eq!(world.readers(), [db(2), db(3)]);
}

#[test]
fn without_a_fit_replica_the_readers_fall_back_as_configured() {
    for (fallback, readers) in [(Fallback::Primary, vec![db(1)]), (Fallback::None, vec![])] {
        let mut config = config(2);
        config.listeners[1].fallback = fallback;
        let mut world = World::with(config, Remembered::default());
        world.ticks(2);
        world.kill(2);
        world.ticks(5);
        assert_eq!(world.readers(), readers);
    }
}

#[test]
fn a_primary_drains_only_if_it_is_known_to_be_read_only() {
    for (is_read_only, leaving) in [(true, Leaving::Drain(Duration::from_secs(30))), (false, Leaving::Sever)] {
        let mut config = config(3);
        config.listeners[0].established = Established::Drain;
        let mut world = World::with(config, Remembered::default());
        world.ticks(2);
        if is_read_only {
            world.fake(1).writable = false;
        } else {
            world.kill(1);
        }
        world.ticks(3);
        assert_eq!(world.mapping(writer()).leaving, leaving);
    }
}

#[test]
fn a_reconfigured_cluster_keeps_what_it_knows() {
    let mut world = World::healthy(3);
    let mut changed = config(3);
    changed.listeners[0].fenced = Fenced::Refuse;
    let actions = world.machine.reconfigure(changed, &BTreeSet::new(), world.now);
    world.carry_out(actions);
    assert_eq!((world.verdict(), world.leads_to(), world.machine.epoch()), (Verdict::Healthy, Some(db(1)), Epoch(1)));
    world.kill(1);
    world.ticks(3);
    assert_eq!(world.mapping(writer()).route, Route::Refuse);
}

#[test]
fn a_pin_to_a_server_of_another_cluster_is_ignored() {
    let mut world = World::healthy(3);
    world.event(Event::Pin { listener: None, server: db(99) });
    assert_eq!(world.leads_to(), Some(db(1)));
}

#[test]
fn a_pin_to_a_server_that_left_the_configuration_does_not_come_back() {
    let mut world = World::healthy(3);
    world.event(Event::Pin { listener: None, server: db(3) });
    let actions = world.machine.reconfigure(config(2), &BTreeSet::new(), world.now);
    assert!(actions.iter().any(|a| matches!(a, Action::Record(e) if e.kind == "unpinned")), "{actions:?}");
    assert!(world.machine.pins().is_empty());
    let remembered = Remembered { pins: BTreeMap::from([(None, db(3))]), ..Remembered::default() };
    assert_eq!(World::with(config(2), remembered).leads_to(), None);
}
