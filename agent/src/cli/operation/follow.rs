//! Follows an operation through the history to its end. The agent may go and come back meanwhile; the operation is the
//! agent's, and goes on without whoever watches.

use std::time::{Duration, Instant};

use super::course::{Course, News};
use crate::cli::Exit;
use crate::cli::operate::path_word;
use crate::control::api::{EventLine, EventsAnswer, ShowAnswer};
use crate::control::client::{Client, ClientError};
use crate::output::Failure;

/// How long what is waited for.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    /// For one answer without news.
    pub quiet: Duration,
    /// Between two attempts to reach an agent that has gone.
    pub again: Duration,
    /// From its going to the operation's end.
    pub gone: Duration,
    /// For the old primary to rejoin after a drill.
    pub rejoin: Duration,
    /// After a drill, for severings to be told in the history.
    pub settle: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Self {
            quiet: Duration::from_secs(5),
            again: Duration::from_secs(1),
            gone: Duration::from_secs(60),
            rejoin: Duration::from_secs(60),
            settle: Duration::from_secs(3),
        }
    }
}

/// Why nobody knows how the operation ended.
#[derive(Debug)]
pub enum Lost {
    /// Whoever watched wants to watch no more.
    Interrupted,
    Agent(Duration),
    /// The agent came back with another history.
    OtherHistory,
    /// It is not under way any more, and no event says how it ended.
    Untold,
    /// An ending that this version of the command line does not know.
    Strange,
    Failed(String),
}

impl Lost {
    pub fn failure(&self, title: &str, cluster: &str) -> Failure {
        if let Self::Interrupted = self {
            return Failure::new(format!("{title} goes on: it is only not watched any more"))
                .hint(format!("`shunt events -f {cluster}` shows how it goes on"))
                .with_exit(Exit::OutcomeUnknown);
        }
        let why = match self {
            Self::Interrupted => String::new(),
            Self::Agent(time) => {
                let time = humantime::format_duration(*time);
                format!("the agent did not answer, and the end did not come within {time}")
            }
            Self::OtherHistory => "the agent came back with another history".to_owned(),
            Self::Untold => "it is not under way any more, and the history does not say how it ended".to_owned(),
            Self::Strange => "its end is not understood: is the agent another version of shunt?".to_owned(),
            Self::Failed(error) => error.clone(),
        };
        Failure::new(format!("the outcome of {title} is unknown: {why}"))
            .hint(format!("look at `shunt show {cluster}` and `shunt events {cluster}` before you try again"))
            .with_exit(Exit::OutcomeUnknown)
    }
}

/// Asks for events after `last` until the operation has ended. All events of the cluster that come by are kept in `heard`.
pub async fn follow(
    client: &Client,
    cluster: &str,
    course: &mut Course,
    heard: &mut Heard,
    patience: Patience,
    mut tell: impl FnMut(&News),
) -> Result<(), Lost> {
    let mut gone: Option<Instant> = None;
    let mut answers = true;
    let mut silent = 0;
    loop {
        let left = gone.map_or(Duration::MAX, |since| patience.gone.saturating_sub(since.elapsed()));
        // A call that fails at once is faster than any timeout.
        if left.is_zero() {
            return Err(Lost::Agent(patience.gone));
        }
        let asked = tokio::time::timeout(left, heard.next(client, cluster, patience.quiet)).await;
        match asked.map_err(|_| Lost::Agent(patience.gone))? {
            Ok(events) => {
                if !std::mem::replace(&mut answers, true) {
                    tell(&News::AgentBack);
                }
                for event in &events {
                    course.hear(event).iter().for_each(&mut tell);
                    if course.ending.is_some() {
                        return Ok(());
                    }
                    if is_end(event, course.op) {
                        return Err(Lost::Strange);
                    }
                }
                let over = events.is_empty() && !is_under_way(client, cluster, course.op, heard.last).await?;
                silent = if over { silent + 1 } else { 0 };
                // Its last event may have come between the two questions, so one such answer is not enough.
                if silent > 1 {
                    return Err(Lost::Untold);
                }
            }
            Err(ClientError::NotRunning { .. } | ClientError::Unknown { .. }) => {
                gone.get_or_insert_with(Instant::now);
                if std::mem::take(&mut answers) {
                    tell(&News::AgentGone);
                }
                tokio::time::sleep(patience.again).await;
            }
            Err(error) => return Err(Lost::Failed(crate::driver::error_chain(&error))),
        }
    }
}

/// The events of a cluster since a moment.
#[derive(Debug, Default)]
pub struct Heard {
    /// The number of the last.
    pub last: i64,
    pub events: Vec<EventLine>,
}

impl Heard {
    /// From now on.
    pub async fn from_now(client: &Client) -> Result<Self, ClientError> {
        Ok(Self { last: newest(client).await?, events: Vec::new() })
    }

    /// What is new, as soon as there is something, or nothing after `quiet`.
    pub async fn next(
        &mut self,
        client: &Client,
        cluster: &str,
        quiet: Duration,
    ) -> Result<Vec<EventLine>, ClientError> {
        let (after, wait, cluster) = (self.last, quiet.as_millis(), path_word(cluster));
        let path = format!("/v1/events?after={after}&wait_ms={wait}&cluster={cluster}");
        let answer: EventsAnswer = client.get(&path).await?;
        self.last = answer.events.last().map_or(self.last, |e| e.id);
        self.events.extend(answer.events.iter().cloned());
        Ok(answer.events)
    }
}

/// The number of the newest event of all; 0 if there is none.
async fn newest(client: &Client) -> Result<i64, ClientError> {
    let answer: EventsAnswer = client.get("/v1/events?newest=true&limit=1").await?;
    Ok(answer.events.last().map_or(0, |e| e.id))
}

/// Asked when nothing is new. An agent that does not answer says nothing of the operation: the next question finds out.
async fn is_under_way(client: &Client, cluster: &str, op: u64, last: i64) -> Result<bool, Lost> {
    let asked = async {
        // An agent whose state folder is another one counts its events anew.
        let is_other = newest(client).await? < last;
        let show: ShowAnswer = client.get(&format!("/v1/clusters/{}", path_word(cluster))).await?;
        Ok((is_other, show.operation.is_some_and(|operation| operation.op == op)))
    };
    match asked.await {
        Ok((true, _)) => Err(Lost::OtherHistory),
        Ok((false, under_way)) => Ok(under_way),
        Err(ClientError::NotRunning { .. } | ClientError::Unknown { .. }) => Ok(true),
        Err(error) => Err(Lost::Failed(crate::driver::error_chain(&error))),
    }
}

fn is_end(event: &EventLine, op: u64) -> bool {
    event.kind == "operation"
        && super::course::number(&event.data, "op") == Some(op)
        && super::course::word(&event.data, "state") == Some("ended")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_agent_that_stays_away_leaves_the_outcome_unknown_when_patience_is_over() {
        let nobody = tempfile::tempdir().unwrap();
        let client = Client::new(&nobody.path().join("shunt.sock"));
        let patience =
            Patience { gone: Duration::from_millis(100), again: Duration::from_millis(10), ..Patience::default() };
        let (mut course, mut heard, mut told) = (Course::new(17), Heard::default(), Vec::new());
        let tell = |news: &News| told.push(news.clone());
        let lost = follow(&client, "orders", &mut course, &mut heard, patience, tell).await.unwrap_err();
        assert!(matches!(lost, Lost::Agent(_)), "{lost:?}");
        assert_eq!(told, [News::AgentGone]);
        assert_eq!(lost.failure("switchover 17 of orders", "orders").exit(), Exit::OutcomeUnknown);
    }
}
