//! How long the swap of one mapping among many takes, and the severing of many flows at both of their ends. As root:
//! `cargo run --release -p shunt-ebpf --example measure -- swap [MAPPINGS]` or `… sever [FLOWS]`.
//!
//! In network namespaces and a bpf file system of its own, which go with it.
#![allow(clippy::print_stdout, reason = "printing the figures is what it is for")]

use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsFd as _;
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use nix::mount::{MsFlags, mount};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sched::{CloneFlags, unshare};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use shunt_core::ClusterName;
use shunt_core::config::Snat;
use shunt_core::datapath::{Change, Datapath as _, Severed};
use shunt_core::mapping::{Admission, Leaving, Mapping, Route};
use shunt_ebpf::{EbpfDatapath, Options};
use shunt_tests::star::{CLIENT, DBS, Ip, PROXY};
use shunt_tests::{Star, scratch};

const SWAPS: usize = 1000;
const PORT: u16 = 5000;

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let number = |default| arguments.get(1).map_or(Ok(default), |text| text.parse());
    let star = Star::new()?;
    let mounted = scratch::Dir::new("bpf")?;
    star.inside(PROXY, || -> Result<()> {
        unshare(CloneFlags::CLONE_NEWNS)?;
        let none: Option<&str> = None;
        mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none)?;
        mount(Some("bpf"), mounted.path(), Some("bpf"), MsFlags::empty(), none)?;
        let options = Options { pins: mounted.path().join("shunt"), ..Options::default() };
        let mut datapath = EbpfDatapath::open(options)?;
        match arguments.first().map(String::as_str) {
            Some("swap") => swap(&mut datapath, number(10_000)?),
            Some("sever") => (0..3).try_for_each(|_| sever(&mut datapath, &star, number(10_000)?)),
            _ => anyhow::bail!("swap or sever?"),
        }
    })
}

fn swap(datapath: &mut EbpfDatapath, mappings: usize) -> Result<()> {
    let mappings = u32::try_from(mappings)?;
    let listener = |number: u32| SocketAddr::from((Ipv4Addr::from(0x0a00_0000 + number), 3306));
    let to = |number, db| mapping(listener(number), Ip::V4.db(db).ip(), 3306);
    datapath.apply(&Change { set: (0..mappings).map(|number| to(number, 0)).collect(), remove: Vec::new() })?;
    let mut spans: Vec<(Duration, Duration)> = Vec::new();
    for round in 0..SWAPS {
        let number = round as u32 * 7919 % mappings;
        let change =
            Change { set: vec![to(number, 1 - (round as u32 * 7919 / mappings % 2) as u8)], remove: Vec::new() };
        let begin = Instant::now();
        let applied = datapath.apply(&change)?;
        let took = begin.elapsed();
        if applied.changed == 1 {
            spans.push((took, applied.commit));
        }
        // A change now and then, as failovers are: processors fall asleep in between.
        std::thread::sleep(Duration::from_millis(2));
    }
    let (mut applied, mut committed): (Vec<_>, Vec<_>) = spans.into_iter().unzip();
    for (what, all) in [("apply", &mut applied), ("commit", &mut committed)] {
        all.sort_unstable();
        let [median, p90, p99] = [50, 90, 99].map(|part| all[(all.len() - 1) * part / 100]);
        println!("{what} of {mappings} mappings, {} times: median {median:?}, p90 {p90:?}, p99 {p99:?}", all.len());
    }
    Ok(())
}

fn sever(datapath: &mut EbpfDatapath, star: &Star, flows: usize) -> Result<()> {
    let (soft, most) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, most.max(soft), most)?;
    let listener = Ip::V4.listener();
    datapath.apply(&Change { set: vec![mapping(listener, Ip::V4.db(0).ip(), PORT)], remove: Vec::new() })?;
    let ((is_ready, ready), (ask, asked), (tell, ended)) = (channel(), channel(), channel());
    std::thread::scope(|scope| {
        let server = scope.spawn(move || {
            star.inside(DBS[0], move || -> Result<()> {
                // A table of files of its own: twice as many flows fit in what one process may have open.
                unshare(CloneFlags::CLONE_FILES)?;
                let accepting = TcpListener::bind((Ipv4Addr::UNSPECIFIED, PORT))?;
                is_ready.send(())?;
                let ends: Vec<TcpStream> =
                    (0..flows).map(|_| Ok(accepting.accept()?.0)).collect::<std::io::Result<_>>()?;
                is_ready.send(())?;
                asked.recv()?;
                Ok(tell.send(ended_of(&ends)?)?)
            })
        });
        ready.recv()?;
        let connect = || (0..flows).map(|_| TcpStream::connect(listener)).collect::<std::io::Result<Vec<_>>>();
        let clients = star.inside(CLIENT, connect)?;
        ready.recv()?;
        // So that no acknowledgement is still to come.
        std::thread::sleep(Duration::from_millis(200));
        let begin = Instant::now();
        datapath.apply(&Change { set: vec![mapping(listener, Ip::V4.db(1).ip(), PORT)], remove: Vec::new() })?;
        let applied = begin.elapsed();
        let mut told = Vec::new();
        while told.is_empty() {
            std::thread::sleep(Duration::from_millis(1));
            told = datapath.severed();
            ensure!(begin.elapsed() < Duration::from_secs(20), "nothing was reported");
        }
        let reported = begin.elapsed();
        let at_clients = ended_of(&clients)?;
        ask.send(())?;
        let at_servers = ended.recv()?;
        let Severed { flows: severed, unanswered, took, .. } = told.pop().context("no report")?;
        println!("{severed} flows severed in {took:?}, {unanswered} unanswered; reported after {reported:?}");
        println!("  the change took {applied:?}; {at_clients} clients' ends and {at_servers} servers' have ended");
        server.join().map_err(|_| anyhow::anyhow!("the server's thread has panicked"))?
    })
}

fn ended_of(ends: &[TcpStream]) -> Result<usize> {
    let mut number = 0;
    for end in ends {
        number += usize::from(has_ended(end)?);
    }
    Ok(number)
}

fn has_ended(end: &TcpStream) -> Result<bool> {
    let mut fds = [PollFd::new(end.as_fd(), PollFlags::empty())];
    poll(&mut fds, PollTimeout::ZERO)?;
    Ok(fds[0].revents().is_some_and(|found| found.contains(PollFlags::POLLHUP)))
}

fn mapping(listener: SocketAddr, backend: IpAddr, port: u16) -> Mapping {
    Mapping {
        listener,
        cluster: ClusterName::new("bench").unwrap_or_else(|_| unreachable!("it is a name")),
        route: Route::Single(SocketAddr::new(backend, port)),
        snat: Snat::Masquerade,
        leaving: Leaving::Sever,
        admission: Admission::default(),
        lease: None,
        spared: None,
    }
}
