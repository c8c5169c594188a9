//! What observing costs: the process's CPU time a tick, against a real server. Built with `--release`:
//!
//!     SHUNT_PASSWORD=… probe_cost SERVER:PORT USER [PROBES [SECONDS [promote]]]

#![expect(clippy::print_stdout, reason = "it is what the program is for")]

use std::error::Error;
use std::net::SocketAddr;
use std::time::Duration;

use shunt::clock::Clock;
use shunt::config::Password;
use shunt::probe::{self, Cadence, ProbeSpec};
use shunt_core::observation::Outcome;
use tokio::sync::{mpsc, watch};
use tokio::time::timeout;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let mut args = std::env::args().skip(1);
    let server: SocketAddr = args.next().ok_or("which server?")?.parse()?;
    let user = args.next().ok_or("which user?")?;
    let probes: usize = args.next().map_or(Ok(100), |n| n.parse())?;
    let seconds: u64 = args.next().map_or(Ok(10), |n| n.parse())?;
    let password = Password::new(std::env::var("SHUNT_PASSWORD").unwrap_or_default());

    let clock = Clock::start();
    let interval = Duration::from_millis(500);
    let promotes = std::env::args().nth(5).is_some_and(|word| word == "promote");
    let spec = ProbeSpec { server, user, password, interval, timeout: Duration::from_secs(2), promotes };
    let cadence = watch::Sender::new(Cadence::Normal);
    let (observer, mut observations) = mpsc::channel(64);
    let running: Vec<_> =
        (0..probes).map(|_| probe::spawn(spec.clone(), cadence.subscribe(), observer.clone(), clock)).collect();

    // Connecting is not what is measured: a few rounds pass first.
    for _ in 0..probes * 3 {
        observations.recv().await;
    }
    let (cpu, start) = (cpu_time()?, clock.now());
    let (mut answers, mut failures, mut took) = (0_u32, 0_u32, Duration::ZERO);
    let mut last = None;
    while let Ok(Some(seen)) = timeout(interval * 4, observations.recv()).await {
        match &seen.outcome {
            Outcome::Answered(_) => answers += 1,
            Outcome::Failed(_) => failures += 1,
        }
        took += seen.took;
        last = Some(seen.outcome);
        if clock.now().since(start) >= Duration::from_secs(seconds) {
            break;
        }
    }
    let used = cpu_time()?.saturating_sub(cpu);
    drop(running);
    println!("{last:#?}");
    let rounds = answers + failures;
    println!(
        "{answers} answers, {failures} failures of {probes} probes in {seconds} s; {} µs of CPU a tick, answered in {} µs",
        (used / rounds.max(1)).as_micros(),
        (took / rounds.max(1)).as_micros(),
    );
    println!(
        "300 servers, 2 ticks a second: {:.2} % of a core",
        used.as_secs_f64() / f64::from(rounds) * 600.0 * 100.0
    );
    Ok(())
}

/// The CPU time of this process, all threads, user and system.
fn cpu_time() -> Result<Duration, Box<dyn Error>> {
    let stat = std::fs::read_to_string("/proc/self/stat")?;
    // proc_pid_stat(5): utime and stime are fields 14 and 15; the second field may contain anything, up to its bracket.
    let after = stat.rsplit_once(')').ok_or("/proc/self/stat is not as documented")?.1;
    let ticks: u64 = after.split_whitespace().skip(11).take(2).filter_map(|t| t.parse::<u64>().ok()).sum();
    // USER_HZ is 100 on every architecture that Linux has today.
    Ok(Duration::from_millis(ticks * 10))
}
