//! The datapaths that are held to the contract.

mod ebpf;
mod nft;

use std::time::Duration;

use anyhow::Result;
use shunt_core::datapath::Datapath;
use shunt_core::datapath::memory::Memory;
use shunt_tests::star::Ip;

pub use ebpf::Ebpf;
pub use nft::Nft;

use crate::ledger::Ledger;

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
