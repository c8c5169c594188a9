//! `shunt events`: the history, and with `--follow` what is added to it.

use super::{Args, args, block_on};
use crate::control::api::{EventLine, EventsAnswer, SCHEMA_VERSION};
use crate::control::client::Client;
use crate::output::{self, Failure};

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
            let answer: EventsAnswer = client.get(&path).await?;
            last = answer.events.last().map_or(last, |e| e.id);
            print(&answer.events, options.json)?;
        }
    })
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
