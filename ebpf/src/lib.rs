//! The eBPF datapath: loads the programs of `ebpf/programs`, attaches them, and keeps the maps that they share.
//!
//! `README.md` beside this crate has a packet's way and the layout; `shunt-ebpf-common` the types. This crate is not yet
//! a [`Datapath`](shunt_core::datapath::Datapath): the README says what is missing.

mod address;
mod error;
mod object;
mod orders;
mod pins;
mod shared;
mod tables;

pub use address::{endpoint, socket_address};
pub use error::Error;
pub use object::{Object, Size, try_out};
pub use pins::Pins;
pub use tables::{Tables, Transaction};

/// What the programs and this crate agree on.
pub use shunt_ebpf_common as common;
