//! A datapath driven by hand, for benchmarks: an order a line on stdin, an answer a line of JSON on stdout.
//!
//! `drive nft`, `drive ebpf` or `drive floor`. It works in the network namespace that it is run in, which should be one made
//! for it. At the end of its input it takes what it made out of the kernel. Moments are nanoseconds of CLOCK_MONOTONIC, so
//! that other processes of the machine can compare them with their own.
#![allow(clippy::print_stdout, reason = "its answers go there")]

mod floor;
mod orders;

use std::error::Error;
use std::time::Duration;

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use shunt_core::datapath::Datapath;
use shunt_ebpf::EbpfDatapath;
use shunt_rules::NftDatapath;

type Outcome<T> = Result<T, Box<dyn Error>>;

/// As benchmarks set it for conntrack: thousands of connections a second must not run out of ports.
const CLOSED: Duration = Duration::from_secs(1);

fn main() -> Outcome<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match words.as_slice() {
        ["nft"] => orders::serve(&mut NftDatapath::open(shunt_rules::Options::default())?),
        ["ebpf"] => orders::serve(&mut ebpf()?),
        ["floor"] => floor::serve(),
        _ => Err("which datapath: nft, ebpf or floor?".into()),
    }
}

fn ebpf() -> Outcome<impl Datapath> {
    own_bpffs()?;
    Ok(EbpfDatapath::open(shunt_ebpf::Options { closed: CLOSED, ..shunt_ebpf::Options::default() })?)
}

/// A bpf file system that only this process sees, and that goes with it.
fn own_bpffs() -> Outcome<()> {
    unshare(CloneFlags::CLONE_NEWNS)?;
    let none: Option<&str> = None;
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none)?;
    mount(Some("bpf"), "/sys/fs/bpf", Some("bpf"), MsFlags::empty(), none)?;
    Ok(())
}
