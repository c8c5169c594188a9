//! What happened in a run, for people. A run is silent; one that fails is run again, aloud.

use std::collections::VecDeque;

use shunt_core::Mono;

/// So much of it is shown.
const LINES: usize = 80;

#[derive(Clone, Debug, Default)]
pub struct Story {
    aloud: bool,
    whole: bool,
    lines: VecDeque<String>,
}

impl Story {
    pub fn silent() -> Self {
        Self::default()
    }

    /// Its last lines are kept, or all of them.
    pub fn aloud(whole: bool) -> Self {
        Self { aloud: true, whole, lines: VecDeque::new() }
    }

    pub const fn is_aloud(&self) -> bool {
        self.aloud
    }

    pub fn tell(&mut self, now: Mono, line: &str) {
        if !self.whole && self.lines.len() == LINES {
            self.lines.pop_front();
        }
        self.lines.push_back(format!("{now:>10} {line}"));
    }

    pub fn text(&self) -> String {
        self.lines.iter().flat_map(|line| ["  ", line, "\n"]).collect()
    }
}

/// Adds a line to a world's history, if anybody listens.
macro_rules! tell {
    ($world:expr, $($line:tt)*) => {
        if $world.story.is_aloud() {
            let (now, line) = ($world.now, format!($($line)*));
            $world.story.tell(now, &line);
        }
    };
}
pub(crate) use tell;
