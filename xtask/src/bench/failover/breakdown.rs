//! Where the time of an operation went, by the agent's own history. Its events have the wall clock's milliseconds.

use serde_json::Value;

use crate::bench::median;
use crate::moment::Moment;

/// The history since a mark.
pub struct Events(pub Vec<Value>);

/// Name, and milliseconds.
pub type Line = (String, f64);

/// One operation: moments since its cause, and how long each of its tasks took.
#[derive(Clone, Debug, Default)]
pub struct Breakdown {
    pub moments: Vec<Line>,
    pub tasks: Vec<Line>,
}

impl Events {
    pub fn ended(&self) -> Option<&Value> {
        self.0.iter().find(|e| e["kind"] == "operation" && e["data"]["state"] == "ended")
    }

    /// When the verdict became that, in milliseconds since then.
    pub fn verdict(&self, since: Moment, verdict: &str) -> Option<f64> {
        let found = self.0.iter().find(|e| e["kind"] == "verdict" && e["data"]["verdict"] == verdict)?;
        since.ms_to_event(found)
    }

    pub fn breakdown(&self, since: Moment) -> Breakdown {
        let mut found = Breakdown::default();
        for event in &self.0 {
            let data = |key: &str| event["data"][key].as_str().unwrap_or_default();
            let name = match (event["kind"].as_str().unwrap_or_default(), data("state")) {
                ("verdict", _) if ["suspect", "dead"].contains(&data("verdict")) => {
                    format!("verdict {}", data("verdict"))
                }
                ("operation", state) => format!("operation {state}"),
                ("step", state) => format!("step {} {state}", data("step")),
                ("sessions", _) => "sessions ended".to_owned(),
                ("fenced", _) => "kernel fenced".to_owned(),
                ("mapped", _) => "kernel mapped".to_owned(),
                ("task", _) => {
                    if let Ok(took) = data("took_ms").parse() {
                        keep_longest(&mut found.tasks, format!("{}: {}", data("step"), data("task")), took);
                    }
                    continue;
                }
                _ => continue,
            };
            // The first of its name: what comes after the operation's end is another story.
            if let Some(at) =
                since.ms_to_event(event).filter(|_| !found.moments.iter().any(|(known, _)| *known == name))
            {
                found.moments.push((name, at));
            }
        }
        found
    }
}

/// Tasks of one name run side by side on several servers: the longest is what the step waits for.
fn keep_longest(tasks: &mut Vec<Line>, name: String, took: f64) {
    match tasks.iter_mut().find(|(known, _)| *known == name) {
        Some((_, known)) => *known = known.max(took),
        None => tasks.push((name, took)),
    }
}

/// The median of each line of many, and how many had it; in the order in which they first came.
pub fn medians<'a>(all: impl Iterator<Item = &'a Vec<Line>>) -> Vec<(String, f64, usize)> {
    let mut names: Vec<(String, Vec<f64>)> = Vec::new();
    for (name, figure) in all.flatten() {
        match names.iter_mut().find(|(known, _)| known == name) {
            Some((_, figures)) => figures.push(*figure),
            None => names.push((name.clone(), vec![*figure])),
        }
    }
    names.into_iter().map(|(name, figures)| (name, median(&figures), figures.len())).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_longest_of_the_tasks_side_by_side_is_kept_and_a_moment_is_the_first_of_its_name() {
        let since = Moment::at_wall_ms(1000.0);
        let task = |took: &str| {
            json!({"kind": "task", "at_ms": 1009,
                "data": {"state": "done", "step": "disarm", "task": "stop_receiving", "took_ms": took}})
        };
        let mapped = |at: i64| json!({"kind": "mapped", "at_ms": at, "data": {}});
        let events = Events(vec![task("3"), task("7"), mapped(1010), mapped(1020)]);
        let found = events.breakdown(since);
        assert_eq!(found.tasks, [("disarm: stop_receiving".to_owned(), 7.0)]);
        assert_eq!(found.moments, [("kernel mapped".to_owned(), 10.0)]);
    }
}
