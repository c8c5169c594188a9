//! `cargo xtask test`: everything that must hold before a change is taken. What cannot run here is skipped by name and
//! counted; the last line is the count.

use std::collections::BTreeMap;
use std::process::Stdio;

use anyhow::{Context as _, Result};
use shunt_tests::{Flavour, scratch, skip};

use crate::setup::{self, Needs};
use crate::{FlavourArg, cargo, root, talk};

#[derive(clap::Args)]
pub struct Args {
    /// Lab tests with these servers only
    #[arg(long, value_enum)]
    flavour: Option<FlavourArg>,
    /// No lab tests: nothing that needs root or servers
    #[arg(long)]
    no_lab: bool,
    /// Don't ask before installing
    #[arg(long, short)]
    yes: bool,
}

/// What has been counted so far.
#[derive(Default)]
struct Count {
    passed: usize,
    failed: usize,
    skipped: usize,
}

pub fn run(args: &Args) -> Result<()> {
    let only: Option<Flavour> = args.flavour.map(Into::into);
    let in_ci = std::env::var("CI").is_ok_and(|v| v == "true" || v == "1");
    let servers = only.map_or(Flavour::ALL.to_vec(), |one| vec![one]);
    let needs = if args.no_lab || !root::am_i() {
        Needs { tests: true, bpf: true, ..Needs::default() }
    } else {
        Needs { lab: true, servers: servers.clone(), tests: true, bpf: true, again: in_ci, ..Needs::default() }
    };
    setup::ensure(&needs, args.yes || in_ci)?;
    let swept = scratch::sweep();
    if !swept.namespaces.is_empty() {
        println!("removed {} namespaces of killed runs", swept.namespaces.len());
    }
    if !args.no_lab {
        if !root::am_i() {
            println!(
                "\nNOT ROOT: the lab tests will be skipped. To run them: sudo -E env PATH=\"$PATH\" cargo xtask test\n"
            );
        }
        for flavour in &servers {
            println!("{}", setup::servers::status(*flavour));
        }
    }

    let mut failures: Vec<String> = Vec::new();
    let mut check = |what: &str, args: &[&str]| {
        println!("\n=== {what}");
        if let Err(error) = cargo::run(args) {
            talk::error(&error);
            failures.push(what.to_owned());
        }
    };
    check("format", &["fmt", "--all", "--check"]);
    // A workspace of its own; building `shunt` builds it.
    check("format of the eBPF programs", &["fmt", "--manifest-path", "ebpf/programs/Cargo.toml", "--check"]);
    check("lints", &["clippy", "--workspace", "--all-targets", "--locked", "--", "--deny", "warnings"]);
    if cargo::has("deny") {
        // Advisories come from a database on the network, which a test must not depend on.
        check("licences", &["deny", "check", "bans", "licenses", "sources"]);
    } else {
        println!("\n=== licences: not checked, cargo-deny is not installed");
    }
    check("build", &["build", "--workspace", "--bins", "--locked"]);

    let mut count = Count::default();
    println!("\n=== unit, property and lab tests");
    let skipped = nextest(only, args.no_lab, &mut count, &mut failures)?;
    println!("\n=== doc tests");
    doc_tests(&mut count, &mut failures)?;

    for line in &skipped {
        println!("skipped: {line}");
    }
    if in_ci && servers.contains(&Flavour::Mysql) && !args.no_lab {
        // Where it could be had, tests without MySQL prove nothing.
        let without = skipped.iter().filter(|line| line.contains("::mysql: MySQL is not installed")).count();
        if without > 0 && setup::servers::could_be_had(Flavour::Mysql) {
            failures.push(format!("{without} tests were skipped for want of MySQL, which could be had"));
            count.failed += without;
            count.skipped -= without;
        }
    }
    for failure in &failures {
        println!("failed: {failure}");
    }
    println!("\n{} passed, {} failed, {} skipped", count.passed, count.failed, count.skipped);
    if failures.is_empty() { Ok(()) } else { std::process::exit(1) }
}

/// Runs nextest; the tests that skipped themselves, with their reasons.
fn nextest(only: Option<Flavour>, no_lab: bool, count: &mut Count, failures: &mut Vec<String>) -> Result<Vec<String>> {
    let list = std::env::temp_dir().join(format!("{}-skipped", scratch::prefix()));
    let report = cargo::target()?.join("nextest/default/junit.xml");
    let _ = std::fs::remove_file(&report);
    let mut filter = vec!["all()".to_owned()];
    filter.extend(no_lab.then(|| "not (package(shunt-tests) and kind(test))".to_owned()));
    for flavour in Flavour::ALL.into_iter().filter(|&f| only.is_some_and(|one| one != f)) {
        filter.push(format!("not test(/::{flavour}$/)"));
    }
    let mut command = cargo::command(&["nextest", "run", "--workspace", "--locked", "--no-fail-fast"]);
    // Tests of the conformance suite mostly wait, so that few cores bear more than one of them each; the lab's own limit
    // stays what it is.
    let threads = std::thread::available_parallelism().map_or(4, |cores| cores.get().max(4));
    command.args(["--test-threads", &threads.to_string()]);
    command.args(["--filterset", &filter.join(" and ")]).env(skip::SKIPPED, &list).env("RUST_LIB_BACKTRACE", "0");
    let status = command.status().context("cannot run cargo nextest")?;
    let text = std::fs::read_to_string(&list).unwrap_or_default();
    let _ = std::fs::remove_file(&list);
    // By name: a test that was tried twice has skipped once.
    let skipped: BTreeMap<&str, &str> = text.lines().filter_map(|line| line.split_once(": ")).collect();
    let ran = std::fs::read_to_string(&report).map(|xml| totals(&xml)).unwrap_or_default();
    count.failed += ran.failed;
    count.skipped += skipped.len();
    count.passed += ran.passed.saturating_sub(skipped.len());
    if !status.success() {
        failures.push("unit, property and lab tests".to_owned());
        count.failed = count.failed.max(1);
    }
    Ok(skipped.into_iter().map(|(name, reason)| format!("{name}: {reason}")).collect())
}

/// The totals in a JUnit report's first element.
fn totals(xml: &str) -> Count {
    let head = xml.split_once("<testsuites").map_or("", |(_, rest)| rest.split('>').next().unwrap_or_default());
    let number = |name: &str| -> usize {
        let value = head.split_once(&format!(" {name}=\"")).and_then(|(_, rest)| rest.split('"').next());
        value.and_then(|v| v.parse().ok()).unwrap_or(0)
    };
    let failed = number("failures") + number("errors");
    Count { passed: number("tests").saturating_sub(failed), failed, skipped: 0 }
}

fn doc_tests(count: &mut Count, failures: &mut Vec<String>) -> Result<()> {
    let mut command = cargo::command(&["test", "--workspace", "--doc", "--locked", "--no-fail-fast"]);
    let output =
        command.stdin(Stdio::null()).stderr(Stdio::inherit()).output().context("cannot run cargo test --doc")?;
    let text = String::from_utf8_lossy(&output.stdout);
    print!("{text}");
    // test result: ok. 3 passed; 0 failed; 1 ignored; …
    for line in text.lines().filter(|line| line.starts_with("test result:")) {
        let number = |word: &str| -> usize {
            let before = line.split([';', '.']).find_map(|part| part.trim().strip_suffix(word));
            before.and_then(|n| n.trim().parse().ok()).unwrap_or(0)
        };
        count.passed += number("passed");
        count.failed += number("failed");
        count.skipped += number("ignored");
    }
    if !output.status.success() {
        failures.push("doc tests".to_owned());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_junit_report_tells_its_totals() {
        let xml =
            r#"<?xml version="1.0"?><testsuites name="nextest-run" tests="21" failures="2" errors="1" time="3"><x/>"#;
        let count = totals(xml);
        assert_eq!((count.passed, count.failed), (18, 3));
    }
}
