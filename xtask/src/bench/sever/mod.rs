//! `bench sever`: a swap with many connections on the pair that dies. When does each of their ends close, on either
//! side, and what of the clients still reaches the old server?
//!
//! Half of the connections are idle, the other half send a request now and then. Moments are taken from the
//! acknowledgement of the swap's transaction.

mod arrivals;
mod ends;
mod picture;
mod report;
pub mod side;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use nix::sys::resource::{Resource, getrlimit};
use shunt_tests::{Host, Lan};

use super::driver::{self, Datapath, Driver};
use super::machine::Machine;
use super::{Output, prepare};
use crate::setup::Needs;
use crate::talk;
use arrivals::{Arrivals, Kind};
use ends::Ended;
use side::Side;

const PORT: u16 = 7000;

/// How often a busy connection sends, unless there are so many that all together would send more than [`REQUESTS`].
const EVERY: Duration = Duration::from_millis(100);

/// Requests a second of all busy connections together: more would be a measurement of the machine.
const REQUESTS: f64 = 10_000.0;

/// How long the load runs before the swap.
const SETTLE: Duration = Duration::from_secs(1);

/// How long to wait for ends to close.
const PATIENCE: Duration = Duration::from_secs(10);

#[derive(clap::Args)]
pub struct Args {
    /// How many connections are on the pair that dies
    #[arg(long, value_delimiter = ',', default_values_t = [1, 1_000, 10_000])]
    connections: Vec<usize>,
    /// How often each
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// Through which datapaths, in turn
    #[arg(long, value_delimiter = ',', default_values = ["nft", "ebpf"])]
    datapaths: Vec<Datapath>,
    /// Also draw the figures there, as SVG
    #[arg(long, value_name = "FILE")]
    svg: Option<PathBuf>,
    #[command(flatten)]
    output: Output,
}

/// What one swap did.
pub struct Round {
    pub datapath: Datapath,
    pub connections: usize,
    pub busy: usize,
    /// From the beginning of the order to the acknowledgement.
    pub apply_ms: f64,
    pub commit_us: f64,
    pub clients: Closings,
    pub servers: Closings,
    /// Flows that the datapath says it has severed, of these how many had an end that did not answer, and how long it
    /// took; none: it says nothing.
    pub told: Option<driver::Severed>,
    /// Packets that reached the old server's host after the acknowledgement.
    pub late: Late,
}

/// The ends on one side: when they closed, in milliseconds from the acknowledgement, in order.
pub struct Closings {
    pub closed_ms: Vec<f64>,
    pub by_reset: usize,
    pub remaining: usize,
}

pub struct Late {
    pub clients: usize,
    /// When the last of the clients' packets came, seen from the acknowledgement; none: none was seen at all.
    pub last_client_ms: Option<f64>,
    pub resets: usize,
    pub probes: usize,
    /// Packets that were counted but not seen; the figures above are worth nothing if there are any.
    pub missed: u64,
}

/// The hosts, and what runs on them for the whole time.
struct Stage {
    datapath: Datapath,
    driver: Driver,
    client: Host,
    proxy: Host,
    old: Host,
    new: Host,
    _lan: Lan,
}

pub fn run(args: &Args) -> Result<()> {
    prepare(&Needs { lab: true, bpf: true, ..Needs::default() })?;
    let program = driver::build()?;
    let most = args.connections.iter().copied().max().context("no number of connections")?;
    make_room(most)?;
    let machine = Machine::look()?;
    println!("  {machine}");
    machine.warn();
    let mut stages =
        args.datapaths.iter().map(|&datapath| Stage::set(&program, datapath)).collect::<Result<Vec<_>>>()?;
    let mut rounds = Vec::new();
    for number in 1..=args.rounds {
        for &connections in &args.connections {
            for stage in &mut stages {
                let title = stage.datapath.title();
                let what = format!("round {number} of {}: {connections} connections, {title}", args.rounds);
                rounds.push(talk::step(&what, || stage.play(connections))?);
            }
        }
    }
    let report =
        report::Report { machine: &machine, sizes: &args.connections, datapaths: &args.datapaths, rounds: &rounds };
    report.print();
    args.output.write(&report.json())?;
    if let Some(path) = &args.svg {
        std::fs::write(path, picture::draw(&report)).with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(())
}

impl Stage {
    fn set(program: &Path, datapath: Datapath) -> Result<Self> {
        let lan = Lan::new()?;
        let [client, proxy] = [lan.host("client", 1)?, lan.host("proxy", 2)?];
        let [old, new] = [lan.host("old", 11)?, lan.host("new", 12)?];
        client.ns().sysctl("ipv4/ip_local_port_range", "1024 65535")?;
        proxy.forward()?;
        let driver = Driver::start(program, datapath, &proxy)?;
        Ok(Self { datapath, driver, client, proxy, old, new, _lan: lan })
    }

    fn play(&mut self, connections: usize) -> Result<Round> {
        let (listener, old, new) = (self.proxy.at(PORT), self.old.at(PORT), self.new.at(PORT));
        let busy = connections.div_ceil(2);
        let every = EVERY.max(Duration::from_secs_f64(busy as f64 / REQUESTS));
        let mut servers = Side::serve(&self.old, old)?;
        let _heirs = Side::serve(&self.new, new)?;
        self.driver.lead(&[(listener, old)])?;
        self.driver.severed()?;
        let mut clients = Side::connect(&self.client, listener, connections, busy, every)?;
        // Not a wait for anything: the load runs for a while before it is measured.
        std::thread::sleep(SETTLE);
        ensure!([clients.open()?, servers.open()?] == [connections; 2], "connections ended before the swap");
        let arrivals = Arrivals::watch(&self.old, PORT)?;

        let applied = self.driver.lead(&[(listener, new)])?;
        let deadline = Instant::now() + PATIENCE;
        let mut told: Option<driver::Severed> = None;
        loop {
            for one in self.driver.severed()? {
                let sum = told.get_or_insert_default();
                sum.flows += one.flows;
                sum.unanswered += one.unanswered;
                sum.took_ns = sum.took_ns.max(one.took_ns);
            }
            let over = clients.open()? == 0 && servers.open()? == 0 && told.is_some();
            if over || Instant::now() > deadline {
                break;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        let remaining = [clients.open()?, servers.open()?];
        let arrived = arrivals.finish()?;
        let [clients, servers] = [clients.finish()?, servers.finish()?];
        let since = |at: i64| super::moment::ms(applied.acknowledged, at);
        let side = |ended: Vec<Ended>, remaining: usize| {
            let mut closed_ms: Vec<f64> = ended.iter().map(|end| since(end.at)).collect();
            closed_ms.sort_by(f64::total_cmp);
            Closings { closed_ms, by_reset: ended.iter().filter(|end| end.reset).count(), remaining }
        };
        let of = |kind: Kind| arrived.packets.iter().filter(move |packet| packet.kind == kind).map(|packet| packet.at);
        let late = |kind| of(kind).filter(|&at| at > applied.acknowledged).count();
        Ok(Round {
            datapath: self.datapath,
            connections,
            busy,
            apply_ms: super::moment::ms(applied.began, applied.acknowledged),
            commit_us: applied.commit_ns as f64 / 1e3,
            clients: side(clients, remaining[0]),
            servers: side(servers, remaining[1]),
            told,
            late: Late {
                clients: late(Kind::Client),
                last_client_ms: of(Kind::Client).max().map(since),
                resets: late(Kind::Reset),
                probes: late(Kind::Probe),
                missed: arrived.missed,
            },
        })
    }
}

/// Open files for one side of the connections, and places in conntrack's table, which all namespaces share.
fn make_room(connections: usize) -> Result<()> {
    let (_, files) = getrlimit(Resource::RLIMIT_NOFILE)?;
    ensure!(
        files > connections as u64 + 100,
        "a process may have {files} open files: too few for {connections} connections"
    );
    let path = "/proc/sys/net/netfilter/nf_conntrack_max";
    let most: usize = std::fs::read_to_string(path).with_context(|| format!("cannot read {path}"))?.trim().parse()?;
    ensure!(most >= connections * 4, "{path} is {most}: too few for {connections} connections");
    Ok(())
}
