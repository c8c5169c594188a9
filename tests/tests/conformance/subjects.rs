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

/// Holds the in-memory datapath to a promise.
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
