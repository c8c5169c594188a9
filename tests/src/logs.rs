//! The logs of what has ended, kept until it is known whether the test failed. A guard's Drop comes before the test's
//! verdict and removes the file; so it hands its last lines over to here, and whoever learns of a failure prints them.

use std::path::Path;
use std::sync::Mutex;

static KEPT: Mutex<Vec<(String, String)>> = Mutex::new(Vec::new());

/// How many lines of a log are worth showing.
pub const LINES: usize = 60;

/// The last lines of a log file; empty when there is none.
pub fn tail(path: &Path, lines: usize) -> String {
    let bytes = std::fs::read(path).unwrap_or_default();
    let text = String::from_utf8_lossy(&bytes);
    let all: Vec<&str> = text.lines().collect();
    all[all.len().saturating_sub(lines)..].join("\n")
}

/// Remembers the end of a log that is about to be removed.
pub fn keep(name: &str, path: &Path) {
    let text = tail(path, LINES);
    if text.is_empty() {
        return;
    }
    if let Ok(mut kept) = KEPT.lock() {
        // Of a server that was started several times, its last life.
        kept.retain(|(earlier, _)| earlier != name);
        kept.push((name.to_owned(), text));
    }
}

/// Prints the last `lines` of everything remembered, and forgets it.
pub fn print_kept(lines: usize) {
    let kept = KEPT.lock().map(|mut kept| std::mem::take(&mut *kept)).unwrap_or_default();
    for (name, text) in kept {
        eprintln!("--- the last lines of {name}:");
        let all: Vec<&str> = text.lines().collect();
        for line in &all[all.len().saturating_sub(lines)..] {
            eprintln!("    {line}");
        }
    }
}
