//! Tasks that make a server receive from another one.

use std::net::SocketAddr;
use std::time::Duration;

use shunt_core::gtid::History;
use shunt_core::observation::{Flavour, IoThread};
use shunt_core::operation::{Standing, TaskError};
use tokio::time::{Instant, sleep};

use super::Terms;
use super::dialect::Source;
use super::disarm::make_read_only;
use super::link::Link;
use super::standing::{Channel, Look};
use super::tasks::{PACE, drain};
use super::work::{Work, refused, unknown};

/// A source says only some time after it let a replica in that it no longer has what that replica asks for.
const SETTLED: Duration = Duration::from_millis(150);

/// The other end, looked at after the server itself: what that has is then in the source's history, if nothing is wrong.
async fn source<'a>(
    work: Work<'_>,
    look: &Look,
    address: SocketAddr,
    terms: &'a Terms,
) -> Result<(Source<'a>, Standing), TaskError> {
    let server = work.server;
    let (link, other) = Work { server: address, ..work }.look().await?;
    let (ours, theirs) = (&look.standing, other.standing);
    let same = ours.server_id == theirs.server_id || (ours.uuid.is_some() && ours.uuid == theirs.uuid);
    if server == address || same {
        return Err(refused(format!(
            "{server} and {address} are one server, or two with one identity: it cannot follow"
        )));
    }
    if ours.flavour != theirs.flavour {
        return Err(refused(format!(
            "{server} is {}, {address} is {}: it cannot follow",
            ours.flavour, theirs.flavour
        )));
    }
    if look.channels.len() > 1 {
        return Err(refused(format!("{server} replicates over several channels: it is left as it is")));
    }
    if ours.in_group {
        return Err(refused(format!("{server} belongs to a group: it is left as it is")));
    }
    Ok((Source { address, login: &terms.login, tls: link.tls(), semi_sync: None, heartbeat: terms.heartbeat }, theirs))
}

pub async fn follow(work: Work<'_>, from: SocketAddr, semi_sync: bool, terms: &Terms) -> Result<Standing, TaskError> {
    let (link, look) = work.look().await?;
    // Before anything is changed: there is someone to follow, and it is another.
    let (mut source, _) = source(work, &look, from, terms).await?;
    source.semi_sync = semi_sync.then_some(true);
    drop(link);
    make_read_only(work, false).await?;
    let (mut link, look) = work.look().await?;
    let (_, other) = Work { server: from, ..work }.look().await?;
    let lacking = look.standing.executed.missing_from(&other.standing.executed);
    if !lacking.text.is_empty() {
        return Err(refused(format!(
            "{} has transactions that {from} lacks ({}): it is read-only and does not follow",
            work.server, lacking.text
        )));
    }
    if follows(&look, &source) {
        return Ok(look.standing);
    }
    let script = link.dialect().follow(&look, &source);
    let look = work.run(&mut link, script).await?;
    connected(work, &mut link, look, from).await
}

/// Whether nothing is left to do.
fn follows(look: &Look, source: &Source<'_>) -> bool {
    let semi = look.standing.semi_sync.unwrap_or_default();
    look.channel().is_some_and(|channel| {
        is_from(channel, source.address)
            && channel.io == IoThread::Connected
            && channel.applying
            && channel.by_gtid
            && super::dialect::beats_often(look)
    }) && !semi.source
        && (source.semi_sync.is_none() || look.standing.semi_sync.is_none() || semi.replica)
}

fn is_from(channel: &Channel, source: SocketAddr) -> bool {
    channel.host == source.ip().to_string() && channel.port == source.port()
}

/// Waits until the I/O thread is connected and stays so for a moment.
async fn connected(work: Work<'_>, link: &mut Link, mut look: Look, from: SocketAddr) -> Result<Standing, TaskError> {
    let server = work.server;
    let mut since = None;
    loop {
        let Some(channel) = look.channel() else {
            return Err(unknown(format!("{server} was made to follow {from}, and has no replication channel")));
        };
        match channel.io {
            IoThread::Connected => {
                let since = *since.get_or_insert_with(Instant::now);
                if since.elapsed() >= SETTLED {
                    return Ok(look.standing);
                }
            }
            IoThread::Stopped => {
                return Err(refused(format!("{server} cannot receive from {from}: {}", said(channel))));
            }
            IoThread::Connecting => since = None,
        }
        if Instant::now() >= work.almost() {
            return Err(unknown(format!(
                "{server} follows {from}, but is not connected to it in time: {}",
                said(channel)
            )));
        }
        sleep(PACE).await;
        look = work.look_again(link).await?;
    }
}

fn said(channel: &Channel) -> &str {
    if channel.io_error.is_empty() { "it does not say why" } else { &channel.io_error }
}

pub async fn catch_up(work: Work<'_>, from: SocketAddr, goal: &History, terms: &Terms) -> Result<Standing, TaskError> {
    let (mut link, mut look) = work.look().await?;
    if !goal.is_subset(&look.standing.received) {
        let (source, other) = source(work, &look, from, terms).await?;
        let lacking = goal.minus(&look.standing.received);
        if !lacking.is_subset(&other.received) {
            let missing = lacking.missing_from(&other.received);
            return Err(refused(format!("{from} has not got {} either: nothing to catch up from", missing.text)));
        }
        look = ready(work, &mut link, look).await?;
        let script = link.dialect().catch_up(&look, &source);
        look = work.run(&mut link, script).await?;
        look = receive(work, &mut link, look, from, goal).await?;
    }
    if look.receives() {
        let script = link.dialect().stop_receiving(&look);
        look = work.run(&mut link, script).await?;
    }
    if look.receives() || !goal.is_subset(&look.standing.received) {
        let missing = goal.missing_from(&look.standing.received);
        return Err(unknown(format!("{} has not received {} from {from}", work.server, missing.text)));
    }
    Ok(look.standing)
}

/// Sees to it that a change of the source loses nothing that was received: it lies in the relay log until it is applied.
async fn ready(work: Work<'_>, link: &mut Link, look: Look) -> Result<Look, TaskError> {
    let (server, standing) = (work.server, &look.standing);
    let Some(channel) = look.channel() else {
        return Err(refused(format!("{server} is no replica: it has nothing to catch up with")));
    };
    if !channel.apply_error.is_empty() {
        return Err(refused(format!("{server} does not apply what it receives: {}", channel.apply_error)));
    }
    if standing.flavour == Flavour::Mysql && !channel.by_gtid {
        return Err(refused(format!("{server} does not receive by SOURCE_AUTO_POSITION: it cannot change its source")));
    }
    if link.dialect().keeps_relay_log() || standing.received == standing.executed {
        return Ok(look);
    }
    let all = standing.received.clone();
    drain(work, &all).await?;
    let look = work.look_again(link).await?;
    if !all.is_subset(&look.standing.executed) {
        let missing = all.missing_from(&look.standing.executed);
        return Err(unknown(format!("{server} has not applied {} yet, and would lose it", missing.text)));
    }
    Ok(look)
}

async fn receive(
    work: Work<'_>,
    link: &mut Link,
    mut look: Look,
    from: SocketAddr,
    goal: &History,
) -> Result<Look, TaskError> {
    loop {
        if goal.is_subset(&look.standing.received) || Instant::now() >= work.almost() {
            return Ok(look);
        }
        if let Some(channel) = look.channel()
            && channel.io == IoThread::Stopped
        {
            return Err(refused(format!("{} cannot receive from {from}: {}", work.server, said(channel))));
        }
        sleep(PACE / 4).await;
        look = work.look_again(link).await?;
    }
}
