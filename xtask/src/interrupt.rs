//! Ctrl-C, SIGTERM and SIGHUP: whatever is going on, nothing stays behind.
//!
//! The signals are caught, not blocked: a blocked signal would be blocked in every child, too.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::channel;
use std::time::Duration;

use shunt_tests::scratch;
use tokio::signal::unix::{SignalKind, signal};

static SEEN: AtomicBool = AtomicBool::new(false);

/// Starts the thread that waits for a signal, cleans up and exits; returns once it listens. If it cannot, signals end
/// this program as they end any other, and the undertaker cleans up.
pub fn watch() {
    let (listens, listening) = channel();
    std::thread::spawn(move || -> std::io::Result<()> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let (name, number) = runtime.block_on(async {
            let mut interrupt = signal(SignalKind::interrupt())?;
            let mut terminate = signal(SignalKind::terminate())?;
            let mut hangup = signal(SignalKind::hangup())?;
            let _ = listens.send(());
            std::io::Result::Ok(tokio::select! {
                _ = interrupt.recv() => ("interrupted", 2),
                _ = terminate.recv() => ("terminated", 15),
                _ = hangup.recv() => ("hung up", 1),
            })
        })?;
        SEEN.store(true, Ordering::SeqCst);
        println!("\n{name}: cleaning up");
        scratch::bury();
        std::process::exit(128 + number);
    });
    let _ = listening.recv();
}

/// For a failure: if it is only what the cleaning up does to everybody, this does not return.
pub fn give_way() {
    // The signal may just be on its way: what was killed by the same Ctrl-C is noticed at once.
    std::thread::sleep(Duration::from_millis(50));
    while SEEN.load(Ordering::SeqCst) {
        std::thread::park();
    }
}
