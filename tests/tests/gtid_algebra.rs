//! The algebra of transactions is ours; the servers' own functions say whether it is right.

use anyhow::{Context, Result, ensure};
use shunt_core::gtid::{GtidSet, History};
use shunt_core::observation;
use shunt_tests::{Cluster, Flavour, Install, Lan, skip, with_mysql};

/// Numbers that look random and are the same in every run (SplitMix64).
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % bound
    }

    /// A set as a text, not in the server's own form: out of order, overlapping, with tags.
    fn set(&mut self) -> String {
        const ORIGINS: [&str; 3] = [
            "3e11fa47-71ca-11e1-9e33-c80aa9429562",
            "3E11FA47-71CA-11E1-9E33-C80AA9429563",
            "aaaaaaaa-aaaa-aaaa-aaaa-aaaaaaaaaaaa",
        ];
        let mut members = Vec::new();
        for _ in 0..self.below(6) {
            let mut member = ORIGINS[self.below(3) as usize].to_owned();
            if self.below(3) == 0 {
                member.push_str([":blue", ":Green_2", ":_x"][self.below(3) as usize]);
            }
            for _ in 0..=self.below(3) {
                // Near the greatest number now and then, where additions overflow.
                let base = if self.below(20) == 0 { (i64::MAX - 60) as u64 } else { 1 };
                let first = base + self.below(30);
                match self.below(3) {
                    0 => member.push_str(&format!(":{first}")),
                    _ => member.push_str(&format!(":{first}-{}", first + self.below(25))),
                }
            }
            members.push(member);
        }
        members.join(",")
    }
}

/// Sets of the same origins that overlap, or one is a part of the other, so that every answer comes up.
fn pairs(count: usize) -> Vec<(String, String)> {
    let mut numbers = Numbers(20_251_121);
    let mut pairs = Vec::with_capacity(count);
    while pairs.len() < count {
        let (a, b) = (numbers.set(), numbers.set());
        let both = if a.is_empty() || b.is_empty() { format!("{a}{b}") } else { format!("{a},{b}") };
        pairs.push((a.clone(), b));
        pairs.push((a, both));
    }
    pairs
}

with_mysql! {
    fn unions_differences_and_subsets_are_those_of_the_server(install) {
        const CASES: usize = 2000;
        let lan = Lan::new()?;
        let mut cluster = Cluster::start(&lan, install, 1)?;
        let (mut subsets, mut checked) = (0, 0);
        for batch in pairs(CASES).chunks(100) {
            let cases: Vec<String> = batch
                .iter()
                .enumerate()
                .map(|(n, (a, b))| {
                    // The server has no union: taking nothing from both, written one after the other, is one.
                    format!(
                        "SELECT {n} AS n, GTID_SUBSET('{a}', '{b}'), GTID_SUBTRACT('{a}', '{b}'), \
                         GTID_SUBTRACT('{a},{b}', '')"
                    )
                })
                .collect();
            let rows = cluster.server(0).sql(&format!("{} ORDER BY n", cases.join(" UNION ALL ")))?;
            ensure!(rows.len() == batch.len(), "{} answers to {} questions", rows.len(), batch.len());
            for (row, (a, b)) in rows.into_iter().zip(batch) {
                let told = |column: usize| row[column].clone().unwrap_or_default();
                let (ours, theirs): (GtidSet, GtidSet) = (a.parse()?, b.parse()?);
                ensure!(ours.is_subset(&theirs) == (told(1) == "1"), "{a} within {b}: the server says {}", told(1));
                ensure!(format!("{:#}", ours.minus(&theirs)) == told(2), "{a} without {b}: the server says {}", told(2));
                ensure!(format!("{:#}", ours.union(&theirs)) == told(3), "{a} with {b}: the server says {}", told(3));
                subsets += usize::from(told(1) == "1");
                checked += 1;
            }
        }
        ensure!(checked >= CASES && subsets > CASES / 4 && subsets < CASES, "{subsets} of {checked} were subsets");
        Ok(())
    }
}

#[test]
fn a_history_is_what_mariadb_keeps_as_its_binary_logs_state() -> Result<()> {
    skip::with_server(
        concat!(module_path!(), "::a_history_is_what_mariadb_keeps_as_its_binary_logs_state"),
        Flavour::Mariadb,
        state_of_mariadb,
    )
}

fn state_of_mariadb(install: &Install) -> Result<()> {
    let lan = Lan::new()?;
    // A diverged domain is what strict mode would refuse.
    let mut cluster = Cluster::start_with(&lan, install, 1, &["--gtid-strict-mode=OFF"])?;
    let history = |text: &str| History::parse(observation::Flavour::Mariadb, text);
    let mut numbers = Numbers(20_251_122);
    let mut made = history("")?;
    let write = |cluster: &mut Cluster, domain: u64, server: u64, sequence: u64| -> Result<String> {
        for setting in [("gtid_domain_id", domain), ("server_id", server), ("gtid_seq_no", sequence)] {
            cluster.server(0).sql(&format!("SET SESSION {} = {}", setting.0, setting.1))?;
        }
        cluster.server(0).sql("INSERT INTO app.t (note) VALUES ('')")?;
        cluster.server(0).value("SELECT @@global.gtid_binlog_state")
    };
    let mut sequences = [0; 3];
    for _ in 0..60 {
        let (domain, server) = (numbers.below(3), 1 + numbers.below(4));
        sequences[domain as usize] += 1 + numbers.below(4);
        let sequence = sequences[domain as usize];
        made = made.union(&history(&format!("{domain}-{server}-{sequence}"))?);
        let state = write(&mut cluster, domain, server, sequence)?;
        ensure!(history(&state)? == made, "the server says {state}, we say {made}");
        ensure!(history(&made.to_string())? == made);
    }
    // The domain of a server that went on alone, and of the one that took its place and is further.
    let common = write(&mut cluster, 9, 1, 100)?;
    let old = write(&mut cluster, 9, 1, 105)?;
    let new = history(&common)?.union(&history("9-2-110")?);
    let errant = history(&old)?.missing_from(&new);
    ensure!(!history(&old)?.is_subset(&new) && errant.count == 5, "{errant:?}");
    ensure!(history(&common)?.is_subset(&new));
    let position = cluster.server(0).value("SELECT @@global.gtid_binlog_pos")?;
    ensure!(position.contains("9-1-105"), "{position}");
    history(&position).context("a position is read as a history, too").map(drop)
}
