//! `bench storm`: as many new connections a second as the machine gives, through fifty listeners, while another listener
//! of the same datapath is swapped every 20 ms. Swaps must not be noticed by those whom they do not concern.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow};
use serde_json::{Value, json};
use shunt_tests::{Host, Lan};

use super::agent::cpu_time;
use super::datapath::load::{ask, connect};
use super::datapath::service::Service;
use super::datapath::way::{forget_closed_soon, ready_for_many};
use super::driver::{self, Datapath, Driver};
use super::machine::Machine;
use super::{Output, prepare, quantile};
use crate::setup::Needs;
use crate::talk;

const LISTENERS: u16 = 50;
const FIRST_PORT: u16 = 7001;

/// The listener that is swapped.
const SWAPPED: u16 = 6000;

const CLIENTS: usize = 12;

/// A connection that took longer has lost a packet: the kernel repeats a SYN after one second.
const SLOW: Duration = Duration::from_millis(900);

#[derive(clap::Args)]
pub struct Args {
    /// How long the storm lasts with swaps, in seconds, and half as long before without any
    #[arg(long, default_value_t = 10)]
    seconds: u64,
    /// Milliseconds from one swap to the next
    #[arg(long, default_value_t = 20)]
    every: u64,
    #[command(flatten)]
    output: Output,
}

/// What the clients saw.
#[derive(Default)]
struct Storm {
    seconds: f64,
    /// How long each connection took: opened, answered, closed.
    took_ms: Vec<f64>,
    failures: BTreeMap<String, usize>,
}

impl Storm {
    fn per_second(&self) -> f64 {
        self.took_ms.len() as f64 / self.seconds
    }

    fn failed(&self) -> usize {
        self.failures.values().sum()
    }

    fn slow(&self) -> usize {
        self.took_ms.iter().filter(|&&ms| ms > SLOW.as_secs_f64() * 1e3).count()
    }

    fn json(&self) -> Value {
        json!({
            "seconds": self.seconds,
            "connections": self.took_ms.len(),
            "per_second": self.per_second(),
            "failed": self.failed(),
            "failures": self.failures,
            "slow": self.slow(),
            "median_ms": quantile(&self.took_ms, 0.5),
            "p99_ms": quantile(&self.took_ms, 0.99),
            "max_ms": quantile(&self.took_ms, 1.0),
        })
    }
}

pub fn run(args: &Args) -> Result<()> {
    prepare(&Needs { lab: true, bpf: true, ..Needs::default() })?;
    let program = driver::build()?;
    let machine = Machine::look()?;
    println!("  {machine}");
    machine.warn();
    let lan = Lan::new()?;
    let [client, proxy, server] = [lan.host("client", 1)?, lan.host("proxy", 2)?, lan.host("server", 11)?];
    for host in [&client, &proxy] {
        ready_for_many(host)?;
    }
    proxy.forward()?;
    let ports = FIRST_PORT..FIRST_PORT + LISTENERS;
    let _services =
        ports.clone().map(|port| Service::start(&server, server.at(port), 1)).collect::<Result<Vec<_>>>()?;
    let mut driver = Driver::start(&program, Datapath::Nft, &proxy)?;
    let (swapped, a, b) = (proxy.at(SWAPPED), server.at(SWAPPED), server.at(SWAPPED + 1));
    let mut mappings: Vec<(SocketAddr, SocketAddr)> =
        ports.clone().map(|port| (proxy.at(port), server.at(port))).collect();
    mappings.push((swapped, a));
    driver.lead(&mappings)?;
    forget_closed_soon(&proxy)?;

    let listeners: Vec<SocketAddr> = ports.map(|port| proxy.at(port)).collect();
    let calm = talk::step("without swaps", || {
        storm(&client, &listeners, || {
            // Not a wait for anything: a measurement has a length.
            std::thread::sleep(Duration::from_secs(args.seconds.div_ceil(2)));
            Ok(())
        })
    })?
    .0;
    let count = args.seconds * 1000 / args.every.max(1);
    let before = cpu_time(driver.pid())?;
    let (with, swaps) = talk::step(&format!("with a swap every {} ms", args.every), || {
        storm(&client, &listeners, || driver.swap(swapped, [a, b], args.every, count))
    })?;
    let datapath_percent = cpu_time(driver.pid())?.saturating_sub(before).as_secs_f64() / with.seconds * 100.0;

    println!(
        "\n  {:<18}{:>14}{:>10}{:>10}{:>14}{:>12}{:>10}{:>10}",
        "", "connections", "a second", "failed", "over 900 ms", "median, ms", "p99, ms", "max, ms"
    );
    for (name, storm) in [("without swaps", &calm), ("with swaps", &with)] {
        println!(
            "  {name:<18}{:>14}{:>10.0}{:>10}{:>14}{:>12.2}{:>10.2}{:>10.2}",
            storm.took_ms.len(),
            storm.per_second(),
            storm.failed(),
            storm.slow(),
            quantile(&storm.took_ms, 0.5),
            quantile(&storm.took_ms, 0.99),
            quantile(&storm.took_ms, 1.0),
        );
        for (failure, times) in &storm.failures {
            println!("    {times} times: {failure}");
        }
    }
    let count = swaps["swaps"].as_f64().unwrap_or(f64::NAN);
    println!(
        "\n  {count} swaps of another listener meanwhile, one every {:.0} ms; severing included they took {datapath_percent:.0} % of a core",
        swaps["took_ns"].as_f64().unwrap_or(f64::NAN) / count / 1e6
    );
    println!("  {:<18}{:>12}{:>10}{:>10}", "", "median, ms", "p99, ms", "max, ms");
    for (name, key) in [("its transaction", "commit"), ("the whole call", "call")] {
        let ms = |figure: &str| swaps[key][figure].as_f64().unwrap_or(f64::NAN) / 1e6;
        println!("  {name:<18}{:>12.3}{:>10.3}{:>10.3}", ms("median_ns"), ms("p99_ns"), ms("max_ns"));
    }
    println!(
        "\n  {CLIENTS} clients, each one connection at a time through {LISTENERS} listeners in turn: connect, 64 bytes there and \
         back, close.\n  Promised: none fails, at 10,000 a second."
    );
    args.output.write(&json!({
        "bench": "storm",
        "machine": machine.json(),
        "listeners": LISTENERS,
        "without_swaps": calm.json(),
        "with_swaps": with.json(),
        "swaps": swaps,
        "datapath_cpu_percent": datapath_percent,
    }))
}

/// Clients open connections for as long as `meanwhile` runs.
fn storm<T: Send>(
    client: &Host,
    listeners: &[SocketAddr],
    meanwhile: impl FnOnce() -> Result<T> + Send,
) -> Result<(Storm, T)> {
    let stop = AtomicBool::new(false);
    client.ns().inside(|| {
        std::thread::scope(|scope| {
            let started = Instant::now();
            // A thread is born into the namespace of the one that starts it.
            let threads: Vec<_> = (0..CLIENTS)
                .map(|number| {
                    scope.spawn({
                        let stop = &stop;
                        move || one_client(number, listeners, stop)
                    })
                })
                .collect();
            let done = meanwhile();
            stop.store(true, Ordering::Relaxed);
            let mut all = Storm { seconds: started.elapsed().as_secs_f64(), ..Storm::default() };
            for thread in threads {
                let one = thread.join().map_err(|_| anyhow!("a client of the storm panicked"))?;
                all.took_ms.extend(one.took_ms);
                for (failure, times) in one.failures {
                    *all.failures.entry(failure).or_default() += times;
                }
            }
            Ok((all, done?))
        })
    })?
}

fn one_client(number: usize, listeners: &[SocketAddr], stop: &AtomicBool) -> Storm {
    let mut seen = Storm::default();
    // Each begins somewhere else, so that they do not all knock at the same listener.
    let from = number * listeners.len() / CLIENTS;
    for &listener in listeners.iter().cycle().skip(from) {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        let began = Instant::now();
        match connect(listener).and_then(|mut stream| ask(&mut stream)) {
            Ok(()) => seen.took_ms.push(began.elapsed().as_secs_f64() * 1e3),
            Err(error) => *seen.failures.entry(format!("{error:#}")).or_default() += 1,
        }
    }
    seen
}
