//! Who is chosen, from standings by hand. db1 is the old primary.

use std::time::Duration;

use super::*;
use crate::config::{DataLoss, FailoverMode, ProbeConfig, Promoting};
use crate::observation::Flavour;
use crate::operation::{Obstacle, Replication, SemiSyncRole};

fn db(n: u8) -> SocketAddr {
    SocketAddr::from(([10, 0, 0, 10 + n], 3306))
}

fn uuid(n: u8) -> String {
    format!("aaaaaaaa-0000-0000-0000-{n:012}")
}

/// `1:90 2:3`: the first 90 transactions of db1 and the first three of db2.
fn gtids(text: &str) -> History {
    let sets: Vec<_> = text
        .split_whitespace()
        .filter_map(|part| part.split_once(':'))
        .map(|(n, last)| format!("{}:1-{last}", uuid(n.parse().unwrap())))
        .collect();
    History::parse(Flavour::Mysql, &sets.join(",")).unwrap()
}

fn maria(text: &str) -> History {
    History::parse(Flavour::Mariadb, text).unwrap()
}

struct Scene {
    config: ClusterConfig,
    standings: BTreeMap<SocketAddr, Standing>,
    old_executed: Option<History>,
    origin: Origin,
    excluded: BTreeMap<SocketAddr, String>,
    asked: Option<SocketAddr>,
}

/// db1 has 100 transactions; each of the others has executed and received what is said of it, from db2 on.
fn scene(of: &[&str]) -> Scene {
    let histories: Vec<_> = of.iter().map(|text| gtids(text)).collect();
    with(Flavour::Mysql, gtids("1:100"), &histories)
}

fn with(flavour: Flavour, old: History, of: &[History]) -> Scene {
    let server = |n| ServerConfig {
        address: db(n),
        label: format!("db{n}"),
        dc: None,
        promotion: Promotion::Neutral,
        weight: 1,
    };
    let others = u8::try_from(of.len()).unwrap() + 1;
    let config = ClusterConfig {
        name: crate::ClusterName::new("orders").unwrap(),
        servers: (1..=others).map(server).collect(),
        failover: FailoverMode::Promote,
        data_loss: DataLoss::Forbid,
        cooldown: Duration::from_secs(600),
        probe: ProbeConfig::default(),
        credentials: "default".to_owned(),
        listeners: Vec::new(),
        lease: None,
        near: None,
        promoting: Promoting::default(),
    };
    let standing = |history: &History| Standing {
        flavour,
        version: "8.4.3".to_owned(),
        uuid: None,
        server_id: 0,
        read_only: true,
        executed: history.clone(),
        received: history.clone(),
        replication: Replication { channels: 1, applying: true, ..Replication::default() },
        obstacles: Vec::new(),
        cannot_apply: Vec::new(),
        semi_sync: None,
        in_group: false,
        binlog_format: "ROW".to_owned(),
        shows_sessions: None,
    };
    Scene {
        config,
        standings: (2..=others).map(db).zip(of.iter().map(standing)).collect(),
        old_executed: Some(old),
        origin: Origin { uuid: Some(uuid(1)), server_id: 1 },
        excluded: BTreeMap::new(),
        asked: None,
    }
}

impl Scene {
    fn server(&mut self, n: u8) -> &mut ServerConfig {
        self.config.servers.iter_mut().find(|s| s.address == db(n)).unwrap()
    }

    fn standing(&mut self, n: u8) -> &mut Standing {
        self.standings.get_mut(&db(n)).unwrap()
    }

    fn choose(&self) -> Result<Choice, Vec<(SocketAddr, String)>> {
        choose(Candidates {
            config: &self.config,
            standings: &self.standings,
            old: db(1),
            old_executed: self.old_executed.as_ref(),
            old_origin: &self.origin,
            excluded: &self.excluded,
            asked: self.asked,
        })
    }

    fn chosen(&self) -> SocketAddr {
        self.choose().unwrap().server
    }

    /// Why that one is unfit, when nobody can be chosen.
    fn reason(&self, n: u8) -> String {
        let reasons = self.choose().expect_err("nobody can be chosen");
        reasons.into_iter().find(|(server, _)| *server == db(n)).expect("every server has its reason").1
    }
}

#[test]
fn whoever_has_received_most_is_chosen() {
    let scene = scene(&["1:90", "1:95", "1:92"]);
    let choice = scene.choose().unwrap();
    assert_eq!((choice.server, choice.goal, choice.sources), (db(3), gtids("1:95"), Vec::new()));
}

#[test]
fn of_equals_the_first_address_is_chosen_every_time() {
    assert_eq!(scene(&["1:90", "1:90", "1:90"]).chosen(), db(2));
}

#[test]
fn the_promotion_rule_stands_above_how_much_somebody_has() {
    let rules = [Promotion::Must, Promotion::Prefer, Promotion::Neutral, Promotion::PreferNot];
    for pair in rules.windows(2) {
        let mut scene = scene(&["1:95", "1:90"]);
        (scene.server(2).promotion, scene.server(3).promotion) = (pair[1], pair[0]);
        let choice = scene.choose().unwrap();
        assert_eq!((choice.server, choice.sources), (db(3), vec![db(2)]), "{pair:?}");
        assert_eq!(choice.goal, gtids("1:95"), "what the other has is caught up with");
    }
}

#[test]
fn whoever_must_not_be_promoted_is_not_unless_an_operator_names_it() {
    let mut scene = scene(&["1:95"]);
    scene.server(2).promotion = Promotion::MustNot;
    assert_eq!(scene.reason(2), "its promotion rule is must_not");
    scene.asked = Some(db(2));
    assert_eq!(scene.chosen(), db(2));
}

#[test]
fn what_one_that_must_not_be_promoted_has_is_part_of_the_goal() {
    let mut scene = scene(&["1:95", "1:90"]);
    scene.server(2).promotion = Promotion::MustNot;
    let choice = scene.choose().unwrap();
    assert_eq!((choice.server, choice.goal, choice.sources), (db(3), gtids("1:95"), vec![db(2)]));
}

#[test]
fn the_one_that_was_asked_for_or_nobody() {
    let mut scene = scene(&["1:95", "1:90"]);
    scene.asked = Some(db(3));
    assert_eq!(scene.chosen(), db(3));
    scene.standing(3).obstacles = vec![Obstacle::NoBinlog];
    assert_eq!(scene.reason(3), "it has no binary log");
    assert_eq!(scene.reason(2), "another one was asked for");
}

#[test]
fn of_equals_the_data_centre_of_the_old_primary_is_preferred() {
    let mut scene = scene(&["1:90", "1:90"]);
    scene.server(1).dc = Some("north".to_owned());
    scene.server(2).dc = Some("south".to_owned());
    scene.server(3).dc = Some("north".to_owned());
    assert_eq!(scene.chosen(), db(3));
    scene.standing(2).executed = gtids("1:91");
    scene.standing(2).received = gtids("1:91");
    assert_eq!(scene.chosen(), db(2), "more transactions weigh more than the data centre");
}

#[test]
fn of_equals_the_oldest_version_is_preferred_for_the_others_can_follow_it() {
    let mut scene = scene(&["1:90", "1:90"]);
    scene.standing(3).version = "8.0.41-commercial".to_owned();
    assert_eq!(scene.chosen(), db(3));
    scene.standing(2).version = "8.0.11".to_owned();
    assert_eq!(scene.chosen(), db(2), "only major and minor number count");
    assert_eq!(release("10.11.6-MariaDB-log"), (10, 11));
}

#[test]
fn of_equals_row_format_and_semi_sync_are_preferred() {
    let mut scene = scene(&["1:90", "1:90"]);
    scene.standing(2).binlog_format = "STATEMENT".to_owned();
    assert_eq!(scene.chosen(), db(3));
    scene.standing(2).binlog_format = "ROW".to_owned();
    scene.standing(3).semi_sync = Some(SemiSyncRole::default());
    assert_eq!(scene.chosen(), db(3));
}

#[test]
fn a_replica_with_transactions_of_its_own_is_not_chosen_and_nobody_gets_them() {
    let scene = scene(&["1:95 2:2", "1:90"]);
    let choice = scene.choose().unwrap();
    assert_eq!((choice.server, choice.goal), (db(3), gtids("1:90")));
    let alone = self::scene(&["1:95 2:2"]);
    assert_eq!(alone.reason(2), format!("it has transactions of its own: {}:1-2", uuid(2)));
}

#[test]
fn what_the_old_primary_committed_after_it_was_asked_is_not_errant() {
    assert_eq!(scene(&["1:130", "1:90"]).chosen(), db(2));
}

#[test]
fn of_an_old_primary_that_was_never_asked_the_others_vouch() {
    let mut scene = scene(&["1:95 2:2", "1:90", "1:92"]);
    scene.old_executed = None;
    assert_eq!(scene.chosen(), db(4));
    scene.standing(3).received = gtids("1:90 2:2");
    assert_eq!(scene.chosen(), db(2), "what another one has, too, came by replication");
}

#[test]
fn one_that_is_left_alone_of_a_primary_that_was_never_asked_is_chosen() {
    let mut scene = scene(&["1:95 2:2"]);
    scene.old_executed = None;
    assert_eq!(scene.chosen(), db(2));
}

#[test]
fn obstacles_groups_broken_appliers_and_silence_each_have_their_sentence() {
    let mut scene = scene(&["1:90", "1:90", "1:90", "1:90", "1:90"]);
    scene.standing(2).obstacles =
        vec![Obstacle::NoReplicaUpdates, Obstacle::MissingGrant("GRANT SUPER ON *.* TO shunt".to_owned())];
    scene.standing(3).in_group = true;
    scene.standing(4).received = gtids("1:95");
    scene.standing(4).replication.apply_error = "1062 duplicate key".to_owned();
    scene.standings.remove(&db(5));
    scene.excluded.insert(db(6), "it could not be promoted: disk full".to_owned());
    assert_eq!(
        scene.reason(2),
        "log_replica_updates is off; the agent's user may not do what is needed there (run: GRANT SUPER ON *.* TO shunt)"
    );
    assert_eq!(scene.reason(3), "it is a member of a group, which decides by itself");
    assert_eq!(scene.reason(4), "it cannot apply what it has received: 1062 duplicate key");
    assert_eq!(scene.reason(5), "it did not answer");
    assert_eq!(scene.reason(6), "it could not be promoted: disk full");
}

#[test]
fn a_broken_applier_that_has_nothing_left_to_apply_may_be_promoted() {
    let mut scene = scene(&["1:90"]);
    scene.standing(2).replication.apply_error = "1062 duplicate key".to_owned();
    assert_eq!(scene.chosen(), db(2));
}

#[test]
fn sources_are_those_who_have_something_that_is_lacking_the_most_advanced_first() {
    let mut scene = scene(&["1:80", "1:85", "1:95", "1:80"]);
    scene.server(2).promotion = Promotion::Must;
    let choice = scene.choose().unwrap();
    assert_eq!((choice.server, choice.sources), (db(2), vec![db(4), db(3)]));
}

#[test]
fn transactions_that_are_only_received_count_as_had() {
    let mut scene = scene(&["1:90", "1:80"]);
    scene.standing(3).received = gtids("1:95");
    let choice = scene.choose().unwrap();
    assert_eq!((choice.server, choice.goal), (db(3), gtids("1:95")));
}

#[test]
fn mariadb_is_compared_by_domain_and_server() {
    let histories = [maria("0-1-90"), maria("0-1-95"), maria("0-1-95,0-4-97")];
    let mut scene = with(Flavour::Mariadb, maria("0-1-100"), &histories);
    scene.origin = Origin { uuid: None, server_id: 1 };
    let choice = scene.choose().unwrap();
    assert_eq!((choice.server, choice.goal), (db(3), maria("0-1-95")), "db4 has one of its own, however far it is");
    scene.standings.remove(&db(2));
    scene.standings.remove(&db(3));
    assert!(scene.reason(4).starts_with("it has transactions of its own: 0-4-"), "{}", scene.reason(4));
}

#[test]
fn what_a_mariadb_primary_committed_after_it_was_asked_is_not_errant() {
    let mut scene = with(Flavour::Mariadb, maria("0-1-100"), &[maria("0-1-130"), maria("0-1-90")]);
    scene.origin = Origin { uuid: None, server_id: 1 };
    assert_eq!(scene.chosen(), db(2));
}

#[test]
fn nobody_answers_and_nobody_is_chosen() {
    let mut scene = scene(&["1:90", "1:90"]);
    scene.standings.clear();
    let reasons = scene.choose().unwrap_err();
    assert_eq!(reasons, vec![(db(2), "it did not answer".to_owned()), (db(3), "it did not answer".to_owned())]);
}
