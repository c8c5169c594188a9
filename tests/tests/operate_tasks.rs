//! The executors on real servers: every task in the order of a failover and of a switchover, each twice, and the ways in
//! which servers do not do as they are told.

#[path = "operate_tasks/bench.rs"]
mod bench;

use std::time::{Duration, Instant};

use anyhow::{Result, bail, ensure};
use mysql_async::prelude::Queryable as _;
use shunt::config::{Credentials, Password};
use shunt::operate::{Executor, Terms, grants};
use shunt_core::gtid::History;
use shunt_core::observation;
use shunt_core::operation::{Cause, Obstacle, Report, Standing, Task};
use shunt_tests::sql::Console;
use shunt_tests::template::{FOLLOWER, PASSWORD};
use shunt_tests::{Flavour, each_flavour, eventually};

use bench::*;

each_flavour! {
    fn a_failover_and_the_return_of_the_old_primary_are_done_task_by_task(install) {
        Bench::start(install, 3, with_semi_sync(install))?.run(async |cluster, tasks| {
            let db = addresses(cluster);
            insert(cluster, 0, "before")?;
            cluster.wait_caught_up(1, 0)?;
            cluster.wait_caught_up(2, 0)?;
            for &server in &db {
                let found = tasks.twice(Task::Examine { server }).await?;
                ensure!(found.obstacles.is_empty(), "{found:?}");
            }
            cluster.server(0).kill()?;
            tasks.0.warm(&db[1..], PATIENCE).await;

            let mut goal = History::empty(observation::Flavour::Mysql);
            for &server in &db[1..] {
                let stopped = tasks.twice(Task::StopReceiving { server }).await?;
                ensure!(!stopped.replication.receiving && stopped.replication.applying, "{stopped:?}");
                goal = stopped.received;
            }
            let drained = tasks.twice(Task::Drain { server: db[1], goal: goal.clone() }).await?;
            ensure!(goal.is_subset(&drained.executed), "{drained:?} lacks {goal}");
            let promoted = tasks.twice(Task::Promote { server: db[1], has: goal, semi_sync: true }).await?;
            ensure!(!promoted.read_only && promoted.replication.channels == 0, "{promoted:?}");
            ensure!(promoted.semi_sync.is_some_and(|role| role.source), "{promoted:?}");

            let following = tasks.twice(Task::Follow { server: db[2], source: db[1], semi_sync: true }).await?;
            ensure!(following.read_only && following.replication.receiving, "{following:?}");
            ensure!(following.replication.source == db[1].to_string(), "{following:?}");
            ensure!(following.semi_sync.is_some_and(|role| role.replica && !role.source), "{following:?}");
            insert(cluster, 1, "after")?;
            wait_for_note(cluster, 2, "after")?;

            // The old one comes back writable, as its options say.
            cluster.server(0).restart()?;
            ensure!(!tasks.twice(Task::Examine { server: db[0] }).await?.read_only);
            ensure!(tasks.twice(Task::MakeReadOnly { server: db[0], end_sessions: true }).await?.read_only);
            let rejoined = tasks.twice(Task::Follow { server: db[0], source: db[1], semi_sync: true }).await?;
            ensure!(rejoined.read_only && rejoined.replication.applying, "{rejoined:?}");
            insert(cluster, 1, "and on")?;
            wait_for_note(cluster, 0, "and on")?;
            ensure!(notes(cluster, 0)? == ["before", "after", "and on"]);
            Ok(())
        })?;
    Ok(())
    }

    fn a_switchover_is_done_task_by_task_and_can_be_taken_back_before_the_promotion(install) {
        Bench::start(install, 3, &[])?.run(async |cluster, tasks| {
            let db = addresses(cluster);
            insert(cluster, 0, "before")?;
            tasks.twice(Task::MakeReadOnly { server: db[0], end_sessions: false }).await?;
            ensure!(!tasks.twice(Task::MakeWritable { server: db[0] }).await?.read_only);
            insert(cluster, 0, "taken back")?;

            let old = tasks.twice(Task::MakeReadOnly { server: db[0], end_sessions: true }).await?;
            ensure!(old.read_only, "{old:?}");
            let goal = old.executed;
            let drained = tasks.twice(Task::Drain { server: db[2], goal: goal.clone() }).await?;
            ensure!(goal.is_subset(&drained.executed), "{drained:?}");
            tasks.twice(Task::Promote { server: db[2], has: goal, semi_sync: false }).await?;
            for follower in [db[0], db[1]] {
                tasks.twice(Task::Follow { server: follower, source: db[2], semi_sync: false }).await?;
            }
            insert(cluster, 2, "after")?;
            for replica in [0, 1] {
                wait_for_note(cluster, replica, "after")?;
                ensure!(notes(cluster, replica)? == ["before", "taken back", "after"]);
            }
            // And back again, so that each has once been everything.
            let goal = tasks.twice(Task::MakeReadOnly { server: db[2], end_sessions: true }).await?.executed;
            tasks.twice(Task::Drain { server: db[0], goal: goal.clone() }).await?;
            tasks.twice(Task::Promote { server: db[0], has: goal, semi_sync: false }).await?;
            tasks.twice(Task::Follow { server: db[2], source: db[0], semi_sync: false }).await?;
            insert(cluster, 0, "back")?;
            wait_for_note(cluster, 2, "back")?;
            Ok(())
        })?;
        Ok(())
    }

    fn nobody_is_promoted_who_lacks_something(install) {
        Bench::start(install, 2, &[])?.run(async |cluster, tasks| {
            let db = addresses(cluster);
            tasks.twice(Task::StopReceiving { server: db[1] }).await?;
            insert(cluster, 0, "not received")?;
            let has = tasks.standing(Task::Examine { server: db[0] }).await?.executed;
            let error = tasks.refusal(Task::Promote { server: db[1], has: has.clone(), semi_sync: false }).await?;
            let lacking = has.missing_from(&tasks.standing(Task::Examine { server: db[1] }).await?.executed);
            ensure!(error.message.contains(&lacking.text), "{error:?} does not name {lacking:?}");
            let standing = tasks.standing(Task::Examine { server: db[1] }).await?;
            ensure!(standing.read_only && standing.replication.channels == 1, "{standing:?}");
            Ok(())
        })?;
        Ok(())
    }

    fn a_replica_catches_up_from_another_one_when_the_primary_is_gone(install) {
        Bench::start(install, 3, &[])?.run(async |cluster, tasks| {
            let db = addresses(cluster);
            tasks.twice(Task::StopReceiving { server: db[2] }).await?;
            insert(cluster, 0, "only on db2")?;
            cluster.wait_caught_up(1, 0)?;
            cluster.server(0).kill()?;
            let goal = tasks.twice(Task::StopReceiving { server: db[1] }).await?.received;
            let task = Task::CatchUp { server: db[2], source: db[1], goal: goal.clone() };
            let first = tasks.standing(task.clone()).await?;
            let caught_up = tasks.standing(task).await?;
            ensure!(!first.replication.receiving && !caught_up.replication.receiving, "{caught_up:?}");
            ensure!(goal.is_subset(&first.received) && goal.is_subset(&caught_up.received), "{caught_up:?}");
            tasks.twice(Task::Drain { server: db[2], goal }).await?;
            ensure!(notes(cluster, 2)? == ["only on db2"]);
            Ok(())
        })?;
        Ok(())
    }

    fn a_stopped_applier_is_started_and_a_failed_one_is_not_waited_for(install) {
        Bench::start(install, 2, &[])?.run(async |cluster, tasks| {
            let db = addresses(cluster);
            let stop = match cluster.flavour() {
                Flavour::Mysql => "STOP REPLICA SQL_THREAD",
                Flavour::Mariadb => "STOP SLAVE SQL_THREAD",
            };
            cluster.server(1).sql(stop)?;
            insert(cluster, 0, "waits")?;
            let goal = tasks.standing(Task::Examine { server: db[0] }).await?.executed;
            let drained = tasks.twice(Task::Drain { server: db[1], goal: goal.clone() }).await?;
            ensure!(goal.is_subset(&drained.executed) && drained.replication.applying, "{drained:?}");

            // A row that is in the way of the next one.
            for statement in ["SET GLOBAL read_only = OFF", "SET SESSION sql_log_bin = 0"] {
                cluster.server(1).sql(statement)?;
            }
            cluster.server(1).sql("INSERT INTO app.t (id, note) VALUES (77, 'in the way')")?;
            cluster.server(0).sql("INSERT INTO app.t (id, note) VALUES (77, 'comes later')")?;
            let goal = tasks.standing(Task::Examine { server: db[0] }).await?.executed;
            let started = Instant::now();
            let stuck = tasks.standing(Task::Drain { server: db[1], goal: goal.clone() }).await?;
            ensure!(!goal.is_subset(&stuck.executed) && stuck.replication.apply_error.contains("1062"), "{stuck:?}");
            ensure!(started.elapsed() < PATIENCE / 2, "it waited for nothing");
            Ok(())
        })?;
        Ok(())
    }

    fn what_was_received_is_applied_though_somebody_had_stopped_the_applier_or_both_threads(install) {
        Bench::start(install, 3, &[])?.run(async |cluster, tasks| {
            let db = addresses(cluster);
            insert(cluster, 0, "applied")?;
            cluster.wait_caught_up(1, 0)?;
            cluster.wait_caught_up(2, 0)?;
            cluster.stop_applying(1)?;
            cluster.stop_applying(2)?;
            insert(cluster, 0, "received")?;
            let goal = tasks.standing(Task::Examine { server: db[0] }).await?.executed;
            for replica in [1, 2] {
                let started = Instant::now();
                while !goal.is_subset(&tasks.standing(Task::Examine { server: db[replica] }).await?.received) {
                    ensure!(started.elapsed() < PATIENCE, "db{} does not receive", replica + 1);
                }
            }
            // One by hand, the other one as a failover does it.
            cluster.stop_receiving(1)?;
            // Its applier runs from then on, so the second answer may tell of more that is applied, and of nothing else received.
            let stop = || tasks.standing(Task::StopReceiving { server: db[2] });
            let (first, second) = (stop().await?.received, stop().await?.received);
            ensure!(first.is_subset(&second) && second.is_subset(&first), "{first} and then {second}");
            cluster.server(0).kill()?;
            // While it applies it says that it has received what it has.
            {
                let session = Console::new(&cluster.servers()[1].socket());
                session.query("LOCK TABLES app.t READ")?;
                let task = Task::Drain { server: db[1], goal: goal.clone() };
                let Ok(Report::Standing(slow)) = tasks.order(task, Duration::from_secs(1)).await else { bail!("no answer") };
                ensure!(goal.is_subset(&slow.received) && !goal.is_subset(&slow.executed), "{slow:?}");
                session.query("UNLOCK TABLES")?;
            }
            for replica in [1, 2] {
                let drained = tasks.twice(Task::Drain { server: db[replica], goal: goal.clone() }).await?;
                ensure!(goal.is_subset(&drained.executed), "db{}: {drained:?}", replica + 1);
                ensure!(notes(cluster, replica)? == ["applied", "received"]);
            }
            // That leaves replication by GTIDs as it was.
            tasks.twice(Task::Promote { server: db[1], has: goal, semi_sync: false }).await?;
            tasks.twice(Task::Follow { server: db[2], source: db[1], semi_sync: false }).await?;
            insert(cluster, 1, "later")?;
            cluster.wait_caught_up(2, 1)?;
            Ok(())
        })?;
        Ok(())
    }

    fn a_server_with_transactions_of_its_own_does_not_follow(install) {
        Bench::start(install, 2, &[])?.run(async |cluster, tasks| {
            let db = addresses(cluster);
            insert(cluster, 0, "common")?;
            cluster.wait_caught_up(1, 0)?;
            tasks.twice(Task::StopReceiving { server: db[1] }).await?;
            // Five that nobody received, while the other one goes on and gets further than this.
            for _ in 0..5 {
                insert(cluster, 0, "errant")?;
            }
            let has = tasks.standing(Task::Examine { server: db[1] }).await?.executed;
            tasks.twice(Task::Promote { server: db[1], has, semi_sync: false }).await?;
            for _ in 0..10 {
                insert(cluster, 1, "true")?;
            }
            let old = tasks.twice(Task::MakeReadOnly { server: db[0], end_sessions: true }).await?;
            let new = tasks.standing(Task::Examine { server: db[1] }).await?;
            let errant = old.executed.missing_from(&new.executed);
            ensure!(errant.count == 5, "{errant:?} of {} and {}", old.executed, new.executed);
            ensure!(!old.executed.is_subset(&new.executed));
            let error = tasks.refusal(Task::Follow { server: db[0], source: db[1], semi_sync: false }).await?;
            ensure!(error.message.contains(&errant.text), "{error:?} does not name {errant:?}");
            let standing = tasks.standing(Task::Examine { server: db[0] }).await?;
            ensure!(standing.read_only && standing.replication.channels == 0, "{standing:?}");
            Ok(())
        })?;
        Ok(())
    }

    fn a_password_may_have_every_character(install) {
        Bench::start(install, 2, &[])?.run(async |cluster, _| {
            let db = addresses(cluster);
            let odd = r#"it's \ "an" `odd`, one\"#;
            let literal = odd.replace('\\', "\\\\").replace('\'', "''");
            cluster.server(0).sql(&format!("CREATE USER odd@'%' IDENTIFIED BY '{literal}'"))?;
            cluster.server(0).sql("GRANT REPLICATION SLAVE ON *.* TO odd@'%'")?;
            cluster.wait_caught_up(1, 0)?;
            let login = |password: &str| Credentials { password: Password::new(password), ..credentials("odd") };
            let tasks = |password| Tasks(Executor::new(credentials("shunt"), terms(login(password))));
            let task = Task::Follow { server: db[1], source: db[0], semi_sync: false };
            // Whoever follows already is left alone, so it is cut off first.
            tasks(odd).standing(Task::StopReceiving { server: db[1] }).await?;
            tasks(odd).twice(task.clone()).await?;
            insert(cluster, 0, "through")?;
            wait_for_note(cluster, 1, "through")?;

            tasks(odd).standing(Task::StopReceiving { server: db[1] }).await?;
            let wrong = tasks("wrong").order(task, Duration::from_secs(5)).await;
            let Err(error) = wrong else { bail!("it follows with a wrong password: {wrong:?}") };
            ensure!(error.message.contains("1045") && !error.message.contains("wrong'"), "{error:?}");
            Ok(())
        })?;
        Ok(())
    }

    fn a_statement_that_is_refused_is_named_wherever_in_its_script_it_stands(install) {
        Bench::start(install, 2, &[])?.run(async |cluster, _| {
            let db = addresses(cluster);
            // With no heartbeats of its own, the replica is told of these, which no server takes.
            let none = match cluster.flavour() {
                Flavour::Mysql => "CHANGE REPLICATION SOURCE TO SOURCE_HEARTBEAT_PERIOD = 0",
                Flavour::Mariadb => "CHANGE MASTER TO MASTER_HEARTBEAT_PERIOD = 0",
            };
            for statement in ["STOP REPLICA", none, "START REPLICA"] {
                cluster.server(1).sql(statement)?;
            }
            let terms = Terms { heartbeat: Duration::from_secs(9_000_000), ..terms(credentials("repl")) };
            let tasks = Tasks(Executor::new(credentials("shunt"), terms));
            let follow = Task::Follow { server: db[1], source: db[0], semi_sync: false };
            let error = tasks.refusal(follow).await?;
            ensure!(error.message.contains("refused CHANGE "), "{error:?}");
            let standing = tasks.standing(Task::Examine { server: db[1] }).await?;
            ensure!(standing.replication.channels == 1, "{standing:?}");
            Ok(())
        })?;
        Ok(())
    }

    fn no_server_follows_itself(install) {
        Bench::start(install, 1, &[])?.run(async |cluster, tasks| {
            let server = addresses(cluster)[0];
            let other_way = cluster.server(0).address_v6();
            for source in [server, other_way] {
                let error = tasks.refusal(Task::Follow { server, source, semi_sync: false }).await?;
                ensure!(error.message.contains("one server"), "{error:?}");
            }
            let standing = tasks.standing(Task::Examine { server }).await?;
            ensure!(!standing.read_only && standing.replication.channels == 0, "{standing:?}");
            Ok(())
        })?;
        Ok(())
    }

    fn clients_sessions_end_and_replicas_and_our_own_stay(install) {
        Bench::start(install, 2, &[])?.run(async |cluster, tasks| {
            let db = addresses(cluster);
            tasks.0.warm(&db, PATIENCE).await;
            let mut client = client(db[0], cluster.flavour()).await?;
            client.query_drop("START TRANSACTION").await?;
            client.query_drop("INSERT INTO app.t (note) VALUES ('never committed')").await?;
            let standing = tasks.standing(Task::MakeReadOnly { server: db[0], end_sessions: true }).await?;
            ensure!(standing.read_only && standing.executed.is_empty(), "{standing:?}");
            let ended = client.query_drop("COMMIT").await;
            ensure!(ended.is_err(), "the session was not ended");
            // The console's session was ended too, unless nobody may end that of a SYSTEM_USER.
            eventually("a new session", PATIENCE, || Ok(notes(cluster, 0)?.is_empty().then_some(())))?;
            ensure!(cluster.replicates(1)?);
            Ok(())
        })?;
        Ok(())
    }

    fn a_read_only_that_hangs_behind_a_semi_sync_wait_is_given_up_and_taken_back(install) {
        Bench::start(install, 2, with_semi_sync(install))?.run(async |cluster, tasks| {
            let db = addresses(cluster);
            let name = semi_source(cluster.flavour());
            for statement in [
                format!("SET GLOBAL {name}_timeout = 12000"),
                format!("SET GLOBAL {name}_wait_no_{} = ON", if name.ends_with("source") { "replica" } else { "slave" }),
                format!("SET GLOBAL {name}_enabled = ON"),
            ] {
                cluster.server(0).sql(&statement)?;
            }
            tasks.0.warm(&db, PATIENCE).await;
            let mut client = client(db[0], cluster.flavour()).await?;
            let waits = tokio::spawn(async move { client.query_drop("INSERT INTO app.t (note) VALUES ('hangs')").await });
            let waiting = "SELECT COUNT(*) FROM information_schema.processlist WHERE state LIKE '%ACK from%'";
            let end = Instant::now() + PATIENCE;
            while cluster.server(0).value(waiting)? != "1" {
                ensure!(Instant::now() < end, "no commit waits");
                // The client runs on this thread.
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            let task = Task::MakeReadOnly { server: db[0], end_sessions: false };
            let result = tasks.order(task, Duration::from_secs(3)).await;
            let Err(error) = result else { bail!("it did not hang: {result:?}") };
            ensure!(error.cause == Cause::Unknown, "{error:?}");
            ensure!(error.message.contains("acknowledgement"), "{error:?}");
            ensure!(error.message.contains("taken back"), "{error:?}");
            let _ = waits.await;
            // Nothing of it comes through later.
            insert(cluster, 0, "writable")?;
            let standing = tasks.standing(Task::Examine { server: db[0] }).await?;
            ensure!(!standing.read_only, "{standing:?}");
            Ok(())
        })?;
        Ok(())
    }

    fn a_session_that_is_in_the_way_is_waited_for_or_ended(install) {
        Bench::start(install, 1, &[])?.run(async |cluster, tasks| {
            let server = addresses(cluster)[0];
            let mut client = client(server, cluster.flavour()).await?;
            client.query_drop("LOCK TABLES app.t WRITE").await?;
            let task = |end_sessions| Task::MakeReadOnly { server, end_sessions };
            let spared = tasks.order(task(false), Duration::from_secs(2)).await;
            ensure!(matches!(&spared, Err(error) if error.cause == Cause::Unknown), "{spared:?}");
            client.query_drop("INSERT INTO app.t (note) VALUES ('goes on')").await?;
            ensure!(!tasks.standing(Task::Examine { server }).await?.read_only);
            ensure!(tasks.twice(task(true)).await?.read_only);
            ensure!(client.query_drop("INSERT INTO app.t (note) VALUES ('is over')").await.is_err());
            Ok(())
        })?;
        Ok(())
    }

    fn what_the_user_lacks_is_named_before_anything_is_changed_and_what_is_named_is_enough(install) {
        Bench::start(install, 2, &[])?.run(async |cluster, _| {
            let db = addresses(cluster);
            let tasks = Tasks::of(FOLLOWER);
            let found = tasks.standing(Task::Examine { server: db[1] }).await?;
            let missing = |standing: &Standing| -> Vec<String> {
                let grant = |o: &Obstacle| if let Obstacle::MissingGrant(grant) = o { Some(grant.clone()) } else { None };
                standing.obstacles.iter().filter_map(grant).collect()
            };
            ensure!(missing(&found).len() >= 5, "{found:?}");
            let error = tasks.refusal(Task::MakeReadOnly { server: db[0], end_sessions: false }).await?;
            ensure!(error.message.contains("GRANT "), "{error:?}");
            ensure!(!tasks.standing(Task::Examine { server: db[0] }).await?.read_only);

            for grant in missing(&found) {
                cluster.server(0).sql(&grant)?;
            }
            cluster.wait_caught_up(1, 0)?;
            let found = tasks.twice(Task::Examine { server: db[1] }).await?;
            ensure!(found.obstacles.is_empty(), "{found:?}");
            let goal = tasks.twice(Task::MakeReadOnly { server: db[0], end_sessions: true }).await?.executed;
            tasks.twice(Task::Drain { server: db[1], goal: goal.clone() }).await?;
            tasks.twice(Task::Promote { server: db[1], has: goal, semi_sync: false }).await?;
            tasks.twice(Task::Follow { server: db[0], source: db[1], semi_sync: false }).await?;
            Ok(())
        })?;
        Ok(())
    }

    fn the_labs_user_has_what_the_list_says_and_nothing_else(install) {
        Bench::start(install, 1, &[])?.run(async |cluster, tasks| {
            let (server, flavour) = (addresses(cluster)[0], cluster.flavour());
            ensure!(tasks.standing(Task::Examine { server }).await?.obstacles.is_empty());
            let flavour = match flavour {
                Flavour::Mysql => observation::Flavour::Mysql,
                Flavour::Mariadb => observation::Flavour::Mariadb,
            };
            // The same list, given to another user by the statements, reads the same.
            cluster.server(0).sql(&format!("CREATE USER twin@'%' IDENTIFIED BY '{PASSWORD}'"))?;
            for statement in grants::statements(flavour, "'twin'@'%'") {
                cluster.server(0).sql(&statement)?;
            }
            let mut shown = |user: &str| -> Result<Vec<String>> {
                let rows = cluster.server(0).sql(&format!("SHOW GRANTS FOR {user}@'%'"))?;
                Ok(rows.into_iter().flatten().flatten().map(|line| line.replace(user, "USER")).collect())
            };
            ensure!(shown("shunt")? == shown("twin")?);
            Ok(())
        })?;
        Ok(())
    }

    fn a_dead_server_is_unreachable_and_a_frozen_one_takes_no_longer_than_it_may(install) {
        Bench::start(install, 2, &[])?.run(async |cluster, tasks| {
            let db = addresses(cluster);
            tasks.0.warm(&db, PATIENCE).await;
            cluster.server(0).freeze()?;
            let started = Instant::now();
            // Its threads stop one after the other: one of them may still have answered.
            let mut frozen = tasks.order(Task::Examine { server: db[0] }, Duration::from_millis(500)).await;
            if frozen.is_ok() {
                frozen = tasks.order(Task::Examine { server: db[0] }, Duration::from_millis(500)).await;
            }
            ensure!(started.elapsed() < PATIENCE / 2);
            ensure!(matches!(&frozen, Err(error) if error.cause == Cause::Unreachable), "{frozen:?}");
            cluster.server(0).thaw()?;
            // What hung was thrown away: the next one is asked anew.
            tasks.standing(Task::Examine { server: db[0] }).await?;
            cluster.server(0).kill()?;
            let dead = tasks.order(Task::Examine { server: db[0] }, PATIENCE).await;
            ensure!(matches!(&dead, Err(error) if error.cause == Cause::Unreachable), "{dead:?}");
            cluster.server(0).restart()?;
            tasks.standing(Task::Examine { server: db[0] }).await?;
            Ok(())
        })?;
        Ok(())
    }
}
