//! `bench swap`: the datapaths measure themselves (the ebpf crate's example `bench`); here they get a namespace to do it
//! in, and their figures a table and what was promised.

use anyhow::{Context as _, Result};
use serde_json::{Value, json};
use shunt_tests::Netns;

use super::driver::Datapath;
use super::{Output, driver, prepare};
use crate::setup::Needs;
use crate::talk;

#[derive(clap::Args)]
pub struct Args {
    /// How often twenty swaps of each size are made in turn
    #[arg(long, default_value_t = 30)]
    rounds: u32,
    /// Milliseconds before each swap, in which what the one before has left to do is done
    #[arg(long, default_value_t = 1)]
    every: u64,
    #[command(flatten)]
    output: Output,
}

/// What each datapath has measured.
type Measured = Vec<(Datapath, Value)>;

pub fn run(args: &Args) -> Result<()> {
    prepare(&Needs { lab: true, bpf: true, ..Needs::default() })?;
    let program = driver::build()?;
    let namespace = Netns::new("bench")?;
    let mut measured: Measured = Vec::new();
    for datapath in Datapath::BOTH {
        let what = format!("{}: swaps with 10, 1,000 and 10,000 mappings", datapath.title());
        let figures = talk::step(&what, || {
            let mut command = namespace.command(&program)?;
            let text = talk::quietly(command.args([
                "swaps",
                datapath.name(),
                &args.rounds.to_string(),
                &args.every.to_string(),
            ]))?;
            serde_json::from_str::<Value>(&text).with_context(|| format!("the benchmark said: {text}"))
        })?;
        measured.push((datapath, figures));
    }
    print(&measured)?;
    let results = measured.iter().map(|(datapath, figures)| (datapath.title().to_owned(), figures.clone()));
    args.output.write(&json!({ "bench": "swap", "every_ms": args.every, "results": Value::Object(results.collect()) }))
}

fn print(measured: &Measured) -> Result<()> {
    println!(
        "\n  {:<12}{:>9}{:>16}{:>8}{:>14}{:>12}{:>20}",
        "", "mappings", "cold start, ms", "swaps", "median, µs", "p99, µs", "the whole call, µs"
    );
    let number = |row: &Value, key: &str| row[key].as_f64().unwrap_or(f64::NAN);
    for (datapath, figures) in measured {
        for row in figures.as_array().context("the benchmark has no results")? {
            let [cold, median, p99, call] =
                ["cold_start_ms", "median_us", "p99_us", "call_median_us"].map(|key| number(row, key));
            let (title, mappings, swaps) = (datapath.title(), number(row, "mappings"), number(row, "swaps"));
            println!("  {title:<12}{mappings:>9}{cold:>16.1}{swaps:>8}{median:>14.1}{p99:>12.1}{call:>20.1}");
        }
    }
    println!();
    for (datapath, figures) in measured {
        let Some([first, .., last]) = figures.as_array().map(Vec::as_slice) else { continue };
        let (title, most) = (datapath.title(), number(last, "median_us"));
        match datapath {
            Datapath::Nft => println!(
                "  {title}: most / fewest mappings: {:.2} times the median (promised: 1.2 at most; each below 1,000 µs)",
                most / number(first, "median_us")
            ),
            Datapath::Ebpf => println!("  {title}: with most mappings {most:.1} µs (promised: 100 at most)"),
        }
        println!("  {title}: cold start with most: {:.1} ms (promised: 2,000 at most)", number(last, "cold_start_ms"));
    }
    println!("  A swap is over when no packet of the old pair is under way any more; the whole call also computes it.");
    Ok(())
}
