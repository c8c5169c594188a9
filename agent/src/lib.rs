//! The agent and its command line. The way of the data: [`probe`] observes, `shunt_core` decides, [`driver`] acts through
//! [`datapath`], [`control`] and [`telemetry`] publish. See ARCHITECTURE.md.

pub mod cli;
pub mod clock;
pub mod config;
pub mod control;
pub mod datapath;
pub mod doctor;
pub mod driver;
pub mod hooks;
pub mod operate;
pub mod output;
pub mod probe;
pub mod route;
pub mod store;
pub mod telemetry;
