//! What semi-sync proves, and when it proves nothing any more.

use std::collections::BTreeSet;

use super::super::{AlarmKind, AtRisk, Health, Proof, View, acknowledged_by, assess, at_risk};
use super::*;
use crate::observation::{PromoterLock, SemiSync};

/// A source that waits for one of two replicas, and stops waiting after ten seconds.
const SOURCE: SemiSync = SemiSync {
    source_enabled: true,
    source_active: true,
    replica_enabled: false,
    clients: 2,
    wait_count: 1,
    after_sync: true,
    timeout: Duration::from_secs(10),
    waiting: 0,
};
const REPLICA: SemiSync =
    SemiSync { source_enabled: false, source_active: false, replica_enabled: true, clients: 0, ..SOURCE };
/// Told to stop, so it does not call itself semi-synchronous any more.
const ENDED: SemiSync = SemiSync { replica_enabled: false, ..REPLICA };

const TEN: &str = "3e11fa47-71ca-11e1-9e33-c80aa9429562:1-10";
const TWELVE: &str = "3e11fa47-71ca-11e1-9e33-c80aa9429562:1-12";

/// Three servers, observed one by one.
struct Seen {
    config: ClusterConfig,
    servers: BTreeMap<SocketAddr, Health>,
    now: Mono,
}

static NOBODY: BTreeMap<SocketAddr, crate::operation::Outcast> = BTreeMap::new();

impl Seen {
    fn nothing() -> Self {
        let config = config(3);
        let servers = config.servers.iter().map(|s| (s.address, Health::default())).collect();
        Self { config, servers, now: Mono::from_millis(1_000) }
    }

    /// db1 is the source of db2 and db3, which acknowledge and have everything; asked at 1 s.
    fn healthy() -> Self {
        Self::nothing().answers(1, SOURCE, TEN).answers(2, REPLICA, TEN).answers(3, REPLICA, TEN)
    }

    fn after(mut self, ms: u64) -> Self {
        self.now = self.now + Duration::from_millis(ms);
        self
    }

    fn answers(self, n: u8, semi_sync: SemiSync, gtids: &str) -> Self {
        let io = if semi_sync.replica_enabled { IoThread::Connected } else { IoThread::Stopped };
        self.answers_with(n, io, semi_sync, gtids)
    }

    /// It looks for a source that is gone.
    fn connecting(self, n: u8) -> Self {
        self.answers_with(n, IoThread::Connecting, REPLICA, TEN)
    }

    fn answers_with(mut self, n: u8, io: IoThread, semi_sync: SemiSync, gtids: &str) -> Self {
        let is_source = n == 1;
        let channel = Channel {
            name: String::new(),
            source_host: db(1).ip().to_string(),
            source_port: 3306,
            source_uuid: None,
            source_server_id: 0,
            io,
            sql_running: true,
            lag: None,
            received: String::new(),
            heartbeat_period: None,
            last_error: String::new(),
        };
        let state = ServerState {
            identity: Identity {
                uuid: None,
                server_id: n.into(),
                flavour: Flavour::Mysql,
                version: "9.7.4".to_owned(),
            },
            read_only: !is_source,
            super_read_only: !is_source,
            gtid_executed: gtids.to_owned(),
            channels: if is_source { Vec::new() } else { vec![channel] },
            group: None,
            semi_sync: Some(semi_sync),
            promoter: PromoterLock::NotAsked,
        };
        self.observe(n, Outcome::Answered(Box::new(state)));
        self
    }

    /// Refused, twice.
    fn gone(mut self, n: u8) -> Self {
        for _ in 0..2 {
            let failure = Failure { kind: FailureKind::Refused, detail: "by the test".to_owned() };
            self.observe(n, Outcome::Failed(failure));
        }
        self
    }

    fn observe(&mut self, n: u8, outcome: Outcome) {
        let seen = Observation { server: db(n), at: self.now, took: Duration::ZERO, outcome };
        self.servers.get_mut(&db(n)).unwrap().observe(&seen);
    }

    /// The source dies, and both replicas say that they have lost it.
    fn source_dies(self) -> Self {
        self.gone(1).connecting(2).connecting(3)
    }

    fn view(&self) -> View<'_> {
        View {
            config: &self.config,
            servers: &self.servers,
            primary: Some(db(1)),
            open: true,
            outcasts: &NOBODY,
            now: self.now,
        }
    }

    fn proof(&self) -> Option<Proof> {
        acknowledged_by(self.view(), db(1))
    }

    fn at_risk(&self) -> Option<AtRisk> {
        at_risk(self.view())
    }
}

fn proof(wait_count: u32, acknowledgers: &[u8]) -> Proof {
    Proof { wait_count, acknowledgers: acknowledgers.iter().map(|&n| db(n)).collect::<BTreeSet<_>>() }
}

#[test]
fn a_source_that_waited_when_it_was_last_asked_has_lost_nothing_that_was_acknowledged() {
    let seen = Seen::healthy().after(600).source_dies();
    assert_eq!(seen.proof(), Some(proof(1, &[2, 3])));
    assert_eq!(seen.at_risk(), Some(AtRisk::Nothing));
    // Nor when they are told to stop, or have found another source.
    let stopped = || Seen::healthy().after(600).source_dies().after(10).answers(3, ENDED, TEN);
    assert_eq!(stopped().proof(), Some(proof(1, &[2, 3])));
}

#[test]
fn a_source_that_did_not_wait_proves_nothing() {
    let check = |what: &str, source: SemiSync| {
        let seen = Seen::nothing().answers(2, REPLICA, TEN).answers(3, REPLICA, TEN).answers(1, source, TEN);
        assert_eq!(seen.after(600).source_dies().proof(), None, "{what}: {source:?}");
    };
    check("switched off", SemiSync { source_enabled: false, ..SOURCE });
    check("degraded", SemiSync { source_active: false, ..SOURCE });
    check("too few replicas", SemiSync { clients: 1, wait_count: 2, ..SOURCE });
    check("a replica that nobody knows", SemiSync { clients: 3, ..SOURCE });
    check("it does not wait without replicas", SemiSync { timeout: Duration::ZERO, ..SOURCE });
}

#[test]
fn the_proof_ends_when_somebody_can_have_waited_for_the_whole_timeout() {
    let dead = || Seen::healthy().source_dies();
    assert_eq!(dead().after(9_999).proof(), Some(proof(1, &[2, 3])));
    assert_eq!(dead().after(10_000).proof(), None);
    // Nobody knows since when those wait who are seen waiting: it may be since the answer before.
    let waiting = || Seen::healthy().after(8_000).answers(1, SemiSync { waiting: 1, ..SOURCE }, TEN).source_dies();
    assert_eq!(waiting().after(1_999).proof(), Some(proof(1, &[2, 3])));
    assert_eq!(waiting().after(2_000).proof(), None);
    // Found without anybody waiting, it starts anew.
    let idle = || Seen::healthy().after(8_000).answers(1, SOURCE, TEN).source_dies();
    assert_eq!(idle().after(9_999).proof(), Some(proof(1, &[2, 3])));
}

#[test]
fn a_source_that_was_always_seen_with_somebody_waiting_proves_nothing() {
    let busy = SemiSync { waiting: 3, ..SOURCE };
    let seen = Seen::nothing().answers(1, busy, TEN).answers(2, REPLICA, TEN).answers(3, REPLICA, TEN);
    assert_eq!(seen.after(500).answers(1, busy, TEN).source_dies().proof(), None);
}

#[test]
fn a_source_that_has_just_become_one_proves_nothing_before_its_replicas_have_what_it_had() {
    let behind = || Seen::nothing().answers(1, SOURCE, TWELVE).answers(2, REPLICA, TEN).answers(3, REPLICA, TEN);
    assert_eq!(behind().gone(1).proof(), None);
    assert_eq!(behind().after(500).answers(3, REPLICA, TWELVE).gone(1).proof(), Some(proof(1, &[2, 3])));
    // After it degraded it begins anew.
    let degraded = SemiSync { source_active: false, ..SOURCE };
    let again = || Seen::healthy().answers(1, degraded, TEN).answers(1, SOURCE, TWELVE);
    assert_eq!(again().proof(), None);
    assert_eq!(again().answers(2, REPLICA, TWELVE).proof(), Some(proof(1, &[2, 3])));
}

#[test]
fn a_replica_whose_source_side_was_active_all_along_begins_when_it_is_promoted() {
    let mut seen = Seen::healthy();
    // db2 is a replica with both sides switched on, and then the primary, twelve transactions old.
    let both = SemiSync { replica_enabled: true, clients: 0, ..SOURCE };
    seen = seen.answers(2, both, TEN);
    let promoted = ServerState {
        read_only: false,
        super_read_only: false,
        channels: Vec::new(),
        semi_sync: Some(SemiSync { clients: 1, ..SOURCE }),
        gtid_executed: TWELVE.to_owned(),
        ..seen.servers[&db(2)].state().unwrap().clone()
    };
    seen.observe(2, Outcome::Answered(Box::new(promoted)));
    let mut follower = seen.servers[&db(3)].state().unwrap().clone();
    follower.channels[0].source_host = db(2).ip().to_string();
    seen.observe(3, Outcome::Answered(Box::new(follower.clone())));
    assert_eq!(acknowledged_by(seen.view(), db(2)), None);
    follower.gtid_executed = TWELVE.to_owned();
    seen.observe(3, Outcome::Answered(Box::new(follower)));
    assert_eq!(acknowledged_by(seen.view(), db(2)), Some(proof(1, &[3])));
}

#[test]
fn a_replica_that_ceased_before_the_source_last_answered_is_not_among_them() {
    let one = SemiSync { clients: 1, ..SOURCE };
    let ceased = || Seen::healthy().after(500).answers(3, ENDED, TEN).after(500);
    assert_eq!(ceased().answers(1, one, TEN).after(100).source_dies().proof(), Some(proof(1, &[2])));
    // The source still counts it, so it may have acknowledged, or another one may have.
    assert_eq!(ceased().answers(1, SOURCE, TEN).after(100).source_dies().proof(), None);
}

#[test]
fn a_silent_replica_counts_only_if_the_source_counts_it() {
    let silent = || Seen::healthy().after(500).gone(3).after(500);
    let one = SemiSync { clients: 1, ..SOURCE };
    assert_eq!(silent().answers(1, one, TEN).after(100).gone(1).answers(2, ENDED, TEN).proof(), Some(proof(1, &[2])));
    assert_eq!(
        silent().answers(1, SOURCE, TEN).after(100).gone(1).answers(2, ENDED, TEN).proof(),
        Some(proof(1, &[2, 3]))
    );
    // It fell silent together with the source.
    let both = Seen::healthy().after(500).gone(1).gone(3).answers(2, ENDED, TEN);
    assert_eq!(both.proof(), Some(proof(1, &[2, 3])));
}

#[test]
fn without_semi_sync_the_loss_is_what_the_best_replica_lacked() {
    let off = SemiSync { source_enabled: false, source_active: false, clients: 0, ..SOURCE };
    let seen = || Seen::nothing().answers(1, off, TWELVE).answers(2, ENDED, TEN);
    let lacking = |replica, count| Some(AtRisk::Lacking { replica: db(replica), count });
    assert_eq!(seen().at_risk(), lacking(2, 2));
    assert_eq!(seen().answers(3, ENDED, TWELVE).at_risk(), lacking(3, 0));
    assert_eq!(seen().answers(3, ENDED, TWELVE).gone(3).at_risk(), lacking(2, 2));
    assert_eq!(seen().gone(2).at_risk(), Some(AtRisk::Unknown));
    assert_eq!(Seen::nothing().at_risk(), None);
}

#[test]
fn a_silent_source_whose_proof_has_run_out_may_have_lost_what_the_best_replica_lacked() {
    let seen = Seen::nothing().answers(2, REPLICA, TEN).answers(1, SOURCE, TWELVE).gone(1).after(20_000);
    assert_eq!(seen.at_risk(), Some(AtRisk::Lacking { replica: db(2), count: 2 }));
}

#[test]
fn semi_sync_that_is_switched_on_and_does_not_hold_is_an_alarm_at_once() {
    let check = |source: SemiSync, alarms: &[AlarmKind], words: &str| {
        let found = assess(Seen::healthy().answers(1, source, TEN).view()).alarms;
        assert_eq!(found.iter().map(|alarm| alarm.kind).collect::<Vec<_>>(), alarms, "{source:?}");
        assert!(found.iter().all(|alarm| alarm.message.contains(words)), "{found:?}");
    };
    check(SOURCE, &[], "");
    check(SemiSync { source_enabled: false, source_active: false, ..SOURCE }, &[], "");
    check(
        SemiSync { source_active: false, clients: 0, ..SOURCE },
        &[AlarmKind::SemiSyncDegraded],
        "commits without it",
    );
    check(SemiSync { clients: 1, wait_count: 2, ..SOURCE }, &[AlarmKind::SemiSyncDegraded], "up to 10000 ms");
    check(
        SemiSync { clients: 0, timeout: Duration::ZERO, ..SOURCE },
        &[AlarmKind::SemiSyncDegraded],
        "are not waited for",
    );
}
