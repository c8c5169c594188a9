//! Ctrl-C, SIGTERM and SIGHUP: whatever is going on, nothing stays behind.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use nix::sys::signal::{SigSet, Signal};
use shunt_tests::scratch;

static SEEN: AtomicBool = AtomicBool::new(false);

/// For a failure: if it is only what the cleaning up does to everybody, this does not return.
pub fn give_way() {
    // The signal may just be on its way: what was killed by the same Ctrl-C is noticed at once.
    std::thread::sleep(Duration::from_millis(50));
    while SEEN.load(Ordering::SeqCst) {
        std::thread::park();
    }
}

/// Takes the three signals away from every thread and gives them to one that cleans up and exits. (Children start with
/// a clean mask: the standard library resets it.)
pub fn watch() {
    let mut signals = SigSet::empty();
    for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP] {
        signals.add(signal);
    }
    if signals.thread_block().is_err() {
        return; // then they end us as they end everybody, and the undertaker cleans up
    }
    std::thread::spawn(move || {
        let Ok(signal) = signals.wait() else { return };
        SEEN.store(true, Ordering::SeqCst);
        println!("\n{signal}: cleaning up");
        scratch::bury();
        std::process::exit(128 + signal as i32);
    });
}
