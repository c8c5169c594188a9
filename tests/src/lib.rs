//! The lab: hosts made of network namespaces on one LAN, real MySQL and MariaDB servers, the agent, and clients.
//!
//! A lab test is an ordinary `#[test]` in `tests/tests/*.rs`. It needs root (namespaces) and installed servers
//! (`cargo xtask setup`); without them it is *skipped by name, with the reason*, never silently green:
//!
//! ```no_run
//! use shunt_tests::{Cluster, Lan, each_flavour};
//!
//! each_flavour! {
//!     fn a_promoted_replica_takes_writes(install) {
//!         let lan = Lan::new()?;
//!         let mut cluster = Cluster::start(&lan, install, 3)?;
//!         cluster.server(0).kill()?;
//!         cluster.promote(1)?;
//!         cluster.server(1).sql("INSERT INTO app.t (note) VALUES ('after')")?;
//!         Ok(())
//!     }
//! }
//! # fn main() {}
//! ```
//!
//! That makes two tests, `…::mysql` and `…::mariadb`. In [`on_each_datapath!`] it makes two more, `…::ebpf::mysql` and
//! `…::ebpf::mariadb`, whose agents hold their mappings by eBPF. What only needs namespaces is wrapped in [`rooted!`].
//!
//! Rules of the house:
//! - Every test has namespaces of its own, so every test may use the same addresses.
//! - Everything is a guard: dropping it, also by a panic, ends the process, deletes the namespace, removes the files.
//!   When the whole process is killed, its children die with it (`PR_SET_PDEATHSIG`) and an undertaker, a shell that
//!   only waits for that, does the rest. `cargo xtask clean` finds what even that left.
//! - Wait for events with a deadline ([`eventually`]); no fixed sleeps, and no assertion on a time under seconds.
//! - Logs of servers and agents are printed when the test fails (see [`logs`]).

#![expect(clippy::print_stderr, reason = "what a skipped or failed test has to say goes to the test's own output")]

pub mod agent;
pub mod client;
pub mod cluster;
pub mod datapath;
pub mod flavour;
pub mod galera;
pub mod group;
pub mod host;
pub mod jail;
pub mod lan;
pub mod load;
pub mod logs;
pub mod netns;
pub mod ports;
pub mod process;
pub mod promoting;
pub mod scene;
pub mod scratch;
pub mod server;
pub mod skip;
pub mod sql;
pub mod star;
pub mod template;
pub mod wait;
pub mod watch;

pub use agent::Agent;
pub use client::Writer;
pub use cluster::Cluster;
pub use datapath::Datapath;
pub use flavour::{Flavour, Install};
pub use host::Host;
pub use lan::Lan;
pub use load::Load;
pub use netns::Netns;
pub use process::Process;
pub use scene::Scene;
pub use server::Server;
pub use star::Star;
pub use wait::eventually;
