//! The one binary: `shunt agent` is the daemon, everything else talks to it.

use clap::Parser;

fn main() {
    let exit = shunt::cli::run(shunt::cli::Args::parse());
    std::process::exit(exit as i32);
}
