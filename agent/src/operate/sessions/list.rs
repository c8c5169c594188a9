//! A server's list of sessions: what each of them does, as far as the server shows it.

use std::net::SocketAddr;
use std::time::Duration;

use mysql_async::Row;
use shunt_core::observation::Flavour;
use shunt_core::operation::sessions::{Doing, Peer, Session};
use shunt_core::operation::{Cause, TaskError};
use tokio::time::Instant;

use super::{mariadb, mysql};
use crate::operate::link::{Link, Stopped};
use crate::operate::work::{Work, is_denied};
use crate::probe::answer::{Columns as _, Rows};

/// For one look: whoever is blocked waits for it.
const LOOK: Duration = Duration::from_secs(1);

pub struct List {
    link: Link,
    /// Whether what they do can be seen there.
    sees: bool,
    /// What a look asks, in this order.
    script: Vec<String>,
}

impl List {
    pub async fn open(work: Work<'_>) -> Result<Self, TaskError> {
        let link = work.links.get(work.server, work.by).await?;
        let flavour = link.dialect().flavour();
        let script = match flavour {
            Flavour::Mysql => [mysql::IS_SEEN, mysql::SESSIONS],
            Flavour::Mariadb => [mariadb::SESSIONS, mariadb::TRANSACTIONS],
        };
        let mut list = Self { link, sees: true, script: script.map(str::to_owned).into() };
        if flavour == Flavour::Mariadb {
            for witness in &mariadb::WITNESSES {
                list.call(work, witness).await?;
            }
        }
        Ok(list)
    }

    /// What the sessions do; `None`: it cannot be seen.
    pub async fn look(&mut self, work: Work<'_>) -> Result<Option<Vec<Session>>, TaskError> {
        if !self.sees {
            return Ok(None);
        }
        let script = self.script.clone();
        let answer = match self.ask(work, &script).await? {
            Ok(answer) => answer,
            Err(Denied(words)) => {
                tracing::warn!(server = %work.server, error = words, "the sessions there cannot be seen");
                self.sees = false;
                return Ok(None);
            }
        };
        let [first, second, more @ ..] = &answer[..] else { return Ok(None) };
        let sessions = match self.link.dialect().flavour() {
            Flavour::Mysql => mysql::read(first, second),
            Flavour::Mariadb => mariadb::read(first, second, more),
        };
        if sessions.is_none() {
            tracing::warn!(server = %work.server, "which sessions are inside a transaction cannot be seen there");
        }
        Ok(sessions)
    }

    /// Has every look ask a witness, too, if there is one and we may ask it.
    async fn call(&mut self, work: Work<'_>, witness: &mariadb::Witness) -> Result<(), TaskError> {
        let is_there = match self.ask(work, &[witness.is_there.to_owned()]).await {
            Ok(Ok(answer)) => answer.first().and_then(|rows| rows.first()).is_some_and(|row| row.is_on(&["found"])),
            Ok(Err(Denied(words))) | Err(TaskError { cause: Cause::Refused, message: words }) => {
                tracing::debug!(server = %work.server, error = words, "a way to see sessions that is not ours to use");
                false
            }
            Err(error) => return Err(error),
        };
        if !is_there {
            return Ok(());
        }
        // Once by itself, so that no look fails because of this.
        match self.ask(work, &[witness.busy.to_owned()]).await {
            Ok(Ok(_)) => self.script.push(witness.busy.to_owned()),
            Ok(Err(Denied(words))) | Err(TaskError { cause: Cause::Refused, message: words }) => {
                tracing::warn!(server = %work.server, error = words, "not all transactions there can be seen");
            }
            Err(error) => return Err(error),
        }
        Ok(())
    }

    /// `Err(Denied)`: we may not ask that.
    async fn ask(&mut self, work: Work<'_>, script: &[String]) -> Result<Result<Vec<Rows>, Denied>, TaskError> {
        loop {
            let by = work.by.min(Instant::now() + LOOK);
            match self.link.run(script, by).await {
                Ok(answer) => return Ok(Ok(answer)),
                Err(Stopped::Refused { code, words, .. }) if is_denied(code) => return Ok(Err(Denied(words))),
                // It broke while nobody was using it.
                Err(Stopped::Broken(_)) if self.link.reused => self.link = work.links.get(work.server, work.by).await?,
                Err(stopped) => return Err(work.error(&stopped, script, self.link.dialect().as_ref())),
            }
        }
    }
}

/// The server's words.
struct Denied(String);

/// `host:port`, as both flavours write it in their lists; an IPv6 address has no brackets there.
pub fn peer(row: &Row) -> Option<Peer> {
    let host = row.text(&["host"]);
    let (host, port) = host.rsplit_once(':')?;
    let port = port.parse().ok()?;
    Some(host.parse().map_or(Peer::Port(port), |ip| Peer::Address(SocketAddr::new(ip, port))))
}

/// What a session does by the word for its command.
pub fn doing(command: &str, is_free: bool) -> Doing {
    match command {
        "Sleep" if is_free => Doing::Nothing,
        "Sleep" => Doing::Waiting,
        "Query" | "Execute" | "Prepare" | "Close stmt" | "Reset stmt" | "Fetch" | "Init DB" | "Ping" | "Statistics"
        | "Set option" | "Field List" | "Long Data" | "Reset Connection" => Doing::Running,
        _ => Doing::Unknown,
    }
}
