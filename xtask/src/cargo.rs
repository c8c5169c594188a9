//! Calling cargo from within cargo.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};

/// The repository's root.
pub fn root() -> &'static Path {
    // xtask's manifest is one folder below it.
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap_or(Path::new("."))
}

/// A cargo command at the repository's root.
pub fn command(args: &[&str]) -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.args(args).current_dir(root());
    command
}

/// Runs cargo with its own output.
pub fn run(args: &[&str]) -> Result<()> {
    let status = command(args).status().context("cannot run cargo")?;
    if !status.success() {
        bail!("cargo {} failed ({status})", args.join(" "));
    }
    Ok(())
}

/// Where the build's files go is cargo's to say; this program itself lies there, in `target/debug`.
pub fn target() -> Result<PathBuf> {
    let exe = std::env::current_exe()?;
    Ok(exe.ancestors().nth(2).context("this program lies in no target folder")?.to_path_buf())
}

/// Builds the `shunt` program; where it is.
pub fn build_agent(release: bool) -> Result<PathBuf> {
    let program = target()?.join(if release { "release" } else { "debug" }).join("shunt");
    // As root under sudo there may be no cargo; what was built before is used.
    if std::env::var_os(crate::root::BUILT).is_none() {
        println!("  building shunt");
        let mut args = vec!["build", "--package", "shunt", "--bin", "shunt"];
        args.extend(release.then_some("--release"));
        if let Err(missing) = shunt_ebpf_build::Toolchain::find() {
            println!("  without the eBPF datapath: {missing}");
            args.push("--no-default-features");
        }
        run(&args)?;
    }
    if !program.is_file() {
        bail!("cargo left no program at {}", program.display());
    }
    Ok(program)
}

/// Whether a cargo subcommand is installed.
pub fn has(subcommand: &str) -> bool {
    command(&[subcommand, "--version"]).output().is_ok_and(|output| output.status.success())
}
