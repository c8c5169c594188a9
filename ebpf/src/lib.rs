//! The eBPF datapath: loads the programs of `ebpf/programs`, attaches them, and keeps the maps that they share.
//!
//! `README.md` beside this crate has a packet's way, the layout, and which file is for what; `shunt-ebpf-common` the types.

mod address;
mod clock;
mod collect;
mod datapath;
mod ends;
mod error;
mod flows;
mod grace;
mod interfaces;
mod live;
mod log;
mod meter;
mod migrate;
mod namespace;
mod object;
mod orders;
mod phase;
mod pins;
mod sever;
mod shared;
mod state;
mod sys;
mod tables;
mod walk;

pub use address::{endpoint, socket_address};
pub use datapath::{EbpfDatapath, Options};
pub use error::Error;
pub use flows::{Both, FlowTable};
pub use log::{Level, Listener};
pub use migrate::{Step, abi2};
pub use object::{Object, Size, try_out};
pub use pins::Pins;
pub use tables::{Tables, Transaction};

/// What the programs and this crate agree on.
pub use shunt_ebpf_common as common;
