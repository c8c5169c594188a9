//! `bench swap`: the rules crate measures itself (its example `bench_swap`); here it gets a namespace to do it in, and
//! its figures a table and what was promised.

use anyhow::{Context as _, Result};
use serde_json::Value;
use shunt_tests::Netns;

use super::{Output, prepare};
use crate::setup::Needs;
use crate::{cargo, talk};

pub fn run(output: &Output) -> Result<()> {
    prepare(&Needs { lab: true, ..Needs::default() })?;
    println!("  building the benchmark");
    cargo::run(&["build", "--release", "--package", "shunt-rules", "--example", "bench_swap"])?;
    let program = cargo::target()?.join("release/examples/bench_swap");
    let namespace = Netns::new("bench")?;
    let figures = talk::step("swaps with 10, 1,000 and 10,000 mappings", || {
        let text = talk::quietly(namespace.command(&program)?.arg("--json"))?;
        serde_json::from_str::<Value>(&text).with_context(|| format!("the benchmark said: {text}"))
    })?;
    print(&figures)?;
    output.write(&figures)
}

fn print(figures: &Value) -> Result<()> {
    let rows = figures["results"].as_array().context("the benchmark has no results")?;
    println!("\n  {:>9}{:>16}{:>8}{:>14}{:>12}", "mappings", "cold start, ms", "swaps", "median, µs", "p99, µs");
    let number = |row: &Value, key: &str| row[key].as_f64().unwrap_or(f64::NAN);
    for row in rows {
        let (cold, median, p99) = (number(row, "cold_start_ms"), number(row, "median_us"), number(row, "p99_us"));
        let (mappings, swaps) = (number(row, "mappings"), number(row, "swaps"));
        println!("  {mappings:>9}{cold:>16.1}{swaps:>8}{median:>14.1}{p99:>12.1}");
    }
    if let [first, .., last] = rows.as_slice() {
        let ratio = number(last, "median_us") / number(first, "median_us");
        println!(
            "\n  most / fewest mappings: {ratio:.2} times the median (promised: 1.2 at most; each below 1,000 µs)"
        );
        println!("  cold start with most: {:.1} ms (promised: 2,000 at most)", number(last, "cold_start_ms"));
    }
    Ok(())
}
