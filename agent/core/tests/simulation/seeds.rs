//! Seeds: run by the thousand, replayed, reduced.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use shunt_core::Mono;
use shunt_core::config::FailoverMode;
use shunt_core::operation::{Kind, Outcome};

use super::faults::{self, Fault};
use super::history::Story;
use super::invariants::Violation;
use super::mutation::{Breakage, Mutation};
use super::scenario::Scenario;
use super::world::World;

const SEEDS: u64 = 2_000;

/// A run that is over.
pub struct Ran {
    pub world: World,
    pub steps: u64,
}

impl Ran {
    pub fn violation(&self) -> Option<&Violation> {
        self.world.violation.as_ref()
    }
}

/// Runs a seed without some of its faults.
pub fn run(seed: u64, without: &BTreeSet<usize>, breakage: Option<Breakage>, story: Story) -> Ran {
    let scenario = Scenario::draw(seed);
    let faults = faults::draw(&scenario);
    let faults = kept(faults, without);
    let mut world = World::new(scenario, faults, breakage.map(Mutation::new), story);
    let steps = world.run();
    Ran { world, steps }
}

fn kept(faults: Vec<(Mono, Fault)>, without: &BTreeSet<usize>) -> Vec<(Mono, Fault)> {
    faults.into_iter().enumerate().filter(|(index, _)| !without.contains(index)).map(|(_, fault)| fault).collect()
}

/// What is said of a seed that broke an invariant: it is run again, aloud.
pub fn report(seed: u64) -> String {
    let ran = run(seed, &BTreeSet::new(), None, Story::aloud(false));
    let Some(violation) = ran.violation() else { return format!("seed {seed} failed once and not again") };
    format!(
        "seed {seed} breaks invariant {}\n  {}\n\nthe end of its history, in virtual time:\n{}\n{}\n\nto see all of it:\n  \
         SHUNT_SEED={seed} cargo test -p shunt-core --test simulation replay -- --nocapture\n",
        violation.invariant.sentence(),
        violation.detail,
        ran.world.story.text(),
        summary(&ran.world),
    )
}

fn summary(world: &World) -> String {
    let s = &world.scenario;
    format!(
        "seed {}: {:?}, {} servers, {} proxies, data_loss {:?}, semi-sync {}, cooldown {:?}, boots writable {}",
        s.seed,
        s.mode,
        s.servers,
        s.proxies,
        s.data_loss,
        s.semi.as_ref().map_or_else(|| "none".to_owned(), |m| format!("w={} after {:?}", m.wait_count, m.timeout)),
        s.cooldown,
        s.boots_writable
    )
}

/// What many seeds came to.
#[derive(Debug, Default)]
struct Sum {
    promote: u64,
    ended_well: u64,
    failovers: u64,
    switchovers: u64,
    undone: u64,
    steps: u64,
}

impl Sum {
    fn add(&mut self, ran: &Ran) {
        let oracle = &ran.world.oracle;
        self.steps += ran.steps;
        if ran.world.scenario.mode != FailoverMode::Promote {
            return;
        }
        self.promote += 1;
        self.ended_well += u64::from(oracle.ended_well);
        for (kind, ending) in &oracle.endings {
            match (kind, ending.outcome) {
                (Kind::Failover, Outcome::Done) => self.failovers += 1,
                (Kind::Switchover, Outcome::Done) => self.switchovers += 1,
                (_, Outcome::Undone) => self.undone += 1,
                _ => {}
            }
        }
    }
}

fn setting(name: &str) -> Option<u64> {
    std::env::var(name).ok().and_then(|value| value.parse().ok())
}

#[test]
fn two_thousand_seeds_break_no_invariant() {
    let first = setting("SHUNT_FIRST_SEED").unwrap_or(0);
    let count = setting("SHUNT_SEEDS").unwrap_or(SEEDS);
    let next = AtomicU64::new(first);
    let stop = AtomicBool::new(false);
    let broken: Mutex<Vec<u64>> = Mutex::default();
    let sum: Mutex<Sum> = Mutex::default();
    let work = || {
        let mut mine = Sum::default();
        while !stop.load(Ordering::Relaxed) {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= first + count {
                break;
            }
            let ran = run(seed, &BTreeSet::new(), None, Story::silent());
            mine.add(&ran);
            if ran.violation().is_some() {
                broken.lock().expect("nobody panics with it").push(seed);
                stop.store(true, Ordering::Relaxed);
            }
        }
        let mut sum = sum.lock().expect("nobody panics with it");
        sum.promote += mine.promote;
        sum.ended_well += mine.ended_well;
        sum.failovers += mine.failovers;
        sum.switchovers += mine.switchovers;
        sum.undone += mine.undone;
        sum.steps += mine.steps;
    };
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(work);
        }
    });
    let first_broken = broken.into_inner().expect("nobody panicked with it").into_iter().min();
    assert!(first_broken.is_none(), "{}", report(first_broken.unwrap_or_default()));
    let sum = sum.into_inner().expect("nobody panicked with it");
    // An alarm is an answer, but not to everything; and what never happens proves nothing.
    assert!(sum.ended_well * 10 >= sum.promote * 6, "too many seeds end with an alarm: {sum:?}");
    assert!(sum.failovers * 10 >= sum.promote && sum.switchovers * 20 >= sum.promote, "too little happens: {sum:?}");
}

#[test]
fn the_same_seed_tells_the_same_story() {
    for seed in 0..5 {
        let tell = || run(seed, &BTreeSet::new(), None, Story::aloud(true)).world.story.text();
        assert_eq!(tell(), tell());
    }
}

/// Prints the whole history of `SHUNT_SEED`, without the faults whose numbers are in `SHUNT_WITHOUT`.
#[test]
#[expect(clippy::print_stderr, reason = "it is for reading")]
fn replay() {
    let seed = setting("SHUNT_SEED").unwrap_or(1);
    let without = std::env::var("SHUNT_WITHOUT").unwrap_or_default();
    let without: BTreeSet<usize> = without.split(',').filter_map(|n| n.parse().ok()).collect();
    let ran = run(seed, &without, None, Story::aloud(true));
    eprintln!("{}{}", ran.world.story.text(), summary(&ran.world));
    assert_eq!(ran.violation(), None);
}

/// Leaves out of `SHUNT_SEED` every fault that its violation does without.
#[test]
#[ignore = "a tool: it needs SHUNT_SEED"]
#[expect(clippy::print_stderr, reason = "it is for reading")]
fn reduce() {
    let seed = setting("SHUNT_SEED").expect("SHUNT_SEED names a seed");
    let breaks = |without: &BTreeSet<usize>| run(seed, without, None, Story::silent()).violation().cloned();
    let Some(first) = breaks(&BTreeSet::new()) else { panic!("seed {seed} breaks nothing") };
    let mut without = BTreeSet::new();
    for index in 0..faults::draw(&Scenario::draw(seed)).len() {
        without.insert(index);
        if breaks(&without).is_none_or(|violation| violation.invariant != first.invariant) {
            without.remove(&index);
        }
    }
    let ran = run(seed, &without, None, Story::aloud(true));
    let list: Vec<_> = without.iter().map(ToString::to_string).collect();
    eprintln!("{}{}\nSHUNT_WITHOUT={}", ran.world.story.text(), summary(&ran.world), list.join(","));
}

/// Lists every seed that breaks something, one a line.
#[test]
#[ignore = "a tool: it goes on after the first"]
#[expect(clippy::print_stderr, reason = "it is for reading")]
fn survey() {
    let first = setting("SHUNT_FIRST_SEED").unwrap_or(0);
    let mut sum = Sum::default();
    let mut unwell: BTreeMap<String, Vec<u64>> = BTreeMap::new();
    for seed in first..first + setting("SHUNT_SEEDS").unwrap_or(SEEDS) {
        let ran = run(seed, &BTreeSet::new(), None, Story::silent());
        sum.add(&ran);
        if let Some(violation) = ran.violation() {
            let (sentence, at) = (violation.invariant.sentence(), ran.world.now);
            eprintln!("{seed} at {at} after {} steps: {:.12} | {}", ran.steps, sentence, violation.detail);
        } else if !ran.world.oracle.ended_well {
            let kinds: Vec<_> = ran.world.oracle.alarms_at_end.iter().map(|kind| kind.word()).collect();
            unwell.entry(format!("{:?}: {}", ran.world.scenario.mode, kinds.join(", "))).or_default().push(seed);
        }
    }
    for (how, seeds) in unwell {
        eprintln!("{} seeds end with {how}, such as {:?}", seeds.len(), &seeds[..seeds.len().min(5)]);
    }
    eprintln!("{sum:?}");
}
