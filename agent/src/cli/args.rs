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
    /// Make another server the primary, as planned work
    ///
    /// Everything is examined before anything is changed. New connections wait, sessions end when their transaction is
    /// over, the next primary applies all that the old one committed, and the port leads there. What is uncertain before
    /// the promotion is taken back.
    Switchover(Switchover),
    /// Make another server the primary now, whether or not the old one can be asked
    ///
    /// It shows what would happen and asks first. The old primary is fenced before another one is promoted.
    Failover(Failover),
    /// Take back what is under way, as long as no promotion has begun
    ///
    /// The old primary takes writes again and the port leads there. If it cannot be reached, the port stays fenced and
    /// nobody is promoted. What a verdict began is not begun again: the cluster is paused, until `shunt resume`.
    Abort(OneCluster),
    /// Compare a server that was cast out with the primary anew, and let it follow if nothing speaks against it
    ///
    /// It is made read-only, and the sessions that clients have on it end. One that replicates from the primary already is
    /// left alone.
    Rejoin(OneServer),
    /// Take the mark from a server that was cast out, once somebody has seen to it
    Clear(OneServer),
    /// Fail a healthy cluster over on purpose, and tell what happened when
    ///
    /// A real failover of a real cluster: its connections end. It refuses unless the cluster is well, and asks first.
    Drill(Drill),
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
    /// Take shunt's table, programs and maps out of the kernel; connections through them end
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
pub struct OneServer {
    pub cluster: String,
    /// Name or address of one of the cluster's servers
    pub server: String,
}

#[derive(Debug, clap::Args)]
pub struct Switchover {
    pub cluster: String,
    /// The next primary, by name or address; the best one if left out
    #[arg(long, value_name = "SERVER")]
    pub to: Option<String>,
    /// How long sessions inside a transaction may take to finish, such as 500ms, 2s
    #[arg(long, value_name = "TIME", default_value = "2s", value_parser = humantime::parse_duration)]
    pub grace: Duration,
    /// Examine everything, change nothing, say what would be done
    #[arg(long)]
    pub dry_run: bool,
    #[command(flatten)]
    pub watching: Watching,
}

#[derive(Debug, clap::Args)]
pub struct Failover {
    pub cluster: String,
    /// The next primary, by name or address; the best one if left out
    #[arg(long, value_name = "SERVER")]
    pub to: Option<String>,
    /// Examine everything, change nothing, say what would be done
    #[arg(long)]
    pub dry_run: bool,
    /// Go on though nothing proves that no acknowledged transaction is lost
    #[arg(long)]
    pub allow_data_loss: bool,
    /// Do not ask
    #[arg(long, short)]
    pub yes: bool,
    #[command(flatten)]
    pub watching: Watching,
}

#[derive(Debug, clap::Args)]
pub struct Drill {
    pub cluster: String,
    /// The next primary, by name or address; the best one if left out
    #[arg(long, value_name = "SERVER")]
    pub to: Option<String>,
    /// Do not ask
    #[arg(long, short)]
    pub yes: bool,
    #[command(flatten)]
    pub watching: Watching,
}

/// How an operation is watched.
#[derive(Clone, Copy, Debug, Default, clap::Args)]
pub struct Watching {
    /// Each task on each server, too
    #[arg(long)]
    pub details: bool,
    /// One JSON object at the end
    #[arg(long)]
    pub json: bool,
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

    fn read(line: &str) -> Result<Command, clap::Error> {
        Args::read(line.split(' ').map(OsString::from)).map(|args| args.command)
    }

    #[test]
    fn a_switchover_has_a_grace_of_two_seconds_unless_told_otherwise() {
        let grace = |line| match read(line) {
            Ok(Command::Switchover(options)) => options.grace,
            other => panic!("{other:?}"),
        };
        assert_eq!(grace("shunt switchover orders"), Duration::from_secs(2));
        assert_eq!(
            grace("shunt switchover orders --to db2 --grace 500ms --dry-run --json"),
            Duration::from_millis(500)
        );
        assert_eq!(read("shunt switchover orders --grace soon").unwrap_err().kind(), ErrorKind::ValueValidation);
    }

    #[test]
    fn only_a_failover_may_be_told_to_lose_data_and_a_drill_has_no_dry_run() {
        let failover = read("shunt failover orders --to db2 --allow-data-loss -y --details");
        assert!(matches!(failover, Ok(Command::Failover(Failover { allow_data_loss: true, yes: true, .. }))));
        for line in [
            "shunt switchover orders --allow-data-loss",
            "shunt drill orders --allow-data-loss",
            "shunt drill orders --dry-run",
            "shunt failover orders --grace 2s",
            "shunt switchover orders --yes",
        ] {
            assert_eq!(read(line).unwrap_err().kind(), ErrorKind::UnknownArgument, "{line}");
        }
    }

    #[test]
    fn operations_need_a_cluster_and_a_rejoin_a_server_too() {
        for line in ["shunt switchover", "shunt failover", "shunt drill", "shunt rejoin orders", "shunt clear orders"] {
            assert_eq!(read(line).unwrap_err().kind(), ErrorKind::MissingRequiredArgument, "{line}");
        }
        assert!(matches!(read("shunt rejoin orders db1"), Ok(Command::Rejoin(OneServer { .. }))));
    }

    #[test]
    fn who_gives_no_command_is_told_of_those_that_are_meant_for_people() {
        let words = ["shunt", "--config", "/etc/shunt"].map(OsString::from);
        let error = Args::read(words).unwrap_err().to_string();
        assert!(error.contains("agent, list") && error.contains("completions") && !error.contains(", man"), "{error}");
    }
}
