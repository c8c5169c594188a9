//! Leases that ran out: what it takes to open again.

use super::*;
use crate::cluster::AlarmKind;

const LEASE: Duration = Duration::from_secs(2);

fn leased(servers: u8) -> ClusterConfig {
    ClusterConfig { lease: Some(LEASE), ..config(servers) }
}

/// db1 is mapped under a lease.
fn healthy() -> World {
    let mut world = World::with(leased(3), Remembered::default());
    world.ticks(2);
    assert_eq!(world.leads_to(), Some(db(1)));
    world
}

impl World {
    /// The agent slept, and the kernel stopped all listeners meanwhile.
    fn sleep(&mut self) {
        self.now = self.now + LEASE * 5;
        self.event(Event::LeaseLapsed { listeners: vec![writer(), reader()] });
    }

    fn alarms(&self, kind: AlarmKind) -> usize {
        self.machine.status(self.now).alarms.iter().filter(|a| a.kind == kind).count()
    }
}

#[test]
fn every_mapping_has_the_lease_and_without_one_none_has() {
    let world = healthy();
    assert!(world.kernel.unwrap().mappings.iter().all(|m| m.lease == Some(LEASE)));
    assert!(World::healthy(3).kernel.unwrap().mappings.iter().all(|m| m.lease.is_none()));
}

#[test]
fn a_lapsed_listener_is_fenced_told_of_and_opens_after_a_new_look_at_every_server() {
    let mut world = healthy();
    world.sleep();
    assert_eq!((world.leads_to(), world.readers()), (None, vec![]));
    assert_eq!(world.told("lease_lapsed").len(), 1);
    assert_eq!(world.alarms(AlarmKind::LeaseLapsed), 1);
    assert_eq!(world.pace, Pace::Urgent);
    assert_eq!(world.verdict(), Verdict::Healthy, "what was known before still says so");
    for n in 1..=2 {
        world.ask(db(n));
        assert_eq!(world.leads_to(), None, "db3 may follow somebody else by now");
    }
    world.ask(db(3));
    assert_eq!((world.leads_to(), world.machine.epoch()), (Some(db(1)), Epoch(1)));
    assert_eq!(world.readers(), [db(2), db(3)]);
    assert_eq!((world.alarms(AlarmKind::LeaseLapsed), world.pace), (0, Pace::Normal));
}

#[test]
fn an_answer_to_a_question_from_before_the_lapse_opens_nothing() {
    let mut world = healthy();
    world.sleep();
    for n in 1..=3 {
        world.ask_and_wait(db(n), LEASE * 2);
    }
    assert_eq!((world.leads_to(), world.readers()), (None, vec![]));
    world.tick();
    assert_eq!(world.leads_to(), Some(db(1)));
}

#[test]
fn a_primary_that_was_succeeded_meanwhile_is_not_opened_again() {
    let mut world = healthy();
    // db1 is back as it was: writable. The others follow db2.
    world.promote(2, &[3]);
    world.sleep();
    world.ticks(3);
    assert_eq!(world.leads_to(), None);
    world.fake(1).writable = false;
    world.ticks(2);
    assert_eq!((world.leads_to(), world.machine.epoch()), (Some(db(2)), Epoch(2)));
    assert_eq!(world.alarms(AlarmKind::LeaseLapsed), 0);
}

#[test]
fn a_dead_or_read_only_primary_stays_closed_and_its_successor_is_opened() {
    for dead in [true, false] {
        let mut world = healthy();
        if dead {
            world.kill(1);
        } else {
            world.fake(1).writable = false;
        }
        world.sleep();
        world.ticks(4);
        assert_eq!(world.leads_to(), None);
        world.promote(2, &[3]);
        world.ticks(2);
        assert_eq!((world.leads_to(), world.machine.epoch()), (Some(db(2)), Epoch(2)));
    }
}

#[test]
fn a_lapse_of_one_listener_leaves_the_others_alone() {
    let mut world = healthy();
    world.event(Event::LeaseLapsed { listeners: vec![reader()] });
    assert_eq!((world.leads_to(), world.readers()), (Some(db(1)), vec![]));
    world.tick();
    assert_eq!(world.readers(), [db(2), db(3)]);
    world.event(Event::LeaseLapsed { listeners: vec![writer()] });
    assert_eq!((world.leads_to(), world.readers()), (None, vec![db(2), db(3)]));
    world.tick();
    assert_eq!(world.leads_to(), Some(db(1)));
}

#[test]
fn a_lapse_of_somebody_elses_listener_is_nothing() {
    let mut world = healthy();
    let before = world.kernel.clone();
    world.event(Event::LeaseLapsed { listeners: vec![db(9)] });
    assert_eq!((world.kernel.clone(), world.told("lease_lapsed").len()), (before, 0));
}

#[test]
fn a_pin_opens_at_once_and_a_pause_does_not_keep_what_was_open_closed() {
    let mut world = healthy();
    world.event(Event::Pin { listener: None, server: db(3) });
    world.sleep();
    assert_eq!(world.leads_to(), Some(db(3)), "an operator's word needs no observation");

    let mut world = healthy();
    world.event(Event::Pause { until: None, reason: "test".to_owned() });
    world.sleep();
    assert_eq!(world.leads_to(), None);
    world.tick();
    assert_eq!(world.leads_to(), Some(db(1)));
}

#[test]
fn readers_without_a_replica_fall_back_only_to_a_primary_that_was_seen_anew() {
    let mut config = leased(2);
    config.listeners[1].fallback = Fallback::Primary;
    let mut world = World::with(config, Remembered::default());
    world.ticks(2);
    world.kill(2);
    world.ticks(4);
    assert_eq!(world.readers(), [db(1)]);
    world.sleep();
    assert_eq!(world.readers(), []);
    world.tick();
    assert_eq!(world.readers(), [db(1)]);
}

#[test]
fn an_agent_that_finds_lapsed_listeners_at_its_start_opens_them_on_evidence_only() {
    for held in [vec![db(1)], vec![]] {
        let remembered = Remembered {
            epoch: Epoch(5),
            primary: Some(db(1)),
            held: BTreeMap::from([(writer(), held), (reader(), vec![])]),
            lapsed: vec![writer(), reader()],
            ..Remembered::default()
        };
        let mut world = World::with(leased(3), remembered);
        assert_eq!((world.leads_to(), world.readers(), world.told("lease_lapsed").len()), (None, vec![], 1));
        world.ticks(2);
        assert_eq!((world.leads_to(), world.readers()), (Some(db(1)), vec![db(2), db(3)]));
        assert_eq!(world.machine.epoch(), Epoch(5));
    }
}

#[test]
fn a_plan_that_was_in_flight_when_the_leases_ran_out_is_made_anew() {
    let mut world = healthy();
    world.fake(3).lag = Some(Duration::from_secs(60));
    let mut plans = Vec::new();
    for n in 1..=3 {
        let state = world.state(db(n));
        world.now = world.now + TICK;
        let outcome = Outcome::Answered(Box::new(state));
        let seen = Observation { server: db(n), at: world.now, took: Duration::ZERO, outcome };
        plans.extend(world.machine.handle(Event::Observed(seen), world.now));
    }
    assert!(plans.iter().any(|a| matches!(a, Action::Commit(_))), "the driver has not carried it out yet: {plans:?}");
    world.sleep();
    assert_eq!((world.leads_to(), world.readers()), (None, vec![]));
    world.ticks(2);
    assert_eq!((world.leads_to(), world.readers()), (Some(db(1)), vec![db(2)]));
}

#[test]
fn a_fence_that_could_not_be_taken_into_the_kernel_still_shows_as_closed() {
    let mut world = healthy();
    world.fail_at = Some(Stage::Datapath);
    world.sleep();
    let status = world.machine.status(world.now);
    assert!(status.listeners.iter().all(|l| l.backends.is_empty()), "{:?}", status.listeners);
}
