//! What an operator sees of an operation: lines, tables, JSON, exit codes. The agent is a fake, the command line the real one.

mod fake;

use fake::{Fake, History, Ran, orders};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};
use shunt::control::api::ProblemCode;

fn object(ran: &Ran) -> Value {
    serde_json::from_str(&ran.out).unwrap_or_else(|error| panic!("{error}: {ran:?}"))
}

/// The cluster's status says so of operation 17.
fn is_under_way(fake: &Fake) {
    fake.script().show["operation"] = json!({
        "cluster": "orders", "op": 17, "kind": "switchover", "step": "drain", "since": "2026-01-02T03:04:05.678Z",
        "chosen": "10.0.0.12:3306",
    });
}

fn switched() -> History {
    History::new(1, 17)
        .step("precheck", 12)
        .step("hold", 1)
        .begun("sessions")
        .event("sessions", "sessions ended: 5 idle, 1 after its transaction", json!({ "idle": "5" }))
        .done("sessions", 61)
        .step("fence", 2)
        .event(
            "task",
            "db1: made read-only",
            json!({ "server": "10.0.0.11:3306", "task": "make read-only", "state": "done" }),
        )
        .step("disarm", 9)
        .step("drain", 31)
        .step("promote", 20)
        .step("open", 3)
        .begun("repoint")
        .event("task", "db3: no answer", json!({ "server": "10.0.0.13:3306", "task": "repoint", "state": "failed" }))
        .done("repoint", 4)
}

#[test]
fn a_switchover_is_told_step_by_step_and_who_is_the_primary_then() {
    let fake = Fake::start();
    fake.will_begin(17, switched().ended("done", "db2 took over"));
    let ran = fake.run("switchover orders --to db2");
    assert_eq!((ran.code, ran.out.as_str()), (Some(0), ""), "{ran:?}");
    insta::assert_snapshot!(ran.err, @r"
    precheck  ok      12 ms
    hold      ok       1 ms
      sessions ended: 5 idle, 1 after its transaction
    sessions  ok      61 ms
    fence     ok       2 ms
    disarm    ok       9 ms
    drain     ok      31 ms
    promote   ok      20 ms
    open      ok       3 ms
      failed: db3: no answer
    repoint   over     4 ms
    db2 is the primary of orders now, epoch 8: switchover 17, db2 took over
    ");
    let asked = json!({ "to": "db2", "grace_ms": 2000, "dry_run": false, "allow_data_loss": false });
    assert_eq!(fake.script().posted, [("switchover".to_owned(), asked)]);
}

#[test]
fn with_details_every_task_is_told() {
    let fake = Fake::start();
    fake.will_begin(17, switched().ended("done", "db2 took over"));
    let ran = fake.run("switchover orders --details");
    assert!(ran.err.contains("\n  db1: made read-only\n"), "{ran:?}");
}

#[test]
fn one_json_object_says_it_all() {
    let fake = Fake::start();
    fake.will_begin(17, History::new(1, 17).step("precheck", 12).step("promote", 20).ended("done", "db2 took over"));
    let ran = fake.run("switchover orders --json");
    assert_eq!((ran.code, ran.err.as_str()), (Some(0), ""), "{ran:?}");
    assert_eq!(
        object(&ran),
        json!({
            "schema_version": 1, "cluster": "orders", "op": 17, "kind": "switchover", "dry_run": false,
            "outcome": "done", "message": "db2 took over", "old": "10.0.0.11:3306", "new": "10.0.0.12:3306",
            "epoch": 8, "took_ms": 143,
            "steps": [{ "step": "precheck", "ok": true, "took_ms": 12 }, { "step": "promote", "ok": true, "took_ms": 20 }],
        })
    );
}

#[test]
fn every_outcome_has_its_exit_code_and_its_sentence() {
    let ends = [
        ("done", Some(0), "db2 is the primary of orders now, epoch 8"),
        ("refused", Some(5), "error: failover 17 of orders was refused: so it is\nhint: `shunt show orders`"),
        ("undone", Some(1), "error: failover 17 of orders was undone: so it is\nhint: `shunt events orders`"),
        ("failed", Some(1), "error: failover 17 of orders failed: so it is\nhint: `shunt show orders` and"),
        ("exploded", Some(4), "error: the outcome of failover 17 of orders is unknown: its end is not understood"),
    ];
    for (outcome, code, sentence) in ends {
        let fake = Fake::start();
        let history = || History::new(1, 17).step("precheck", 12).begun("drain").ended(outcome, "so it is");
        fake.will_begin(17, history());
        let ran = fake.run("failover orders --yes");
        assert_eq!(ran.code, code, "{outcome}: {ran:?}");
        assert!(ran.err.contains(sentence), "{outcome}: {ran:?}");
        assert!(ran.err.contains("drain     not done"), "{ran:?}");

        let fake = Fake::start();
        fake.will_begin(17, history());
        let ran = fake.run("failover orders --yes --json");
        assert_eq!(ran.code, code, "{outcome}: {ran:?}");
        assert_eq!(object(&ran)["outcome"], if outcome == "exploded" { "unknown" } else { outcome });
    }
}

#[test]
fn what_was_not_begun_has_the_exit_code_of_the_refusal() {
    let refusals = [
        (ProblemCode::RefusedByRule, "shunt follows orders and changes none of its servers", Some(5)),
        (ProblemCode::NotFound, "cluster orders has no server `db9`", Some(2)),
        (ProblemCode::BadRequest, "a grace takes ten minutes at most", Some(2)),
        (ProblemCode::Failed, "it could not be written down", Some(1)),
    ];
    for (problem, error, code) in refusals {
        for line in [
            "switchover orders",
            "failover orders --yes",
            "drill orders --yes",
            "rejoin orders db9",
            "clear orders db9",
        ] {
            let fake = Fake::start();
            fake.will_refuse(problem, error);
            let ran = fake.run(line);
            assert_eq!((ran.code, ran.out.as_str()), (code, ""), "{line}: {ran:?}");
            assert_eq!(ran.err, format!("error: {error}\n"), "{line}");
        }
    }
}

#[test]
fn without_an_agent_or_a_cluster_nothing_is_asked_for() {
    let mut fake = Fake::start();
    for line in ["switchover ordres", "failover ordres --yes", "drill ordres --yes"] {
        assert_eq!(fake.run(line).code, Some(2), "{line}");
    }
    fake.stop();
    for line in
        ["switchover orders", "failover orders --yes", "drill orders --yes", "rejoin orders db1", "clear orders db1"]
    {
        let ran = fake.run(line);
        assert_eq!(ran.code, Some(3), "{line}: {ran:?}");
        assert!(ran.err.contains("hint: start it with"), "{ran:?}");
    }
    assert_eq!(fake.verbs(), Vec::<String>::new());
}

#[test]
fn a_dry_run_shows_the_plan_as_a_table() {
    let fake = Fake::start();
    let plan = History::new(1, 17)
        .planned("precheck", true, "db2 lacks nothing that a primary needs")
        .planned("hold", true, "new connections through 10.0.0.2:3306 wait")
        .planned("catch_up", true, "nothing to do: db2 has received all");
    fake.will_begin(17, plan.ended("done", "it could be done"));
    let ran = fake.run("switchover orders --dry-run");
    assert_eq!(ran.code, Some(0), "{ran:?}");
    insta::assert_snapshot!(ran.out, @r"
    STEP      CHECK  WHAT
    precheck  ok     db2 lacks nothing that a primary needs
    hold      ok     new connections through 10.0.0.2:3306 wait
    catch_up  ok     nothing to do: db2 has received all
    ");
    assert_eq!(ran.err, "nothing was changed; nothing stands against a switchover to db2\n");
    assert_eq!(fake.script().posted[0].1["dry_run"], true);
}

#[test]
fn a_dry_run_that_finds_something_is_a_refusal() {
    for outcome in ["done", "refused"] {
        let fake = Fake::start();
        let plan = History::new(1, 17).planned("precheck", false, "db2: log_replica_updates is off");
        fake.will_begin(17, plan.ended(outcome, "db2: log_replica_updates is off"));
        let ran = fake.run("failover orders --dry-run --json");
        assert_eq!(ran.code, Some(5), "{ran:?}");
        let error = "error: a failover of orders would be refused: db2: log_replica_updates is off";
        assert!(ran.err.starts_with(error), "{ran:?}");
        let plan = json!([{ "step": "precheck", "ok": false, "message": "db2: log_replica_updates is off" }]);
        assert_eq!(object(&ran)["plan"], plan);
    }
}

#[test]
fn without_a_terminal_a_failover_and_a_drill_want_a_yes_and_ask_for_nothing() {
    let fake = Fake::start();
    for verb in ["failover", "drill"] {
        let ran = fake.run(&format!("{verb} orders"));
        assert_eq!(ran.code, Some(2), "{ran:?}");
        assert!(ran.err.contains("no terminal to ask on") && ran.err.contains("hint: --yes"), "{ran:?}");
    }
    assert_eq!(fake.verbs(), Vec::<String>::new());
}

#[test]
fn a_failover_that_is_not_to_ask_rehearses_nothing() {
    let fake = Fake::start();
    fake.will_begin(17, History::new(1, 17).step("precheck", 3).ended("done", "db2 took over"));
    let ran = fake.run("failover orders --yes --allow-data-loss");
    assert_eq!(ran.code, Some(0), "{ran:?}");
    assert_eq!(fake.script().posted, [("failover".to_owned(), json!({ "dry_run": false, "allow_data_loss": true }))]);
}

#[test]
fn a_pause_is_said_and_stands_against_nothing() {
    let fake = Fake::start();
    fake.script().show["paused"] = json!({ "until": null, "reason": "maintenance (root)" });
    fake.will_begin(17, History::new(1, 17).ended("done", "db2 took over"));
    let ran = fake.run("switchover orders");
    assert_eq!(ran.code, Some(0), "{ran:?}");
    assert!(ran.err.starts_with("orders is paused (maintenance (root)); what an operator asks for is done"), "{ran:?}");
}

#[test]
fn an_agent_that_is_restarted_in_the_middle_is_waited_for() {
    let mut fake = Fake::start();
    is_under_way(&fake);
    fake.will_begin(17, History::new(1, 17).step("precheck", 12).begun("drain").so_far());
    let running = fake.spawn("switchover orders");
    fake.wait_until_all_is_heard(1);
    fake.stop();
    running.wait_until_it_says("the agent does not answer");
    fake.script().events.extend(History::new(4, 17).step("drain", 40).ended("done", "db2 took over"));
    fake.start_again();
    let ran = running.wait();
    assert_eq!(ran.code, Some(0), "{ran:?}");
    insta::assert_snapshot!(ran.err, @r"
    precheck  ok      12 ms
    the agent does not answer; waiting for it
    the agent answers again
    drain     ok      40 ms
    db2 is the primary of orders now, epoch 8: switchover 17, db2 took over
    ");
}

#[test]
fn an_agent_that_comes_back_with_another_history_leaves_the_outcome_unknown() {
    let mut fake = Fake::start();
    is_under_way(&fake);
    fake.will_begin(17, History::new(1, 17).step("precheck", 12).begun("drain").so_far());
    let running = fake.spawn("switchover orders --json");
    fake.wait_until_all_is_heard(1);
    fake.stop();
    fake.script().events.clear();
    fake.start_again();
    let ran = running.wait();
    assert_eq!(ran.code, Some(4), "{ran:?}");
    assert!(ran.err.contains("the agent came back with another history"), "{ran:?}");
    assert_eq!(object(&ran)["outcome"], "unknown");
}

#[test]
fn an_operation_whose_end_was_never_written_down_does_not_keep_anybody_waiting() {
    let fake = Fake::start();
    fake.will_begin(17, History::new(1, 17).step("precheck", 12).so_far());
    let ran = fake.run("switchover orders");
    assert_eq!(ran.code, Some(4), "{ran:?}");
    assert!(ran.err.contains("the history does not say how it ended"), "{ran:?}");
}

#[test]
fn an_operation_that_is_still_under_way_is_waited_for_however_silent_and_ctrl_c_ends_only_the_watching() {
    let fake = Fake::start();
    is_under_way(&fake);
    fake.will_begin(17, History::new(1, 17).step("precheck", 12).begun("drain").so_far());
    let mut running = fake.spawn("switchover orders");
    fake.wait_until_all_is_heard(5);
    assert_eq!(running.child.try_wait().unwrap(), None);
    kill(Pid::from_raw(running.child.id().cast_signed()), Signal::SIGINT).unwrap();
    let ran = running.wait();
    assert_eq!(ran.code, Some(4), "{ran:?}");
    insta::assert_snapshot!(ran.err, @r"
    precheck  ok      12 ms
    error: switchover 17 of orders goes on: it is only not watched any more
    hint: `shunt events -f orders` shows how it goes on
    ");
}

fn drilled(outcome: &str) -> Vec<shunt::control::api::EventLine> {
    let listener = "10.0.0.2:3306";
    let mut events = History::new(10, 18)
        .event("operation", "failover 18 begun: asked for by root, as a drill", json!({ "state": "begun" }))
        .step("precheck", 12)
        .begun("fence")
        .after(2)
        .other("fenced", "10.0.0.2:3306 leads to nobody", json!({ "listener": listener, "backends": "" }))
        .done("fence", 1)
        .step("disarm", 40)
        .step("promote", 20)
        .begun("open")
        .after(1)
        .other("mapped", "10.0.0.2:3306 → db2, epoch 8", json!({ "listener": listener, "backends": "10.0.0.12:3306" }))
        .done("open", 2)
        .ended(outcome, "db2 took over");
    events.extend(
        History::new(30, 18)
            .after(900)
            .other(
                "severed",
                "severed 37 flows of 10.0.0.2:3306 → 10.0.0.11:3306 at both ends in 42 ms",
                json!({ "listener": listener, "backend": "10.0.0.11:3306", "flows": "37", "took_us": "42900" }),
            )
            .other("rejoined", "db1 follows db2", json!({ "server": "10.0.0.11:3306" }))
            .so_far(),
    );
    events
}

fn drill(fake: &Fake, line: &str, outcome: &str) -> Ran {
    let plan = History::new(1, 17).planned("precheck", true, "nothing stands against it");
    fake.will_begin(17, plan.ended("done", "it could be done"));
    fake.will_begin(18, drilled(outcome));
    fake.run(line)
}

#[test]
fn a_drill_rehearses_fails_over_and_tells_what_happened_when() {
    let fake = Fake::start();
    // As it is after the failover; before it the same servers answered.
    fake.script().show = orders("10.0.0.12:3306");
    let ran = drill(&fake, "drill orders --to db2 --yes", "done");
    assert_eq!(ran.code, Some(0), "{ran:?}");
    insta::assert_snapshot!(ran.out, @r"
    MS   WHAT      TOOK    SAYS
    0    begun     -       failover 18 begun: asked for by root, as a drill
    0    precheck  12 ms   precheck done
    14   fenced    -       10.0.0.2:3306 leads to nobody
    14   fence     1 ms    fence done
    15   disarm    40 ms   disarm done
    55   promote   20 ms   promote done
    76   mapped    -       10.0.0.2:3306 → db2, epoch 8
    76   open      2 ms    open done
    78   ended     143 ms  failover 18 done: db2 took over
    900  severed   42 ms   severed 37 flows of 10.0.0.2:3306 → 10.0.0.11:3306 at both ends in 42 ms
    900  rejoined  -       db1 follows db2

    before   the verdict was healthy
    hold     a new connection waited 62 ms at most
    severed  37 connections were ended
    lost     nothing: db2 has all that db1 had, else db1 would not have rejoined
    back     db1 follows db2
    ");
    let posted = fake.script().posted.clone();
    let rehearsal = json!({ "to": "db2", "dry_run": true, "allow_data_loss": false });
    let real = json!({ "to": "db2", "dry_run": false, "allow_data_loss": false });
    assert_eq!(posted, [("drill".to_owned(), rehearsal), ("drill".to_owned(), real)]);
}

#[test]
fn a_drill_tells_programs_how_long_clients_waited_and_what_became_of_the_old_primary() {
    let fake = Fake::start();
    fake.script().show = orders("10.0.0.12:3306");
    fake.script().show["outcasts"] = json!([{
        "cluster": "orders", "server": "10.0.0.11:3306", "name": "db1", "epoch": 7, "quarantined": true,
        "reason": "it has what the primary lacks", "errant": "a:24-25",
        "salvaged": { "file": "/var/lib/shunt/orders-18.binlog", "gtids": "a:24-25", "transactions": 2, "tables": [], "applied": false },
    }]);
    let ran = drill(&fake, "drill orders --yes --json", "done");
    assert_eq!((ran.code, ran.err.as_str()), (Some(0), ""), "{ran:?}");
    assert_eq!(
        object(&ran)["drill"],
        json!({
            "verdict": "healthy", "hold_ms": 62, "flows_severed": 37,
            "old_primary": {
                "state": "quarantined", "reason": "it has what the primary lacks", "errant": "a:24-25",
                "salvaged": "/var/lib/shunt/orders-18.binlog",
            },
        })
    );
}

#[test]
fn a_drill_whose_rehearsal_is_refused_fails_nothing_over() {
    let fake = Fake::start();
    let plan = History::new(1, 17).planned("precheck", false, "db2 lags by 3 s");
    fake.will_begin(17, plan.ended("refused", "db2 lags by 3 s"));
    let ran = fake.run("drill orders --yes");
    assert_eq!(ran.code, Some(5), "{ran:?}");
    assert!(ran.err.starts_with("error: a switchover of orders would be refused: db2 lags by 3 s"), "{ran:?}");
    assert_eq!(fake.verbs(), ["drill"]);
}

#[test]
fn a_rejoin_and_a_clear_name_the_server_and_say_what_the_agent_says() {
    let fake = Fake::start();
    for verb in ["rejoin", "clear"] {
        let answer = json!({ "schema_version": 1, "message": "db1 is seen to" });
        fake.script().answers.push_back((Ok(answer), Vec::new()));
        let ran = fake.run(&format!("{verb} orders db1"));
        assert_eq!((ran.code, ran.err.as_str()), (Some(0), "db1 is seen to\n"), "{ran:?}");
        assert_eq!(fake.script().posted.last(), Some(&(verb.to_owned(), json!({ "server": "db1" }))));
    }
}
