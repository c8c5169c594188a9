//! What a person sees: tables on stdout, talk on stderr. The only place that prints.
#![expect(clippy::print_stderr, reason = "printing is what this module is for")]

mod failure;
mod progress;
mod stream;
mod table;

use std::io::{IsTerminal, Write};

pub use failure::Failure;
pub use progress::Progress;
pub use stream::Stream;
pub use table::{Table, Tone};

/// Text for stdout, with a newline. A reader that went away (`shunt list | head`) is no error.
pub fn say(text: &str) {
    let mut out = std::io::stdout().lock();
    let written = writeln!(out, "{text}").and_then(|()| out.flush());
    drop(out);
    end_unless_written(written);
}

/// Ends the program when stdout takes no more.
fn end_unless_written(written: std::io::Result<()>) {
    if let Err(error) = written {
        if error.kind() == std::io::ErrorKind::BrokenPipe {
            std::process::exit(0);
        }
        eprintln!("error: cannot write to stdout: {error}");
        std::process::exit(1);
    }
}

/// A text from somewhere else, with nothing in it that would command the terminal.
pub fn harmless(text: &str) -> String {
    text.chars().flat_map(|c| if c.is_control() { c.escape_default().collect() } else { vec![c] }).collect()
}

/// One JSON object on one line.
pub fn say_json(value: &impl serde::Serialize) -> Result<(), Failure> {
    let text = serde_json::to_string(value).map_err(|e| Failure::new("cannot write JSON").because(&e))?;
    say(&text);
    Ok(())
}

/// Talk, on stderr.
pub fn note(text: &str) {
    eprintln!("{text}");
}

/// Whether stdout takes colour: a terminal, and NO_COLOR is not set (no-color.org).
pub fn has_colour() -> bool {
    std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|v| v.is_empty())
}

/// A line above a table, as a table's own header looks.
pub fn heading(text: &str) -> String {
    if has_colour() { format!("\x1b[1m{text}\x1b[0m") } else { text.to_owned() }
}

/// The same of stderr.
pub fn stderr_has_colour() -> bool {
    std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|v| v.is_empty())
}

/// Whether there is somebody to ask.
pub fn can_ask() -> bool {
    std::io::stdin().is_terminal()
}

/// Asks a question on the terminal; no terminal means no.
pub fn confirm(question: &str) -> bool {
    if !can_ask() {
        return false;
    }
    eprint!("{question} [y/N] ");
    let mut answer = String::new();
    std::io::stdin().read_line(&mut answer).is_ok() && matches!(answer.trim(), "y" | "Y" | "yes")
}
