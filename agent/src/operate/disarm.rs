//! Making a server read-only, which may take as long as its clients like: `SET GLOBAL super_read_only` waits for every
//! statement and commit that is under way, and a commit may wait for an acknowledgement that never comes.
//!
//! `read_only` waits for the same locks (tried on MySQL 9.7), so it is no way out. What waits is ended by KILL; a session
//! whose commit waits for an acknowledgement loses its client, and holds the lock until semi-sync's own timeout all the same.
//! While the statement waits, no new one that writes begins.

use std::collections::BTreeSet;
use std::time::Duration;

use shunt_core::operation::{Standing, TaskError};
use tokio::time::{Instant, sleep_until, timeout_at};

use super::dialect::Session;
use super::link::{Link, Stopped};
use super::work::{Work, unknown};

/// A server without long statements is read-only long before; after that, sessions are ended while it waits.
const AT_ONCE: Duration = Duration::from_millis(20);

/// Between two looks at the sessions.
const ROUND: Duration = Duration::from_millis(100);

/// ER_NO_SUCH_THREAD: it ended by itself.
const NO_SUCH_THREAD: u16 = 1094;

pub async fn make_read_only(work: Work<'_>, end_sessions: bool) -> Result<Standing, TaskError> {
    let (mut link, look) = work.look().await?;
    let mut ender = Ender::default();
    if !look.standing.read_only {
        set(work, &mut link, end_sessions, &mut ender).await?;
    }
    if end_sessions {
        // Until nobody new is there: one may have come while the others were being ended.
        while ender.round(work, &mut link).await? && Instant::now() < work.almost() {}
    }
    let look = work.look_again(&mut link).await?;
    if !look.standing.read_only {
        return Err(unknown(format!("{} took it, and is not read-only", work.server)));
    }
    Ok(look.standing)
}

/// Runs the statement on a connection of its own, and ends sessions meanwhile. At the deadline it is taken back: a
/// statement that comes through later would disarm a server that has been made writable again.
async fn set(work: Work<'_>, link: &mut Link, end_sessions: bool, ender: &mut Ender) -> Result<(), TaskError> {
    let mut setter = work.links.get(work.server, work.by).await?;
    let (id, dialect) = (u64::from(setter.id()), setter.dialect());
    let script = dialect.read_only();
    let almost = work.almost();
    let mut next = Instant::now() + AT_ONCE;
    {
        let setting = setter.run(&script, almost);
        tokio::pin!(setting);
        loop {
            tokio::select! {
                set = &mut setting => match set {
                    Ok(_) => return Ok(()),
                    Err(Stopped::Late) => break,
                    Err(stopped) => return Err(work.error(&stopped, &script, dialect.as_ref())),
                },
                () = sleep_until(next) => {
                    ender.look(work, link, end_sessions).await?;
                    next = Instant::now() + ROUND;
                }
            }
        }
    }
    setter.abandon();
    let kill = vec![format!("KILL {id}")];
    let taken_back = match link.run(&kill, work.by).await {
        Ok(_) | Err(Stopped::Refused { code: NO_SUCH_THREAD, .. }) => "it was taken back",
        Err(_) => "it may still come through",
    };
    // It may have come through at the last moment.
    if let Ok(Ok(look)) = timeout_at(work.by, work.look_again(link)).await
        && look.standing.read_only
    {
        return Ok(());
    }
    let waiting = match ender.waiting {
        0 => String::new(),
        n => format!(", behind {n} commits that wait for a replica's acknowledgement"),
    };
    Err(unknown(format!(
        "{} hung in {} for {} ms{waiting}; {taken_back}",
        work.server,
        script.join("; "),
        work.within.as_millis()
    )))
}

/// Ends sessions, each once.
#[derive(Default)]
struct Ender {
    ended: BTreeSet<u64>,
    /// Commits that wait for an acknowledgement, when last looked at.
    waiting: usize,
}

impl Ender {
    /// Ends who is there; whether anybody new was.
    async fn round(&mut self, work: Work<'_>, link: &mut Link) -> Result<bool, TaskError> {
        let before = self.ended.len();
        self.look(work, link, true).await?;
        Ok(self.ended.len() > before)
    }

    async fn look(&mut self, work: Work<'_>, link: &mut Link, end: bool) -> Result<(), TaskError> {
        let dialect = link.dialect();
        let script = vec![dialect.sessions()];
        let answer = link.run(&script, work.by).await;
        let answer = answer.map_err(|stopped| work.error(&stopped, &script, dialect.as_ref()))?;
        let rows = answer.first().map_or(&[][..], Vec::as_slice);
        let sessions: Vec<Session> = rows.iter().map(|row| dialect.session(row)).collect();
        self.waiting = sessions.iter().filter(|session| session.waits_for_acknowledgement).count();
        if !end {
            return Ok(());
        }
        let new = sessions.iter().map(|session| session.id).filter(|id| self.ended.insert(*id));
        let mut kills: Vec<String> = new.map(|id| format!("KILL {id}")).collect();
        while !kills.is_empty() {
            match link.run(&kills, work.by).await {
                Ok(_) => break,
                Err(Stopped::Refused { statement, code, words }) => {
                    // One that may not be ended, such as that of a user with SYSTEM_USER, keeps nobody else from being ended.
                    if code != NO_SUCH_THREAD {
                        tracing::warn!(server = %work.server, statement = kills[statement], error = words, "a session stays");
                    }
                    kills.drain(..=statement);
                }
                Err(stopped) => return Err(work.error(&stopped, &kills, dialect.as_ref())),
            }
        }
        Ok(())
    }
}
