//! Sessions being sent home: rounds by hand, and clients that do as they like.

use proptest::prelude::*;

use super::*;

const SECOND: Duration = Duration::from_secs(1);

fn server() -> SocketAddr {
    SocketAddr::from(([10, 0, 0, 1], 3306))
}

fn tuple(port: u16) -> Tuple {
    Tuple { client: ([192, 0, 2, 1], port).into(), listener: ([10, 0, 0, 2], 3306).into() }
}

fn seen_as(port: u16) -> SocketAddr {
    SocketAddr::from(([10, 0, 0, 2], port))
}

fn flow(port: u16) -> Flow {
    Flow {
        tuple: tuple(port),
        backend: server(),
        seen_as: seen_as(port),
        phase: Phase::Established,
        traffic: None,
        age: None,
        idle: None,
    }
}

fn session(port: u16, doing: Doing) -> Session {
    Session { peer: Peer::Address(seen_as(port)), doing }
}

fn dismissal(grace: Duration) -> Dismissal {
    Dismissal::new(server(), grace, Mono::ZERO)
}

fn look(dismissal: &mut Dismissal, sessions: &[Session], ms: u64) -> Round {
    let flows: Vec<Flow> = sessions
        .iter()
        .map(|session| match session.peer {
            Peer::Address(address) => flow(address.port()),
            Peer::Port(port) => flow(port),
        })
        .collect();
    dismissal.look(View { flows: &flows, whole: false, sessions: Some(sessions) }, Mono::from_millis(ms))
}

fn look_at_all(dismissal: &mut Dismissal, flows: &[Flow], sessions: Option<&[Session]>, ms: u64) -> Round {
    dismissal.look(View { flows, whole: true, sessions }, Mono::from_millis(ms))
}

#[test]
fn idle_sessions_are_blocked_looked_at_again_and_severed() {
    let mut dismissal = dismissal(SECOND);
    let idle = [session(1, Doing::Nothing), session(2, Doing::Nothing)];
    let round = look(&mut dismissal, &idle, 0);
    assert_eq!((&round.block[..], &round.sever[..]), (&[tuple(1), tuple(2)][..], &[][..]));
    assert_eq!(dismissal.blocked(), [tuple(1), tuple(2)]);
    let round = look(&mut dismissal, &idle, 4);
    assert_eq!((&round.sever[..], &round.block[..]), (&[tuple(1), tuple(2)][..], &[][..]));
    assert_eq!(round.then, Then::Look { after: Duration::ZERO, whole: true });
    let round = look_at_all(&mut dismissal, &[], Some(&[]), 5);
    assert_eq!(round.then, Then::Done(Sessions { idle: 2, ..Sessions::default() }));
}

#[test]
fn a_session_that_had_just_begun_a_transaction_goes_on_and_is_severed_when_that_is_over() {
    let mut dismissal = dismissal(SECOND);
    look(&mut dismissal, &[session(1, Doing::Nothing)], 0);
    let round = look(&mut dismissal, &[session(1, Doing::Waiting)], 4);
    assert_eq!((&round.unblock[..], &round.sever[..]), (&[tuple(1)][..], &[][..]));
    for ms in [15, 25, 500] {
        let round = look(&mut dismissal, &[session(1, Doing::Waiting)], ms);
        assert_eq!((round.block.len(), round.sever.len()), (0, 0), "it is left alone at {ms}");
    }
    look(&mut dismissal, &[session(1, Doing::Nothing)], 600);
    assert_eq!(look(&mut dismissal, &[session(1, Doing::Nothing)], 604).sever, [tuple(1)]);
    let round = look_at_all(&mut dismissal, &[], Some(&[]), 605);
    assert_eq!(round.then, Then::Done(Sessions { finished: 1, ..Sessions::default() }));
}

#[test]
fn a_session_that_runs_one_statement_after_the_other_is_caught_at_the_end_of_one() {
    let mut dismissal = dismissal(SECOND);
    assert_eq!(look(&mut dismissal, &[session(1, Doing::Running)], 0).block, [tuple(1)]);
    let round = look(&mut dismissal, &[session(1, Doing::Running)], 4);
    assert_eq!((round.unblock.len(), round.sever.len()), (0, 0));
    assert_eq!(look(&mut dismissal, &[session(1, Doing::Nothing)], 8).sever, [tuple(1)]);
}

#[test]
fn a_long_statement_gets_its_client_back() {
    let mut dismissal = dismissal(SECOND);
    look(&mut dismissal, &[session(1, Doing::Running)], 0);
    assert_eq!(look(&mut dismissal, &[session(1, Doing::Running)], 45).unblock, [tuple(1)]);
    assert_eq!(look(&mut dismissal, &[session(1, Doing::Running)], 50).block, [], "it rests");
    assert_eq!(look(&mut dismissal, &[session(1, Doing::Running)], 66).block, [tuple(1)]);
}

#[test]
fn a_client_that_logs_in_is_not_blocked() {
    let mut dismissal = dismissal(SECOND);
    let round = look(&mut dismissal, &[session(1, Doing::Unknown)], 0);
    assert_eq!((round.block.len(), round.then), (0, Then::Look { after: PAUSE, whole: false }));
}

#[test]
fn what_somebody_else_had_blocked_goes_on_unless_it_is_idle() {
    let mut dismissal = dismissal(SECOND);
    let sessions = [session(1, Doing::Waiting), session(2, Doing::Nothing), session(3, Doing::Unknown)];
    assert_eq!(look(&mut dismissal, &sessions, 0).unblock, [tuple(1), tuple(3)]);
    assert_eq!(look(&mut dismissal, &sessions[..1], 10).unblock, [tuple(2)], "that one has gone");
}

#[test]
fn when_the_grace_is_over_transactions_are_cut() {
    let mut dismissal = dismissal(SECOND);
    let sessions = [session(1, Doing::Waiting), session(2, Doing::Running), session(3, Doing::Nothing)];
    look(&mut dismissal, &sessions, 0);
    let round = look(&mut dismissal, &sessions, 1000);
    assert_eq!(round.sever, [tuple(1), tuple(2), tuple(3)]);
    let round = look_at_all(&mut dismissal, &[], Some(&[]), 1001);
    assert_eq!(round.then, Then::Done(Sessions { idle: 1, finished: 0, cut: 2, blind: false }));
}

#[test]
fn when_sessions_cannot_be_seen_every_one_has_the_whole_grace() {
    let mut dismissal = dismissal(SECOND);
    let flows = [flow(1), flow(2)];
    let round = look_at_all(&mut dismissal, &flows, None, 0);
    assert_eq!((round.block.len(), round.then), (0, Then::Look { after: BLIND_PAUSE, whole: true }));
    let round = look_at_all(&mut dismissal, &flows[..1], None, 950);
    assert_eq!(round.then, Then::Look { after: Duration::from_millis(50), whole: true });
    assert_eq!(look_at_all(&mut dismissal, &flows[..1], None, 1000).sever, [tuple(1)]);
    let round = look_at_all(&mut dismissal, &[], None, 1001);
    assert_eq!(round.then, Then::Done(Sessions { cut: 1, blind: true, ..Sessions::default() }));
}

#[test]
fn a_list_that_shows_none_of_the_sessions_is_a_blind_one() {
    let mut dismissal = dismissal(SECOND);
    look_at_all(&mut dismissal, &[flow(1)], Some(&[session(7, Doing::Nothing)]), 0);
    assert_eq!(look_at_all(&mut dismissal, &[flow(1)], Some(&[]), 1000).sever, [tuple(1)]);
    let all = dismissal.are_all(&[flow(1)]);
    assert_eq!(all, Some(Sessions { cut: 1, blind: true, ..Sessions::default() }));
    let round = look_at_all(&mut dismissal, &[], Some(&[]), 1001);
    assert_eq!(round.then, Then::Done(Sessions { cut: 1, blind: true, ..Sessions::default() }));
}

#[test]
fn a_flow_whose_session_is_not_in_the_list_keeps_the_look_whole_until_it_has_gone() {
    let mut dismissal = dismissal(SECOND);
    let round = look_at_all(&mut dismissal, &[flow(1), flow(2)], Some(&[session(1, Doing::Waiting)]), 0);
    assert_eq!(round.then, Then::Look { after: PAUSE, whole: true });
    let round = look_at_all(&mut dismissal, &[flow(1)], Some(&[session(1, Doing::Waiting)]), 10);
    assert_eq!(round.then, Then::Look { after: PAUSE, whole: false });
}

#[test]
fn flows_that_have_ended_are_nobodys_sessions_and_those_of_other_servers_are_not_ours() {
    let mut dismissal = dismissal(SECOND);
    let closing = Flow { phase: Phase::Closing, ..flow(1) };
    let elsewhere = Flow { backend: SocketAddr::from(([10, 0, 0, 9], 3306)), ..flow(2) };
    let round = look_at_all(&mut dismissal, &[closing, elsewhere], Some(&[session(2, Doing::Nothing)]), 0);
    assert_eq!(round.then, Then::Done(Sessions::default()));
}

#[test]
fn those_that_were_there_at_the_beginning_are_all_when_each_was_severed() {
    let mut dismissal = dismissal(SECOND);
    let idle = [session(1, Doing::Nothing)];
    look(&mut dismissal, &idle, 0);
    assert_eq!(dismissal.are_all(&[flow(1)]), None);
    look(&mut dismissal, &idle, 4);
    let closing = Flow { phase: Phase::Closing, ..flow(2) };
    let elsewhere = Flow { backend: SocketAddr::from(([10, 0, 0, 9], 3306)), ..flow(3) };
    let all = Sessions { idle: 1, ..Sessions::default() };
    assert_eq!(dismissal.are_all(&[flow(1), closing, elsewhere]), Some(all));
    assert_eq!(dismissal.are_all(&[flow(1), flow(4)]), None, "nobody knows a session of that one");
    assert_eq!(dismissal.are_all(&[Flow { phase: Phase::Opening, ..flow(4) }]), None);
}

#[test]
fn a_blocked_client_that_has_gone_leaves_no_block_behind() {
    let mut dismissal = dismissal(SECOND);
    look(&mut dismissal, &[session(1, Doing::Nothing)], 0);
    let round = look(&mut dismissal, &[], 4);
    assert_eq!(round.unblock, [tuple(1)]);
    assert_eq!(dismissal.blocked(), []);
    assert_eq!(look_at_all(&mut dismissal, &[], Some(&[]), 5).then, Then::Done(Sessions::default()));
}

#[test]
fn sessions_that_are_listed_by_name_are_known_by_their_port_if_it_is_nobody_elses() {
    let named = |port, doing| Session { peer: Peer::Port(port), doing };
    let mut one = dismissal(SECOND);
    assert_eq!(look(&mut one, &[named(1, Doing::Nothing)], 0).block, [tuple(1)]);
    let mut two = dismissal(SECOND);
    let sessions = [named(1, Doing::Nothing), named(1, Doing::Waiting)];
    let round = two.look(View { flows: &[flow(1)], whole: false, sessions: Some(&sessions) }, Mono::ZERO);
    assert_eq!(round.block, [], "which of them is it?");
}

#[test]
fn a_severed_flow_that_is_still_there_is_severed_again_and_counted_once() {
    let mut dismissal = dismissal(SECOND);
    let idle = [session(1, Doing::Nothing)];
    look(&mut dismissal, &idle, 0);
    look(&mut dismissal, &idle, 4);
    assert_eq!(look(&mut dismissal, &idle, 5).sever, [tuple(1)]);
    let round = look_at_all(&mut dismissal, &[], Some(&[]), 6);
    assert_eq!(round.then, Then::Done(Sessions { idle: 1, ..Sessions::default() }));
}

/// A client that does as it likes, as far as its flow lets it, and the session that it has.
#[derive(Clone, Debug)]
struct Client {
    port: u16,
    /// What it does next, again and again, and for how many ms.
    script: Vec<(Doing, u64)>,
    at: usize,
    left: u64,
}

impl Client {
    fn doing(&self) -> Doing {
        self.script[self.at].0
    }

    /// One ms. Only what waits for its client stops when that is blocked.
    fn tick(&mut self, blocked: bool) {
        self.left = self.left.saturating_sub(1);
        let waits = matches!(self.doing(), Doing::Nothing | Doing::Waiting | Doing::Unknown);
        if self.left == 0 && !(blocked && waits) {
            self.at = (self.at + 1) % self.script.len();
            self.left = self.script[self.at].1;
        }
    }
}

fn client() -> impl Strategy<Value = Vec<(Doing, u64)>> {
    let doing = prop_oneof![Just(Doing::Nothing), Just(Doing::Waiting), Just(Doing::Running), Just(Doing::Unknown)];
    prop::collection::vec((doing, 1..60u64), 1..6)
}

proptest! {
    #[test]
    fn nobody_is_cut_off_before_the_grace_is_over_and_nobody_stays(
        scripts in prop::collection::vec(client(), 0..12),
        grace in 0..400u64,
    ) {
        let mut clients: Vec<Client> = (1..)
            .zip(scripts)
            .map(|(port, script)| Client { port, left: script[0].1, script, at: 0 })
            .collect();
        let all = clients.len() as u64;
        let mut dismissal = dismissal(Duration::from_millis(grace));
        let mut blocked: BTreeSet<Tuple> = BTreeSet::new();
        let (mut ms, mut whole) = (0, true);
        let (done, cut) = loop {
            let flows: Vec<Flow> = clients.iter().map(|client| flow(client.port)).collect();
            let sessions: Vec<Session> = clients.iter().map(|client| session(client.port, client.doing())).collect();
            let view = View { flows: &flows, whole, sessions: Some(&sessions) };
            let round = dismissal.look(view, Mono::from_millis(ms));
            blocked.retain(|flow| !round.unblock.contains(flow));
            for client in clients.iter().filter(|client| round.sever.contains(&tuple(client.port))) {
                let was_blocked = blocked.contains(&tuple(client.port));
                prop_assert!(ms >= grace || (client.doing() == Doing::Nothing && was_blocked), "{client:?} at {ms}");
            }
            clients.retain(|client| !round.sever.contains(&tuple(client.port)));
            blocked.retain(|flow| !round.sever.contains(flow));
            blocked.extend(&round.block);
            prop_assert_eq!(dismissal.blocked(), blocked.iter().copied().collect::<Vec<_>>());
            match round.then {
                Then::Done(sessions) => break (sessions.idle + sessions.finished + sessions.cut, sessions.cut),
                Then::Look { after, whole: all } => {
                    whole = all;
                    for _ in 0..after.as_millis().max(1) {
                        ms += 1;
                        for client in &mut clients {
                            client.tick(blocked.contains(&tuple(client.port)));
                        }
                    }
                }
            }
            prop_assert!(ms < grace + 1000, "it comes to no end");
        };
        prop_assert_eq!(done, all);
        prop_assert!(cut == 0 || ms >= grace);
        prop_assert!(clients.is_empty() && blocked.is_empty());
    }
}
