//! Becoming root, for what needs it: network namespaces and apt. The build always stays with the user.

use std::io::IsTerminal as _;
use std::process::Command;

use anyhow::{Context as _, Result, bail};

/// Set for the part that runs under sudo: everything is built already.
pub const BUILT: &str = "SHUNT_XTASK_BUILT";

pub fn am_i() -> bool {
    nix::unistd::geteuid().is_root()
}

/// Runs this program again as root, with those arguments, to its end.
pub fn again(args: &[&str]) -> Result<()> {
    let exe = std::env::current_exe()?;
    let by_hand = || format!("run it as root:\n  {} {}", exe.display(), args.join(" "));
    if Command::new("sudo").arg("--version").output().is_err() {
        bail!("this needs root, and there is no sudo; {}", by_hand());
    }
    if !std::io::stdin().is_terminal() && !passwordless() {
        bail!("this needs root, and sudo would ask for a password; {}", by_hand());
    }
    let mut command = Command::new("sudo");
    command.arg("env").arg(format!("{BUILT}=1"));
    for name in ["SHUNT_CACHE", "SHUNT_KEEP", "SHUNT_BIN", "CI"] {
        if let Ok(value) = std::env::var(name) {
            command.arg(format!("{name}={value}"));
        }
    }
    let status = command.arg(&exe).args(args).status();
    let status = status.context("cannot run sudo")?;
    if !status.success() {
        // It has said why.
        std::process::exit(status.code().unwrap_or(1));
    }
    Ok(())
}

fn passwordless() -> bool {
    Command::new("sudo").args(["-n", "true"]).output().is_ok_and(|output| output.status.success())
}
