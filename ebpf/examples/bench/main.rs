//! What `cargo xtask bench` runs of the product, as xtask links none of its crates.
//!
//! ```text
//! bench drive nft|ebpf|floor           a datapath that does what it is told on stdin
//! bench swaps nft|ebpf ROUNDS EVERY_MS swaps with few mappings and with many
//! bench flows CLIENT SERVER            what flows cost with few of them and with a million
//! ```
//!
//! It works in the network namespace that it is run in, which should be one made for it, and answers in JSON.
#![allow(clippy::print_stdout, reason = "its answers go there")]

mod drive;
mod floor;
mod flows;
mod swaps;

use std::error::Error;
use std::time::Duration;

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use shunt_ebpf::{EbpfDatapath, Options};
use shunt_rules::NftDatapath;

type Outcome<T> = Result<T, Box<dyn Error>>;

/// As benchmarks set it for conntrack: thousands of connections a second must not run out of ports.
const CLOSED: Duration = Duration::from_secs(1);

fn main() -> Outcome<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match words.as_slice() {
        ["drive", "nft"] => drive::serve(&mut NftDatapath::open(shunt_rules::Options::default())?),
        ["drive", "ebpf"] => {
            own_bpffs()?;
            drive::serve(&mut EbpfDatapath::open(Options { closed: CLOSED, ..Options::default() })?)
        }
        ["drive", "floor"] => floor::serve(),
        ["swaps", datapath, rounds, every] => {
            own_bpffs()?;
            let open = if *datapath == "nft" { swaps::nft } else { swaps::ebpf };
            swaps::measure(open, rounds.parse()?, Duration::from_millis(every.parse()?))
        }
        ["flows", client, server] => {
            own_bpffs()?;
            flows::measure(client.parse()?, server.parse()?)
        }
        _ => Err("not a benchmark: see the top of this program".into()),
    }
}

/// A bpf file system that only this process sees, and that goes with it.
fn own_bpffs() -> Outcome<()> {
    unshare(CloneFlags::CLONE_NEWNS)?;
    let none: Option<&str> = None;
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none)?;
    mount(Some("bpf"), "/sys/fs/bpf", Some("bpf"), MsFlags::empty(), none)?;
    Ok(())
}
