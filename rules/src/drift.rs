//! Drift: in what the table differs from what was committed, in words, and what it takes to repair it.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use shunt_core::datapath::Drift;

use crate::element::{Key, Value};
use crate::netlink::nftnl::{Definition, FoundHook, Rule};
use crate::netlink::read::Snapshot;
use crate::ruleset::{Chain, Layout, chains};
use crate::schema::{SetId, table_comment};
use crate::state::plan::{Op, difference};
use crate::state::{Elements, GRACE};

/// The rules of each chain, in libnftnl's words.
pub type Wording = BTreeMap<String, Vec<Vec<String>>>;

/// Timeouts are read in milliseconds and counted in jiffies, and a dump takes its time.
const TOLERANCE: Duration = Duration::from_secs(2);

/// So many elements are named one by one; more are counted.
const NAMED: usize = 20;

/// How a table compares with what it should be.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Comparison {
    pub drift: Vec<Drift>,
    /// Definitions differ: nothing less than a new table will do.
    pub rebuild: bool,
    /// Chains whose rules differ.
    pub chains: Vec<&'static str>,
}

/// How our rules read.
pub fn our_wording(layout: &Layout) -> Wording {
    let text = |chain: &Chain| chain.rules.iter().map(|rule| Rule::of("", chain.name, rule).text()).collect();
    chains(layout).iter().map(|chain| (chain.name.to_owned(), text(chain))).collect()
}

/// Compares a table of ours with the elements that were committed.
pub fn compare(table: &str, found: &Snapshot, expected: &Elements, wording: &Wording, now: Instant) -> Comparison {
    let mut comparison = Comparison::default();
    let chains = chains(&Layout::of(table));
    structure(table, found, &chains, &mut comparison);
    if comparison.rebuild {
        return comparison;
    }
    for chain in &chains {
        if found.rules.get(chain.name) != wording.get(chain.name) {
            comparison.say(format!("chain {}: its rules were changed", chain.name));
            comparison.chains.push(chain.name);
        }
    }
    let mut elements = Vec::new();
    for (key, value) in expected {
        match found.elements.get(key) {
            None if may_have_expired(value, now) => {}
            None => elements.push(format!("{key} is missing")),
            Some(found) => elements.extend(difference_of(key, value, found)),
        }
    }
    elements.extend(
        found.elements.keys().filter(|key| !expected.contains_key(key)).map(|key| format!("{key} is not shunt's")),
    );
    let more = elements.len().saturating_sub(NAMED);
    elements.truncate(NAMED);
    for what in elements {
        comparison.say(what);
    }
    if more > 0 {
        comparison.say(format!("and {more} more elements"));
    }
    comparison
}

/// The element changes that turn what was found into `desired`.
pub fn repair(found: &Elements, desired: &Elements, now: Instant) -> Vec<Op> {
    let aligned: Elements = found
        .iter()
        .map(|(key, value)| match desired.get(key) {
            Some(wanted) if difference_of(key, wanted, value).is_none() => (*key, wanted.clone()),
            _ => (*key, value.clone()),
        })
        .collect();
    let ops = difference(&aligned, desired, now);
    let expired =
        |op: &Op| matches!(op, Op::Add(key, value) if may_have_expired(value, now) && !found.contains_key(key));
    ops.into_iter().filter(|op| !expired(op)).collect()
}

impl Comparison {
    fn say(&mut self, what: String) {
        self.drift.push(Drift { what });
    }

    fn broken(&mut self, what: String) {
        self.rebuild = true;
        self.say(what);
    }
}

fn structure(table: &str, found: &Snapshot, chains: &[Chain], comparison: &mut Comparison) {
    if found.comment.as_deref() != Some(&table_comment()) {
        let other = found.comment.as_deref().unwrap_or("no comment");
        comparison.broken(format!("table inet {table} is of another version: {other}"));
    }
    for set in SetId::all() {
        match found.sets.get(set.name()) {
            None => comparison.broken(format!("{} {} is gone", set.noun(), set.name())),
            Some(definition) if *definition != Definition::of(set) => {
                comparison.broken(format!("{} {} has another definition", set.noun(), set.name()));
            }
            Some(_) => {}
        }
    }
    for name in found.sets.keys().filter(|name| SetId::named(name).is_none()) {
        comparison.broken(format!("set {name} is not shunt's"));
    }
    for chain in chains {
        match found.chains.get(chain.name) {
            None => comparison.broken(format!("chain {} is gone", chain.name)),
            Some(hook) if *hook != chain.hook.as_ref().map(FoundHook::of) => {
                comparison.broken(format!("chain {} hooks in elsewhere", chain.name));
            }
            Some(_) => {}
        }
    }
    for name in found.chains.keys().filter(|name| chains.iter().all(|chain| chain.name != **name)) {
        comparison.broken(format!("chain {name} is not shunt's"));
    }
    for strange in &found.strange {
        comparison.broken(strange.clone());
    }
}

fn may_have_expired(value: &Value, now: Instant) -> bool {
    value.deadline.is_some_and(|deadline| deadline <= now + GRACE)
}

fn difference_of(key: &Key, expected: &Value, found: &Value) -> Option<String> {
    if expected.backend != found.backend {
        let name = |value: &Value| value.backend.map_or_else(|| "nowhere".to_owned(), |backend| backend.to_string());
        return Some(format!("{key} leads to {} instead of {}", name(found), name(expected)));
    }
    if expected.note != found.note {
        return Some(format!("{key} has another comment"));
    }
    match (expected.deadline, found.deadline) {
        (None, None) => None,
        (Some(a), Some(b)) if a.max(b) - a.min(b) <= TOLERANCE => None,
        (None, Some(_)) => Some(format!("{key} has a timeout")),
        (Some(_), None) => Some(format!("{key} has no timeout")),
        (Some(_), Some(_)) => Some(format!("{key} has another timeout")),
    }
}

#[cfg(test)]
#[path = "drift_tests.rs"]
mod tests;
