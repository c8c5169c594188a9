//! What the agent says about itself: the log, the metrics, and systemd's notices.

mod log;
mod metrics;
mod signals;
mod systemd;

pub use log::init as init_log;
pub use metrics::{Counters, metrics_text};
pub use systemd::{ready, reloading, stopping, watch};
