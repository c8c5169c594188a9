//! `shunt drill`: a failover on purpose of a cluster that is well, and the timeline of what happened.
//!
//! It is put together from what there is: a dry run of a switchover, which examines everything; the question; a failover;
//! and then a look at what the history tells of it and at how the old primary came back.

use std::time::Instant;

use serde::Serialize;

use super::course::{Course, number, word};
use super::follow::Heard;
use super::report::Subject;
use super::{Session, Watched};
use crate::cli::operate::path_word;
use crate::cli::{Args, args, block_on};
use crate::control::api::{EventLine, OperateRequest, ShowAnswer};
use crate::control::client::Client;
use crate::output::{self, Failure, Table, Tone};

pub fn drill(args: &Args, options: &args::Drill) -> Result<(), Failure> {
    let wanted = OperateRequest { to: options.to.clone(), ..OperateRequest::default() };
    block_on(async {
        let session = Session::open(Client::new(&args.socket), &options.cluster, options.watching).await?;
        session.say_paused();
        let rehearsal = OperateRequest { dry_run: true, ..wanted.clone() };
        if options.yes {
            let watched = session.run("drill", "switchover", &rehearsal).await?;
            session.subject(&watched).conclusion(&watched.course, &watched.followed)?;
        } else {
            session.rehearse_and_ask("drill", "failover", &rehearsal).await?;
        }
        session.perform(&wanted).await
    })
}

/// What a drill is done for. Addresses are as in the API.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct DrillReport {
    /// Before it began.
    pub verdict: String,
    /// From the fence to the mapping: so long did a new connection wait at most. `null`: the history does not tell.
    pub hold_ms: Option<u64>,
    /// Connections of the old primary that were ended.
    pub flows_severed: u64,
    pub old_primary: OldPrimary,
}

/// What became of the old primary, and so whether anything was lost: it may rejoin only if the new one has all that it had.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum OldPrimary {
    /// It follows the new one: nothing is lost.
    Rejoined,
    /// It has what the new one lacks.
    Quarantined { reason: String, errant: String, salvaged: Option<String> },
    /// Neither, when it was last looked at.
    Away,
}

impl Session {
    async fn perform(&self, wanted: &OperateRequest) -> Result<(), Failure> {
        let mut watched = self.run("drill", "failover", wanted).await?;
        let end = watched.course.ending.as_ref();
        let (old, new) = (end.and_then(|e| e.old.clone()), end.and_then(|e| e.new.clone()));
        let old_primary = match (old, &watched.followed) {
            (Some(old), Ok(())) if new.is_some() => {
                if !self.watching.json {
                    output::note(&format!("waiting for {} to come back", self.subject(&watched).name(&old)));
                }
                tokio::select! {
                    found = self.wait_for_old(&old, &mut watched.heard) => found,
                    Ok(()) = tokio::signal::ctrl_c() => OldPrimary::Away,
                }
            }
            _ => OldPrimary::Away,
        };
        let report = self.drill_report(&watched, old_primary);
        let subject = self.subject(&watched);
        if self.watching.json {
            output::say_json(&subject.json(&watched.course, Some(&report)))?;
        } else {
            output::say(&timeline(&watched.course, &watched.heard.events));
            output::say(&format!("\n{}", facts(&subject, &watched.course, &report)));
        }
        let sentence = subject.conclusion(&watched.course, &watched.followed)?;
        if !self.watching.json {
            output::note(&sentence);
        }
        Ok(())
    }

    /// An agent that does not answer now and then is asked again: the drill is over, and this is only its report.
    async fn wait_for_old(&self, old: &str, heard: &mut Heard) -> OldPrimary {
        let begun = Instant::now();
        loop {
            let told = heard.next(&self.client, self.cluster(), self.patience.again).await.is_ok();
            if !told {
                tokio::time::sleep(self.patience.again).await;
            }
            let show = self.client.get::<ShowAnswer>(&format!("/v1/clusters/{}", path_word(self.cluster()))).await;
            let found = show.ok().map_or(OldPrimary::Away, |show| old_primary(&show, old));
            let late = begun.elapsed() > self.patience.rejoin;
            if late || (found != OldPrimary::Away && begun.elapsed() > self.patience.settle) {
                return found;
            }
        }
    }

    fn drill_report(&self, watched: &Watched, old_primary: OldPrimary) -> DrillReport {
        let end = watched.course.ending.as_ref();
        let (old, new) = (end.and_then(|e| e.old.as_deref()), end.and_then(|e| e.new.as_deref()));
        DrillReport {
            verdict: self.show.verdict.to_string(),
            hold_ms: hold_ms(&watched.heard.events, new),
            flows_severed: flows_severed(&watched.heard.events, old),
            old_primary,
        }
    }
}

fn old_primary(show: &ShowAnswer, old: &str) -> OldPrimary {
    if let Some(outcast) = show.outcasts.iter().find(|o| o.server == old) {
        return match (outcast.quarantined, &outcast.reason) {
            (true, reason) => OldPrimary::Quarantined {
                reason: reason.clone().unwrap_or_default(),
                errant: outcast.errant.clone().unwrap_or_default(),
                salvaged: outcast.salvaged.as_ref().map(|s| s.file.clone()),
            },
            (false, _) => OldPrimary::Away,
        };
    }
    let server = show.servers.iter().find(|s| s.address == old);
    // In this order of facts: read-only, and replicating from a server of the cluster.
    if server.is_some_and(|s| s.role == "replica" && s.read_only == Some(true)) {
        OldPrimary::Rejoined
    } else {
        OldPrimary::Away
    }
}

/// The longest time from a listener's fence to its mapping to the new primary.
pub fn hold_ms(events: &[EventLine], new: Option<&str>) -> Option<u64> {
    let opened = events.iter().filter(|e| e.kind == "mapped" && new.is_some() && word(&e.data, "backends") == new);
    let held = opened.filter_map(|open| {
        let listener = word(&open.data, "listener")?;
        let fenced =
            |e: &&EventLine| e.kind == "fenced" && e.id < open.id && word(&e.data, "listener") == Some(listener);
        let fence = events.iter().find(fenced)?;
        u64::try_from(open.at_ms - fence.at_ms).ok()
    });
    held.max()
}

pub fn flows_severed(events: &[EventLine], old: Option<&str>) -> u64 {
    let of_old = |e: &&EventLine| e.kind == "severed" && old.is_some() && word(&e.data, "backend") == old;
    events.iter().filter(of_old).filter_map(|e| number(&e.data, "flows")).sum()
}

/// A line an event, in milliseconds since the operation's first.
pub fn timeline(course: &Course, events: &[EventLine]) -> String {
    let begun = course.begun_ms.or_else(|| events.first().map(|e| e.at_ms)).unwrap_or_default();
    let mut rows: Vec<_> = events.iter().filter_map(|event| row(event, course.op)).collect();
    // A step is told when it is over, and belongs where it began.
    rows.sort_by_key(|row| row.at_ms);
    let mut table = Table::new(&["MS", "WHAT", "TOOK", "SAYS"]);
    for Row { at_ms, what, took_ms, says } in rows {
        table.row(vec![
            ((at_ms - begun).to_string(), Tone::Plain),
            (what, Tone::Plain),
            (took_ms.map_or_else(String::new, |ms| format!("{ms} ms")), Tone::Plain),
            (output::harmless(&says), Tone::Plain),
        ]);
    }
    table.render()
}

struct Row {
    at_ms: i64,
    what: String,
    took_ms: Option<u64>,
    says: String,
}

/// `None` for what is a part of something else that is told.
fn row(event: &EventLine, op: u64) -> Option<Row> {
    let data = &event.data;
    let took_ms = number(data, "took_ms").or_else(|| number(data, "took_us").map(|us| us / 1000));
    let ours = number(data, "op");
    let what = match event.kind.as_str() {
        "task" | "plan" => return None,
        _ if ours.is_some_and(|ours| ours != op) => return None,
        "step" if word(data, "state") == Some("begun") => return None,
        "step" => word(data, "step").unwrap_or_default().to_owned(),
        "operation" => word(data, "state").unwrap_or_default().to_owned(),
        kind => kind.to_owned(),
    };
    let begun = if event.kind == "step" { took_ms.map_or(0, u64::cast_signed) } else { 0 };
    Some(Row { at_ms: event.at_ms - begun, what, took_ms, says: event.message.clone() })
}

/// What the drill was for, in words.
pub fn facts(subject: &Subject<'_>, course: &Course, report: &DrillReport) -> String {
    let end = course.ending.as_ref();
    let name = |server: Option<&String>| server.map_or_else(|| "nobody".to_owned(), |s| subject.name(s));
    let (old, new) = (name(end.and_then(|e| e.old.as_ref())), name(end.and_then(|e| e.new.as_ref())));
    let hold = report.hold_ms.map_or_else(
        || "the history does not tell how long new connections waited".to_owned(),
        |ms| format!("a new connection waited {ms} ms at most"),
    );
    let severed = match report.flows_severed {
        1 => "1 connection was ended".to_owned(),
        n => format!("{n} connections were ended"),
    };
    let cluster = subject.cluster();
    let (lost, back) = match &report.old_primary {
        OldPrimary::Rejoined => (
            format!("nothing: {new} has all that {old} had, else {old} would not have rejoined"),
            format!("{old} follows {new}"),
        ),
        OldPrimary::Quarantined { reason, errant, salvaged } => {
            let kept = salvaged.as_ref().map_or_else(String::new, |file| format!(", kept in {file}"));
            let lost = if errant.is_empty() {
                "nothing is known to be lost".to_owned()
            } else {
                format!("{new} lacks {errant}{kept}")
            };
            (lost, format!("{old} is quarantined: {reason}; see `shunt show {cluster}`"))
        }
        OldPrimary::Away => (
            format!("not known before {old} has been compared with {new}"),
            format!("{old} does not follow yet: see `shunt show {cluster}`, `shunt rejoin {cluster} {old}`"),
        ),
    };
    let lines = [
        ("before", format!("the verdict was {}", report.verdict)),
        ("hold", hold),
        ("severed", severed),
        ("lost", lost),
        ("back", back),
    ];
    lines.iter().map(|(what, says)| format!("{what:<9}{}", output::harmless(says))).collect::<Vec<_>>().join("\n")
}
