//! What has been heard of one operation: events in, news out. How they are asked for is the business of [`super::follow`].

use serde::Serialize;
use serde_json::Value;
use shunt_core::operation::Outcome;

use crate::control::api::EventLine;
use crate::output::harmless;

/// An operation as the history has told it so far.
#[derive(Debug)]
pub struct Course {
    pub op: u64,
    pub steps: Vec<StepTime>,
    pub plan: Vec<Planned>,
    pub ending: Option<Ended>,
    /// Unix time of its first event, in milliseconds.
    pub begun_ms: Option<i64>,
    running: Option<String>,
    /// A task of the step that runs has failed. The step may go on without it, or everything is taken back.
    failed: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct StepTime {
    pub step: String,
    /// It came to what it was for.
    pub ok: bool,
    pub took_ms: Option<u64>,
}

/// A line of a dry run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Planned {
    pub step: String,
    /// Nothing stands against it.
    pub ok: bool,
    pub message: String,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ended {
    pub outcome: Outcome,
    pub message: String,
    pub hint: Option<String>,
    pub took_ms: Option<u64>,
    pub old: Option<String>,
    pub new: Option<String>,
    pub epoch: Option<u64>,
}

/// Something to tell whoever watches.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum News {
    Begun(String),
    Done(StepTime),
    /// It is over, and something in it failed.
    Over(StepTime),
    /// It is over, and did not come to what it was for.
    Failed(StepTime),
    /// Another step began, and this one was not done.
    BrokenOff(String),
    Task {
        message: String,
        ok: bool,
    },
    /// What is neither a step nor a task: that it waits for something, what became of the sessions.
    Note(String),
    AgentGone,
    AgentBack,
}

impl Course {
    pub const fn new(op: u64) -> Self {
        Self { op, steps: Vec::new(), plan: Vec::new(), ending: None, begun_ms: None, running: None, failed: false }
    }

    /// Takes an event of the operation's cluster in. One of another operation is no news.
    pub fn hear(&mut self, event: &EventLine) -> Vec<News> {
        if number(&event.data, "op") != Some(self.op) {
            return Vec::new();
        }
        self.begun_ms.get_or_insert(event.at_ms);
        let data = &event.data;
        let step = || word(data, "step").unwrap_or_default().to_owned();
        match (event.kind.as_str(), word(data, "state")) {
            ("step", Some("begun")) => self.begun(step()),
            ("step", Some(state @ ("done" | "failed"))) => {
                let ok = state == "done";
                let done = StepTime { step: step(), ok, took_ms: number(data, "took_ms") };
                let left = self.running.take().filter(|running| *running != done.step);
                self.steps.push(done.clone());
                let over = match std::mem::take(&mut self.failed) {
                    _ if !ok => News::Failed(done),
                    true => News::Over(done),
                    false => News::Done(done),
                };
                left.map(News::BrokenOff).into_iter().chain([over]).collect()
            }
            ("task", _) => {
                let ok = word(data, "state") != Some("failed");
                self.failed |= !ok;
                vec![News::Task { message: harmless(&event.message), ok }]
            }
            ("plan", _) => {
                let ok = word(data, "ok") == Some("true");
                self.plan.push(Planned { step: step(), ok, message: harmless(&event.message) });
                Vec::new()
            }
            ("operation", Some("ended")) => {
                self.ending = ended(event);
                self.running.take().map(News::BrokenOff).into_iter().collect()
            }
            ("step", _) | ("operation", Some("begun")) => Vec::new(),
            _ => vec![News::Note(harmless(&event.message))],
        }
    }

    /// After a restart of the agent a step begins once more: that is the same step.
    fn begun(&mut self, step: String) -> Vec<News> {
        self.failed = false;
        let left = self.running.replace(step.clone());
        if left.as_ref() == Some(&step) {
            return Vec::new();
        }
        left.map(News::BrokenOff).into_iter().chain([News::Begun(step)]).collect()
    }
}

/// `None` for an outcome that this version does not know: then it is not known.
fn ended(event: &EventLine) -> Option<Ended> {
    let data = &event.data;
    let text = |key| word(data, key).filter(|text| !text.is_empty()).map(harmless);
    let outcome: Outcome = serde_json::from_value(data.get("outcome")?.clone()).ok()?;
    // The history names the operation first: `failover 17 done: db1 → db2 in 143 ms`.
    let message = harmless(&event.message);
    let own = message.split_once(&format!(" {}: ", outcome.word()));
    let own = own.filter(|(title, _)| title.split(' ').count() == 2).map(|(_, rest)| rest.to_owned());
    Some(Ended {
        outcome,
        message: own.unwrap_or(message),
        hint: text("hint"),
        took_ms: number(data, "took_ms"),
        old: text("old"),
        new: text("new"),
        epoch: number(data, "epoch"),
    })
}

pub fn word<'a>(data: &'a Value, key: &str) -> Option<&'a str> {
    data.get(key)?.as_str()
}

/// The history writes every value as text.
pub fn number(data: &Value, key: &str) -> Option<u64> {
    let value = data.get(key)?;
    value.as_u64().or_else(|| value.as_str()?.parse().ok())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn event(kind: &str, data: Value) -> EventLine {
        EventLine {
            id: 1,
            at: String::new(),
            at_ms: 0,
            cluster: Some("orders".to_owned()),
            kind: kind.to_owned(),
            message: "said \x1b[31mred".to_owned(),
            data,
        }
    }

    #[test]
    fn events_of_other_operations_and_of_none_are_no_news() {
        let mut course = Course::new(17);
        for data in [json!({ "op": "16", "step": "drain", "state": "begun" }), json!({ "step": "drain" }), json!(null)]
        {
            assert_eq!(course.hear(&event("step", data)), []);
        }
        assert_eq!(course.hear(&event("operation", json!({ "op": "16", "state": "ended", "outcome": "done" }))), []);
        assert_eq!((course.begun_ms, course.ending), (None, None));
    }

    #[test]
    fn a_step_that_begins_again_after_a_restart_is_the_same_step() {
        let mut course = Course::new(17);
        let begun = event("step", json!({ "op": 17, "step": "drain", "state": "begun" }));
        assert_eq!(course.hear(&begun), [News::Begun("drain".to_owned())]);
        assert_eq!(course.hear(&begun), []);
    }

    #[test]
    fn a_step_that_another_one_follows_undone_is_broken_off() {
        let mut course = Course::new(17);
        course.hear(&event("step", json!({ "op": "17", "step": "drain", "state": "begun" })));
        let undo = course.hear(&event("step", json!({ "op": "17", "step": "undo", "state": "begun" })));
        assert_eq!(undo, [News::BrokenOff("drain".to_owned()), News::Begun("undo".to_owned())]);
        let ended = course.hear(&event("operation", json!({ "op": "17", "state": "ended", "outcome": "undone" })));
        assert_eq!(ended, [News::BrokenOff("undo".to_owned())]);
        assert_eq!(course.ending.unwrap().outcome, Outcome::Undone);
    }

    #[test]
    fn a_step_that_failed_is_told_as_failed() {
        let mut course = Course::new(17);
        course.hear(&event("step", json!({ "op": "17", "step": "drain", "state": "begun" })));
        let over =
            json!({ "op": "17", "step": "drain", "state": "failed", "took_ms": "12", "reason": "aborted by ann" });
        let failed = StepTime { step: "drain".to_owned(), ok: false, took_ms: Some(12) };
        assert_eq!(course.hear(&event("step", over)), [News::Failed(failed.clone())]);
        assert_eq!(course.steps, [failed]);
    }

    #[test]
    fn how_it_ended_is_told_without_naming_the_operation_twice() {
        let ended = |message: &str| {
            let data = json!({ "op": "17", "state": "ended", "outcome": "done", "took_ms": "143", "epoch": "8" });
            ended(&EventLine { message: message.to_owned(), ..event("operation", data) }).unwrap()
        };
        let told = ended("failover 17 done: db1 → db2 in 143 ms; db3 does not follow yet: not done: why");
        assert_eq!(told.message, "db1 → db2 in 143 ms; db3 does not follow yet: not done: why");
        assert_eq!((told.took_ms, told.epoch), (Some(143), Some(8)));
        assert_eq!(ended("it is what it is, and done: so").message, "it is what it is, and done: so");
    }

    #[test]
    fn what_keeps_it_waiting_is_news() {
        let mut course = Course::new(17);
        let news = course.hear(&event("stuck", json!({ "op": "17", "step": "drain" })));
        assert_eq!(news, [News::Note("said \\u{1b}[31mred".to_owned())]);
    }

    #[test]
    fn what_a_server_said_commands_no_terminal() {
        let mut course = Course::new(17);
        let news = course.hear(&event("task", json!({ "op": "17", "state": "failed" })));
        assert_eq!(news, [News::Task { message: "said \\u{1b}[31mred".to_owned(), ok: false }]);
    }
}
