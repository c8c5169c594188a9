use super::*;
use crate::doctor::Level;

const AIMS: Aims = Aims { data_loss: DataLoss::Forbid, replicas: 2, applies: false };

/// A server that lacks nothing. Where a commit waits for every replica, that is worth a note and no more.
fn good(flavour: Flavour, is_replica: bool) -> Facts {
    let [source, replica] = match flavour {
        Flavour::Mysql => ["source", "replica"],
        Flavour::Mariadb => ["master", "slave"],
    };
    let variables = [
        ("binlog_format", "ROW"),
        ("sync_binlog", "1"),
        ("innodb_flush_log_at_trx_commit", "1"),
        ("relay_log_recovery", "ON"),
        ("gtid_strict_mode", "ON"),
        ("replica_net_timeout", "10"),
        ("super_read_only", "ON"),
        ("read_only", "ON"),
    ];
    let mut variables: BTreeMap<_, _> = variables.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
    let semi_sync = [
        (format!("rpl_semi_sync_{source}_enabled"), if is_replica { "OFF" } else { "ON" }),
        (format!("rpl_semi_sync_{source}_timeout"), "4294967295"),
        (format!("rpl_semi_sync_{source}_wait_no_{replica}"), "ON"),
        (format!("rpl_semi_sync_{replica}_enabled"), if is_replica { "ON" } else { "OFF" }),
    ];
    variables.extend(semi_sync.map(|(name, value)| (name, value.to_owned())));
    let at_start = ["super_read_only", "read_only"].map(str::to_owned).into_iter();
    let at_start = at_start.chain([source, replica].map(|side| format!("rpl_semi_sync_{side}_enabled")));
    Facts { variables, at_start: at_start.map(|name| (name, true)).collect(), is_replica }
}

fn found(flavour: Flavour, facts: &Facts, aims: Aims) -> Vec<Finding> {
    judge(flavour, "db1", facts, aims)
}

/// With that variable as it should not be, there is one finding, and it says that.
fn check(flavour: Flavour, is_replica: bool, (name, value): (&str, &str), level: Level, advice: &str) {
    let mut facts = good(flavour, is_replica);
    facts.variables.insert(name.to_owned(), value.to_owned());
    let found: Vec<_> =
        found(flavour, &facts, AIMS).into_iter().filter(|f| !f.what.contains("a commit waits for 1 of 2")).collect();
    assert_eq!(found.len(), 1, "{name} = {value}: {found:?}");
    assert_eq!(found[0].level, level, "{found:?}");
    assert!(found[0].advice.as_ref().is_some_and(|words| words.contains(advice)), "{found:?}");
}

#[test]
fn a_replica_as_it_should_be_has_no_findings() {
    assert_eq!(found(Flavour::Mysql, &good(Flavour::Mysql, true), AIMS), []);
    assert_eq!(found(Flavour::Mariadb, &good(Flavour::Mariadb, true), AIMS), []);
}

#[test]
fn each_bad_setting_is_found_alone_with_the_statement_that_mends_it() {
    let mysql = |is_replica, set, level, advice| check(Flavour::Mysql, is_replica, set, level, advice);
    mysql(true, ("binlog_format", "MIXED"), Level::Warning, "SET PERSIST binlog_format = ROW");
    mysql(true, ("sync_binlog", "0"), Level::Warning, "SET PERSIST sync_binlog = 1");
    mysql(
        true,
        ("innodb_flush_log_at_trx_commit", "2"),
        Level::Warning,
        "SET PERSIST innodb_flush_log_at_trx_commit = 1",
    );
    mysql(true, ("relay_log_recovery", "OFF"), Level::Warning, "SET PERSIST_ONLY relay_log_recovery = ON");
    mysql(true, ("replica_net_timeout", "60"), Level::Note, "SET PERSIST replica_net_timeout = 10");
    mysql(
        true,
        ("rpl_semi_sync_replica_enabled", "OFF"),
        Level::Problem,
        "SET PERSIST rpl_semi_sync_replica_enabled = ON; STOP REPLICA IO_THREAD; START REPLICA IO_THREAD",
    );
    mysql(
        false,
        ("rpl_semi_sync_source_enabled", "OFF"),
        Level::Problem,
        "SET PERSIST rpl_semi_sync_source_enabled = ON",
    );
    mysql(
        false,
        ("rpl_semi_sync_source_timeout", "10000"),
        Level::Warning,
        "SET PERSIST rpl_semi_sync_source_timeout = 4294967295",
    );
    mysql(
        false,
        ("rpl_semi_sync_source_wait_no_replica", "OFF"),
        Level::Warning,
        "SET PERSIST rpl_semi_sync_source_wait_no_replica = ON",
    );
    let mariadb = |set, level, advice| check(Flavour::Mariadb, true, set, level, advice);
    mariadb(("gtid_strict_mode", "OFF"), Level::Warning, "`gtid_strict_mode = ON` in its my.cnf");
    mariadb(("rpl_semi_sync_slave_enabled", "OFF"), Level::Problem, "START SLAVE IO_THREAD");
    mariadb(("rpl_semi_sync_master_timeout", "10000"), Level::Warning, "rpl_semi_sync_master_timeout = 4294967295");
}

#[test]
fn the_count_is_judged_by_how_many_replicas_there_are() {
    let count = |count: &str, aims| {
        let mut facts = good(Flavour::Mysql, false);
        facts.variables.insert("rpl_semi_sync_source_wait_for_replica_count".to_owned(), count.to_owned());
        found(Flavour::Mysql, &facts, aims)
            .into_iter()
            .map(|f| (f.level, f.what + &f.advice.unwrap()))
            .collect::<Vec<_>>()
    };
    let one = |found: Vec<(Level, String)>, level, words: &str| {
        assert!(matches!(&found[..], [(l, text)] if *l == level && text.contains(words)), "{words}: {found:?}");
    };
    one(count("1", AIMS), Level::Note, "only if it hears 2 of them");
    one(count("2", AIMS), Level::Note, "wait_for_replica_count = 1");
    one(count("3", AIMS), Level::Problem, "wait_for_replica_count = 2");
    assert_eq!(count("1", Aims { replicas: 1, ..AIMS }), []);
    assert_eq!(count("1", Aims { data_loss: DataLoss::Allow, ..AIMS }), []);
}

#[test]
fn semi_sync_is_not_asked_for_where_losses_are_allowed() {
    let mut facts = good(Flavour::Mysql, true);
    facts.variables.retain(|name, _| !name.starts_with("rpl_semi_sync"));
    facts.at_start.retain(|name, _| !name.starts_with("rpl_semi_sync"));
    assert_eq!(found(Flavour::Mysql, &facts, Aims { data_loss: DataLoss::Allow, ..AIMS }), []);
    let forbidden = found(Flavour::Mysql, &facts, AIMS);
    assert!(matches!(&forbidden[..], [one] if one.level == Level::Problem), "{forbidden:?}");
    assert!(forbidden[0].advice.as_ref().is_some_and(|a| a.contains("INSTALL PLUGIN rpl_semi_sync_source")));
}

#[test]
fn what_a_restart_would_make_of_a_server_is_told() {
    let start = |name: &str, known: Option<bool>| {
        let mut facts = good(Flavour::Mysql, true);
        facts.at_start.remove(name);
        facts.at_start.extend(known.map(|on| (name.to_owned(), on)));
        found(Flavour::Mysql, &facts, AIMS).into_iter().map(|f| (f.level, f.advice.unwrap())).collect::<Vec<_>>()
    };
    assert_eq!(start("super_read_only", Some(true)), []);
    for name in ["super_read_only", "rpl_semi_sync_source_enabled"] {
        let advice = format!("SET PERSIST_ONLY {name} = ON");
        assert_eq!(start(name, Some(false)), [(Level::Warning, advice.clone())]);
        assert_eq!(start(name, None), [(Level::Note, advice)]);
    }
}

#[test]
fn every_missing_grant_is_a_statement_to_run() {
    let none = grants(Flavour::Mysql, "db1", "shunt@%", &["GRANT USAGE ON *.* TO `shunt`@`%`".to_owned()]);
    assert_eq!(none.level, Level::Problem);
    assert!(none.advice.is_some_and(|a| a.contains("GRANT RELOAD ON *.* TO 'shunt'@'%'")));
    let all = grants(Flavour::Mysql, "db1", "shunt@%", &["GRANT ALL PRIVILEGES ON *.* TO `shunt`@`%`".to_owned()]);
    assert_eq!(all.level, Level::Ok);
}
