//! Which datapath the agents of a test are configured for. A test is one function for both; what runs it says which.

use std::cell::Cell;
use std::path::Path;

/// Room for more connections than any test has. A million would take 482 MB for each agent.
pub const MAX_FLOWS: u32 = 20_000;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Datapath {
    #[default]
    Nft,
    Ebpf,
}

thread_local! {
    static CHOSEN: Cell<Datapath> = const { Cell::new(Datapath::Nft) };
}

impl Datapath {
    /// That of the test which this thread runs.
    pub fn of_this_test() -> Self {
        CHOSEN.get()
    }

    /// Runs a test on it.
    pub fn run<T>(self, test: impl FnOnce() -> T) -> T {
        CHOSEN.set(self);
        let outcome = test();
        CHOSEN.set(Self::default());
        outcome
    }

    /// `more` of an agent's settings with the datapath in its `[agent]`.
    pub(crate) fn settings(self, pins: &Path, more: &str) -> String {
        const AGENT: &str = "[agent]\n";
        let keys = match self {
            Self::Nft => return more.to_owned(),
            Self::Ebpf => format!("datapath = \"ebpf\"\npins = \"{}\"\nmax_flows = {MAX_FLOWS}\n", pins.display()),
        };
        match more.split_once(AGENT) {
            Some((before, after)) => format!("{before}{AGENT}{keys}{after}"),
            None => format!("{AGENT}{keys}{more}"),
        }
    }
}
