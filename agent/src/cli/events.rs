//! `shunt events`: the history, and with `--follow` what is added to it, over restarts of the agent too.

use std::time::Duration;

use super::{Args, args, block_on};
use crate::control::api::{EventLine, EventsAnswer, SCHEMA_VERSION};
use crate::control::client::{Client, ClientError};
use crate::output::{self, Failure};

/// How often an agent that has gone is looked for.
const AGAIN: Duration = Duration::from_secs(1);

pub fn run(args: &Args, options: &args::Events) -> Result<(), Failure> {
    let client = Client::new(&args.socket);
    let cluster = options
        .cluster
        .as_deref()
        .map_or_else(String::new, |name| format!("&cluster={}", super::operate::path_word(name)));
    block_on(async {
        let path = format!("/v1/events?newest=true&limit={}{cluster}", options.lines);
        let answer: EventsAnswer = client.get(&path).await?;
        let mut last = answer.events.last().map_or(0, |e| e.id);
        if options.json && !options.follow {
            return output::say_json(&answer);
        }
        print(&answer.events, options.json)?;
        if !options.follow {
            return Ok(());
        }
        if last == 0 {
            // Nothing of this cluster yet: follow from the newest event of all.
            let newest: EventsAnswer = client.get("/v1/events?newest=true&limit=1").await?;
            last = newest.events.last().map_or(0, |e| e.id);
        }
        loop {
            let path = format!("/v1/events?after={last}&wait_ms=20000{cluster}");
            let answer: EventsAnswer = match client.get(&path).await {
                Ok(answer) => answer,
                Err(ClientError::NotRunning { .. } | ClientError::Unknown { .. }) => {
                    last = wait_for_agent(&client, last).await?;
                    continue;
                }
                Err(error) => return Err(error.into()),
            };
            last = answer.events.last().map_or(last, |e| e.id);
            print(&answer.events, options.json)?;
        }
    })
}

/// Waits until an agent answers again, and says after which event to go on: its history may be another one.
async fn wait_for_agent(client: &Client, last: i64) -> Result<i64, Failure> {
    output::note("the agent does not answer; waiting for it");
    loop {
        tokio::time::sleep(AGAIN).await;
        match client.get::<EventsAnswer>("/v1/events?newest=true&limit=1").await {
            Ok(answer) => {
                output::note("the agent answers again");
                let newest = answer.events.last().map_or(0, |e| e.id);
                return Ok(if newest < last { 0 } else { last });
            }
            Err(ClientError::NotRunning { .. } | ClientError::Unknown { .. }) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

fn print(events: &[EventLine], json: bool) -> Result<(), Failure> {
    for event in events {
        if json {
            let mut line = serde_json::to_value(event).map_err(|e| Failure::new("cannot write JSON").because(&e))?;
            line["schema_version"] = SCHEMA_VERSION.into();
            output::say_json(&line)?;
        } else {
            let cluster = event.cluster.as_deref().unwrap_or("-");
            let message = output::harmless(&event.message);
            output::say(&format!("{}  {cluster:<16} {:<15} {message}", event.at, event.kind));
        }
    }
    Ok(())
}
