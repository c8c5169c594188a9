use shunt_core::cluster::{Cluster, OperationStatus, Remembered};
use shunt_core::operation::{OpId, Outcast, Step};
use shunt_core::{Epoch, Mono};

use super::*;
use crate::config;

fn server(n: u8) -> SocketAddr {
    SocketAddr::from(([10, 0, 0, 10 + n], 3306))
}

/// Two servers that answer, the first of them the primary.
fn healthy(mode: &str) -> ClusterStatus {
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir(dir.path().join("clusters.d")).unwrap();
    let password = dir.path().join("password");
    std::fs::write(&password, "x").unwrap();
    let agent = format!("[credentials.default]\npassword_file = \"{}\"\n", password.display());
    std::fs::write(dir.path().join("shunt.toml"), agent).unwrap();
    let text = format!(
        "name = \"orders\"\nservers = [\"{}\", \"{}\"]\nfailover = \"{mode}\"\n\
         [[listen]]\nrole = \"primary\"\naddress = \"10.0.0.2:3306\"\n",
        server(1),
        server(2)
    );
    std::fs::write(dir.path().join("clusters.d/orders.toml"), text).unwrap();
    let loaded = config::load(dir.path(), &config::system_resolver);
    assert!(!loaded.has_errors(), "{}", loaded.render(false));
    let remembered = Remembered { epoch: Epoch(7), primary: Some(server(1)), ..Remembered::default() };
    let (cluster, _) = Cluster::new(loaded.clusters[0].clone(), remembered, Mono::ZERO);
    let mut status = cluster.status(Mono::ZERO);
    status.verdict = Verdict::Healthy;
    for server in &mut status.servers {
        server.answers = true;
    }
    status
}

fn said(status: &ClusterStatus, wish: Wish) -> Option<String> {
    refusal(status, wish).map(|p| {
        assert_eq!(p.code, ProblemCode::RefusedByRule);
        assert!(p.hint.is_some());
        p.error
    })
}

#[test]
fn nothing_stands_against_an_operation_on_a_healthy_cluster() {
    for mode in ["promote", "off"] {
        let status = healthy(mode);
        for wish in [Wish::Switchover, Wish::Failover, Wish::Drill] {
            assert_eq!(said(&status, wish), None);
        }
    }
}

#[test]
fn what_is_under_way_is_named_before_a_cluster_is_called_unwell() {
    let mut status = healthy("promote");
    status.verdict = Verdict::Dead;
    let since = Mono::ZERO;
    status.operation =
        Some(OperationStatus { id: OpId(17), kind: Kind::Failover, step: Step::CatchUp, since, chosen: None });
    assert_eq!(said(&status, Wish::Drill), None);
}

#[test]
fn a_drill_needs_a_cluster_that_is_well_and_a_failover_does_not() {
    let (mut dead, mut silent, mut outcast) = (healthy("promote"), healthy("promote"), healthy("promote"));
    dead.verdict = Verdict::Dead;
    dead.reasons = vec!["db1 failed 2 times in a row".to_owned()];
    silent.servers[1].answers = false;
    outcast.outcasts = vec![Outcast { server: server(2), epoch: Epoch(6), quarantine: None }];
    for (status, why) in [
        (&dead, "orders is not well: the verdict is dead: db1 failed 2 times in a row"),
        (&silent, "orders is not well: 10.0.0.12:3306 does not answer"),
        (&outcast, "orders is not well: 10.0.0.12:3306 was cast out and has not rejoined"),
    ] {
        assert_eq!(said(status, Wish::Drill).unwrap(), why);
        assert_eq!(said(status, Wish::Failover), None);
    }
}

#[test]
fn a_drill_is_rehearsed_as_a_switchover_and_carried_out_as_a_failover() {
    let wanted = OperateRequest { dry_run: true, ..OperateRequest::default() };
    let rehearsal = intent(Wish::Drill, &wanted, None, "root").unwrap();
    assert_eq!((rehearsal.kind, rehearsal.dry_run), (Kind::Switchover, true));
    let real = intent(Wish::Drill, &OperateRequest::default(), None, "root").unwrap();
    assert_eq!((real.kind, real.dry_run, real.allow_loss), (Kind::Failover, false, false));
    assert_eq!(real.by, "root, as a drill");
}

#[test]
fn a_wish_takes_only_what_it_has_a_use_for() {
    let grace = OperateRequest { grace_ms: Some(5_000), ..OperateRequest::default() };
    let loss = OperateRequest { allow_data_loss: true, ..OperateRequest::default() };
    let endless = OperateRequest { grace_ms: Some(u64::MAX), ..OperateRequest::default() };
    assert_eq!(intent(Wish::Switchover, &grace, None, "root").unwrap().grace, Duration::from_secs(5));
    assert!(intent(Wish::Failover, &loss, None, "root").unwrap().allow_loss);
    for (wish, wanted) in [
        (Wish::Failover, &grace),
        (Wish::Drill, &grace),
        (Wish::Switchover, &loss),
        (Wish::Drill, &loss),
        (Wish::Switchover, &endless),
    ] {
        assert_eq!(intent(wish, wanted, None, "root").unwrap_err().code, ProblemCode::BadRequest);
    }
}
