//! The one binary: `shunt agent` is the daemon, everything else talks to it.

fn main() {
    let exit = shunt::cli::run(shunt::cli::Args::from_command_line());
    std::process::exit(exit as i32);
}
