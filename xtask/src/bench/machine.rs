//! The machine that figures come from, described as far as it matters to them; and what its processors do meanwhile.

use std::fmt;
use std::time::Duration;

use anyhow::{Context as _, Result};
use serde_json::{Value, json};

pub struct Machine {
    cores: usize,
    processor: String,
    kernel: String,
    memory_gb: f64,
    is_virtual: bool,
    /// The part of its processor time that others used just before.
    others: f64,
}

impl Machine {
    /// Looks for a second at what else the machine does.
    pub fn look() -> Result<Self> {
        let cpu = std::fs::read_to_string("/proc/cpuinfo")?;
        let field = |name: &str| {
            let line = cpu.lines().find(|line| line.starts_with(name))?;
            Some(line.split_once(':')?.1.trim().to_owned())
        };
        let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease")?;
        let memory = std::fs::read_to_string("/proc/meminfo")?;
        let kb: f64 = memory.split_whitespace().nth(1).context("an odd /proc/meminfo")?.parse()?;
        let before = Busy::now()?;
        // Not a wait for anything: a measurement has a length.
        std::thread::sleep(Duration::from_secs(1));
        let others = Busy::now()?.part_since(before);
        Ok(Self {
            cores: std::thread::available_parallelism()?.get(),
            processor: field("model name").unwrap_or_else(|| std::env::consts::ARCH.to_owned()),
            kernel: kernel.trim().split('-').next().unwrap_or_default().to_owned(),
            memory_gb: kb / 1024.0 / 1024.0,
            is_virtual: field("flags").is_some_and(|flags| flags.split(' ').any(|flag| flag == "hypervisor")),
            others,
        })
    }

    pub fn json(&self) -> Value {
        json!({
            "cores": self.cores,
            "processor": self.processor,
            "kernel": self.kernel,
            "memory_gb": self.memory_gb,
            "virtual_machine": self.is_virtual,
            "others_percent": self.others * 100.0,
        })
    }

    /// Says so when the figures will not be worth much.
    pub fn warn(&self) {
        if self.others > 0.1 {
            println!(
                "  note: something else uses {:.0} % of this machine; measure again when it is quiet",
                self.others * 100.0
            );
        }
    }
}

impl fmt::Display for Machine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = if self.is_virtual { " of a virtual machine" } else { "" };
        let (cores, processor, kernel, memory) = (self.cores, &self.processor, &self.kernel, self.memory_gb);
        write!(f, "{cores} cores{kind} ({processor}), {memory:.0} GB, Linux {kernel}")
    }
}

/// What all processors have done since the start of the machine, softirqs included: /proc/stat, in ticks of 1/100 s.
#[derive(Clone, Copy, Debug)]
pub struct Busy {
    busy: u64,
    idle: u64,
}

impl Busy {
    pub fn now() -> Result<Self> {
        let stat = std::fs::read_to_string("/proc/stat")?;
        Self::parse(&stat).context("an odd /proc/stat")
    }

    fn parse(stat: &str) -> Option<Self> {
        let fields: Vec<u64> = stat.lines().next()?.split_whitespace().skip(1).map_while(|w| w.parse().ok()).collect();
        // What a hypervisor gave to others (steal) was not ours; guests are already in user and nice.
        let [user, nice, system, idle, iowait, irq, softirq, ..] = fields[..] else { return None };
        Some(Self { busy: user + nice + system + irq + softirq, idle: idle + iowait })
    }

    /// Processor time that was used since then.
    pub fn since(self, before: Self) -> Duration {
        Duration::from_millis(self.busy.saturating_sub(before.busy) * 10)
    }

    fn part_since(self, before: Self) -> f64 {
        let (busy, idle) = (self.busy.saturating_sub(before.busy), self.idle.saturating_sub(before.idle));
        busy as f64 / (busy + idle).max(1) as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_that_was_stolen_or_idle_is_not_busy() {
        let stat = "cpu  100 1 20 1000 5 3 7 50 9 0\ncpu0 1 2 3\n";
        let busy = Busy::parse(stat).expect("a line of processor times");
        assert_eq!((busy.busy, busy.idle), (131, 1005));
    }
}
