//! What the kernel's nftables of a host really did, and when: `nft monitor`, each line with the moment it came. The
//! witness that does not depend on what the agent says of itself.

use std::io::{BufRead as _, BufReader};
use std::process::Stdio;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use crate::{Host, Process, eventually};

pub struct KernelWatch {
    lines: Arc<Mutex<Vec<(Instant, String)>>>,
    _monitor: Process,
}

impl KernelWatch {
    /// Returns once the monitor listens.
    pub fn start(host: &Host) -> Result<Self> {
        let mut command = host.ns().command("nft")?;
        command.args(["-nn", "monitor"]).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut monitor = Process::spawn_as_is("nft monitor", command, None)?;
        let stdout = monitor.take_stdout().context("nft monitor has no stdout")?;
        let lines: Arc<Mutex<Vec<(Instant, String)>>> = Arc::default();
        let sink = Arc::clone(&lines);
        std::thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                sink.lock().unwrap_or_else(PoisonError::into_inner).push((Instant::now(), line));
            }
        });
        let watch = Self { lines, _monitor: monitor };
        let started = Instant::now();
        // It says nothing when it is ready: give it something to see, until it does.
        eventually("nft monitor to listen", Duration::from_secs(20), || {
            host.ns().nft("table inet lab_watch {}\ndelete table inet lab_watch")?;
            std::thread::sleep(Duration::from_millis(20));
            Ok(watch.first(started, |line| line.contains("lab_watch")).map(drop))
        })?;
        Ok(watch)
    }

    /// The first line since `moment` that says so.
    pub fn first(&self, moment: Instant, says: impl Fn(&str) -> bool) -> Option<Instant> {
        let lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        lines.iter().find(|(at, line)| *at >= moment && says(line)).map(|(at, _)| *at)
    }

    /// All lines since `moment`.
    pub fn since(&self, moment: Instant) -> Vec<(Instant, String)> {
        let lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        lines.iter().filter(|(at, _)| *at >= moment).cloned().collect()
    }
}
