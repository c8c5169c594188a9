//! What an operation came to: lines while it goes on, a sentence or an error at its end, one JSON object.

use serde::Serialize;
use shunt_core::operation::Outcome;

use super::course::{Course, Ended, News, Planned, StepTime};
use super::drill::DrillReport;
use super::follow::Lost;
use crate::cli::Exit;
use crate::control::api::{SCHEMA_VERSION, ShowAnswer};
use crate::output::{Failure, Table, Tone};

/// `--json`. Names only ever get added.
#[derive(Debug, Serialize)]
pub struct Report<'a> {
    pub schema_version: u32,
    pub cluster: &'a str,
    pub op: u64,
    pub kind: &'a str,
    pub dry_run: bool,
    /// `done`, `refused`, `undone`, `failed` or `unknown`.
    pub outcome: &'a str,
    pub message: Option<&'a str>,
    pub old: Option<&'a str>,
    /// The next primary, whether or not it became one: the outcome says that.
    pub new: Option<&'a str>,
    /// Of the new primary; `null` if there is none.
    pub epoch: Option<u64>,
    pub took_ms: Option<u64>,
    pub steps: &'a [StepTime],
    #[serde(skip_serializing_if = "Option::is_none")]
    pub plan: Option<&'a [Planned]>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub drill: Option<&'a DrillReport>,
}

/// An operation that somebody asked for, and what is to be called what.
pub struct Subject<'a> {
    pub show: &'a ShowAnswer,
    /// `switchover` or `failover`.
    pub kind: &'a str,
    pub dry_run: bool,
}

impl Subject<'_> {
    pub fn cluster(&self) -> &str {
        self.show.cluster.as_str()
    }

    pub fn title(&self, op: u64) -> String {
        let what = if self.dry_run { "the dry run of " } else { "" };
        format!("{what}{} {op} of {}", self.kind, self.cluster())
    }

    /// As the configuration writes it.
    pub fn name(&self, address: &str) -> String {
        let known = self.show.servers.iter().find(|s| s.address == address);
        known.map_or_else(|| address.to_owned(), |s| s.name.clone())
    }

    pub fn json<'a>(&'a self, course: &'a Course, drill: Option<&'a DrillReport>) -> Report<'a> {
        let end = course.ending.as_ref();
        Report {
            schema_version: SCHEMA_VERSION,
            cluster: self.cluster(),
            op: course.op,
            kind: self.kind,
            dry_run: self.dry_run,
            outcome: end.map_or("unknown", |end| end.outcome.word()),
            message: end.map(|end| end.message.as_str()),
            old: end.and_then(|end| end.old.as_deref()),
            new: end.and_then(|end| end.new.as_deref()),
            epoch: end.filter(|end| end.outcome == Outcome::Done && !self.dry_run).and_then(|end| end.epoch),
            took_ms: end.and_then(|end| end.took_ms),
            steps: &course.steps,
            plan: self.dry_run.then_some(course.plan.as_slice()),
            drill,
        }
    }

    /// The last sentence, or why it is none to be glad of.
    pub fn conclusion(&self, course: &Course, followed: &Result<(), Lost>) -> Result<String, Failure> {
        let (title, cluster) = (self.title(course.op), self.cluster());
        if let Err(lost) = followed {
            return Err(lost.failure(&title, cluster));
        }
        let Some(end) = &course.ending else { return Err(Lost::Untold.failure(&title, cluster)) };
        if self.dry_run {
            return self.rehearsed(course, end);
        }
        match end.outcome {
            Outcome::Done => Ok(self.success(course.op, end)),
            outcome => Err(self.failure(&title, outcome, end)),
        }
    }

    fn success(&self, op: u64, end: &Ended) -> String {
        let Some(new) = &end.new else { return format!("{} is done: {}", self.title(op), end.message) };
        let epoch = end.epoch.map_or_else(String::new, |epoch| format!(", epoch {epoch}"));
        let (name, cluster, kind) = (self.name(new), self.cluster(), self.kind);
        format!("{name} is the primary of {cluster} now{epoch}: {kind} {op}, {}", end.message)
    }

    fn failure(&self, title: &str, outcome: Outcome, end: &Ended) -> Failure {
        let cluster = self.cluster();
        let (what, hint, exit) = match outcome {
            Outcome::Refused => {
                ("was refused", format!("`shunt show {cluster}` tells how the servers are"), Exit::Refused)
            }
            Outcome::Undone => {
                ("was undone", format!("`shunt events {cluster}` tells how it came to that"), Exit::Failed)
            }
            Outcome::Done | Outcome::Failed => (
                "failed",
                format!("`shunt show {cluster}` and `shunt events {cluster}` tell what to mend"),
                Exit::Failed,
            ),
        };
        Failure::new(format!("{title} {what}: {}", end.message)).hint(end.hint.clone().unwrap_or(hint)).with_exit(exit)
    }

    fn rehearsed(&self, course: &Course, end: &Ended) -> Result<String, Failure> {
        let refused = course.plan.iter().find(|line| !line.ok);
        if end.outcome == Outcome::Done && refused.is_none() {
            let to = end.new.as_ref().map_or_else(String::new, |new| format!(" to {}", self.name(new)));
            return Ok(format!("nothing was changed; nothing stands against a {}{to}", self.kind));
        }
        let why = match refused {
            Some(line) if end.outcome == Outcome::Done => &line.message,
            _ => &end.message,
        };
        let why = why.strip_prefix("nothing was changed: ").unwrap_or(why);
        let hint = end.hint.clone().unwrap_or_else(|| "nothing was changed, and nothing would be".to_owned());
        let error = format!("a {} of {} would be refused: {why}", self.kind, self.cluster());
        Err(Failure::new(error).hint(hint).with_exit(Exit::Refused))
    }
}

/// What would be done, a line a step.
pub fn plan_table(plan: &[Planned]) -> String {
    let mut table = Table::new(&["STEP", "CHECK", "WHAT"]);
    for line in plan {
        let check = if line.ok { ("ok".to_owned(), Tone::Good) } else { ("no".to_owned(), Tone::Bad) };
        table.row(vec![(line.step.clone(), Tone::Plain), check, (line.message.clone(), Tone::Plain)]);
    }
    table.render()
}

/// `precheck  ok      12 ms`; `None` for what is only told on demand.
pub fn line(news: &News, details: bool) -> Option<String> {
    match news {
        News::Begun(step) => Some(format!("{step:<10}…")),
        News::Done(done) => Some(over(done, "ok")),
        News::Over(done) => Some(over(done, "over")),
        News::Failed(done) => Some(over(done, "failed")),
        News::BrokenOff(step) => Some(format!("{step:<10}not done")),
        News::Task { message, ok: true } => details.then(|| format!("  {message}")),
        News::Task { message, ok: false } => Some(format!("  failed: {message}")),
        News::Note(message) => Some(format!("  {message}")),
        News::AgentGone => Some("the agent does not answer; waiting for it".to_owned()),
        News::AgentBack => Some("the agent answers again".to_owned()),
    }
}

fn over(StepTime { step, took_ms, .. }: &StepTime, how: &str) -> String {
    match took_ms {
        Some(ms) => format!("{step:<10}{how:<4}{ms:>6} ms"),
        None => format!("{step:<10}{how}"),
    }
}
