//! One side of the connections as a process on its host: this program again, with the hidden command `bench side`.
//! It says `ready`, then answers a line with a line: `open` with the number of connections that are open, `finish` with
//! when the others ended.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::SocketAddr;
use std::process::{ChildStdin, ChildStdout, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use shunt_tests::{Host, Process};

use super::ends::{Ended, Ends};

#[derive(clap::Args)]
pub struct Args {
    /// Where to connect to, or to listen
    address: SocketAddr,
    /// How many connections to open; without it, listen
    #[arg(long, requires_all = ["busy", "every_us"])]
    connect: Option<usize>,
    #[arg(long)]
    busy: Option<usize>,
    #[arg(long)]
    every_us: Option<u64>,
}

/// What the process does.
pub fn run(args: &Args) -> Result<()> {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard)?;
    let mut ends = match (args.connect, args.busy, args.every_us) {
        (Some(count), Some(busy), Some(us)) => Ends::connect(args.address, count, busy, Duration::from_micros(us))?,
        _ => Ends::serve(args.address)?,
    };
    println!("ready");
    for order in std::io::stdin().lock().lines() {
        match order?.as_str() {
            "open" => println!("{}", ends.open()?),
            "finish" => {
                let ended: Vec<String> = ends.finish()?.iter().map(|end| format!("{}:{}", end.at, end.reset)).collect();
                println!("{}", ended.join(" "));
                return Ok(());
            }
            other => bail!("not an order: {other}"),
        }
    }
    Ok(())
}

/// The process, from outside; it ends with its guard, and so do its connections.
pub struct Side {
    orders: ChildStdin,
    answers: BufReader<ChildStdout>,
    _process: Process,
}

impl Side {
    /// Returns once every connection has had an answer.
    pub fn connect(host: &Host, to: SocketAddr, count: usize, busy: usize, every: Duration) -> Result<Self> {
        let [count, busy, every] = [count.to_string(), busy.to_string(), every.as_micros().to_string()];
        Self::start(host, to, &["--connect", &count, "--busy", &busy, "--every-us", &every])
    }

    /// Returns once it listens.
    pub fn serve(host: &Host, at: SocketAddr) -> Result<Self> {
        Self::start(host, at, &[])
    }

    fn start(host: &Host, address: SocketAddr, options: &[&str]) -> Result<Self> {
        let mut command = host.ns().command(std::env::current_exe()?)?;
        command.args(["bench", "side", &address.to_string()]).args(options);
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let name = format!("the connections on {}", host.name());
        let mut process = Process::spawn_as_is(&name, command, None)?;
        let orders = process.take_stdin().context("no stdin")?;
        let answers = BufReader::new(process.take_stdout().context("no stdout")?);
        let mut this = Self { orders, answers, _process: process };
        let word = this.answer()?;
        if word != "ready" {
            bail!("{name}: {word}");
        }
        Ok(this)
    }

    /// Connections that are open.
    pub fn open(&mut self) -> Result<usize> {
        Ok(self.ask("open")?.parse()?)
    }

    /// Closes what is open; what had ended until now.
    pub fn finish(mut self) -> Result<Vec<Ended>> {
        let answer = self.ask("finish")?;
        let one = |word: &str| {
            let (at, reset) = word.split_once(':')?;
            Some(Ended { at: at.parse().ok()?, reset: reset.parse().ok()? })
        };
        answer.split_whitespace().map(|word| one(word).with_context(|| format!("not an end: {word}"))).collect()
    }

    fn ask(&mut self, order: &str) -> Result<String> {
        writeln!(self.orders, "{order}").context("the process has ended")?;
        self.answer()
    }

    fn answer(&mut self) -> Result<String> {
        let mut line = String::new();
        if self.answers.read_line(&mut line)? == 0 {
            bail!("a process that holds connections has ended; what it said stands above");
        }
        Ok(line.trim_end().to_owned())
    }
}
