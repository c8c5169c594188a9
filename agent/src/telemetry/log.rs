//! The log: to journald under systemd, else to stderr. `SHUNT_LOG` sets what is logged (`debug`, `shunt=trace`); by default
//! `info`, and of the eBPF programs whatever they are told to say (`ebpf_log` of shunt.toml).

use tracing_subscriber::EnvFilter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

const DEFAULT: &str = "info,shunt::ebpf=debug";

/// Starts logging for the daemon.
pub fn init() {
    let filter = EnvFilter::try_from_env("SHUNT_LOG").unwrap_or_else(|_| EnvFilter::new(DEFAULT));
    let registry = tracing_subscriber::registry().with(filter);
    // systemd sets JOURNAL_STREAM for a service whose stderr is the journal (systemd.exec(5)).
    if std::env::var_os("JOURNAL_STREAM").is_some()
        && let Ok(journal) = tracing_journald::layer()
    {
        registry.with(journal).init();
        return;
    }
    let colour = std::io::IsTerminal::is_terminal(&std::io::stderr()) && std::env::var_os("NO_COLOR").is_none();
    registry.with(tracing_subscriber::fmt::layer().with_writer(std::io::stderr).with_ansi(colour)).init();
}
