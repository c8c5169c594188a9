//! Packets counted on a host, whatever becomes of them there. A reset of the counters takes less than a millisecond, as
//! nft has been started before.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::process::{ChildStdin, ChildStdout, Stdio};

use anyhow::{Context, Result, ensure};

use crate::{Netns, Process};

const TABLE: &str = "inet lab_count";

pub struct Counters {
    stdin: ChildStdin,
    stdout: BufReader<ChildStdout>,
    _nft: Process,
}

impl Counters {
    /// Counts what comes in on the host, before connection tracking: a name and nft's expression for each counter.
    pub fn incoming(host: &Netns, wanted: &[(&str, &str)]) -> Result<Self> {
        let counters: String = wanted.iter().map(|(name, _)| format!("counter {name} {{}}\n")).collect();
        let rules: String = wanted.iter().map(|(name, of)| format!("{of} counter name {name}\n")).collect();
        host.nft(&format!(
            "table {TABLE} {{\n{counters}chain in {{\ntype filter hook prerouting priority -400;\n{rules}}}\n}}\n"
        ))?;
        let mut command = host.command("nft")?;
        command.arg("-i").stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut nft = Process::spawn_as_is("nft -i", command, None)?;
        let stdin = nft.take_stdin().context("nft has no stdin")?;
        let stdout = BufReader::new(nft.take_stdout().context("nft has no stdout")?);
        let mut counters = Self { stdin, stdout, _nft: nft };
        counters.reset()?;
        Ok(counters)
    }

    /// Begins anew at zero; returns the packets until now.
    pub fn reset(&mut self) -> Result<BTreeMap<String, u64>> {
        self.ask("reset")
    }

    /// The packets since the last reset.
    pub fn read(&mut self) -> Result<BTreeMap<String, u64>> {
        self.ask("list")
    }

    /// `table … {`, then `counter NAME {`, `packets N bytes N` and `}` for each, then `}` at the beginning of the line.
    fn ask(&mut self, verb: &str) -> Result<BTreeMap<String, u64>> {
        writeln!(self.stdin, "{verb} counters table {TABLE}")?;
        let mut packets = BTreeMap::new();
        let mut name = String::new();
        for line in self.stdout.by_ref().lines() {
            let line = line?;
            let mut words = line.split_whitespace();
            match (words.next(), words.next()) {
                (Some("counter"), Some(word)) => word.clone_into(&mut name),
                (Some("packets"), Some(number)) => drop(packets.insert(name.clone(), number.parse()?)),
                _ if line == "}" => break,
                _ => {}
            }
        }
        ensure!(!packets.is_empty(), "nft has no counters to {verb}");
        Ok(packets)
    }
}
