//! kill -9 at any moment: the epoch is never lower than what was acknowledged.

use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use shunt_core::Epoch;

use super::{Store, address, cluster, event, folder, open};

const FOLDER: &str = "SHUNT_TEST_ADVANCES_IN";
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
        // Written at once and whole, past the test harness's own capture.
        nix::unistd::write(std::io::stderr(), format!("acknowledged {epoch}\n").as_bytes()).expect("a parent");
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

#[test]
fn the_epoch_is_never_lower_than_what_was_acknowledged_before_a_kill_9() {
    let dir = folder();
    let mut highest = 0;
    for round in 0..ROUNDS {
        let child = Command::new(std::env::current_exe().expect("this test"))
            .args(["--exact", "store::tests::killed::a_child_advances_its_epoch_until_it_is_killed", "--nocapture"])
            .env(FOLDER, dir.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("a child");
        let mut child = Ends(child);
        let mut lines = BufReader::new(child.0.stderr.take().expect("its stderr")).lines();
        // Killed after some acknowledgements, in the middle of whatever it does then: the spread over the rounds and the
        // scheduler's own whims make the moments differ.
        let mut left = 1 + round * 7 % 23;
        let mut acknowledged = 0;
        while left > 0 {
            let line = lines.next().expect("the child goes on").expect("its words");
            if let Some(epoch) = line.strip_prefix("acknowledged ") {
                acknowledged = epoch.parse().expect("a number");
                left -= 1;
            }
        }
        let spin = std::time::Instant::now();
        while spin.elapsed().as_micros() < u128::from(round * 137 % 1900) {
            std::hint::spin_loop();
        }
        child.0.kill().expect("SIGKILL");
        child.0.wait().expect("its end");
        for line in lines {
            if let Some(epoch) = line.expect("its words").strip_prefix("acknowledged ") {
                acknowledged = epoch.parse().expect("a number");
            }
        }
        let (Epoch(kept), _) = open(&dir).epochs().expect("epochs")[&cluster("orders")];
        assert!(kept >= acknowledged, "round {round}: {acknowledged} was acknowledged, {kept} was kept");
        assert!(acknowledged > highest, "round {round}: it went on from what was kept");
        highest = kept;
    }
}
