//! The driver: what turns the pure core into an agent. It owns the tasks, the two blocking threads (datapath, store), and
//! the order of things at start, at a reload and at the end.

mod agent;
mod cluster;
mod commit;
mod crash;
mod departed;
mod flows;
mod host;
mod journal;
mod lease;
mod operate;
mod probes;
mod reload;
mod severed;
mod signals;
mod tasks;
mod usage;
mod watch;
mod worker;

pub use agent::{Agent, Paths, StartError};
pub use cluster::{Request, error_chain};
pub use departed::Departed;
pub use flows::{FlowList, FlowsError};
pub use journal::{Journal, JournalError};
pub use reload::ReloadError;
pub use worker::Worker;
