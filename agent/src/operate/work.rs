//! What every task is made of: looking at a server, and running a script on it and looking again, with the task's deadline
//! and with errors that say what was tried where.

use std::net::SocketAddr;
use std::time::Duration;

use shunt_core::operation::{Cause, TaskError};
use tokio::time::Instant;

use super::dialect::{Dialect, Script};
use super::link::{Link, Links, Stopped};
use super::standing::Look;

/// One task's work on one server.
#[derive(Clone, Copy)]
pub struct Work<'a> {
    pub links: &'a Links,
    pub server: SocketAddr,
    pub within: Duration,
    pub by: Instant,
}

impl Work<'_> {
    /// Somewhat before the deadline: what is left is for looking once more, and for taking back what hangs.
    pub fn almost(&self) -> Instant {
        self.by.checked_sub((self.within / 8).min(Duration::from_millis(500))).unwrap_or(self.by)
    }

    /// A connection and what is seen on it. Nothing has been changed when that fails.
    pub async fn look(&self) -> Result<(Link, Look), TaskError> {
        loop {
            let mut link = self.links.get(self.server, self.by).await?;
            match self.see(&mut link).await {
                Ok(look) => return Ok((link, look)),
                // It broke while nobody was using it.
                Err(Failed { stopped: Some(Stopped::Broken(_)), .. }) if link.reused => {}
                Err(Failed { error, stopped }) => {
                    let cause = match stopped {
                        Some(Stopped::Refused { .. }) | None => Cause::Refused,
                        Some(Stopped::Broken(_) | Stopped::Late) => Cause::Unreachable,
                    };
                    return Err(TaskError { cause, ..error });
                }
            }
        }
    }

    /// Runs a script that may have been run before, then looks.
    pub async fn run(&self, link: &mut Link, script: Script) -> Result<Look, TaskError> {
        self.run_and_see(link, script).await.map_err(|failed| failed.error)
    }

    /// Looks again.
    pub async fn look_again(&self, link: &mut Link) -> Result<Look, TaskError> {
        self.run(link, Vec::new()).await
    }

    async fn see(&self, link: &mut Link) -> Result<Look, Failed> {
        self.run_and_see(link, Vec::new()).await
    }

    async fn run_and_see(&self, link: &mut Link, mut script: Script) -> Result<Look, Failed> {
        let dialect = link.dialect();
        let first = script.len();
        script.extend(dialect.look());
        match link.run(&script, self.by).await {
            Ok(answer) => answer.get(first..).and_then(|answer| dialect.read(answer)).ok_or_else(|| Failed {
                error: refused(format!(
                    "{} answered with less, or with something else, than it was asked",
                    self.server
                )),
                stopped: None,
            }),
            Err(stopped) => {
                Err(Failed { error: self.error(&stopped, &script, dialect.as_ref()), stopped: Some(stopped) })
            }
        }
    }

    /// What came of a script, in words.
    pub fn error(&self, stopped: &Stopped, script: &[String], dialect: &dyn Dialect) -> TaskError {
        let server = self.server;
        match stopped {
            Stopped::Refused { statement, code, words } => {
                let what = script.get(*statement).or(script.last()).map_or("", |statement| label(statement));
                let hint = if is_denied(*code) && !dialect.missing().is_empty() {
                    format!(" (run: {})", dialect.missing().join("; "))
                } else {
                    String::new()
                };
                refused(format!("{server} refused {what}: {words}{hint}"))
            }
            Stopped::Broken(words) => {
                unknown(format!("the connection to {server} broke during {}: {words}", labels(script)))
            }
            Stopped::Late => unknown(format!("{server} did not answer in time to {}", labels(script))),
        }
    }
}

struct Failed {
    error: TaskError,
    /// `None`: it answered, but not what it was asked.
    stopped: Option<Stopped>,
}

/// ER_DBACCESS_DENIED, ER_TABLEACCESS_DENIED, ER_SPECIFIC_ACCESS_DENIED.
pub const fn is_denied(code: u16) -> bool {
    matches!(code, 1044 | 1142 | 1227)
}

/// A statement's beginning: enough to know it by, and nothing of a password.
fn label(statement: &str) -> &str {
    let end = [" TO ", "(", ","].iter().filter_map(|mark| statement.find(mark)).min().unwrap_or(statement.len());
    statement[..end].trim()
}

/// The first statement, which is what a script is about.
fn labels(script: &[String]) -> &str {
    script.first().map_or("", |statement| label(statement))
}

pub fn refused(message: String) -> TaskError {
    TaskError { cause: Cause::Refused, message }
}

pub fn unknown(message: String) -> TaskError {
    TaskError { cause: Cause::Unknown, message }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_password_is_in_the_words_about_a_statement() {
        let change = "CHANGE REPLICATION SOURCE TO SOURCE_HOST = 'a', SOURCE_PASSWORD = 'secret'";
        assert_eq!(label(change), "CHANGE REPLICATION SOURCE");
        assert_eq!(label("CHANGE MASTER 'b' TO MASTER_PASSWORD = 'secret'"), "CHANGE MASTER 'b'");
        assert_eq!(label("SELECT @@a AS a, @@b"), "SELECT @@a AS a");
        assert_eq!(label("STOP REPLICA"), "STOP REPLICA");
    }
}
