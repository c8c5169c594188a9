//! A datapath, driven by hand through the ebpf crate's example `bench`: this program links no crate of the product.

use std::fmt::Write as _;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{ChildStdin, ChildStdout, Stdio};

use anyhow::{Context as _, Result, bail};
use serde_json::Value;
use shunt_tests::{Host, Process};

use crate::cargo;

/// Builds the example, which has both datapaths and the benchmarks of the product's own parts; where it is.
pub fn build() -> Result<std::path::PathBuf> {
    println!("  building the datapaths");
    cargo::run(&["build", "--release", "--package", "shunt-ebpf", "--example", "bench"])?;
    Ok(cargo::target()?.join("release/examples/bench"))
}

/// What carries the packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Datapath {
    Nft,
    Ebpf,
}

impl Datapath {
    pub const BOTH: [Self; 2] = [Self::Nft, Self::Ebpf];

    pub const fn name(self) -> &'static str {
        match self {
            Self::Nft => "nft",
            Self::Ebpf => "ebpf",
        }
    }

    pub const fn title(self) -> &'static str {
        match self {
            Self::Nft => "shunt-nft",
            Self::Ebpf => "shunt-ebpf",
        }
    }
}

/// A datapath on one host. What it made goes when it ends, or with the host.
pub struct Driver {
    orders: ChildStdin,
    answers: BufReader<ChildStdout>,
    process: Process,
}

/// One change that the kernel took, in nanoseconds of CLOCK_MONOTONIC.
#[derive(Clone, Copy, Debug)]
pub struct Applied {
    pub began: i64,
    pub acknowledged: i64,
    /// From sending the transaction to the kernel's acknowledgement.
    pub commit_ns: i64,
}

/// What the datapath says of a severing.
#[derive(Clone, Copy, Debug, Default)]
pub struct Severed {
    pub flows: u64,
    pub unanswered: u64,
    pub took_ns: u64,
}

impl Driver {
    pub fn start(program: &Path, datapath: Datapath, host: &Host) -> Result<Self> {
        Self::spawn(program, datapath.name(), host)
    }

    /// The floor: carries this client's connections to this server, all of them, and can do nothing else.
    pub fn floor(program: &Path, host: &Host, client: &Host, server: &Host) -> Result<Self> {
        let mut driver = Self::spawn(program, "floor", host)?;
        driver.ask(&format!("carry {} {}", neighbour(client)?, neighbour(server)?))?;
        Ok(driver)
    }

    fn spawn(program: &Path, what: &str, host: &Host) -> Result<Self> {
        let mut command = host.ns().command(program)?;
        command.args(["drive", what]);
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut process = Process::spawn_as_is("the datapath", command, None)?;
        let orders = process.take_stdin().context("the datapath has no stdin")?;
        let answers = process.take_stdout().context("the datapath has no stdout")?;
        Ok(Self { orders, answers: BufReader::new(answers), process })
    }

    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// One change: each of these listeners leads to its backend.
    pub fn lead(&mut self, pairs: &[(SocketAddr, SocketAddr)]) -> Result<Applied> {
        let mut order = "lead".to_owned();
        for (listener, backend) in pairs {
            let _ = write!(order, " {listener}={backend}");
        }
        let answer = self.ask(&order)?;
        let number = |key: &str| answer[key].as_i64().with_context(|| format!("no {key} in {answer}"));
        if number("changed")? != i64::try_from(pairs.len())? {
            bail!("of {} mappings changed: {answer}", pairs.len());
        }
        let [began, acknowledged] = [number("began_ns")?, number("acknowledged_ns")?];
        Ok(Applied { began, acknowledged, commit_ns: number("commit_ns")? })
    }

    /// Moves a listener between two backends for some time; returns when it is over, with the times of the commits.
    pub fn swap(
        &mut self,
        listener: SocketAddr,
        backends: [SocketAddr; 2],
        every_ms: u64,
        count: u64,
    ) -> Result<Value> {
        let [a, b] = backends;
        self.ask(&format!("swap {listener} {a} {b} {every_ms} {count}"))
    }

    /// The severings that were finished since this was last asked.
    pub fn severed(&mut self) -> Result<Vec<Severed>> {
        let answer = self.ask("severed")?;
        let all = answer["severed"].as_array().with_context(|| format!("no list in {answer}"))?;
        let number = |one: &Value, key: &str| one[key].as_u64().with_context(|| format!("no {key} in {one}"));
        all.iter()
            .map(|one| {
                Ok(Severed {
                    flows: number(one, "flows")?,
                    unanswered: number(one, "unanswered")?,
                    took_ns: number(one, "took_ns")?,
                })
            })
            .collect()
    }

    /// Has it compare the kernel with what was committed, and put back what is missing.
    pub fn repair(&mut self) -> Result<()> {
        self.ask("repair").map(drop)
    }

    fn ask(&mut self, order: &str) -> Result<Value> {
        writeln!(self.orders, "{order}").context("the datapath takes no orders")?;
        let mut line = String::new();
        if self.answers.read_line(&mut line)? == 0 {
            bail!("the datapath has ended ({:?}); what it said stands above", self.process.status()?);
        }
        serde_json::from_str(&line).with_context(|| format!("the datapath said: {line}"))
    }
}

/// A host's address on the link, and its hardware's, as the example takes them.
pub fn neighbour(host: &Host) -> Result<String> {
    let text = host.ns().run("ip", &["-oneline", "link", "show", "dev", "eth0"])?;
    let mut words = text.split_whitespace().skip_while(|word| *word != "link/ether");
    let mac = words.nth(1).with_context(|| format!("no hardware address in {text}"))?;
    Ok(format!("{}={mac}", host.v4()))
}
