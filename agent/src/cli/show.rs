//! `shunt show CLUSTER`: the verdict with its reasons, then the servers.

use super::list::alarm_lines;
use super::{Args, args, block_on};
use crate::control::api::{Server, ShowAnswer};
use crate::control::client::Client;
use crate::output::{self, Failure, Table, Tone};

pub fn run(args: &Args, options: &args::Show) -> Result<(), Failure> {
    let path = format!("/v1/clusters/{}", super::operate::path_word(&options.cluster));
    let show: ShowAnswer = block_on(async { Ok(Client::new(&args.socket).get(&path).await?) })?;
    if options.json {
        return output::say_json(&show);
    }
    output::say(&render(&show));
    Ok(())
}

fn render(show: &ShowAnswer) -> String {
    let mut head = vec![
        ("cluster", format!("{} ({}), epoch {}", show.cluster, mode(show), show.epoch)),
        ("primary", show.primary.clone().unwrap_or_else(|| "none known".to_owned())),
        ("verdict", format!("{}, since {}", show.verdict, show.verdict_since)),
    ];
    head.extend(show.reasons.iter().map(|r| ("", r.clone())));
    if let Some(server) = &show.pinned {
        head.push(("pinned", format!("to {server} until `shunt unpin {}`", show.cluster)));
    }
    for pin in &show.pinned_listeners {
        let until = format!("until `shunt unpin {} --listener {}`", show.cluster, pin.listener);
        head.push(("pinned", format!("listener {} to {} {until}", pin.listener, pin.server)));
    }
    if let Some(pause) = &show.paused {
        let until = pause
            .until
            .as_ref()
            .map_or_else(|| format!("until `shunt resume {}`", show.cluster), |t| format!("until {t}"));
        head.push(("paused", format!("{until}: {}", pause.reason)));
    }
    head.push(("outlook", show.outlook.clone()));
    let mut text = String::new();
    for (name, value) in head {
        text.push_str(format!("{name:<9}{value}").trim_end());
        text.push('\n');
    }
    text.push('\n');

    let mut table = Table::new(&[
        "SERVER",
        "ROLE",
        "STATE",
        "WRITES",
        "LAG",
        "GTID GAP",
        "SEMI-SYNC",
        "SEEN",
        "DC",
        "VERSION",
        "REPLICATION",
    ]);
    for server in &show.servers {
        table.row(row(server));
    }
    text.push_str(&table.render());
    for server in &show.servers {
        if let Some(failure) = &server.failure {
            text.push_str(&format!("\n\n{}: {failure}", server.name));
        }
    }
    alarm_lines(&show.alarms, &mut text);
    text
}

fn row(s: &Server) -> Vec<(String, Tone)> {
    let unknown = || "?".to_owned();
    vec![
        (s.name.clone(), Tone::Plain),
        (s.role.clone(), Tone::Plain),
        (s.state.clone(), if s.state == "up" { Tone::Good } else { Tone::Bad }),
        (s.read_only.map_or_else(unknown, |ro| if ro { "no" } else { "yes" }.to_owned()), Tone::Plain),
        (s.lag_ms.map_or_else(String::new, |ms| format!("{}s", ms as f64 / 1000.0)), Tone::Plain),
        (s.gtid_missing.map_or_else(unknown, |n| n.to_string()), Tone::Plain),
        (s.semi_sync.clone(), Tone::Plain),
        (s.observed_ms_ago.map_or_else(|| "never".to_owned(), |ms| format!("{ms} ms ago")), Tone::Plain),
        (s.dc.clone().unwrap_or_default(), Tone::Plain),
        (s.version.clone().unwrap_or_else(unknown), Tone::Plain),
        (s.replication.clone(), Tone::Plain),
    ]
}

const fn mode(show: &ShowAnswer) -> &'static str {
    match show.mode {
        shunt_core::config::FailoverMode::Follow => "follow",
        shunt_core::config::FailoverMode::Promote => "promote",
        shunt_core::config::FailoverMode::Off => "off",
    }
}
