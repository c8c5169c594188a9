//! An agent that answers what a test tells it to, on a socket of its own; the command line beside it is the real one.

use std::collections::VecDeque;
use std::io::{BufRead as _, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread::JoinHandle;
use std::time::Duration;

use axum::extract::{Path, RawQuery, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use serde_json::{Value, json};
use shunt::control::api::{EventLine, EventsAnswer, Problem, ProblemCode, SCHEMA_VERSION};
use tempfile::TempDir;
use tokio::net::UnixListener;
use tokio::runtime::Runtime;

/// What it knows and what it was asked.
#[derive(Default)]
pub struct Script {
    pub show: Value,
    pub events: Vec<EventLine>,
    /// What comes of the next requests: an answer, and what it leaves in the history.
    pub answers: VecDeque<(Result<Value, Problem>, Vec<EventLine>)>,
    /// Verb and body.
    pub posted: Vec<(String, Value)>,
    /// How often it was asked for what comes after the last event, and had nothing.
    pub silences: u32,
}

type Shared = Arc<Mutex<Script>>;

pub struct Fake {
    runtime: Option<Runtime>,
    script: Shared,
    dir: TempDir,
}

/// How a command ended.
#[derive(Debug)]
pub struct Ran {
    pub code: Option<i32>,
    pub out: String,
    pub err: String,
}

impl Fake {
    /// An agent that serves cluster `orders`: db1 the primary, db2 and db3 its replicas.
    pub fn start() -> Self {
        let script = Script { show: orders("10.0.0.11:3306"), ..Script::default() };
        let mut fake = Self { runtime: None, script: Arc::new(Mutex::new(script)), dir: TempDir::new().unwrap() };
        fake.start_again();
        fake
    }

    pub fn start_again(&mut self) {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let routes = Router::new()
            .route("/v1/clusters/{cluster}", get(show))
            .route("/v1/clusters/{cluster}/{verb}", post(operate))
            .route("/v1/events", get(events))
            .with_state(self.script.clone());
        let listener = runtime.block_on(async { UnixListener::bind(self.socket()).unwrap() });
        runtime.spawn(async move { axum::serve(listener, routes).await });
        self.runtime = Some(runtime);
    }

    /// The agent is gone, with every connection to it.
    pub fn stop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_timeout(Duration::from_secs(5));
            std::fs::remove_file(self.socket()).unwrap();
        }
    }

    pub fn script(&self) -> MutexGuard<'_, Script> {
        self.script.lock().unwrap()
    }

    /// The next request begins operation `op`, and that is what the history tells of it.
    pub fn will_begin(&self, op: u64, events: Vec<EventLine>) {
        self.script().answers.push_back((Ok(json!({ "schema_version": SCHEMA_VERSION, "op": op })), events));
    }

    pub fn will_refuse(&self, code: ProblemCode, error: &str) {
        self.script().answers.push_back((Err(problem(code, error)), Vec::new()));
    }

    pub fn verbs(&self) -> Vec<String> {
        self.script().posted.iter().map(|(verb, _)| verb.clone()).collect()
    }

    pub fn command(&self, line: &str) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_shunt"));
        command.args(line.split(' ')).arg("--socket").arg(self.socket());
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).env("NO_COLOR", "1");
        command
    }

    pub fn run(&self, line: &str) -> Ran {
        self.command(line).output().unwrap().into()
    }

    pub fn spawn(&self, line: &str) -> Running {
        let mut child = self.command(line).spawn().unwrap();
        let (heard, mut stderr) = (Arc::<Mutex<String>>::default(), BufReader::new(child.stderr.take().unwrap()));
        let writes = heard.clone();
        let reader = std::thread::spawn(move || {
            let mut line = String::new();
            while stderr.read_line(&mut line).is_ok_and(|read| read > 0) {
                writes.lock().unwrap().push_str(&std::mem::take(&mut line));
            }
        });
        Running { child, reader, heard }
    }

    /// Waits until whoever follows has heard everything there is, and has asked for more so many times.
    pub fn wait_until_all_is_heard(&self, times: u32) {
        self.script().silences = 0;
        for _ in 0..1200 {
            if self.script().silences >= times && !self.script().events.is_empty() {
                return;
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        panic!("nobody follows within a minute");
    }

    fn socket(&self) -> PathBuf {
        self.dir.path().join("shunt.sock")
    }
}

/// A command under way, whose stderr is read as it comes.
pub struct Running {
    pub child: Child,
    reader: JoinHandle<()>,
    heard: Arc<Mutex<String>>,
}

impl Running {
    pub fn wait_until_it_says(&self, words: &str) {
        for _ in 0..1200 {
            if self.heard.lock().unwrap().contains(words) {
                return;
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        panic!("it does not say `{words}` within a minute");
    }

    pub fn wait(self) -> Ran {
        let output = self.child.wait_with_output().unwrap();
        self.reader.join().unwrap();
        let err = self.heard.lock().unwrap().clone();
        Ran { err, ..output.into() }
    }
}

impl From<Output> for Ran {
    fn from(output: Output) -> Self {
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        Self { code: output.status.code(), out: text(output.stdout), err: text(output.stderr) }
    }
}

async fn show(State(script): State<Shared>, Path(cluster): Path<String>) -> Response {
    if cluster == "orders" {
        return Json(script.lock().unwrap().show.clone()).into_response();
    }
    refused(&problem(ProblemCode::NotFound, &format!("there is no cluster `{cluster}`")))
}

async fn operate(
    State(script): State<Shared>,
    Path((_, verb)): Path<(String, String)>,
    Json(body): Json<Value>,
) -> Response {
    let mut script = script.lock().unwrap();
    script.posted.push((verb, body));
    match script.answers.pop_front() {
        Some((Ok(answer), events)) => {
            script.events.extend(events);
            Json(answer).into_response()
        }
        Some((Err(problem), _)) => refused(&problem),
        None => refused(&problem(ProblemCode::Failed, "the test expects no such request")),
    }
}

/// Waits for news, but not for long: what is tested is what silence means.
async fn events(State(script): State<Shared>, RawQuery(query): RawQuery) -> Json<EventsAnswer> {
    let query = query.unwrap_or_default();
    let after = query.split('&').find_map(|part| part.strip_prefix("after=")?.parse::<i64>().ok());
    let found = || -> Vec<EventLine> {
        let events = &script.lock().unwrap().events;
        match after {
            Some(after) => events.iter().filter(|e| e.id > after).cloned().collect(),
            None => events.last().cloned().into_iter().collect(),
        }
    };
    let mut events = found();
    if events.is_empty() && after.is_some() {
        script.lock().unwrap().silences += 1;
        tokio::time::sleep(Duration::from_millis(200)).await;
        events = found();
    }
    Json(EventsAnswer { schema_version: SCHEMA_VERSION, events })
}

fn refused(problem: &Problem) -> Response {
    (StatusCode::CONFLICT, Json(problem.clone())).into_response()
}

pub fn problem(code: ProblemCode, error: &str) -> Problem {
    Problem { schema_version: SCHEMA_VERSION, code, error: error.to_owned(), hint: None, details: None }
}

/// `GET /v1/clusters/orders` with that primary.
pub fn orders(primary: &str) -> Value {
    let servers: Vec<_> = (1..=3)
        .map(|n| {
            let address = format!("10.0.0.1{n}:3306");
            let is_primary = address == primary;
            json!({
                "address": address, "name": format!("db{n}"), "role": if is_primary { "primary" } else { "replica" },
                "state": "up", "failure": null, "read_only": !is_primary, "gtid_executed": null, "gtid_missing": null,
                "gtid_missing_set": null, "lag_ms": null, "replication": "", "semi_sync": "", "observed_ms_ago": 1,
                "answered_in_us": 1, "flavour": "mysql", "version": "9.7.4", "dc": null, "promotion": "neutral",
            })
        })
        .collect();
    json!({
        "schema_version": 1, "cluster": "orders", "mode": "promote", "epoch": 7, "primary": primary,
        "verdict": "healthy", "verdict_since": "2026-01-02T03:04:05.678Z", "reasons": ["db1 answers and is writable"],
        "alarms": [], "pinned": null, "paused": null, "outlook": "if the primary dies, db2 is promoted",
        "servers": servers,
    })
}

/// A history in the making.
pub struct History {
    events: Vec<EventLine>,
    at_ms: i64,
    first: i64,
    op: u64,
}

impl History {
    /// Its first event has that number.
    pub fn new(first: i64, op: u64) -> Self {
        Self { events: Vec::new(), at_ms: 1_767_323_045_000, first, op }
    }

    pub fn after(mut self, ms: i64) -> Self {
        self.at_ms += ms;
        self
    }

    pub fn event(mut self, kind: &str, message: &str, mut data: Value) -> Self {
        // As the agent writes them: every value is text.
        data["op"] = self.op.to_string().into();
        self.push(kind, message, data);
        self
    }

    /// An event that is no part of an operation.
    pub fn other(mut self, kind: &str, message: &str, data: Value) -> Self {
        self.push(kind, message, data);
        self
    }

    fn push(&mut self, kind: &str, message: &str, data: Value) {
        self.events.push(EventLine {
            id: self.first + i64::try_from(self.events.len()).unwrap(),
            at: String::new(),
            at_ms: self.at_ms,
            cluster: Some("orders".to_owned()),
            kind: kind.to_owned(),
            message: message.to_owned(),
            data,
        });
    }

    pub fn begun(self, step: &str) -> Self {
        self.event("step", &format!("{step} begun"), json!({ "step": step, "state": "begun" }))
    }

    pub fn done(self, step: &str, ms: i64) -> Self {
        let data = json!({ "step": step, "state": "done", "took_ms": ms.to_string() });
        self.after(ms).event("step", &format!("{step} done"), data)
    }

    pub fn step(self, step: &str, ms: i64) -> Self {
        self.begun(step).done(step, ms)
    }

    pub fn planned(self, step: &str, ok: bool, message: &str) -> Self {
        self.event("plan", message, json!({ "step": step, "ok": ok.to_string() }))
    }

    pub fn ended(self, outcome: &str, message: &str) -> Vec<EventLine> {
        let data = json!({
            "state": "ended", "outcome": outcome, "took_ms": "143", "old": "10.0.0.11:3306", "new": "10.0.0.12:3306",
            "epoch": "8",
        });
        let message = format!("failover {} {outcome}: {message}", self.op);
        self.event("operation", &message, data).events
    }

    pub fn so_far(self) -> Vec<EventLine> {
        self.events
    }
}
