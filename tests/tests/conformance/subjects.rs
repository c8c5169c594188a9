//! The datapaths that are held to the contract.

use std::time::Duration;

use anyhow::Result;
use shunt_core::datapath::memory::Memory;
use shunt_core::datapath::{Datapath, DatapathError};
use shunt_rules::{NftDatapath, Options};
use shunt_tests::star::Ip;

use crate::lab::Subject;
use crate::ledger::Ledger;

pub struct Nft;

impl Subject for Nft {
    fn open() -> Result<Box<dyn Datapath>, DatapathError> {
        Ok(Box::new(NftDatapath::open(Options::default())?))
    }
}

#[cfg(feature = "ebpf-datapath")]
pub use ebpf::Ebpf;

#[cfg(feature = "ebpf-datapath")]
mod ebpf {
    use anyhow::{Context as _, Result};
    use nix::mount::{MsFlags, mount};
    use nix::sched::{CloneFlags, unshare};
    use shunt_core::datapath::{Datapath, DatapathError};
    use shunt_ebpf::{EbpfDatapath, Options, Size};

    use crate::lab::Subject;

    pub struct Ebpf;

    impl Subject for Ebpf {
        /// A bpf file system that only the test sees, in a mount namespace of its thread's: it goes with the thread, however
        /// the test ends.
        fn prepare() -> Result<()> {
            unshare(CloneFlags::CLONE_NEWNS).context("cannot make a mount namespace")?;
            let none: Option<&str> = None;
            mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none)?;
            mount(Some("bpf"), "/sys/fs/bpf", Some("bpf"), MsFlags::empty(), none)
                .context("cannot mount a bpf file system")
        }

        fn open() -> Result<Box<dyn Datapath>, DatapathError> {
            // More than any test has; a million would take as many megabytes as there are tests at a time.
            let size = Size { flows: 50_000, mappings: 1024, pairs: 4096 };
            Ok(Box::new(EbpfDatapath::open(Options { size, ..Options::default() })?))
        }
    }
}

/// Holds the in-memory datapath to a promise.
#[expect(clippy::unnecessary_wraps, reason = "others can fail to be set up")]
pub fn in_memory(_test: &str, ip: Ip, promise: fn(&mut dyn Ledger, Ip)) -> Result<()> {
    promise(&mut InMemory::default(), ip);
    Ok(())
}

#[derive(Default)]
struct InMemory(Memory);

impl Ledger for InMemory {
    fn datapath(&mut self) -> &mut dyn Datapath {
        &mut self.0
    }

    fn reopen(&mut self) {
        self.0 = std::mem::take(&mut self.0).reopened();
    }

    fn pass(&mut self, span: Duration) {
        self.0.advance(span);
    }
}
