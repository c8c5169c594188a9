//! The acts of the play: the primary dies, comes back, and is switched to again. Nobody helps shunt in any of them.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use shunt_tests::eventually;
use shunt_tests::process::ending;

use super::timeline::{Cast, HISTORY, Timeline};
use crate::moment::Moment;
use crate::stage::{CLUSTER, PACE, PATIENCE, Stage};
use crate::talk;

/// The death, and what the agent makes of it. The number of the server that died.
pub fn dies(stage: &mut Stage) -> Result<usize> {
    let old = stage.primary;
    let seen = newest(stage)?;
    println!("\n{} dies now (kill -9), with {} writes acknowledged\n", stage.name(old), stage.writer.acknowledged());
    let since = Moment::now();
    stage.cluster.server(old).kill()?;
    let gone = Instant::now();
    let events = wait_ended(stage, seen)?;
    let mut timeline = Timeline::begin(since, format!("killed: {}, the primary, with -9", stage.name(old)));
    timeline.add(gone, format!("the last of {}'s process is gone", stage.name(old)), "the kernel");
    tell(stage, timeline, since, &events, old, false)?;
    let outage = stage.writer.outage(since.at).context("the client saw no outage at all")?;
    println!("\nthe client wrote nothing for {} ms, and then went on: same address, same port", outage.as_millis());
    println!(
        "(a write every {} ms, a new connection at once, each attempt bounded by {} ms)\n",
        PACE.every.as_millis(),
        PACE.connect.as_millis()
    );
    talk::step("a hundred writes more", || go_on(stage))?;
    lost(stage, since.at)?;
    Ok(old)
}

/// The old primary starts again as it was: writable, and sure that it is the primary.
pub fn returns(stage: &mut Stage, old: usize) -> Result<()> {
    let seen = newest(stage)?;
    println!("\n{} starts again, writable as it was\n", stage.name(old));
    let since = Moment::now();
    stage.cluster.server(old).restart()?;
    let answers = Instant::now();
    let address = stage.cluster.server(old).address().to_string();
    let judged = wait_judged(stage, seen, &address)?;
    let mut timeline = Timeline::begin(since, format!("{} is started", stage.name(old)));
    timeline.add(answers, format!("{} answers, after its recovery", stage.name(old)), "this program");
    let at = since.of_event(&judged).context("the history has times")?;
    let name = stage.name(old);
    if judged["kind"] == "rejoined" {
        timeline.add(at, format!("{name} is read-only and replicates from {}", stage.name(stage.primary)), HISTORY);
        timeline.print();
        println!();
    } else {
        timeline.add(at, format!("{name} is read-only and in quarantine"), HISTORY);
        timeline.print();
        println!("\nshunt says: {}", judged["message"].as_str().unwrap_or_default());
        println!("(it had committed them, and no replica had received them yet: replication is asynchronous)\n");
        let what = format!("{name} is built anew; shunt rejoin {CLUSTER} {name}");
        talk::step(&what, || rebuild(stage, old, &address))?;
    }
    let what = format!("{} has caught up", stage.name(old));
    talk::step(&what, || stage.cluster.wait_caught_up(old, stage.primary))?;
    talk::step("shunt finds the cluster healthy", || stage.wait_healthy())
}

/// Back to where it began, as planned.
pub fn is_switched_to(stage: &mut Stage, server: usize) -> Result<()> {
    let (seen, old) = (newest(stage)?, stage.primary);
    let to = stage.cluster.server(server).host().v4().to_string();
    println!("\nshunt switchover {CLUSTER} --to {to} says:\n");
    let since = Moment::now();
    let said = stage.agent.shunt(&["switchover", CLUSTER, "--to", &to])?;
    // How it goes on is told to the person, not to whoever reads the outcome.
    for line in String::from_utf8_lossy(&[said.stderr, said.stdout].concat()).lines() {
        println!("  {line}");
    }
    ensure!(said.status.success(), "shunt switchover: {}", ending(said.status));
    println!();
    let events = wait_ended(stage, seen)?;
    ensure!(stage.primary == server, "the primary is {}", stage.name(stage.primary));
    let timeline = Timeline::begin(since, "the operator asks for it".to_owned());
    tell(stage, timeline, since, &events, old, true)?;
    let wait = stage.writer.outage(since.at).context("the client saw no outage at all")?;
    println!("\nthe longest time between two of the client's writes was {} ms\n", wait.as_millis());
    talk::step("a hundred writes more", || go_on(stage))
}

/// The rest of an operation's timeline: what history, kernel and client say of it.
fn tell(
    stage: &Stage,
    mut timeline: Timeline,
    since: Moment,
    events: &[Value],
    old: usize,
    planned: bool,
) -> Result<()> {
    let new = stage.primary;
    let mut others: Vec<usize> = vec![3 - old - new];
    others.extend(planned.then_some(old));
    others.sort_unstable();
    let others: Vec<&str> = others.into_iter().map(|number| stage.name(number)).collect();
    let others = match others[..] {
        [one] => format!("{one} replicates"),
        _ => format!("{} replicate", others.join(" and ")),
    };
    let cast = Cast { old: stage.name(old), new: stage.name(new), others: &others, planned };
    timeline.tell(events, &cast);
    let address = stage.cluster.servers()[new].host().v4().to_string();
    let mapped = eventually("the kernel's word on the mapping", PATIENCE, || {
        Ok(stage.watch.first(since.at, |line| line.contains(&address)))
    })?;
    timeline.add(mapped, format!("mapped: the proxy port leads to {}", stage.name(new)), "the kernel (nft monitor)");
    timeline.add(stage.writer.wait_for_write_within(mapped, PATIENCE)?, "first write through", "the client");
    timeline.print();
    Ok(())
}

fn newest(stage: &Stage) -> Result<i64> {
    Ok(stage.agent.events_after(CLUSTER, 0)?.last().and_then(|event| event["id"].as_i64()).unwrap_or(0))
}

/// Waits for the end of the operation, and knows the primary from then on; what was told since.
fn wait_ended(stage: &mut Stage, seen: i64) -> Result<Vec<Value>> {
    let is_end = |event: &&Value| event["kind"] == "operation" && event["data"]["state"] == "ended";
    let (events, end) = eventually("the operation to end", PATIENCE * 2, || {
        let events = stage.agent.events_after(CLUSTER, seen)?;
        let end = events.iter().find(is_end).cloned();
        Ok(end.map(|end| (events, end)))
    })?;
    ensure!(end["data"]["outcome"] == "done", "{}", end["message"]);
    let servers = stage.cluster.servers();
    let new = servers.iter().position(|server| end["data"]["new"] == server.address().to_string());
    stage.primary = new.with_context(|| format!("{end} names no server of the demo"))?;
    Ok(events)
}

/// The event that says what has become of a server that came back.
fn wait_judged(stage: &Stage, seen: i64, address: &str) -> Result<Value> {
    eventually("the old primary to be judged", PATIENCE, || {
        let events = stage.agent.events_after(CLUSTER, seen)?;
        let judged = |e: &&Value| e["kind"] == "rejoined" || e["kind"] == "quarantined";
        Ok(events.iter().filter(judged).find(|e| e["data"]["server"] == address).cloned())
    })
    .with_context(|| stage.agent.log(30))
}

/// What an operator does with a server in quarantine.
fn rebuild(stage: &mut Stage, number: usize, address: &str) -> Result<()> {
    let seen = newest(stage)?;
    stage.cluster.server(number).rebuild_read_only()?;
    stage.agent.shunt_ok(&["rejoin", CLUSTER, address])?;
    let judged = wait_judged(stage, seen, address)?;
    ensure!(judged["kind"] == "rejoined", "{}", judged["message"]);
    Ok(())
}

fn go_on(stage: &Stage) -> Result<()> {
    let from = stage.writer.acknowledged();
    eventually("the client to go on", Duration::from_secs(60), || {
        Ok((stage.writer.acknowledged() >= from + 100).then_some(()))
    })
}

/// Which acknowledged writes the new primary lacks: replication was asynchronous, so there may be some.
fn lost(stage: &Stage, killed: Instant) -> Result<()> {
    let acknowledged: Vec<String> =
        stage.writer.attempts().into_iter().filter(|a| a.began <= killed).filter_map(|a| a.outcome.ok()).collect();
    let rows = stage.cluster.servers()[stage.primary].sql("SELECT note FROM app.t")?;
    let there: std::collections::HashSet<String> = rows.into_iter().flatten().flatten().collect();
    let lost = acknowledged.iter().filter(|note| !there.contains(*note)).count();
    println!(
        "  {} of the {} writes acknowledged before the kill are missing on {} (replication is asynchronous)",
        if lost == 0 { "none".to_owned() } else { lost.to_string() },
        acknowledged.len(),
        stage.name(stage.primary)
    );
    Ok(())
}
