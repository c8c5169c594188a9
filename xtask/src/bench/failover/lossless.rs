//! Semi-sync and `data_loss = "forbid"`: the primary is killed under several writers, and every write that was acknowledged
//! to any of them must be in the new primary's table.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use shunt_tests::{Flavour, Install, Server, Writer, eventually};

use super::field::Field;
use super::outage::{PACE, Run, gap};
use crate::moment::Moment;

const WRITERS: usize = 4;
const PATIENCE: Duration = Duration::from_secs(60);
const SETTLE: Duration = Duration::from_millis(300);

/// What the servers are started with: an acknowledgement is waited for before the commit, and for as long as it takes. Not
/// switched on: a primary that comes back must not wait for replicas that it no longer has.
pub fn options(install: &Install) -> &'static [&'static str] {
    match install.flavour {
        Flavour::Mysql => &[
            "--plugin-load=rpl_semi_sync_source=semisync_source.so;rpl_semi_sync_replica=semisync_replica.so",
            "--loose-rpl-semi-sync-source-timeout=3600000",
            "--loose-rpl-semi-sync-source-wait-point=AFTER_SYNC",
            "--loose-rpl-semi-sync-source-wait-for-replica-count=1",
        ],
        Flavour::Mariadb => &["--rpl-semi-sync-master-timeout=3600000", "--rpl-semi-sync-master-wait-point=AFTER_SYNC"],
    }
}

/// Switches semi-sync on, db1 the source.
pub fn arm(field: &Field) -> Result<()> {
    let (source, replica, variable) = match field.flavour() {
        Flavour::Mysql => ("source", "replica", "Rpl_semi_sync_source"),
        Flavour::Mariadb => ("master", "slave", "Rpl_semi_sync_master"),
    };
    for server in &field.cluster.servers()[1..] {
        server.sql(&format!("SET GLOBAL rpl_semi_sync_{replica}_enabled = ON"))?;
        let name = if field.flavour() == Flavour::Mysql { "REPLICA" } else { "SLAVE" };
        // It takes effect with the next connection.
        server.sql(&format!("STOP {name} IO_THREAD"))?;
        server.sql(&format!("START {name} IO_THREAD"))?;
    }
    let primary = &field.cluster.servers()[0];
    primary.sql(&format!("SET GLOBAL rpl_semi_sync_{source}_enabled = ON"))?;
    eventually("semi-sync with two replicas", PATIENCE, || Ok((clients(primary, variable)? == 2).then_some(())))
}

fn clients(server: &Server, variable: &str) -> Result<u32> {
    let row = server.sql(&format!("SHOW GLOBAL STATUS LIKE '{variable}_clients'"))?;
    let value = row.into_iter().flatten().flatten().nth(1).context("semi-sync tells of its clients")?;
    Ok(value.parse()?)
}

/// One failover, and how many acknowledged writes were looked for and how many of them were not there.
pub struct Checked {
    pub run: Run,
    pub acknowledged: usize,
    pub lost: usize,
}

pub fn run(field: &mut Field) -> Result<Checked> {
    let variable = if field.flavour() == Flavour::Mysql { "Rpl_semi_sync_source" } else { "Rpl_semi_sync_master" };
    let primary = &field.cluster.servers()[field.primary];
    eventually("semi-sync with two replicas", PATIENCE, || Ok((clients(primary, variable)? == 2).then_some(())))?;
    field.mark()?;
    let old = field.primary;
    let writers: Vec<Writer> =
        (1..=WRITERS).map(|n| field.write(&format!("writer {n}:"), PACE)).collect::<Result<_>>()?;
    // Not a wait for anything: the clients write for a while before the primary dies.
    std::thread::sleep(SETTLE);
    let since = Moment::now();
    field.cluster.server(old).kill()?;
    let events = field.wait_ended()?;
    let after = Instant::now();
    for writer in &writers {
        writer.wait_for_write_within(after, PATIENCE)?;
    }
    let (mut acknowledged, mut gaps) = (Vec::new(), Vec::new());
    for writer in writers {
        let attempts = writer.finish()?;
        gaps.push(gap(&attempts, since.at).context("a client saw no outage at all")?);
        acknowledged.extend(attempts.into_iter().filter_map(|attempt| attempt.outcome.ok()));
    }
    let rows = field.cluster.servers()[field.primary].sql("SELECT note FROM app.t")?;
    let there: HashSet<String> = rows.into_iter().flatten().flatten().collect();
    let lost: Vec<&String> = acknowledged.iter().filter(|note| !there.contains(*note)).collect();
    for note in &lost {
        println!("  lost: {note}");
    }
    ensure!(!acknowledged.is_empty(), "nothing was acknowledged, so nothing was checked");
    let lost = lost.len();
    let (last, first) = gaps.into_iter().max_by_key(|(last, first)| *first - *last).context("there are clients")?;
    let mut breakdown = events.breakdown(since);
    let first_write_ms = since.ms_to(first);
    breakdown.moments.push(("first write".to_owned(), first_write_ms));
    let dead_ms = events.verdict(since, "dead");
    field.cluster.server(old).restart()?;
    let returned = field.restore(old)?;
    let outage_ms = (first - last).as_secs_f64() * 1000.0;
    let run = Run { outage_ms, closed_ms: None, dead_ms, first_write_ms, breakdown, returned };
    Ok(Checked { run, acknowledged: acknowledged.len(), lost })
}
