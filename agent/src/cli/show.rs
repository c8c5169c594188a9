//! `shunt show CLUSTER`: the verdict with its reasons, then the servers.

use super::list::{alarm_lines, operation_words, outcast_facts};
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
    head.extend(show.operation.iter().map(|operation| ("operation", operation_words(operation))));
    for outcast in &show.outcasts {
        let (cluster, name) = (&show.cluster, &outcast.name);
        let mut facts = outcast_facts(outcast);
        if outcast.quarantined {
            let ways = format!(
                "`shunt rejoin {cluster} {name}` compares it anew, `shunt clear {cluster} {name}` takes the mark away"
            );
            facts.push(ways);
        }
        head.extend(facts.into_iter().enumerate().map(|(i, fact)| (if i == 0 { "outcast" } else { "" }, fact)));
    }
    head.push(("outlook", show.outlook.clone()));
    head.extend(show.at_risk.iter().map(|risk| ("at risk", risk.clone())));
    let mut text = String::new();
    for (name, value) in head {
        text.push_str(format!("{name:<11}{value}").trim_end());
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
        if let Some(suspected) = &server.suspected {
            text.push_str(&format!("\n\n{}: {suspected}", server.name));
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

#[cfg(test)]
mod tests {
    use shunt_core::ClusterName;
    use shunt_core::cluster::Verdict;
    use shunt_core::config::FailoverMode;
    use shunt_core::operation::{Kind, Step};

    use super::*;
    use crate::control::api::{OperationLine, OutcastLine};

    #[test]
    fn an_operation_an_outcast_and_what_is_at_risk_stand_above_the_servers() {
        let orders = ClusterName::new("orders").unwrap();
        let show = ShowAnswer {
            schema_version: 1,
            cluster: orders.clone(),
            mode: FailoverMode::Promote,
            epoch: 7,
            primary: Some("10.0.0.12:3306".to_owned()),
            verdict: Verdict::Healthy,
            verdict_since: "2026-01-02T03:04:05.678Z".to_owned(),
            reasons: vec!["db2:3306 answers and is writable".to_owned()],
            alarms: Vec::new(),
            pinned: None,
            pinned_listeners: Vec::new(),
            paused: None,
            outlook: "if the primary dies, db3:3306 is promoted".to_owned(),
            at_risk: Some("a failover now would lose up to 3 transactions".to_owned()),
            operation: Some(OperationLine {
                cluster: orders.clone(),
                op: 18,
                kind: Kind::Switchover,
                step: Step::Precheck,
                since: "2026-01-02T03:05:05.678Z".to_owned(),
                chosen: None,
            }),
            outcasts: vec![OutcastLine {
                cluster: orders,
                server: "10.0.0.11:3306".to_owned(),
                name: "db1:3306".to_owned(),
                epoch: 6,
                quarantined: true,
                reason: Some("it cannot be compared: it has no binary log".to_owned()),
                errant: Some(String::new()),
                salvaged: None,
            }],
            servers: Vec::new(),
        };
        insta::assert_snapshot!(render(&show), @r"
        cluster    orders (promote), epoch 7
        primary    10.0.0.12:3306
        verdict    healthy, since 2026-01-02T03:04:05.678Z
                   db2:3306 answers and is writable
        operation  switchover 18: precheck, begun 2026-01-02T03:05:05.678Z
        outcast    db1:3306, succeeded in epoch 6, is quarantined: it cannot be compared: it has no binary log
                   `shunt rejoin orders db1:3306` compares it anew, `shunt clear orders db1:3306` takes the mark away
        outlook    if the primary dies, db3:3306 is promoted
        at risk    a failover now would lose up to 3 transactions

        SERVER  ROLE  STATE  WRITES  LAG  GTID GAP  SEMI-SYNC  SEEN  DC  VERSION  REPLICATION
        ");
    }
}
