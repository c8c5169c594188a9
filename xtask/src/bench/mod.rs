//! `cargo xtask bench …`: measures what the project promises, on this machine, in release builds. Tables on the
//! terminal; with `--json FILE` the same figures for a program.

mod agent;
mod datapath;
mod driver;
mod failover;
mod flows;
mod follow;
mod machine;
mod moment;
mod plot;
mod sever;
mod storm;
mod suspicion;
mod swap;

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use serde_json::Value;

use crate::setup::{self, Needs};
use crate::{cargo, root};

#[derive(clap::Subcommand)]
pub enum Bench {
    /// One swap with 10, 1,000 and 10,000 mappings, by either datapath; cold start
    Swap(swap::Args),
    /// What a flow costs shunt-ebpf with a thousand of them and with a million, and the memory of its maps
    Flows(Output),
    /// What the way through a proxy costs: direct, NAT without shunt, shunt, HAProxy, MySQL Router
    Datapath(datapath::Args),
    /// When the ends of 1, 1,000 and 10,000 connections close after a swap; what reaches the old server after it
    Sever(sever::Args),
    /// New connections through fifty listeners while another is swapped every 20 ms
    Storm(storm::Args),
    /// One side of the connections of `sever`
    #[command(hide = true)]
    Side(sever::side::Args),
    /// From an outside promotion of a dead primary's replica to the mapping
    Follow(follow::Args),
    /// Failovers and switchovers by shunt itself, as clients see them, and where their time goes
    Failover(failover::Args),
    /// How soon clients' traffic makes a primary suspect that is lost without a word, and what follows from it
    Suspicion(suspicion::Args),
    /// CPU and memory of an agent with 10, 50 and 100 clusters of three servers
    Agent(agent::Args),
}

#[derive(clap::Args)]
pub struct Output {
    /// Also write the figures there, as JSON
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

impl Output {
    fn write(&self, figures: &Value) -> Result<()> {
        let Some(path) = &self.json else { return Ok(()) };
        let text = serde_json::to_string_pretty(figures)?;
        std::fs::write(path, text + "\n").with_context(|| format!("cannot write {}", path.display()))
    }
}

pub fn run(bench: &Bench) -> Result<()> {
    match bench {
        Bench::Swap(args) => swap::run(args),
        Bench::Flows(output) => flows::run(output),
        Bench::Datapath(args) => datapath::run(args),
        Bench::Sever(args) => sever::run(args),
        Bench::Storm(args) => storm::run(args),
        Bench::Side(args) => sever::side::run(args),
        Bench::Follow(args) => follow::run(args),
        Bench::Failover(args) => failover::run(args),
        Bench::Suspicion(args) => suspicion::run(args),
        Bench::Agent(args) => agent::run(args),
    }
}

/// What every benchmark needs first. They run as root from the start: unlike the demo they are for developers.
fn prepare(needs: &Needs) -> Result<()> {
    setup::ensure(needs, false)?;
    if !root::am_i() {
        bail!("namespaces need root; run: sudo -E env PATH=\"$PATH\" cargo xtask bench …");
    }
    Ok(())
}

fn release_agent() -> Result<PathBuf> {
    // SHUNT_BIN compares another build.
    match std::env::var_os("SHUNT_BIN") {
        Some(path) if !path.is_empty() => Ok(Path::new(&path).to_path_buf()),
        _ => cargo::build_agent(true),
    }
}

/// The middle of some figures; of an even number, the mean of the two in the middle.
fn median(figures: &[f64]) -> f64 {
    let mut sorted = figures.to_vec();
    sorted.sort_by(f64::total_cmp);
    match sorted.len() {
        0 => f64::NAN,
        n if n % 2 == 1 => sorted[n / 2],
        n => f64::midpoint(sorted[n / 2 - 1], sorted[n / 2]),
    }
}

/// The figure below which that part of them lies; one of the figures themselves.
fn quantile(figures: &[f64], part: f64) -> f64 {
    let mut sorted = figures.to_vec();
    sorted.sort_by(f64::total_cmp);
    let index = ((sorted.len() as f64 - 1.0) * part).round().max(0.0) as usize;
    sorted.get(index).copied().unwrap_or(f64::NAN)
}

fn maximum(figures: &[f64]) -> f64 {
    figures.iter().copied().fold(f64::NAN, f64::max)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_of_an_even_number_lies_between_the_middle_two() {
        assert!((median(&[4.0, 1.0, 3.0, 2.0]) - 2.5).abs() < f64::EPSILON);
        assert!((median(&[3.0, 1.0, 2.0]) - 2.0).abs() < f64::EPSILON);
        assert!((maximum(&[3.0, 1.0, 2.0]) - 3.0).abs() < f64::EPSILON);
    }
}
