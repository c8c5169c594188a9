//! Every command and flag, once. Help, man pages and completions are made from here.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{CommandFactory, Parser, Subcommand, ValueHint};
use clap_complete::Shell;

/// Layer-4 failover for MySQL: the proxy port leads to the current primary, or to nobody.
#[derive(Debug, Parser)]
#[command(name = "shunt", version, max_term_width = 110, arg_required_else_help = true)]
pub struct Args {
    /// Folder of shunt.toml and clusters.d
    #[arg(long, global = true, value_name = "DIR", env = "SHUNT_CONFIG", default_value = "/etc/shunt", value_hint = ValueHint::DirPath)]
    pub config: PathBuf,
    /// Folder of the agent's database
    #[arg(long, global = true, value_name = "DIR", env = "SHUNT_STATE", default_value = "/var/lib/shunt", value_hint = ValueHint::DirPath)]
    pub state: PathBuf,
    /// The agent's socket
    #[arg(long, global = true, value_name = "PATH", env = "SHUNT_SOCKET", default_value = "/run/shunt/shunt.sock", value_hint = ValueHint::FilePath)]
    pub socket: PathBuf,
    #[command(subcommand)]
    pub command: Command,
}

impl Args {
    /// The arguments of this process; it ends here if they are wrong.
    pub fn from_command_line() -> Self {
        Self::read(std::env::args_os()).unwrap_or_else(|error| error.exit())
    }

    fn read(words: impl IntoIterator<Item = OsString>) -> Result<Self, clap::Error> {
        Self::try_parse_from(words).map_err(|mut error| {
            // clap lists the hidden ones, too.
            if error.kind() == ErrorKind::MissingSubcommand {
                let command = Self::command();
                let shown = command.get_subcommands().filter(|c| !c.is_hide_set()).map(|c| c.get_name().to_owned());
                error.insert(ContextKind::ValidSubcommand, ContextValue::Strings(shown.collect()));
            }
            error
        })
    }
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run the daemon
    Agent,
    /// One line a listener: where it leads and how it is
    List(List),
    /// A cluster's servers, the verdict and its reasons
    Show(Show),
    /// Lead a cluster, or one listener, to a server until unpinned
    Pin(Pin),
    /// Let observation decide again
    Unpin(Unpin),
    /// Change nothing by itself for a while
    Pause(Pause),
    /// End a pause
    Resume(OneCluster),
    /// Who is who through the NAT: client, listener, and the address that the server sees
    ///
    /// A server behind the proxy sees the proxy's address instead of the client's. This lists every connection with both.
    ///
    /// Who is 10.0.0.2:41234 in a server's process list? `shunt flows --source-port 41234`
    Flows(Flows),
    /// The history: every verdict, decision and step
    Events(Events),
    /// Check this host and the servers, and say what to do
    Doctor(Doctor),
    /// Look at the configuration
    Config(Config),
    /// Take a changed configuration into force
    Reload,
    /// Take shunt's table out of the kernel; connections through it end
    Purge(Purge),
    /// Print completions for a shell
    Completions(Completions),
    /// Write the man pages into a folder
    #[command(hide = true)]
    Man(Man),
}

#[derive(Debug, clap::Args)]
pub struct List {
    /// One JSON object instead of a table
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, clap::Args)]
pub struct Show {
    pub cluster: String,
    /// One JSON object instead of a table
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, clap::Args)]
pub struct OneCluster {
    pub cluster: String,
}

#[derive(Debug, clap::Args)]
pub struct Pin {
    pub cluster: String,
    /// Name or address of one of the cluster's servers
    pub server: String,
    /// Only this listener, address:port
    #[arg(long, value_name = "ADDR")]
    pub listener: Option<String>,
    /// Do not ask, also when the server is read-only or unreachable
    #[arg(long, short)]
    pub yes: bool,
}

#[derive(Debug, clap::Args)]
pub struct Unpin {
    pub cluster: String,
    /// Only this listener, address:port
    #[arg(long, value_name = "ADDR")]
    pub listener: Option<String>,
}

#[derive(Debug, clap::Args)]
pub struct Pause {
    pub cluster: String,
    /// How long, such as 90s, 30m, 1h; until resumed if left out
    #[arg(long = "for", value_name = "TIME", value_parser = humantime::parse_duration)]
    pub time: Option<Duration>,
    /// Why; it stands in the list and in the history
    #[arg(long, value_name = "TEXT")]
    pub reason: String,
}

#[derive(Debug, clap::Args)]
pub struct Flows {
    /// Only through this cluster's listeners
    pub cluster: Option<String>,
    /// Only of the client that servers see with this port, as 41234 of `10.0.0.2:41234` in a process list
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    pub source_port: Option<u16>,
    /// One JSON object instead of a table
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, clap::Args)]
pub struct Events {
    /// Only this cluster's
    pub cluster: Option<String>,
    /// Go on as things happen
    #[arg(long, short)]
    pub follow: bool,
    /// How many of the newest
    #[arg(long, short = 'n', value_name = "N", default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub lines: u32,
    /// One JSON object; with --follow one a line
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, clap::Args)]
pub struct Doctor {
    /// Mend what can be mended on this host
    #[arg(long)]
    pub fix: bool,
    /// One JSON object instead of a list
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, clap::Args)]
pub struct Config {
    #[command(subcommand)]
    pub command: ConfigCommand,
}

#[derive(Debug, Subcommand)]
pub enum ConfigCommand {
    /// Read every file and say what is wrong with it, without touching anything
    Check,
}

#[derive(Debug, clap::Args)]
pub struct Purge {
    /// Do not ask
    #[arg(long, short)]
    pub yes: bool,
}

#[derive(Debug, clap::Args)]
pub struct Completions {
    pub shell: Shell,
}

#[derive(Debug, clap::Args)]
pub struct Man {
    #[arg(value_hint = ValueHint::DirPath)]
    pub folder: PathBuf,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_of_flags_is_consistent() {
        Args::command().debug_assert();
    }

    #[test]
    fn who_gives_no_command_is_told_of_those_that_are_meant_for_people() {
        let words = ["shunt", "--config", "/etc/shunt"].map(OsString::from);
        let error = Args::read(words).unwrap_err().to_string();
        assert!(error.contains("agent, list") && error.contains("completions") && !error.contains(", man"), "{error}");
    }
}
