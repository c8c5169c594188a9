//! Whatever happens in whatever order.

use proptest::prelude::*;

use super::*;
use crate::signal::{Sign, Suspicion};

#[derive(Clone, Copy, Debug)]
enum Happening {
    Fail(u8, FailureKind),
    Recover(u8),
    Writable(u8, bool),
    Source(u8, Option<u8>, IoThread),
    Ask(u8),
    Tick,
    Pin(u8),
    Unpin,
    Pause,
    Resume,
    Late,
    Lapse,
    Suspect(u8),
    Break(Option<Stage>),
}

fn server() -> impl Strategy<Value = u8> {
    1..=3u8
}

fn happening() -> impl Strategy<Value = Happening> {
    let kind = prop::sample::select(vec![
        FailureKind::Refused,
        FailureKind::Reset,
        FailureKind::Timeout,
        FailureKind::NoAnswer,
        FailureKind::AuthDenied,
        FailureKind::TooManyConnections,
    ]);
    let io = prop::sample::select(vec![IoThread::Connected, IoThread::Connecting, IoThread::Stopped]);
    let stage = prop::sample::select(vec![None, None, Some(Stage::State), Some(Stage::Datapath)]);
    prop_oneof![
        3 => (server(), kind).prop_map(|(n, k)| Happening::Fail(n, k)),
        3 => server().prop_map(Happening::Recover),
        3 => (server(), any::<bool>()).prop_map(|(n, w)| Happening::Writable(n, w)),
        3 => (server(), prop::option::of(server()), io).prop_map(|(n, s, io)| Happening::Source(n, s, io)),
        3 => server().prop_map(Happening::Ask),
        12 => Just(Happening::Tick),
        1 => server().prop_map(Happening::Pin),
        2 => Just(Happening::Unpin),
        1 => Just(Happening::Pause),
        1 => Just(Happening::Resume),
        1 => Just(Happening::Late),
        1 => Just(Happening::Lapse),
        2 => server().prop_map(Happening::Suspect),
        1 => stage.prop_map(Happening::Break),
    ]
}

impl World {
    fn happen(&mut self, what: Happening) {
        match what {
            Happening::Fail(n, kind) => self.fake(n).fails = Some(kind),
            Happening::Recover(n) => self.fake(n).fails = None,
            Happening::Writable(n, writable) => self.fake(n).writable = writable,
            Happening::Source(n, source, io) => {
                let fake = self.fake(n);
                (fake.source, fake.io) = (source.filter(|&s| s != n).map(db), io);
            }
            Happening::Ask(n) => self.ask(db(n)),
            Happening::Tick => self.tick(),
            Happening::Pin(n) => self.event(Event::Pin { listener: None, server: db(n) }),
            Happening::Unpin => self.event(Event::Unpin { listener: None }),
            Happening::Pause => self.event(Event::Pause { until: None, reason: "test".to_owned() }),
            Happening::Resume => self.event(Event::Resume),
            Happening::Late => {
                self.now = self.now + Duration::from_secs(700);
                self.event(Event::Deadline);
            }
            // A fence that cannot be committed is another test's.
            Happening::Lapse if self.fail_at.is_some() || self.machine.trouble().is_some() => {}
            Happening::Lapse => self.event(Event::LeaseLapsed { listeners: vec![writer(), reader()] }),
            Happening::Suspect(n) => {
                let before = self.machine.assessment().clone();
                let (listener, sign) = (writer(), Sign::Silence);
                self.event(Event::Suspected(Suspicion { listener, backend: db(n), sign, awaited: None }));
                assert_eq!(before, *self.machine.assessment(), "traffic alone decides nothing");
            }
            Happening::Break(stage) => self.fail_at = stage,
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn the_kernel_never_leads_to_a_primary_whose_epoch_is_not_written_down(
        story in prop::collection::vec(happening(), 1..120)
    ) {
        let mut world = World::new(3);
        let mut led_in: BTreeMap<Epoch, SocketAddr> = BTreeMap::new();
        let mut highest = Epoch(0);
        for what in story {
            let before = world.leads_to();
            let was_open_to = world.machine.primary();
            world.happen(what);
            let plan = world.kernel.clone().unwrap();

            // Epochs are written before they are acted on, and never go back.
            prop_assert!(plan.epoch <= world.written);
            prop_assert!(world.written >= highest);
            highest = world.written;

            // One epoch, one primary.
            if let Some(to) = world.leads_to() {
                let first = *led_in.entry(plan.epoch).or_insert(to);
                prop_assert_eq!(first, to, "two primaries in epoch {}", plan.epoch);
            }

            // What is in the kernel is what the machine believes to be there.
            prop_assert_eq!(world.machine.committed(), Some(&plan));

            // A change of backend is a change of epoch, and only towards a server that was seen writable, or pinned.
            let after = world.leads_to();
            if let Some(to) = after
                && before != after
                && Some(to) != was_open_to
                && world.machine.status(world.now).pinned.is_none()
            {
                let seen_writable = world.machine.status(world.now).servers.iter()
                    .any(|s| s.address == to && s.read_only == Some(false));
                prop_assert!(seen_writable, "led to {to}, which was not seen writable");
            }
        }
    }

    #[test]
    fn deadlines_are_never_in_the_past_once_they_are_handled(story in prop::collection::vec(happening(), 1..80)) {
        let mut world = World::new(3);
        for what in story {
            world.happen(what);
            if let Some(deadline) = world.machine.next_deadline() {
                world.now = world.now.max(deadline);
                world.event(Event::Deadline);
                prop_assert!(
                    world.machine.next_deadline().is_none_or(|next| next > world.now),
                    "a deadline that does not move keeps the driver busy"
                );
            }
        }
    }

    #[test]
    fn without_pins_a_server_that_never_was_writable_is_never_led_to(
        story in prop::collection::vec(happening(), 1..120)
    ) {
        let mut world = World::new(3);
        for what in story {
            let harmless = !matches!(what, Happening::Pin(_))
                && !matches!(what, Happening::Writable(3, true));
            if harmless {
                world.happen(what);
            }
            prop_assert_ne!(world.leads_to(), Some(db(3)));
        }
    }
}
