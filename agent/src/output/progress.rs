//! Something under way, on stderr: on a terminal a line that is replaced when it is over, elsewhere only how it ended.

use std::io::{IsTerminal as _, Write as _};

#[derive(Debug)]
pub struct Progress {
    terminal: bool,
    /// A line stands there without an end.
    open: bool,
}

impl Default for Progress {
    fn default() -> Self {
        Self { terminal: std::io::stderr().is_terminal(), open: false }
    }
}

impl Progress {
    /// It has begun. The next line takes the place of this one.
    pub fn begun(&mut self, text: &str) {
        if self.terminal {
            eprint!("{}{text}", self.clean());
            // A terminal that is gone takes nothing, and there is nobody to tell.
            let _ = std::io::stderr().flush();
            self.open = true;
        }
    }

    /// A line that stays.
    pub fn line(&mut self, text: &str) {
        eprintln!("{}{text}", self.clean());
        self.open = false;
    }

    /// Back to the line's beginning, and nothing on it (ECMA-48, EL).
    const fn clean(&self) -> &'static str {
        if self.open { "\r\x1b[K" } else { "" }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if self.open {
            eprintln!();
        }
    }
}
