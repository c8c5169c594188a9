//! kill -9 at any moment: neither the epoch nor an operation's step is ever behind what was acknowledged.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use shunt_core::Epoch;
use shunt_core::operation::{OpId, Outcome, Step};

use super::operations::{at, ending, failover};
use super::{Store, address, cluster, event, folder, open};

const FOLDER: &str = "SHUNT_TEST_WRITES_IN";
const ROUNDS: u32 = 24;

/// The child's part, in a process of its own: it advances until it is killed, and says each epoch that was acknowledged.
/// Without the parent's word it does nothing.
#[test]
fn a_child_advances_its_epoch_until_it_is_killed() {
    let Some(dir) = std::env::var_os(FOLDER).map(PathBuf::from) else { return };
    let mut store = Store::open(&dir).expect("a store");
    let orders = cluster("orders");
    let start = store.epochs().expect("epochs").get(&orders).map_or(Epoch(0), |(epoch, _)| *epoch);
    // Not without end, should nobody kill it.
    for epoch in (start.0 + 1)..start.0 + 1_000_000 {
        store.advance(&orders, Epoch(epoch), Some(address("10.0.0.11:3306"))).expect("an advance");
        acknowledge(&epoch.to_string());
        store.record(&event("advanced")).expect("a record");
    }
}

/// Ends the child also when the test panics.
struct Ends(Child);

impl Drop for Ends {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Runs a child's part on a folder, kills it in the middle, and returns what it said was acknowledged, in order.
fn kill_in_the_middle(part: &str, dir: &Path, round: u32) -> Vec<String> {
    let child = Command::new(std::env::current_exe().expect("this test"))
        .args(["--exact", &format!("store::tests::killed::{part}"), "--nocapture"])
        .env(FOLDER, dir)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .expect("a child");
    let mut child = Ends(child);
    let mut lines = BufReader::new(child.0.stderr.take().expect("its stderr")).lines();
    // Killed after some acknowledgements, in the middle of whatever it does then: the spread over the rounds and the
    // scheduler's own whims make the moments differ.
    let left = 1 + round * 7 % 23;
    let mut acknowledged = Vec::new();
    while acknowledged.len() < left as usize {
        let line = lines.next().expect("the child goes on").expect("its words");
        acknowledged.extend(line.strip_prefix("acknowledged ").map(str::to_owned));
    }
    let spin = std::time::Instant::now();
    while spin.elapsed().as_micros() < u128::from(round * 137 % 1900) {
        std::hint::spin_loop();
    }
    child.0.kill().expect("SIGKILL");
    child.0.wait().expect("its end");
    for line in lines {
        acknowledged.extend(line.expect("its words").strip_prefix("acknowledged ").map(str::to_owned));
    }
    acknowledged
}

/// Written at once and whole, past the test harness's own capture.
fn acknowledge(what: &str) {
    nix::unistd::write(std::io::stderr(), format!("acknowledged {what}\n").as_bytes()).expect("a parent");
}

#[test]
fn the_epoch_is_never_lower_than_what_was_acknowledged_before_a_kill_9() {
    let dir = folder();
    let mut highest = 0;
    for round in 0..ROUNDS {
        let said = kill_in_the_middle("a_child_advances_its_epoch_until_it_is_killed", dir.path(), round);
        let acknowledged: u64 = said.last().expect("an epoch").parse().expect("a number");
        let (Epoch(kept), _) = open(&dir).epochs().expect("epochs")[&cluster("orders")];
        assert!(kept >= acknowledged, "round {round}: {acknowledged} was acknowledged, {kept} was kept");
        assert!(acknowledged > highest, "round {round}: it went on from what was kept");
        highest = kept;
    }
}

/// The steps of every operation of the child's, after its first.
const STEPS: [Step; 4] = [Step::Fence, Step::Drain, Step::Promote, Step::Repoint];

/// The child's part: it goes on with the operation that was under way, ends it, and begins the next.
#[test]
fn a_child_runs_operations_until_it_is_killed() {
    let Some(dir) = std::env::var_os(FOLDER).map(PathBuf::from) else { return };
    let mut store = Store::open(&dir).expect("a store");
    let orders = cluster("orders");
    for _ in 0..100_000 {
        let mut operation = if let Some(operation) = store.unfinished(&orders).expect("readable") {
            operation
        } else {
            let OpId(last) = store.last_operation(&orders).expect("the last");
            let operation = failover(last + 1);
            store.begin_step(&orders, &operation, 0).expect("a beginning");
            acknowledge(&format!("{}.{}", operation.id, operation.serial));
            operation
        };
        while let Some(step) = STEPS.get(operation.serial as usize - 1) {
            operation = at(operation, *step);
            store.begin_step(&orders, &operation, 0).expect("a step");
            acknowledge(&format!("{}.{}", operation.id, operation.serial));
        }
        store.end_operation(&orders, &operation, &ending(Outcome::Done), 0).expect("an end");
        acknowledge(&format!("{}.{}", operation.id, operation.serial + 1));
    }
}

#[test]
fn no_step_that_was_acknowledged_before_a_kill_9_is_lost_and_none_is_half_written() {
    let dir = folder();
    let orders = cluster("orders");
    let mut highest = (0, 0);
    for round in 0..ROUNDS {
        let said = kill_in_the_middle("a_child_runs_operations_until_it_is_killed", dir.path(), round);
        let (id, serial) = said.last().and_then(|last| last.split_once('.')).expect("a step");
        let acknowledged: (u64, u64) = (id.parse().expect("a number"), serial.parse().expect("a number"));
        assert!(acknowledged > highest, "round {round}: it went on from what was kept");

        let store = open(&dir);
        let last = store.last_operation(&orders).unwrap();
        let record = store.operation(&orders, last).unwrap().expect("the last");
        let operation = record.operation;
        let kept = (last.0, operation.serial + u64::from(record.ended.is_some()));
        assert!(kept >= acknowledged, "round {round}: {acknowledged:?} was acknowledged, {kept:?} was kept");
        let begun: Vec<Step> = record.steps.iter().map(|begun| begun.step).collect();
        let expected: Vec<Step> =
            std::iter::once(Step::Precheck).chain(STEPS).take(operation.serial as usize).collect();
        assert_eq!((begun.last(), &begun), (Some(&operation.step), &expected), "round {round}");
        assert_eq!(store.unfinished(&orders).unwrap(), record.ended.is_none().then_some(operation));
        highest = kept;
    }
}
