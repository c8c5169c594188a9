//! Replica listeners: who is fit, who is near, and who takes connections.

use proptest::prelude::*;

use super::*;
use crate::mapping::Weighted;

/// db1 is the primary; the others as given: data centre, weight, lag in seconds.
fn with_replicas(near: Option<&str>, replicas: &[(Option<&str>, u32, u64)]) -> World {
    let mut config = config(1 + replicas.len() as u8);
    config.near = near.map(str::to_owned);
    for (server, (dc, weight, _)) in config.servers.iter_mut().skip(1).zip(replicas) {
        (server.dc, server.weight) = (dc.map(str::to_owned), *weight);
    }
    let mut world = World::with(config, Remembered::default());
    for (n, (.., lag)) in (2..).zip(replicas) {
        world.fake(n).lag = Some(Duration::from_secs(*lag));
    }
    world.ticks(2);
    world
}

/// `db2×1 db3×2`, or `nobody`.
fn spread(world: &World) -> String {
    let Route::Spread(to) = &world.mapping(reader()).route else { return "nobody".to_owned() };
    let words = to.iter().map(|Weighted { address, weight }| {
        format!("db{}×{weight}", address.ip().to_string().trim_start_matches("10.0.0.1"))
    });
    words.collect::<Vec<_>>().join(" ")
}

#[test]
fn readers_go_to_the_fit_replicas_nearby_and_else_to_all_by_their_weights() {
    let (east, west) = (Some("east"), Some("west"));
    let check = |near, replicas: &[_], expected| {
        assert_eq!(spread(&with_replicas(near, replicas)), expected, "near {near:?}, {replicas:?}");
    };
    check(None, &[(east, 1, 0), (west, 2, 0)], "db2×1 db3×2");
    check(east, &[(east, 1, 0), (west, 2, 0)], "db2×1");
    check(west, &[(east, 1, 0), (west, 2, 0)], "db3×2");
    check(east, &[(east, 1, 0), (west, 2, 0), (east, 3, 0)], "db2×1 db4×3");
    check(Some("north"), &[(east, 1, 0), (west, 2, 0)], "db2×1 db3×2");
    check(east, &[(None, 1, 0), (west, 2, 0)], "db2×1 db3×2");
    check(None, &[(None, 1, 0), (west, 2, 0)], "db2×1 db3×2");
    // The near one lags, or is not to be used: the far ones take over.
    check(east, &[(east, 1, 60), (west, 2, 0)], "db3×2");
    check(east, &[(east, 0, 0), (west, 2, 0)], "db3×2");
    check(east, &[(east, 1, 60), (west, 2, 60)], "nobody");
    check(None, &[(east, 0, 0), (west, 0, 0)], "nobody");
}

#[test]
fn readers_return_to_the_replica_nearby_when_it_has_caught_up() {
    let mut world = with_replicas(Some("east"), &[(Some("east"), 1, 0), (Some("west"), 1, 0)]);
    for (lag, expected) in [(4, "db2×1"), (6, "db3×1"), (3, "db3×1"), (2, "db2×1")] {
        world.fake(2).lag = Some(Duration::from_secs(lag));
        world.tick();
        assert_eq!(spread(&world), expected, "at a lag of {lag} s");
    }
}

#[test]
fn each_replica_listener_has_its_own_limit_of_lag_and_its_own_memory() {
    let patient = SocketAddr::from(([10, 0, 0, 2], 3308));
    let mut config = config(2);
    let listener = ListenerConfig { address: patient, max_lag: Duration::from_secs(60), ..config.listeners[1].clone() };
    config.listeners.push(listener);
    let mut world = World::with(config, Remembered::default());
    world.ticks(2);
    for (lag, strict, lenient) in
        [(4, true, true), (6, false, true), (50, false, true), (61, false, false), (31, false, false), (2, true, true)]
    {
        world.fake(2).lag = Some(Duration::from_secs(lag));
        world.tick();
        let backends = |listener| world.mapping(listener).route.backends().len() == 1;
        assert_eq!((backends(reader()), backends(patient)), (strict, lenient), "at a lag of {lag} s");
    }
}

#[test]
fn a_restarted_agent_remembers_for_each_listener_who_was_fit() {
    let patient = SocketAddr::from(([10, 0, 0, 2], 3308));
    let mut config = config(3);
    config.listeners.push(ListenerConfig { address: patient, ..config.listeners[1].clone() });
    let held = BTreeMap::from([(writer(), vec![db(1)]), (reader(), vec![db(2)]), (patient, vec![db(3)])]);
    let remembered = Remembered { epoch: Epoch(5), primary: Some(db(1)), held, ..Remembered::default() };
    let world = World::with(config, remembered);
    assert_eq!((world.readers(), world.mapping(patient).route.backends()), (vec![db(2)], vec![db(3)]));
}

#[derive(Clone, Copy, Debug)]
enum Change {
    Lag(u8, Option<u64>),
    Io(u8, IoThread),
    Source(u8, Option<u8>),
    Fail(u8, FailureKind),
    Recover(u8),
    Writable(u8, bool),
    Lapse,
}

fn change() -> impl Strategy<Value = Change> {
    let server = || 1..=4u8;
    let kind = prop::sample::select(vec![FailureKind::Refused, FailureKind::Timeout, FailureKind::AuthDenied]);
    let io = prop::sample::select(vec![IoThread::Connected, IoThread::Connecting, IoThread::Stopped]);
    prop_oneof![
        4 => (server(), prop::option::of(0..10u64)).prop_map(|(n, lag)| Change::Lag(n, lag)),
        2 => (server(), io).prop_map(|(n, io)| Change::Io(n, io)),
        2 => (server(), prop::option::of(server())).prop_map(|(n, source)| Change::Source(n, source)),
        2 => (server(), kind).prop_map(|(n, kind)| Change::Fail(n, kind)),
        3 => server().prop_map(Change::Recover),
        2 => (server(), any::<bool>()).prop_map(|(n, writable)| Change::Writable(n, writable)),
        1 => Just(Change::Lapse),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn a_spread_never_contains_an_unfit_server_or_the_primary(
        story in prop::collection::vec(change(), 1..60),
        weights in prop::collection::vec(0..3u32, 4),
        near in prop::collection::vec(any::<bool>(), 4),
    ) {
        let mut config = config(4);
        config.near = Some("here".to_owned());
        for ((server, weight), near) in config.servers.iter_mut().zip(&weights).zip(&near) {
            (server.weight, server.dc) = (*weight, near.then(|| "here".to_owned()));
        }
        let limit = config.listeners[1].max_lag;
        let servers = config.servers.clone();
        let mut world = World::with(config, Remembered::default());
        for change in story {
            match change {
                Change::Lag(n, lag) => world.fake(n).lag = lag.map(Duration::from_secs),
                Change::Io(n, io) => world.fake(n).io = io,
                Change::Source(n, source) => world.fake(n).source = source.filter(|&s| s != n).map(db),
                Change::Fail(n, kind) => world.fake(n).fails = Some(kind),
                Change::Recover(n) => world.fake(n).fails = None,
                Change::Writable(n, writable) => world.fake(n).writable = writable,
                Change::Lapse => world.event(Event::LeaseLapsed { listeners: vec![reader()] }),
            }
            world.tick();
            let Route::Spread(members) = &world.mapping(reader()).route else { continue };
            let status = world.machine.status(world.now);
            prop_assert!(!members.is_empty());
            let is_near = |address| servers.iter().any(|s| s.address == address && s.dc.is_some());
            let any_near = members.iter().any(|m| is_near(m.address));
            for member in members {
                let (address, fake) = (member.address, &world.fakes[&member.address]);
                prop_assert_ne!(Some(address), world.machine.primary());
                prop_assert!(servers.iter().any(|s| s.address == address && s.weight == member.weight && s.weight > 0));
                prop_assert_eq!(is_near(address), any_near);
                if fake.fails.is_some() {
                    let seen = status.servers.iter().find(|s| s.address == address).unwrap();
                    prop_assert_ne!(seen.state.as_str(), "down");
                    continue;
                }
                prop_assert!(fake.source.is_some() && fake.io != IoThread::Stopped);
                let told = fake.lag.filter(|_| fake.io == IoThread::Connected);
                prop_assert!(told.is_some_and(|lag| lag <= limit) || (told.is_none() && fake.io == IoThread::Connecting));
            }
        }
    }
}
