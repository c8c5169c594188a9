//! Ctrl-C, SIGTERM and SIGHUP: whatever is going on, nothing stays behind.

use nix::sys::signal::{SigSet, Signal};
use shunt_tests::scratch;

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
        println!("\n{signal}: cleaning up");
        scratch::bury();
        std::process::exit(128 + signal as i32);
    });
}
