//! The plain tasks: look, writable again, stop receiving, drain, promote.

use std::time::Duration;

use shunt_core::gtid::History;
use shunt_core::operation::{Standing, TaskError};
use tokio::time::{Instant, sleep};

use super::grants::applying::has_tags;
use super::grants::{self, Granted};
use super::mysql::first_column;
use super::sessions;
use super::work::{Work, refused, unknown};

/// A server that applies is looked at so often, at least: its applier may stop.
const SLICE: Duration = Duration::from_millis(500);

/// The pace of looking at a server that is to do something by itself.
pub const PACE: Duration = Duration::from_millis(20);

/// With `applies` also what applying salvaged transactions takes.
pub async fn examine(work: Work<'_>, applies: bool) -> Result<Standing, TaskError> {
    let (mut link, look) = work.look().await?;
    let mut standing = look.standing;
    if applies {
        // Not what was granted when the connection was opened.
        let script = ["SELECT CURRENT_USER() AS account", "SHOW GRANTS"].map(str::to_owned);
        let answer = link.run(&script, work.by).await;
        let answer = answer.map_err(|stopped| work.error(&stopped, &script, link.dialect().as_ref()))?;
        if let [user, lines] = &answer[..] {
            let account = grants::account(&user.first().map(first_column).unwrap_or_default());
            let granted = Granted::parse(&lines.iter().map(first_column).collect::<Vec<_>>());
            let tags = has_tags(standing.flavour, &standing.version);
            standing.cannot_apply = granted.missing_to_apply(standing.flavour, tags, &account);
        }
    }
    if !standing.read_only {
        // Its tables are opened by that, too: while clients are held, there is no time for it.
        drop(link);
        standing.shows_sessions = Some(sessions::are_shown(work).await);
    }
    Ok(standing)
}

pub async fn make_writable(work: Work<'_>) -> Result<Standing, TaskError> {
    let (mut link, look) = work.look().await?;
    if look.standing.replication.channels > 0 {
        // Somebody has made it a replica since.
        return Err(refused(format!("{} has a source configured: it is not made writable", work.server)));
    }
    if !look.standing.read_only {
        // A `super_read_only` that is still on its way does not show as read-only; this ends it, too.
        let partly = link.dialect().writable();
        return Ok(work.run(&mut link, partly).await?.standing);
    }
    let script = link.dialect().writable();
    let look = work.run(&mut link, script).await?;
    if look.standing.read_only {
        return Err(unknown(format!("{} is still read-only though it took SET GLOBAL read_only = OFF", work.server)));
    }
    Ok(look.standing)
}

pub async fn stop_receiving(work: Work<'_>) -> Result<Standing, TaskError> {
    let (mut link, look) = work.look().await?;
    if !look.receives() {
        return Ok(look.standing);
    }
    let script = link.dialect().stop_receiving(&look);
    let look = work.run(&mut link, script).await?;
    if look.receives() {
        return Err(unknown(format!("{} still receives though it was told to stop", work.server)));
    }
    Ok(look.standing)
}

/// Comes back early when nothing more will be applied: without an applier there is nothing to wait for.
pub async fn drain(work: Work<'_>, goal: &History) -> Result<Standing, TaskError> {
    let (mut link, mut look) = work.look().await?;
    let almost = work.almost();
    loop {
        let standing = &look.standing;
        let left = almost.saturating_duration_since(Instant::now());
        if goal.is_subset(&standing.executed) || left.is_zero() {
            return Ok(look.standing);
        }
        let replication = &standing.replication;
        if replication.channels == 0 || !(replication.applying || replication.apply_error.is_empty()) {
            return Ok(look.standing);
        }
        let dialect = link.dialect();
        let mut script = Vec::new();
        if !replication.applying {
            script.extend(dialect.start_applying(&look));
        }
        script.push(dialect.wait_applied(goal, left.min(SLICE)));
        let asked = Instant::now();
        look = work.run(&mut link, script).await?;
        if asked.elapsed() < PACE {
            // It did not wait: MariaDB counts what it wrote itself as applied, or not, by its own rules.
            sleep(PACE.min(left)).await;
        }
    }
}

pub async fn promote(work: Work<'_>, has: &History, semi_sync: bool) -> Result<Standing, TaskError> {
    let (mut link, look) = work.look().await?;
    let (server, standing) = (work.server, &look.standing);
    let dialect = link.dialect();
    if !has.is_subset(&standing.executed) {
        let lacking = has.missing_from(&standing.executed);
        return Err(refused(format!("{server} has not applied {}: it is not promoted", lacking.text)));
    }
    if standing.in_group {
        return Err(refused(format!(
            "{server} belongs to a group, which chooses its primary itself: it is not promoted"
        )));
    }
    if look.channels.len() > 1 {
        return Err(refused(format!("{server} replicates over several channels: it is not promoted")));
    }
    if semi_sync && !dialect.has_semi_sync_source() {
        return Err(refused(format!(
            "commits have to wait for acknowledgements, and {server} has no semi-sync source plugin: it is not promoted"
        )));
    }
    let waits = |standing: &Standing| !semi_sync || standing.semi_sync.is_some_and(|role| role.source);
    if !standing.read_only && look.channels.is_empty() && waits(standing) {
        return Ok(look.standing);
    }
    let script = dialect.promote(&look, semi_sync);
    let look = work.run(&mut link, script).await?;
    if look.standing.read_only || !look.channels.is_empty() || !waits(&look.standing) {
        return Err(unknown(format!(
            "{server} took every statement of a promotion, and is no primary: {:?}",
            look.standing
        )));
    }
    Ok(look.standing)
}
