//! MariaDB's positions: `domain-server-sequence`, one a replication domain. Within a domain the sequence alone tells what
//! comes before what; domains are independent of one another.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use super::{GtidError, Missing, excerpt};

/// The last transaction of every domain.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MariaGtid {
    domains: BTreeMap<u32, Last>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Last {
    sequence: u64,
    server: u32,
}

impl MariaGtid {
    pub fn is_empty(&self) -> bool {
        self.domains.is_empty()
    }

    /// In each domain the later of the two.
    #[must_use]
    pub fn union(&self, other: &Self) -> Self {
        let mut domains = self.domains.clone();
        for (domain, theirs) in &other.domains {
            let ours = domains.entry(*domain).or_insert(*theirs);
            *ours = later(*ours, *theirs);
        }
        Self { domains }
    }

    /// Whether `other` is at least as far in every domain.
    pub fn is_subset(&self, other: &Self) -> bool {
        self.domains.iter().all(|(domain, last)| last.sequence <= other.sequence(*domain))
    }

    /// What of this is missing from `other`. Which server made each transaction in between is not in a position, so a
    /// domain shows as `0-11-101..0-11-120`, under the server that made the last. Sequences may have gaps: the count is
    /// the most that there can be.
    pub fn missing_from(&self, other: &Self) -> Missing {
        let mut missing = Missing::default();
        let mut texts = Vec::new();
        for (domain, Last { sequence, server }) in &self.domains {
            let had = other.sequence(*domain);
            if *sequence <= had {
                continue;
            }
            let first = had + 1;
            texts.push(if first < *sequence {
                format!("{domain}-{server}-{first}..{domain}-{server}-{sequence}")
            } else {
                format!("{domain}-{server}-{sequence}")
            });
            missing.count = missing.count.saturating_add(sequence - had);
        }
        missing.text = texts.join(",");
        missing
    }

    /// The last sequence of a domain, 0 before its first.
    fn sequence(&self, domain: u32) -> u64 {
        self.domains.get(&domain).map_or(0, |last| last.sequence)
    }
}

/// Of two with the same sequence, which only a diverged domain has, always the same one.
fn later(a: Last, b: Last) -> Last {
    if (b.sequence, b.server) > (a.sequence, a.server) { b } else { a }
}

impl FromStr for MariaGtid {
    type Err = GtidError;

    /// Blanks and line ends may be anywhere between words. A domain that is there more than once, as in
    /// `@@gtid_binlog_state` (once a server), counts with its last transaction.
    fn from_str(text: &str) -> Result<Self, GtidError> {
        let mut domains = BTreeMap::new();
        for member in text.split(',').map(str::trim).filter(|member| !member.is_empty()) {
            let bad = || GtidError::Maria(excerpt(member));
            let numbers: Vec<&str> = member.split('-').map(str::trim).collect();
            // `parse` alone would take a sign.
            if numbers.iter().any(|number| !number.bytes().all(|b| b.is_ascii_digit())) {
                return Err(bad());
            }
            let [domain, server, sequence] = *numbers else { return Err(bad()) };
            let domain: u32 = domain.parse().map_err(|_| bad())?;
            let server = server.parse().map_err(|_| bad())?;
            let sequence = sequence.parse().map_err(|_| bad())?;
            let last = Last { sequence, server };
            let known = domains.entry(domain).or_insert(last);
            *known = later(*known, last);
        }
        Ok(Self { domains })
    }
}

/// As the server writes it: `0-11-120,1-12-7`.
impl fmt::Display for MariaGtid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (place, (domain, Last { sequence, server })) in self.domains.iter().enumerate() {
            let comma = if place == 0 { "" } else { "," };
            write!(f, "{comma}{domain}-{server}-{sequence}")?;
        }
        Ok(())
    }
}
