//! `bench swap`: the rules crate measures itself (its example `bench_swap`); here it only gets a namespace to do it in.

use anyhow::{Context as _, Result, bail};
use shunt_tests::Netns;

use super::{Output, prepare};
use crate::cargo;
use crate::setup::Needs;

pub fn run(output: &Output) -> Result<()> {
    prepare(&Needs { lab: true, ..Needs::default() })?;
    println!("  building the benchmark");
    cargo::run(&["build", "--release", "--package", "shunt-rules", "--example", "bench_swap"])?;
    let exe = std::env::current_exe()?;
    let target = exe.ancestors().nth(2).context("this program lies in no target folder")?;
    let namespace = Netns::new("bench")?;
    let mut command = namespace.command(target.join("release/examples/bench_swap"))?;
    if let Some(file) = &output.json {
        command.arg("--json").arg(file);
    }
    let status = command.status().context("cannot run the benchmark")?;
    if !status.success() {
        bail!("the benchmark failed ({status})");
    }
    Ok(())
}
