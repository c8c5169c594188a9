//! Committing a batch, and telling what was wrong with one that the kernel did not take.

use std::io;
use std::time::Duration;

use shunt_core::datapath::DatapathError;
pub use shunt_wire::kernel;

use crate::element::Key;
use crate::netlink::batch::{Batch, Subject};
use crate::netlink::socket::{Netlink, Rejection};

/// A transaction that the kernel did not take, with the object that it named.
pub struct Rejected {
    subject: Option<Subject>,
    error: io::Error,
}

impl Rejected {
    pub fn commit(netlink: &mut Netlink, batch: Batch) -> Result<Duration, Self> {
        let batch = batch.finish();
        netlink.skip_seqs(batch.span());
        netlink.commit(&batch).map_err(|Rejection { message, offset, error }| Self {
            subject: message.and_then(|index| batch.subject(index, offset)),
            error,
        })
    }

    pub fn is(&self, errno: i32) -> bool {
        self.error.raw_os_error() == Some(errno)
    }

    pub fn element(&self) -> Option<Key> {
        match &self.subject {
            Some(Subject::Elements(keys)) if keys.len() == 1 => keys.first().copied(),
            _ => None,
        }
    }

    pub fn name(self, table: &str) -> DatapathError {
        let what = match self.subject {
            Some(Subject::Table) => format!("table inet {table}"),
            Some(subject) => format!("{subject} in table inet {table}"),
            None => format!("the transaction on table inet {table}"),
        };
        DatapathError::Rejected { what, source: self.error }
    }
}

#[cfg(test)]
#[path = "transaction_tests.rs"]
mod tests;
