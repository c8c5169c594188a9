//! `bench datapath`: what the way through a proxy costs. The same load through every way in one run, in rounds that take
//! the ways in turn, each round beginning with another one; what is told are medians.
//!
//! Load, proxies and servers share the machine's processors, which are busy all the time. So the ratios are what counts,
//! and *direct*, over the same LAN without a proxy, is what they are ratios to.

mod figures;
pub(super) mod load;
mod picture;
mod report;
mod select;
pub(super) mod service;
pub(super) mod way;

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, Result};
use clap::builder::PossibleValuesParser;
use shunt_tests::{Flavour, Host, Install, Lan, Server};

use super::machine::Machine;
use super::{Output, driver, prepare};
use crate::setup::Needs;
use crate::talk;
use figures::{Figures, Versus};
use load::{Cell, Row};
use service::Service;
use way::{Kind, Way};

/// The ports of the two servers.
const MYSQL: u16 = shunt_tests::server::PORT;
const TCP: u16 = 7000;

/// Twice the connections that are open at a time: a proxy's side may still be closing.
const SERVING: usize = 2 * load::THREADS;

/// How long one way is measured with one row in a round, and in a pair of two.
const ALONE: Duration = Duration::from_millis(600);
const PAIRED: Duration = Duration::from_millis(300);

/// The first proxy's number on the LAN.
const PROXIES: u8 = 21;

/// The second bare map's.
const AGAIN: u8 = 41;

#[derive(clap::Args)]
pub struct Args {
    /// How often every way is measured
    #[arg(long, default_value_t = 9)]
    rounds: usize,
    /// How often shunt is then measured against the bare map, and against itself without its guard, one right after the
    /// other; half as often, the bare map against another bare map, and shunt against itself
    #[arg(long, default_value_t = 20)]
    pairs: usize,
    /// Only these ways, as JSON calls them, and direct
    #[arg(long, value_delimiter = ',', value_parser = PossibleValuesParser::new(Kind::ALL.map(Kind::key)))]
    ways: Vec<String>,
    /// Only these kinds of operation, as JSON calls them
    #[arg(long, value_delimiter = ',', value_parser = PossibleValuesParser::new(Row::ALL.map(Row::key)))]
    rows: Vec<String>,
    /// Also draw the figures there, as SVG
    #[arg(long, value_name = "FILE")]
    svg: Option<PathBuf>,
    #[command(flatten)]
    output: Output,
}

pub fn run(args: &Args) -> Result<()> {
    prepare(&Needs { lab: true, servers: vec![Flavour::Mysql], bpf: true, rivals: true, ..Needs::default() })?;
    let install = Install::find(Flavour::Mysql)?;
    let driver = driver::build()?;
    let machine = Machine::look()?;
    println!("  {machine}");
    machine.warn();

    let lan = Lan::new()?;
    let client = lan.host("client", 1)?;
    way::ready_for_many(&client)?;
    let server = talk::step(&format!("{} and a plain TCP server", install.title()), || {
        let server = Server::start(lan.host("db1", 11)?, &install, 1, &[])?;
        select::prepare(&server)?;
        Ok(server)
    })?;
    let service = Service::start(server.host(), server.host().at(TCP), SERVING)?;
    let asked =
        |kind: Kind| kind == Kind::Direct || args.ways.is_empty() || args.ways.iter().any(|way| way == kind.key());
    let mut ways = Vec::new();
    let mut skipped = Vec::new();
    for (number, kind) in (PROXIES..).zip(Kind::ALL).filter(|(_, kind)| asked(*kind)) {
        let opened = talk::step(kind.title(), || Way::open(kind, number, &lan, &client, server.host(), &driver));
        match opened {
            Ok(way) => ways.push(way),
            // What is measured cannot be left out; what it is compared with can.
            Err(error) if !matches!(kind, Kind::Iptables | Kind::Rival(_)) => return Err(error),
            Err(error) => skipped.push((kind, format!("{error:#}"))),
        }
    }
    let rows: Vec<Row> = Row::ALL
        .into_iter()
        .filter(|row| args.rows.is_empty() || args.rows.iter().any(|one| one == row.key()))
        .collect();
    let load = Load { client: &client, rows: &rows };
    let mut figures = Figures::default();
    for round in 0..args.rounds {
        talk::step(&format!("round {} of {}", round + 1, args.rounds), || {
            play_round(&ways, round, load, &mut figures)
        })?;
    }
    for (versus, kind, other) in [
        (Versus::BareMap, Kind::ShuntNft, Kind::BareMap),
        (Versus::EbpfBareMap, Kind::ShuntEbpf, Kind::BareMap),
        (Versus::EbpfFloor, Kind::ShuntEbpf, Kind::Floor),
    ] {
        let of = |kind| ways.iter().find(|way| way.kind == kind);
        let (Some(way), Some(other)) = (of(kind), of(other)) else { continue };
        let what = format!("{} against {}, {} pairs a row", kind.title(), other.kind.title(), args.pairs);
        talk::step(&what, || play_pairs(way, other, versus, args.pairs, load, &mut figures))?;
    }
    if let Some(bare) = ways.iter().find(|way| way.kind == Kind::BareMap) {
        // What a difference means is only known beside the difference between equals.
        let again = Way::open(Kind::BareMap, AGAIN, &lan, &client, server.host(), &driver)?;
        talk::step(&format!("the bare map against another one, {} pairs a row", args.pairs / 2), || {
            play_pairs(&again, bare, Versus::AnotherBareMap, args.pairs / 2, load, &mut figures)
        })?;
    }
    if let Some(shunt) = ways.iter_mut().find(|way| way.kind == Kind::ShuntNft) {
        talk::step(&format!("shunt-nft with its guard and without, {} pairs a row", args.pairs), || {
            play_guard(shunt, true, args.pairs, load, &mut figures)
        })?;
        talk::step(&format!("shunt-nft against itself, {} pairs a row", args.pairs / 2), || {
            play_guard(shunt, false, args.pairs / 2, load, &mut figures)
        })?;
    }
    drop(service);

    let report = report::Report {
        machine: &machine,
        servers: &install.title(),
        ways: &ways,
        skipped: &skipped,
        figures: &figures,
    };
    report.print();
    args.output.write(&report.json())?;
    if let Some(path) = &args.svg {
        let drawn = picture::draw(&report);
        std::fs::write(path, drawn).with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(())
}

/// Which operations, and where they come from.
#[derive(Clone, Copy)]
struct Load<'a> {
    client: &'a Host,
    rows: &'a [Row],
}

/// Every way once with every row, beginning with another way each time.
fn play_round(ways: &[Way], round: usize, load: Load<'_>, figures: &mut Figures) -> Result<()> {
    for &row in load.rows {
        for number in 0..ways.len() {
            let way = &ways[(number + round) % ways.len()];
            if way.kind.carries(row) {
                figures.add(way.kind, row, measured(way, row, load.client, ALONE)?);
            }
        }
    }
    Ok(())
}

/// Two ways that differ by little are told apart only by taking them right after each other, often.
fn play_pairs(
    way: &Way,
    other: &Way,
    versus: Versus,
    pairs: usize,
    load: Load<'_>,
    figures: &mut Figures,
) -> Result<()> {
    for &row in load.rows {
        let both = [way.to(row), other.to(row)];
        let pairs =
            load::compare(row, load.client, both, PAIRED, pairs).with_context(|| format!("{} in turn", row.title()))?;
        for pair in pairs {
            figures.add_pair(versus, row, pair);
        }
    }
    Ok(())
}

/// The same connections through the same host, with the guard's chains and without: what is left is the bare map. Or
/// twice with them, to know what such a measurement can tell apart.
fn play_guard(shunt: &mut Way, toggled: bool, pairs: usize, load: Load<'_>, figures: &mut Figures) -> Result<()> {
    for &row in load.rows {
        let to = shunt.to(row);
        let mut is_guarded = true;
        let measured = load::toggle(row, load.client, to, PAIRED, pairs, |state| {
            let guarded = state == 0 || !toggled;
            if guarded != is_guarded {
                let switched = if guarded { shunt.guard() } else { shunt.unguard() };
                switched?;
                is_guarded = guarded;
            }
            Ok(())
        });
        shunt.guard()?;
        let versus = if toggled { Versus::WithoutGuard } else { Versus::Itself };
        for pair in measured.with_context(|| format!("{} with the guard and without", row.title()))? {
            figures.add_pair(versus, row, pair);
        }
    }
    Ok(())
}

fn measured(way: &Way, row: Row, client: &Host, length: Duration) -> Result<Cell> {
    load::measure(row, client, way.to(row), length)
        .with_context(|| format!("{} through {}", row.title(), way.kind.title()))
}
