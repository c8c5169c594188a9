//! Programs and web servers that do what they should, and those that do not.

use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::routing::post;
use nix::sys::signal::{SigSet, Signal, kill};
use nix::unistd::Pid;
use shunt_core::operation::{Cause, Hook as Ordered, Notice, Report, TaskError};
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::sync::mpsc;

use super::webhook::sign;
use super::{Count, Failed, Hooks, Which};
use crate::config::{Call, Hook, Hooks as Configured, Password, Secret, Webhook};

const LONG: Duration = Duration::from_secs(60);
const SHORT: Duration = Duration::from_millis(50);

fn notice(event: &str) -> Notice {
    Notice {
        cluster: "orders".into(),
        event: event.into(),
        old: Some("10.0.0.11:3306".parse().unwrap()),
        new: None,
        epoch: 4,
        op: "orders/17".into(),
        reason: "it is dead: \"gone\" $(reboot)\0".into(),
    }
}

fn program(line: &str) -> Hook {
    Hook { call: Call::Command(line.into()), timeout: LONG }
}

fn url(address: &str, key: Option<&str>) -> Hook {
    let secret = key.map(|key| Secret { file: "key".into(), key: Password::new(key) });
    Hook { call: Call::Webhook(Webhook { url: address.parse().unwrap(), secret }), timeout: LONG }
}

/// Hooks, and what is reported of them.
fn start(configured: Configured) -> (Hooks, mpsc::UnboundedReceiver<Failed>) {
    let (report, failures) = mpsc::unbounded_channel();
    (Hooks::start_with(configured, [SHORT; 3], move |failed| drop(report.send(failed))), failures)
}

fn fence(hook: Hook) -> Configured {
    Configured { fence: Some(hook), ..Configured::default() }
}

async fn run_fence(hook: Hook, within: Duration) -> (Result<Report, TaskError>, Option<Failed>) {
    let (hooks, mut failures) = start(fence(hook));
    let result = hooks.run(Ordered::Fence, &notice("fence"), within).await;
    let failed = failures.try_recv().ok();
    let counted = hooks.counts()[0].1;
    assert_eq!(counted, Count { done: u64::from(result.is_ok()), failed: u64::from(result.is_err()) });
    (result, failed)
}

/// The text of a file, as soon as it ends with a newline.
async fn written(path: &Path) -> String {
    let deadline = Instant::now() + LONG;
    loop {
        let text = std::fs::read_to_string(path).unwrap_or_default();
        if text.ends_with('\n') {
            return text;
        }
        assert!(Instant::now() < deadline, "{} is not written", path.display());
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Waits until there is no such process, or only its remains.
async fn gone(pid: &str) {
    let deadline = Instant::now() + LONG;
    loop {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", pid.trim())).unwrap_or_default();
        if stat.is_empty() || stat.contains(") Z ") {
            return;
        }
        assert!(Instant::now() < deadline, "process {pid} lives on");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test]
async fn a_program_is_told_everything_by_its_environment_and_nothing_is_run_that_a_server_said() {
    let dir = TempDir::new().unwrap();
    // Whoever runs the tests may have variables of the agent's own.
    let ours = "^SHUNT_(CLUSTER|EPOCH|EVENT|NEW|OLD|OP|REASON)=";
    let line = format!("env | grep -E '{ours}' | sort > {0}/env; pwd >> {0}/env", dir.path().display());
    let (result, failed) = run_fence(program(&line), LONG).await;
    assert_eq!((result, failed), (Ok(Report::Done), None));
    let said = std::fs::read_to_string(dir.path().join("env")).unwrap();
    let expected = "SHUNT_CLUSTER=orders\nSHUNT_EPOCH=4\nSHUNT_EVENT=fence\nSHUNT_NEW=\nSHUNT_OLD=10.0.0.11:3306\n\
                    SHUNT_OP=orders/17\nSHUNT_REASON=it is dead: \"gone\" $(reboot) \n/\n";
    assert_eq!(said, expected);
}

#[tokio::test]
async fn a_program_that_fails_is_a_refusal_with_its_last_words() {
    let (result, failed) = run_fence(program("echo one; echo two >&2; exit 3"), LONG).await;
    let error = result.unwrap_err();
    assert_eq!(error.cause, Cause::Refused);
    assert_eq!(error.message, "the fence hook failed: it ended with exit code 3 (it said: two)");
    let entry = failed.expect("a report").entry();
    assert_eq!(entry.message, "the hook `fence` failed on fence: it ended with exit code 3");
    let data = |key| entry.data.iter().find(|(name, _)| *name == key).map(|(_, value)| value.as_str());
    assert_eq!((data("output"), data("operation")), (Some("one\ntwo"), Some("orders/17")));
}

#[tokio::test]
async fn a_program_that_is_not_there_is_a_refusal_in_the_shell_s_words() {
    let (result, _) = run_fence(program("/nowhere/fence \"$SHUNT_OLD\""), LONG).await;
    let error = result.unwrap_err();
    assert_eq!(error.cause, Cause::Refused);
    assert!(error.message.contains("exit code 127") && error.message.contains("/nowhere/fence"), "{error:?}");
}

#[tokio::test]
async fn a_program_that_hangs_is_killed_with_all_its_children_and_nobody_knows_what_it_did() {
    let dir = TempDir::new().unwrap();
    let line = format!("sleep 1000 & echo $! > {0}/pid; echo begun; wait", dir.path().display());
    let (result, failed) = run_fence(program(&line), Duration::from_secs(2)).await;
    let error = result.unwrap_err();
    assert_eq!(error.cause, Cause::Unknown);
    assert_eq!(error.message, "the fence hook failed: it was killed: it had not ended after 2 s (it said: begun)");
    assert!(failed.is_some());
    gone(&written(&dir.path().join("pid")).await).await;
}

#[tokio::test]
async fn a_program_whose_order_is_forgotten_is_killed_too() {
    let dir = TempDir::new().unwrap();
    let line = format!("sleep 1000 & echo $! > {0}/pid; wait", dir.path().display());
    let running = tokio::spawn(run_fence(program(&line), LONG));
    let pid = written(&dir.path().join("pid")).await;
    running.abort();
    assert!(running.await.unwrap_err().is_cancelled());
    gone(&pid).await;
}

#[tokio::test]
async fn a_program_that_writes_much_never_waits_for_a_reader_and_its_last_words_are_kept() {
    let line = "yes 0123456789 | head -c 2000000; echo last words; exit 1";
    let (result, failed) = run_fence(program(line), LONG).await;
    assert!(result.is_err());
    let output = failed.expect("a report").error.output;
    assert!(output.len() <= 4096 && output.ends_with("last words"), "{} bytes", output.len());
}

#[tokio::test]
async fn a_program_that_leaves_a_child_with_its_output_is_not_waited_for() {
    let dir = TempDir::new().unwrap();
    let line = format!("sleep 1000 & echo $! > {0}/pid", dir.path().display());
    let begun = Instant::now();
    let (result, _) = run_fence(program(&line), LONG).await;
    assert_eq!(result, Ok(Report::Done));
    assert!(begun.elapsed() < LONG);
    // This one was left on purpose, and is the test's to end.
    let pid: i32 = written(&dir.path().join("pid")).await.trim().parse().unwrap();
    kill(Pid::from_raw(pid), Signal::SIGKILL).unwrap();
}

#[tokio::test]
async fn a_program_can_be_terminated_though_the_agent_blocks_signals() {
    let mut blocked = SigSet::empty();
    blocked.add(Signal::SIGTERM);
    blocked.thread_block().unwrap();
    let (result, _) = run_fence(program("kill -TERM $$; sleep 5"), LONG).await;
    assert!(SigSet::thread_get_mask().unwrap().contains(Signal::SIGTERM), "the agent's own mask is as before");
    blocked.thread_unblock().unwrap();
    assert!(result.unwrap_err().message.contains("it was ended by signal 15"));
}

#[tokio::test]
async fn an_order_for_a_hook_that_is_gone_from_the_configuration_is_refused() {
    let (hooks, mut failures) = start(fence(program("true")));
    hooks.configure(Configured::default());
    let error = hooks.run(Ordered::Fence, &notice("fence"), LONG).await.unwrap_err();
    assert_eq!(error.cause, Cause::Refused);
    assert!(failures.try_recv().is_ok());
    hooks.configure(fence(program("true")));
    assert_eq!(hooks.run(Ordered::Fence, &notice("fence"), LONG).await, Ok(Report::Done));
    assert!(hooks.run(Ordered::BeforePromote, &notice("before_promote"), LONG).await.is_err());
}

#[tokio::test]
async fn notify_hears_of_everything_in_order_and_after_failover_of_what_was_done() {
    let dir = TempDir::new().unwrap();
    let tell = |name: &str| Some(program(&format!("echo $SHUNT_EVENT >> {}/{name}", dir.path().display())));
    let configured = Configured { notify: tell("notify"), after_failover: tell("after"), ..Configured::default() };
    let (hooks, mut failures) = start(configured);
    let events = ["failover_started", "failover_done", "quarantined", "switchover_done", "alarm", "rejoined"];
    for event in events {
        hooks.tell(notice(event));
    }
    drop(hooks);
    // Nobody holds the way to a report any more: everything was told.
    assert_eq!(failures.recv().await, None);
    let read = |name: &str| std::fs::read_to_string(dir.path().join(name)).unwrap();
    assert_eq!(read("notify").lines().collect::<Vec<_>>(), events);
    assert_eq!(read("after").lines().collect::<Vec<_>>(), ["failover_done", "switchover_done"]);
}

#[tokio::test]
async fn a_hook_that_hangs_holds_nobody_up_and_what_it_cannot_take_is_reported() {
    let (hooks, mut failures) = start(Configured { notify: Some(program("sleep 1000")), ..Configured::default() });
    for _ in 0..super::QUEUE + 10 {
        hooks.tell(notice("alarm"));
    }
    let failed = failures.recv().await.expect("a report");
    assert_eq!(failed.which, Which::Notify);
    assert!(failed.error.message.contains("1024 notices wait"), "{}", failed.error);
    assert!(hooks.counts()[Which::Notify as usize].1.failed >= 9);
}

/// A web server on the loopback that gives these answers, then 200s; and what it was sent.
#[derive(Clone)]
struct Server {
    answers: Arc<Mutex<Vec<StatusCode>>>,
    got: mpsc::UnboundedSender<(HeaderMap, Bytes)>,
}

async fn serve(answers: &[StatusCode]) -> (String, mpsc::UnboundedReceiver<(HeaderMap, Bytes)>) {
    let (got, received) = mpsc::unbounded_channel();
    let answers = answers.iter().rev().copied().collect();
    let server = Server { answers: Arc::new(Mutex::new(answers)), got };
    let take = |State(server): State<Server>, headers: HeaderMap, body: Bytes| async move {
        server.got.send((headers, body)).expect("the test listens");
        (server.answers.lock().unwrap().pop().unwrap_or(StatusCode::OK), "so I say")
    };
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let router = Router::new().route("/hooks/shunt", post(take)).with_state(server);
    tokio::spawn(async move { axum::serve(listener, router).await });
    (format!("http://{address}/hooks/shunt?team=db"), received)
}

#[tokio::test]
async fn a_web_server_that_fails_twice_gets_the_same_delivery_a_third_time_signed() {
    let down = StatusCode::SERVICE_UNAVAILABLE;
    let (address, mut received) = serve(&[down, down]).await;
    let notify = Some(url(&address, Some("hush")));
    let (hooks, mut failures) = start(Configured { notify, ..Configured::default() });
    hooks.tell(notice("failover_done"));
    let mut tries = Vec::new();
    for _ in 0..3 {
        tries.push(received.recv().await.expect("a delivery"));
    }
    let (headers, body) = &tries[0];
    let id = headers["x-shunt-delivery"].to_str().unwrap();
    assert_eq!(id.len(), 32);
    assert!(tries.iter().all(|(other, bytes)| other["x-shunt-delivery"] == id && bytes == body));
    assert_eq!(headers["x-shunt-signature"], sign(b"hush", body));
    assert_eq!(headers["content-type"], "application/json");
    assert!(headers["host"].to_str().unwrap().starts_with("127.0.0.1:"));
    let json: serde_json::Value = serde_json::from_slice(body).unwrap();
    assert_eq!(
        json,
        serde_json::json!({
            "schema_version": 1, "cluster": "orders", "event": "failover_done", "old": "10.0.0.11:3306", "new": null,
            "epoch": 4, "op": "orders/17", "reason": "it is dead: \"gone\" $(reboot)\0",
        })
    );
    hooks.tell(notice("alarm"));
    let (headers, _) = received.recv().await.expect("the next");
    assert_ne!(headers["x-shunt-delivery"], id);
    assert!(failures.try_recv().is_err());
}

#[test]
fn a_signature_is_the_hmac_that_others_compute() {
    // RFC 4231, test case 2.
    let expected = "sha256=5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843";
    assert_eq!(sign(b"Jefe", b"what do ya want for nothing?"), expected);
}

#[tokio::test]
async fn a_web_server_that_never_takes_it_is_given_up_and_one_that_says_no_is_not_asked_again() {
    let (address, mut received) = serve(&[StatusCode::BAD_GATEWAY; 9]).await;
    let (result, failed) = run_fence(url(&address, None), LONG).await;
    let error = result.unwrap_err();
    assert_eq!(error.cause, Cause::Refused);
    assert!(error.message.contains("502 Bad Gateway, after 4 tries (it said: so I say)"), "{}", error.message);
    assert!(!error.message.contains("hooks/shunt"), "its path may be a secret: {}", error.message);
    assert_eq!(failed.expect("a report").error.output, "so I say");
    for _ in 0..4 {
        let (headers, _) = received.try_recv().expect("a try");
        assert!(!headers.contains_key("x-shunt-signature"));
    }
    assert!(received.try_recv().is_err());

    let (address, mut received) = serve(&[StatusCode::FORBIDDEN]).await;
    let error = run_fence(url(&address, None), LONG).await.0.unwrap_err();
    assert!(error.message.contains("403 Forbidden (it said"), "{}", error.message);
    assert!(received.try_recv().is_ok() && received.try_recv().is_err());
}

#[tokio::test]
async fn an_order_is_not_tried_again_beyond_its_time() {
    let (address, mut received) = serve(&[StatusCode::BAD_GATEWAY; 9]).await;
    let (report, _failures) = mpsc::unbounded_channel();
    let configured = fence(url(&address, None));
    let hooks = Hooks::start_with(configured, [LONG; 3], move |failed| drop(report.send(failed)));
    let error = hooks.run(Ordered::Fence, &notice("fence"), Duration::from_secs(5)).await.unwrap_err();
    assert_eq!(error.cause, Cause::Refused);
    assert!(received.try_recv().is_ok() && received.try_recv().is_err());
}

#[tokio::test]
async fn a_web_server_that_is_not_there_was_asked_nothing_and_of_one_that_is_silent_nobody_knows() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("http://{}/x", listener.local_addr().unwrap());
    let error = run_fence(url(&address, None), Duration::from_secs(2)).await.0.unwrap_err();
    assert_eq!(error.cause, Cause::Unknown, "{}", error.message);
    drop(listener);
    let error = run_fence(url(&address, None), Duration::from_secs(2)).await.0.unwrap_err();
    assert_eq!(error.cause, Cause::Unreachable, "{}", error.message);
}
