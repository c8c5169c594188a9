//! Failures by the thousand: the real state machine in a world of fake servers, a network that fails, agents that die
//! between any two actions, and clients that remember what they were told. Everything is drawn from a seed, in virtual time,
//! so a run that breaks an invariant breaks it again.
//!
//! A seed that fails says how to see it whole:
//!
//! ```text
//! SHUNT_SEED=1234 cargo test -p shunt-core --test simulation replay -- --nocapture
//! ```

mod client;
mod driver;
mod faults;
mod gtids;
mod history;
mod invariants;
mod kernel;
mod mutation;
mod mutations;
mod network;
mod operator;
mod oracle;
mod outsider;
mod power;
mod probe;
mod proxy;
mod replication;
mod rng;
mod scenario;
mod seeds;
mod server;
mod statements;
mod suspicions;
mod tasks;
mod world;
