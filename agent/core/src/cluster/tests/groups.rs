//! Groups: whose word counts, where it leads, and who takes readers.

use proptest::prelude::*;

use super::*;
use crate::cluster::AlarmKind;
use crate::config::FailoverMode;
use crate::observation::{Backlog, GaleraNode, GaleraState, GroupMember, MemberState, ReplicationGroup};

/// A member's view of its group. `1P 2 3?`: db1 is ONLINE and PRIMARY, db2 ONLINE, db3 UNREACHABLE; `r` is RECOVERING, `e`
/// ERROR, `o` OFFLINE. The number counts the group's views, `b` before it is for a group that was founded by somebody else.
fn view(number: &str, members: &str) -> ReplicationGroup {
    let members = members.split_whitespace().map(|word| {
        let state = match word.chars().last() {
            Some('?') => MemberState::Unreachable,
            Some('r') => MemberState::Recovering,
            Some('e') => MemberState::Error,
            Some('o') => MemberState::Offline,
            _ => MemberState::Online,
        };
        let n: u8 = word[..1].parse().unwrap();
        GroupMember { uuid: format!("uuid-of-{}", db(n)), state, primary: word.contains(['P', 'p']) }
    });
    ReplicationGroup {
        members: members.collect(),
        view: match number.strip_prefix('b') {
            Some(number) => format!("20000000000000000:{number}"),
            None => format!("17952895151618453:{number}"),
        },
        backlog: Some(Backlog::default()),
    }
}

impl World {
    /// What each server says of its group: the number and the members of its view. A PRIMARY by its own view is writable
    /// unless it says `p`. `refused` and `silent` are servers that do not answer.
    fn say(&mut self, words: &[&str]) {
        for (n, words) in (1..).zip(words) {
            let fake = self.fake(n);
            fake.source = None;
            fake.fails = match *words {
                "refused" => Some(FailureKind::Refused),
                "silent" => Some(FailureKind::Timeout),
                "denied" => Some(FailureKind::AuthDenied),
                _ => None,
            };
            if fake.fails.is_some() {
                continue;
            }
            let (number, members) = words.split_once(": ").unwrap();
            fake.writable = members.contains(&format!("{n}P"));
            fake.group = Some(GroupView::Replication(view(number, members)));
        }
    }

    fn alarmed(&self) -> Vec<AlarmKind> {
        self.machine.assessment().alarms.iter().map(|alarm| alarm.kind).collect()
    }
}

/// Three members that db1 is the PRIMARY of.
fn group() -> World {
    let mut world = World::new(3);
    world.say(&["3: 1P 2 3"; 3]);
    world.ticks(2);
    assert_eq!(
        (world.verdict(), world.leads_to()),
        (Verdict::Healthy, Some(db(1))),
        "{:?}",
        world.machine.assessment()
    );
    world
}

/// What becomes of a group of three that db1 was the PRIMARY of when its members say that, time and again.
fn becomes(words: [&str; 3]) -> (Verdict, Option<u8>) {
    let mut world = group();
    world.say(&words);
    world.ticks(4);
    let leads = world.leads_to().map(|to| (1..=3).find(|&n| db(n) == to).unwrap());
    (world.verdict(), leads)
}

#[test]
fn the_primary_is_whom_a_majority_has_online_as_its_primary_and_who_is_writable() {
    use Verdict::{Dead, Healthy, None as Vacant, Split, Suspect, Unreachable};
    let table = [
        // All is well, or nearly.
        (["3: 1P 2 3", "3: 1P 2 3", "3: 1P 2 3"], Healthy, Some(1)),
        (["4: 1P 2 3r", "4: 1P 2 3r", "4: 1P 2 3r"], Healthy, Some(1)),
        (["3: 1P 2 3?", "3: 1P 2 3?", "silent"], Healthy, Some(1)),
        (["4: 1P 2", "4: 1P 2", "3: 3e"], Healthy, Some(1)),
        (["5: 1P 2r", "5: 1P 2r", "silent"], Healthy, Some(1)),
        (["5: 1P", "4: 2o", "4: 3o"], Healthy, Some(1)),
        // The primary is cut off from the others: nobody elected yet, being elected, elected.
        (["3: 1P 2? 3?", "3: 1P? 2 3", "3: 1P? 2 3"], Suspect, Some(1)),
        (["3: 1P 2? 3?", "4: 2p 3", "4: 2p 3"], Suspect, Some(1)),
        (["3: 1P 2? 3?", "4: 2P 3", "4: 2P 3"], Healthy, Some(2)),
        (["3: 1P 2? 3?", "4: 2 3P", "3: 1P? 2 3"], Suspect, Some(1)),
        (["3: 1P 2? 3?", "3: 1P? 2 3", "4: 2 3P"], Healthy, Some(3)),
        // Back, it does not know yet that it was expelled; then it does; then it joins again.
        (["3: 1P 2 3", "4: 2P 3", "4: 2P 3"], Healthy, Some(2)),
        (["3: 1P 2 3", "4: 2P 3", "silent"], Healthy, Some(2)),
        (["3: 1P 2 3", "silent", "4: 2P 3"], Suspect, Some(1)),
        (["3: 1P 2 3", "4: 2p 3", "4: 2p 3"], Suspect, Some(1)),
        (["3: 1e", "4: 2P 3", "4: 2P 3"], Healthy, Some(2)),
        (["3: 1e", "4: 2p 3", "4: 2p 3"], Vacant, None),
        (["5: 1r 2P 3", "5: 1r 2P 3", "5: 1r 2P 3"], Healthy, Some(2)),
        (["3: 1o", "4: 2P 3", "4: 2P 3"], Healthy, Some(2)),
        // A planned change: the flag goes before the role, and one is asked before the other.
        (["3: 1p 2 3", "3: 1p 2 3", "3: 1p 2 3"], Vacant, None),
        (["3: 1 2P 3", "3: 1 2P 3", "3: 1 2P 3"], Healthy, Some(2)),
        (["3: 1P 2 3", "3: 1 2P 3", "3: 1 2P 3"], Suspect, Some(1)),
        // The primary does not answer us.
        (["refused", "4: 2P 3", "4: 2P 3"], Healthy, Some(2)),
        (["silent", "4: 2P 3", "4: 2P 3"], Healthy, Some(2)),
        (["denied", "4: 2P 3", "4: 2P 3"], Healthy, Some(2)),
        (["silent", "3: 1 2P 3", "3: 1 2P 3"], Healthy, Some(2)),
        (["denied", "3: 1P 2 3", "3: 1P 2 3"], Suspect, Some(1)),
        (["refused", "3: 1P 2 3", "3: 1P 2 3"], Suspect, Some(1)),
        (["silent", "3: 1P 2 3", "3: 1P 2 3"], Unreachable, Some(1)),
        (["refused", "3: 1P? 2 3", "3: 1P? 2 3"], Dead, None),
        (["silent", "3: 1P? 2 3", "3: 1P? 2 3"], Dead, None),
        (["silent", "4: 2p 3", "4: 2p 3"], Dead, None),
        (["silent", "silent", "3: 1P? 2? 3"], Dead, None),
        (["silent", "silent", "silent"], Unreachable, Some(1)),
        (["refused", "silent", "silent"], Dead, None),
        (["silent", "3: 2e", "3: 3e"], Dead, None),
        // Two groups where there should be one: the one that more members are in, else the one that is mapped.
        (["9: 1P", "b1: 2P 3", "b1: 2P 3"], Healthy, Some(2)),
        (["9: 1P", "10: 2P", "silent"], Healthy, Some(2)),
        (["9: 1P", "b1: 2P", "silent"], Split, Some(1)),
    ];
    for (words, verdict, leads) in table {
        assert_eq!(becomes(words), (verdict, leads), "{words:?}");
    }
}

#[test]
fn a_group_that_was_founded_twice_is_a_split_that_keeps_the_mapping() {
    let mut world = group();
    world.say(&["1: 1P", "b1: 2P", "silent"]);
    world.ticks(4);
    assert_eq!((world.verdict(), world.leads_to()), (Verdict::Split, Some(db(1))));
    assert!(world.alarmed().contains(&AlarmKind::Split));
    // Nor does one of them become the first primary.
    let fakes = world.fakes.clone();
    let mut world = World::new(3);
    world.fakes = fakes;
    world.ticks(4);
    assert_eq!((world.verdict(), world.leads_to()), (Verdict::Split, None));
}

#[test]
fn the_new_primary_of_the_majority_is_followed_before_the_old_one_counts_as_dead() {
    let mut world = group();
    world.say(&["silent", "4: 2P 3", "4: 2P 3"]);
    world.tick();
    assert_eq!(world.leads_to(), Some(db(2)), "{:?}", world.machine.assessment());
    assert!(world.told("verdict").iter().any(|told| told.contains("demoted")), "{:?}", world.history);
}

#[test]
fn a_primary_without_a_majority_raises_an_alarm() {
    let mut world = group();
    world.say(&["3: 1P 2? 3?", "silent", "silent"]);
    world.ticks(4);
    assert_eq!((world.verdict(), world.leads_to()), (Verdict::Suspect, Some(db(1))));
    assert!(world.alarmed().contains(&AlarmKind::NoPrimary));
    assert!(world.machine.assessment().reasons[0].contains("lost the majority"), "{:?}", world.machine.assessment());
}

#[test]
fn a_vacancy_tells_whom_the_group_has_elected() {
    let table = [
        (["3: 1P 2? 3?", "4: 2p 3", "4: 2p 3"], "db2 is the group's PRIMARY and not writable yet"),
        (["3: 1P 2? 3?", "4: 2 3P", "silent"], "the group's PRIMARY is db3, which does not answer us"),
        (["3: 1P 2? 3?", "4: 2 3 4P", "4: 2 3 4P"], "a server with the uuid uuid-of-10.0.0.14:3306"),
        (["3: 1P 2? 3?", "3: 1P? 2 3", "3: 1P? 2 3"], "the group has not made another server its PRIMARY"),
    ];
    for (words, reason) in table {
        let mut world = group();
        world.say(&words);
        world.ticks(4);
        let seen = world.machine.assessment();
        assert!(seen.reasons.last().is_some_and(|last| last.contains(reason)), "{words:?}: {seen:?}");
        assert_eq!(world.leads_to(), Some(db(1)));
    }
}

#[test]
fn a_first_primary_is_mapped_when_every_member_was_asked() {
    let mut world = World::new(3);
    world.say(&["3: 1 2P 3"; 3]);
    world.ask(db(2));
    world.ask(db(1));
    assert_eq!(world.leads_to(), None);
    world.ask(db(3));
    assert_eq!(world.leads_to(), Some(db(2)));
}

#[test]
fn a_writable_server_outside_of_the_group_is_a_split_and_never_led_to() {
    let mut world = group();
    world.fake(3).group = None;
    world.fake(3).writable = true;
    world.ticks(3);
    assert_eq!((world.verdict(), world.leads_to()), (Verdict::Healthy, Some(db(1))));
    assert!(world.alarmed().contains(&AlarmKind::Split));
}

#[test]
fn a_primary_outside_of_any_group_is_not_deposed_by_somebody_who_founds_one() {
    let mut world = World::healthy(3);
    world.fake(2).writable = true;
    world.fake(2).group = Some(GroupView::Replication(view("1", "2P")));
    world.ticks(3);
    assert_eq!((world.verdict(), world.leads_to()), (Verdict::Split, Some(db(1))));
}

#[test]
fn a_group_that_was_stopped_everywhere_is_none() {
    let mut world = World::healthy(3);
    for n in 1..=3 {
        world.fake(n).group = Some(GroupView::Replication(view("1", &format!("{n}o"))));
    }
    world.ticks(3);
    assert_eq!((world.verdict(), world.leads_to()), (Verdict::Healthy, Some(db(1))));
    world.kill(1);
    world.ticks(3);
    world.promote(3, &[2]);
    world.ticks(2);
    assert_eq!((world.verdict(), world.leads_to()), (Verdict::Healthy, Some(db(3))));
}

#[test]
fn with_several_primaries_the_present_one_stays_and_then_the_preferred_one_takes_over() {
    let mut config = config(4);
    config.servers[1].promotion = Promotion::MustNot;
    config.servers[3].promotion = Promotion::Prefer;
    let mut world = World::with(config, Remembered { primary: Some(db(1)), epoch: Epoch(1), ..Remembered::default() });
    let all = "4: 1P 2P 3P 4P";
    world.say(&[all; 4]);
    world.ticks(3);
    assert_eq!(
        (world.verdict(), world.leads_to()),
        (Verdict::Healthy, Some(db(1))),
        "{:?}",
        world.machine.assessment()
    );
    // Cut off from the others, and not from us.
    let others = "5: 2P 3P 4P";
    world.say(&["4: 1P 2P? 3P? 4P?", others, others, others]);
    world.ticks(2);
    assert_eq!((world.verdict(), world.leads_to()), (Verdict::Healthy, Some(db(4))));
    world.say(&[all; 4]);
    world.ticks(2);
    assert_eq!(world.leads_to(), Some(db(4)), "a return is no reason to change");
    // One that is lost to us alone is no use to our clients; but silence is no death before its time.
    world.say(&[all, all, all, "silent"]);
    world.tick();
    assert_eq!((world.verdict(), world.leads_to()), (Verdict::Suspect, Some(db(4))));
    world.ticks(4);
    assert_eq!((world.verdict(), world.leads_to()), (Verdict::Healthy, Some(db(1))));
    let rest = "7: 2P 3P";
    world.say(&["refused", rest, "refused", "refused"]);
    world.ticks(4);
    assert_eq!((world.verdict(), world.leads_to()), (Verdict::Dead, None), "must_not");
    assert!(world.machine.assessment().reasons[1].contains("must_not"), "{:?}", world.machine.assessment());
}

fn galera(state: GaleraState, in_primary_component: bool, ready: bool) -> GroupView {
    let cluster = "5e1f0000-7aa7-11ee-8aa7-5e1f00000001".to_owned();
    GroupView::Galera(GaleraNode { cluster, in_primary_component, ready, state, size: 3, backlog: Backlog::default() })
}

impl World {
    /// What each node says of itself: `synced`, `donor`, `joining`, `unready`, `alone` (non-Primary), or how it fails.
    fn nodes(&mut self, words: &[&str]) {
        for (n, words) in (1..).zip(words) {
            let fake = self.fake(n);
            (fake.source, fake.fails, fake.writable) = (None, None, true);
            let group = match *words {
                "synced" => galera(GaleraState::Synced, true, true),
                "read-only" => {
                    fake.writable = false;
                    galera(GaleraState::Synced, true, true)
                }
                "donor" => galera(GaleraState::Donor, true, true),
                "joining" => galera(GaleraState::Joining, true, false),
                "unready" => galera(GaleraState::Synced, true, false),
                "alone" => galera(GaleraState::Joining, false, false),
                "refused" => {
                    fake.fails = Some(FailureKind::Refused);
                    continue;
                }
                "silent" => {
                    fake.fails = Some(FailureKind::Timeout);
                    continue;
                }
                other => panic!("{other}?"),
            };
            fake.group = Some(group);
        }
    }
}

#[test]
fn one_synced_node_of_the_primary_component_is_mapped_and_kept() {
    use Verdict::{Dead, Healthy, None as Vacant, Unreachable};
    let table = [
        (["synced", "synced", "synced"], Healthy, Some(1)),
        (["synced", "alone", "silent"], Healthy, Some(1)),
        (["donor", "synced", "synced"], Healthy, Some(1)),
        (["joining", "synced", "synced"], Healthy, Some(2)),
        (["unready", "synced", "synced"], Healthy, Some(2)),
        (["read-only", "synced", "synced"], Healthy, Some(2)),
        (["alone", "synced", "synced"], Healthy, Some(2)),
        (["alone", "donor", "synced"], Healthy, Some(3)),
        (["alone", "joining", "donor"], Healthy, Some(3)),
        (["alone", "joining", "read-only"], Vacant, None),
        (["alone", "alone", "alone"], Vacant, None),
        (["refused", "synced", "synced"], Healthy, Some(2)),
        (["silent", "synced", "synced"], Healthy, Some(2)),
        (["silent", "donor", "synced"], Healthy, Some(3)),
        (["silent", "silent", "synced"], Healthy, Some(3)),
        (["silent", "alone", "alone"], Dead, None),
        (["silent", "silent", "silent"], Unreachable, Some(1)),
        (["refused", "silent", "silent"], Dead, None),
    ];
    for (words, verdict, leads) in table {
        let mut world = World::new(3);
        world.nodes(&["synced"; 3]);
        world.ticks(2);
        assert_eq!((world.verdict(), world.leads_to()), (Healthy, Some(db(1))));
        assert_eq!(world.alarmed(), [], "several that take writes are no split");
        world.nodes(&words);
        world.ticks(4);
        let seen = world.machine.assessment();
        assert_eq!((world.verdict(), world.leads_to()), (verdict, leads.map(db)), "{words:?}: {seen:?}");
    }
}

#[test]
fn a_node_that_returns_does_not_take_the_mapping_back() {
    let mut world = World::new(3);
    world.nodes(&["synced"; 3]);
    world.ticks(2);
    world.nodes(&["alone", "synced", "synced"]);
    world.ticks(2);
    assert_eq!((world.leads_to(), world.machine.epoch()), (Some(db(2)), Epoch(2)));
    world.nodes(&["synced"; 3]);
    world.ticks(4);
    assert_eq!((world.leads_to(), world.machine.epoch()), (Some(db(2)), Epoch(2)));
}

#[test]
fn readers_go_to_members_with_a_voice_that_keep_up() {
    let check = |words: [&str; 3], expected: &[u8]| {
        let mut world = group();
        world.say(&words);
        world.ticks(2);
        assert_eq!(world.readers(), expected.iter().map(|&n| db(n)).collect::<Vec<_>>(), "{words:?}");
    };
    check(["3: 1P 2 3"; 3], &[2, 3]);
    check(["3: 1P 2 3?", "3: 1P 2 3?", "3: 1P? 2? 3"], &[2]);
    check(["4: 1P 2", "4: 1P 2", "3: 1P 2 3"], &[2]);
    check(["4: 1P 2", "4: 1P 2", "4: 3e"], &[2]);
    check(["5: 1P 2 3r", "5: 1P 2 3r", "5: 1P 2 3r"], &[2]);
    check(["3: 1P 2? 3?", "3: 1P? 2 3?", "3: 1P? 2? 3"], &[]);
    check(["3: 1P 2? 3?", "3: 1P? 2 3", "3: 1P? 2 3"], &[2, 3]);
    check(["3: 1P 2P 3P"; 3], &[2, 3]);
}

#[test]
fn readers_go_to_synced_nodes_and_to_donors_that_are_not_blocked() {
    let check = |words: [&str; 3], expected: &[u8]| {
        let mut world = World::new(3);
        world.nodes(&["synced"; 3]);
        world.ticks(2);
        world.nodes(&words);
        world.ticks(2);
        assert_eq!(world.readers(), expected.iter().map(|&n| db(n)).collect::<Vec<_>>(), "{words:?}");
    };
    check(["synced", "synced", "synced"], &[2, 3]);
    check(["synced", "donor", "synced"], &[2, 3]);
    check(["synced", "joining", "synced"], &[3]);
    check(["synced", "unready", "alone"], &[]);
}

#[test]
fn a_member_that_stands_still_while_it_receives_loses_its_readers_until_it_has_caught_up() {
    for galera_nodes in [false, true] {
        let mut world = group();
        if galera_nodes {
            world.nodes(&["synced"; 3]);
        }
        let told = |world: &mut World, backlog| match &mut world.fake(2).group {
            Some(GroupView::Replication(group)) => group.backlog = Some(backlog),
            Some(GroupView::Galera(node)) => node.backlog = backlog,
            None => panic!("a group"),
        };
        told(&mut world, Backlog { applied: 100, queued: 0 });
        world.ticks(2);
        assert_eq!(world.readers(), [db(2), db(3)]);
        // It is allowed 5 s.
        for queued in 1..80 {
            told(&mut world, Backlog { applied: 100, queued });
            world.tick();
            let behind = queued * 103 > 5000;
            assert_eq!(!world.readers().contains(&db(2)), behind, "after {queued} rounds");
        }
        let lag = world.machine.status(world.now).servers[1].lag;
        assert!(lag.is_some_and(|lag| lag > Duration::from_secs(5)), "{lag:?}");
        // Always something new in its queue, and all the same it is not far behind.
        for n in 0..10 {
            told(&mut world, Backlog { applied: 180 + n * 10, queued: 7 });
            world.tick();
        }
        assert_eq!(world.readers(), [db(2), db(3)]);
    }
}

#[test]
fn promote_mode_follows_a_group_and_says_so() {
    let mut config = config(3);
    config.failover = FailoverMode::Promote;
    let mut world = World::with(config, Remembered::default());
    world.say(&["3: 1P 2 3"; 3]);
    world.ticks(2);
    assert_eq!((world.verdict(), world.leads_to()), (Verdict::Healthy, Some(db(1))));
    assert_eq!(world.alarmed(), [AlarmKind::NotInForce]);
    world.say(&["refused", "3: 1P? 2 3", "3: 1P? 2 3"]);
    world.ticks(3);
    assert_eq!((world.verdict(), world.leads_to()), (Verdict::Dead, None));
    world.say(&["refused", "4: 2P 3", "4: 2P 3"]);
    world.ticks(2);
    assert_eq!(world.leads_to(), Some(db(2)));
    assert!(world.machine.status(world.now).outlook.contains("group has elected"));
}

#[test]
fn members_are_told_as_replicas_with_how_they_stand() {
    let mut world = group();
    world.say(&["4: 1P 2", "4: 1P 2", "3: 1P? 2? 3"]);
    world.ticks(2);
    let servers = world.machine.status(world.now).servers;
    let roles: Vec<_> = servers.iter().map(|server| server.role).collect();
    assert_eq!(roles, ["primary", "replica", "none"]);
    assert_eq!(servers[1].replication, "ONLINE SECONDARY in a group of 2");
    assert!(servers[2].replication.contains("lost the majority"), "{}", servers[2].replication);
}

fn any_words() -> impl Strategy<Value = Vec<String>> {
    let state = prop::sample::select(vec!["", "", "", "?", "r", "e", "o"]);
    let member = (any::<bool>(), state, 0..8_u8);
    let words = (prop::collection::vec(member, 3), prop::sample::select(vec!["1", "2", "3", "b1"]), 0..6_u8).prop_map(
        |(members, number, failing)| {
            let words = members.iter().zip(1..).filter(|((.., there), _)| *there > 0);
            let words: Vec<_> =
                words.map(|((p, state, _), n)| format!("{n}{}{state}", if *p { "P" } else { "" })).collect();
            match failing {
                0 => "refused".to_owned(),
                1 => "silent".to_owned(),
                _ => format!("{number}: {}", words.join(" ")),
            }
        },
    );
    prop::collection::vec(words, 3)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn whatever_members_say_only_a_writable_primary_of_a_majority_is_newly_led_to(
        story in prop::collection::vec((any_words(), 1..4_usize), 1..20)
    ) {
        let is_one = |to: SocketAddr, fake: &Fake| {
            let Some(GroupView::Replication(group)) = &fake.group else { return false };
            let own = group.member(&format!("uuid-of-{to}"));
            fake.writable && group.has_majority() && own.is_some_and(|own| own.state == MemberState::Online && own.primary)
        };
        let mut world = World::new(3);
        for (words, ticks) in story {
            // It is led to by what it said last, which may be what it said before this.
            let earlier = world.fakes.clone();
            let words: Vec<_> = words.iter().map(String::as_str).collect();
            world.say(&words);
            for _ in 0..ticks {
                let before = world.machine.primary();
                world.tick();
                if let Some(to) = world.machine.primary().filter(|&to| before != Some(to)) {
                    let (now, then) = (&world.fakes[&to], &earlier[&to]);
                    prop_assert!(is_one(to, now) || is_one(to, then), "{}: {:?}, before that {:?}", to, now, then);
                }
            }
        }
    }
}
