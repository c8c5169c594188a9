//! What the datapaths share, whichever part of the kernel they work in: packets that we read and write ourselves, raw
//! sockets that send them, what a thread waits for that listens to them, the number of a network namespace, and the lock by
//! which there is one agent a datapath and network namespace.

pub mod namespace;
pub mod owner;
pub mod packet;
pub mod raw;
pub mod wake;

use std::io;

use shunt_core::datapath::DatapathError;

/// What the kernel would not do.
pub fn kernel(what: impl Into<String>) -> impl FnOnce(io::Error) -> DatapathError {
    let what = what.into();
    move |source| DatapathError::Kernel { what, source }
}
