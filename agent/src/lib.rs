//! Agent.

pub mod config;
pub mod store;
