//! `shunt list`: one line a listener, then operations under way, servers that were cast out, and the alarms.

use shunt_core::cluster::Verdict;
use shunt_core::config::ListenerRole;

use super::{Args, args, block_on};
use crate::control::api::{AlarmLine, ListAnswer, Listener, OperationLine, OutcastLine};
use crate::control::client::Client;
use crate::output::{self, Failure, Table, Tone};

pub fn run(args: &Args, options: &args::List) -> Result<(), Failure> {
    let list: ListAnswer = block_on(async { Ok(Client::new(&args.socket).get("/v1/listeners").await?) })?;
    if options.json {
        return output::say_json(&list);
    }
    output::say(&render(&list));
    Ok(())
}

fn render(list: &ListAnswer) -> String {
    if list.listeners.is_empty() {
        let mut text = "no listeners: put a cluster's file into clusters.d, then `shunt reload`".to_owned();
        alarm_lines(&list.alarms, &mut text);
        return text;
    }
    let mut table = Table::new(&[
        "CLUSTER", "ROLE", "LISTENER", "LEADS TO", "STATE", "VERDICT", "EPOCH", "CONNS", "SINCE", "MARKS",
    ]);
    for l in &list.listeners {
        table.row(vec![
            (l.cluster.to_string(), Tone::Plain),
            (role(l.role).to_owned(), Tone::Plain),
            (l.listener.clone(), Tone::Plain),
            (if l.backends.is_empty() { "nobody".to_owned() } else { l.backends.join(",") }, Tone::Plain),
            (l.state.clone(), if l.state == "open" { Tone::Good } else { Tone::Bad }),
            (l.verdict.to_string(), verdict_tone(l.verdict)),
            (l.epoch.to_string(), Tone::Plain),
            (l.connections.map_or_else(|| "?".to_owned(), |n| n.to_string()), Tone::Plain),
            (l.since.clone(), Tone::Plain),
            (marks(l, &list.operations), Tone::Warn),
        ]);
    }
    let mut text = table.render();
    if !list.operations.is_empty() || !list.outcasts.is_empty() {
        text.push('\n');
    }
    for o in &list.operations {
        text.push_str(&format!("\noperation  {}: {}", o.cluster, operation_words(o)));
    }
    for o in &list.outcasts {
        text.push_str(&format!("\noutcast  {}: {}", o.cluster, outcast_facts(o).join("; ")));
    }
    alarm_lines(&list.alarms, &mut text);
    text
}

fn marks(listener: &Listener, operations: &[OperationLine]) -> String {
    let marks = [(listener.pinned, "pinned"), (listener.paused, "paused")];
    let operation = operations.iter().find(|o| o.cluster == listener.cluster).map(|o| o.kind.word());
    marks.iter().filter(|(on, _)| *on).map(|(_, word)| *word).chain(operation).collect::<Vec<_>>().join(",")
}

/// `switchover 17 to 10.0.0.12:3306: drain, begun …`
pub fn operation_words(operation: &OperationLine) -> String {
    let to = operation.chosen.as_ref().map_or_else(String::new, |server| format!(" to {server}"));
    format!("{} {}{to}: {}, begun {}", operation.kind.word(), operation.op, operation.step, operation.since)
}

/// Who must not take writes, and why; a fact each.
pub fn outcast_facts(outcast: &OutcastLine) -> Vec<String> {
    let OutcastLine { name, epoch, .. } = outcast;
    if !outcast.quarantined {
        return vec![format!(
            "{name}, succeeded in epoch {epoch}, is compared with the primary before it may follow it"
        )];
    }
    let reason = outcast.reason.as_deref().map_or_else(String::new, |reason| format!(": {}", output::harmless(reason)));
    let mut facts = vec![format!("{name}, succeeded in epoch {epoch}, is quarantined{reason}")];
    if let Some(errant) = outcast.errant.as_ref().filter(|errant| !errant.is_empty()) {
        facts.push(format!("it alone has {}", output::harmless(errant)));
    }
    if let Some(salvaged) = &outcast.salvaged {
        let applied = if salvaged.applied { " and applied to the primary" } else { "" };
        let count = match salvaged.transactions {
            1 => "1 transaction was".to_owned(),
            n => format!("{n} transactions were"),
        };
        facts.push(format!("{count} kept in {}{applied}", output::harmless(&salvaged.file)));
    }
    facts
}

/// `alarm orders: primary dead: …`, a line each, after an empty line.
pub fn alarm_lines(alarms: &[AlarmLine], text: &mut String) {
    if !alarms.is_empty() {
        text.push('\n');
    }
    for alarm in alarms {
        let cluster = alarm.cluster.as_ref().map_or("agent", |c| c.as_str());
        text.push_str(&format!("\nalarm  {cluster}: {}: {}", alarm.alarm.word(), alarm.message));
    }
}

pub const fn role(role: ListenerRole) -> &'static str {
    match role {
        ListenerRole::Primary => "primary",
        ListenerRole::Replica => "replica",
    }
}

pub const fn verdict_tone(verdict: Verdict) -> Tone {
    match verdict {
        Verdict::Healthy => Tone::Good,
        Verdict::Suspect | Verdict::Demoted => Tone::Warn,
        Verdict::Dead | Verdict::Unreachable | Verdict::Saturated | Verdict::Split | Verdict::None => Tone::Bad,
    }
}

#[cfg(test)]
mod tests {
    use shunt_core::ClusterName;
    use shunt_core::cluster::AlarmKind;
    use shunt_core::operation::{Kind, Salvaged, Step};

    use super::*;

    fn listener(state: &str, backends: &[&str]) -> Listener {
        Listener {
            cluster: ClusterName::new("orders").unwrap(),
            role: ListenerRole::Primary,
            listener: "10.0.0.2:3306".to_owned(),
            backends: backends.iter().map(|&b| b.to_owned()).collect(),
            state: state.to_owned(),
            epoch: 7,
            verdict: if backends.is_empty() { Verdict::Dead } else { Verdict::Healthy },
            pinned: false,
            paused: true,
            connections: Some(12),
            since: "2026-01-02T03:04:05.678Z".to_owned(),
        }
    }

    #[test]
    fn the_table_says_nobody_for_a_fenced_listener_and_names_the_alarm() {
        let list = ListAnswer {
            schema_version: 1,
            listeners: vec![listener("open", &["10.0.0.11:3306"]), listener("held", &[])],
            alarms: vec![AlarmLine {
                cluster: Some(ClusterName::new("orders").unwrap()),
                alarm: AlarmKind::PrimaryDead,
                message: "db1 failed 2 times in a row".to_owned(),
            }],
            operations: Vec::new(),
            outcasts: Vec::new(),
        };
        insta::assert_snapshot!(render(&list), @r"
        CLUSTER  ROLE     LISTENER       LEADS TO        STATE  VERDICT  EPOCH  CONNS  SINCE                     MARKS
        orders   primary  10.0.0.2:3306  10.0.0.11:3306  open   healthy  7      12     2026-01-02T03:04:05.678Z  paused
        orders   primary  10.0.0.2:3306  nobody          held   dead     7      12     2026-01-02T03:04:05.678Z  paused

        alarm  orders: primary dead: db1 failed 2 times in a row
        ");
    }

    #[test]
    fn an_operation_under_way_and_a_quarantined_server_stand_below_the_listeners() {
        let orders = ClusterName::new("orders").unwrap();
        let outcast = |name: &str, quarantined: bool| OutcastLine {
            cluster: orders.clone(),
            server: "10.0.0.11:3306".to_owned(),
            name: name.to_owned(),
            epoch: 6,
            quarantined,
            reason: quarantined.then(|| "it has what the primary lacks".to_owned()),
            errant: quarantined.then(|| "3e11fa47-71ca-11e1-9e33-c80aa9429562:24-25".to_owned()),
            salvaged: quarantined.then(|| Salvaged {
                stopped: None,
                file: "/var/lib/shunt/salvage/orders-17.binlog".to_owned(),
                gtids: "3e11fa47-71ca-11e1-9e33-c80aa9429562:24-25".to_owned(),
                transactions: 2,
                tables: Vec::new(),
                applied: false,
            }),
        };
        let list = ListAnswer {
            schema_version: 1,
            listeners: vec![listener("held", &[])],
            alarms: Vec::new(),
            operations: vec![OperationLine {
                cluster: orders.clone(),
                op: 17,
                kind: Kind::Failover,
                step: Step::Drain,
                since: "2026-01-02T03:04:05.678Z".to_owned(),
                chosen: Some("10.0.0.12:3306".to_owned()),
            }],
            outcasts: vec![outcast("db1:3306", true), outcast("db3:3306", false)],
        };
        insta::assert_snapshot!(render(&list), @r"
        CLUSTER  ROLE     LISTENER       LEADS TO  STATE  VERDICT  EPOCH  CONNS  SINCE                     MARKS
        orders   primary  10.0.0.2:3306  nobody    held   dead     7      12     2026-01-02T03:04:05.678Z  paused,failover

        operation  orders: failover 17 to 10.0.0.12:3306: drain, begun 2026-01-02T03:04:05.678Z
        outcast  orders: db1:3306, succeeded in epoch 6, is quarantined: it has what the primary lacks; it alone has 3e11fa47-71ca-11e1-9e33-c80aa9429562:24-25; 2 transactions were kept in /var/lib/shunt/salvage/orders-17.binlog
        outcast  orders: db3:3306, succeeded in epoch 6, is compared with the primary before it may follow it
        ");
    }

    #[test]
    fn an_empty_list_says_what_to_do() {
        let list = ListAnswer {
            schema_version: 1,
            listeners: Vec::new(),
            alarms: Vec::new(),
            operations: Vec::new(),
            outcasts: Vec::new(),
        };
        insta::assert_snapshot!(render(&list), @"no listeners: put a cluster's file into clusters.d, then `shunt reload`");
    }
}
