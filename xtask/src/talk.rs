//! How these commands talk: a line a step, with the time it took; errors with their causes and what to do.

use std::io::Write as _;
use std::process::{Command, Output, Stdio};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

/// Runs one step and shows that it goes on: its name, a dot every few seconds, its time.
pub fn step<T>(what: &str, work: impl FnOnce() -> Result<T>) -> Result<T> {
    print!("  {what:<58}");
    flush();
    let started = Instant::now();
    let (done, waiting) = channel::<()>();
    let dots = std::thread::spawn(move || {
        while waiting.recv_timeout(Duration::from_secs(3)) == Err(RecvTimeoutError::Timeout) {
            print!(".");
            flush();
        }
    });
    let result = work();
    drop(done);
    let _ = dots.join();
    match &result {
        Ok(_) => println!(" {:>6.1} s", started.elapsed().as_secs_f64()),
        Err(_) => println!(" failed"),
    }
    result
}

/// Runs a command to its end; what it says is shown only when it fails.
pub fn quietly(command: &mut Command) -> Result<String> {
    let name = command.get_program().to_string_lossy().into_owned();
    let output = command.stdin(Stdio::null()).output().with_context(|| format!("cannot run {name}"))?;
    judged(&name, &output)
}

/// What a command said, or an error with its last lines.
pub fn judged(name: &str, output: &Output) -> Result<String> {
    if !output.status.success() {
        let text = [output.stdout.as_slice(), &output.stderr].concat();
        let text = String::from_utf8_lossy(&text);
        let lines: Vec<&str> = text.lines().filter(|line| !line.trim().is_empty()).collect();
        bail!("{name} failed ({}):\n{}", output.status, lines[lines.len().saturating_sub(15)..].join("\n"));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Asks, if there is somebody to ask; otherwise the answer is yes, since what would be done has just been said.
pub fn agreed(question: &str) -> bool {
    use std::io::IsTerminal as _;
    if !std::io::stdin().is_terminal() {
        return true;
    }
    print!("{question} [Y/n] ");
    flush();
    let mut answer = String::new();
    if std::io::stdin().read_line(&mut answer).unwrap_or(0) == 0 {
        return false;
    }
    matches!(answer.trim().to_ascii_lowercase().as_str(), "" | "y" | "yes")
}

/// `error:` with the chain of causes.
pub fn error(error: &anyhow::Error) {
    println!("\nerror: {error}");
    for cause in error.chain().skip(1) {
        println!("  because: {}", cause.to_string().replace('\n', "\n    "));
    }
}

fn flush() {
    let _ = std::io::stdout().flush();
}
