//! All figures: on the terminal, as markdown between the README's markers, and for a program.

use std::path::Path;

use anyhow::{Context as _, Result, bail};
use serde_json::{Value, json};

use super::breakdown::{Breakdown, medians};
use super::{Scenario, peers, switched, unplanned};
use crate::bench::machine::Machine;

const BEGIN: &str = "<!-- failover-figures -->";
const END: &str = "<!-- /failover-figures -->";

pub struct Report {
    pub machine: Machine,
    pub unplanned: Vec<unplanned::Figures>,
    pub switched: Vec<switched::Figures>,
}

impl Report {
    pub fn print(&self) {
        unplanned::Figures::print_all(&self.unplanned);
        switched::Figures::print_all(&self.switched);
    }

    pub fn json(&self) -> Value {
        let scenarios = self.unplanned.iter().map(unplanned::Figures::json);
        json!({
            "bench": "failover",
            "machine": self.machine.json(),
            "scenarios": scenarios.chain(self.switched.iter().map(switched::Figures::json)).collect::<Vec<_>>(),
        })
    }

    /// Replaces what stands between the markers of a file that has them.
    pub fn write_markdown(&self, path: &Path) -> Result<()> {
        let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
        let Some(text) = replace(&text, &self.markdown()) else {
            bail!("{} has no {BEGIN} followed by {END}", path.display());
        };
        std::fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
    }

    fn markdown(&self) -> String {
        let mut text = "| what happens | with | client's outage, median | p99 | max | target, median | |\n\
                        | --- | --- | --- | --- | --- | --- | --- |\n"
            .to_owned();
        for scenario in Scenario::ALL {
            let ours = self.unplanned.iter().filter(|f| f.scenario == scenario).map(unplanned::Figures::markdown);
            text.extend(ours);
            if scenario == Scenario::Switchover {
                text.extend(self.switched.iter().map(switched::Figures::markdown));
            }
            for peer in peers::PEERS.iter().filter(|peer| peer.scenario == scenario) {
                let title = scenario.title();
                text.push_str(&format!("| {title} | {} | {} s | | {} s | | |\n", peer.name, peer.median_s, peer.max_s));
            }
        }
        format!("{text}\n{}\n", peers::REMARK)
    }
}

fn replace(text: &str, by: &str) -> Option<String> {
    let (head, rest) = text.split_once(BEGIN)?;
    let (_, tail) = rest.split_once(END)?;
    Some(format!("{head}{BEGIN}\n{by}{END}{tail}"))
}

/// Where the time went.
pub fn print_breakdown(all: &[&Breakdown]) {
    let runs = all.len();
    let seen = |times| if times == runs { String::new() } else { format!("   in {times} of them") };
    println!("\n  {:<30}{:>10}{:>10}   medians of {runs} runs, ms", "", "at", "after");
    let mut moments = medians(all.iter().map(|breakdown| &breakdown.moments));
    // Stable: what came in the same millisecond stays in the order of the history.
    moments.sort_by(|(_, a, _), (_, b, _)| a.total_cmp(b));
    let mut before = 0.0;
    for (name, at, times) in moments {
        println!("  {name:<30}{at:>10.1}{:>+10.1}{}", at - before, seen(times));
        before = at;
    }
    println!("\n  {:<30}{:>10}", "task, the longest of a run", "took");
    for (name, took, times) in medians(all.iter().map(|breakdown| &breakdown.tasks)) {
        println!("  {name:<30}{took:>10.1}{}", seen(times));
    }
}

/// The same for a program.
pub fn lines(lines: Vec<(String, f64, usize)>) -> Vec<Value> {
    lines.into_iter().map(|(name, ms, runs)| json!({ "name": name, "median_ms": ms, "runs": runs })).collect()
}

/// Milliseconds as a person reads them.
pub fn time(ms: f64) -> String {
    if ms < 1000.0 { format!("{ms:.0} ms") } else { format!("{:.2} s", ms / 1000.0) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_stands_between_the_markers_is_replaced() {
        let text = format!("before\n{BEGIN}\nold\n{END}\nafter\n");
        assert_eq!(replace(&text, "new\n"), Some(format!("before\n{BEGIN}\nnew\n{END}\nafter\n")));
        assert_eq!(replace("nothing", "new\n"), None);
    }
}
