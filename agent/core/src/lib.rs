//! The pure core of shunt: what was observed goes in, what to do comes out.
//!
//! Nothing here opens a socket, reads a clock, draws a random number or holds a lock. Time is an argument ([`Mono`]), so
//! a decision can have no hidden cause and thousands of failovers can be simulated in a second.

pub mod cluster;
pub mod config;
pub mod datapath;
pub mod epoch;
pub mod flow;
pub mod gtid;
pub mod mapping;
pub mod name;
pub mod observation;
pub mod operation;
pub mod signal;
pub mod time;

pub use epoch::Epoch;
pub use name::ClusterName;
pub use time::Mono;
