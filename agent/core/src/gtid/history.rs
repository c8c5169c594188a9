//! Everything that a server has: not only how far it is, but which transactions. Two servers that parted ways may be
//! equally far; their histories differ.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::{GtidError, GtidSet, Missing, excerpt};
use crate::observation::Flavour;

/// The transactions that a server has, in its own numbering.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Text", into = "Text")]
pub enum History {
    Mysql(GtidSet),
    Mariadb(MariaHistory),
}

#[derive(Serialize, Deserialize)]
struct Text {
    flavour: Flavour,
    gtids: String,
}

impl History {
    /// Reads `@@gtid_executed` or a retrieved set; of MariaDB `@@gtid_binlog_state`, or a position.
    pub fn parse(flavour: Flavour, text: &str) -> Result<Self, GtidError> {
        match flavour {
            Flavour::Mysql => text.parse().map(Self::Mysql),
            Flavour::Mariadb => text.parse().map(Self::Mariadb),
        }
    }

    pub fn empty(flavour: Flavour) -> Self {
        match flavour {
            Flavour::Mysql => Self::Mysql(GtidSet::default()),
            Flavour::Mariadb => Self::Mariadb(MariaHistory::default()),
        }
    }

    pub const fn flavour(&self) -> Flavour {
        match self {
            Self::Mysql(_) => Flavour::Mysql,
            Self::Mariadb(_) => Flavour::Mariadb,
        }
    }

    pub fn is_empty(&self) -> bool {
        match self {
            Self::Mysql(set) => set.is_empty(),
            Self::Mariadb(history) => history.last.is_empty(),
        }
    }

    /// Whether `other` has everything that this has; of histories that cannot be compared it never has.
    pub fn is_subset(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Mysql(ours), Self::Mysql(theirs)) => ours.is_subset(theirs),
            (Self::Mariadb(ours), Self::Mariadb(theirs)) => ours.minus(theirs).last.is_empty(),
            _ => false,
        }
    }

    /// Both together; of two flavours the first.
    #[must_use]
    pub fn union(&self, other: &Self) -> Self {
        match (self, other) {
            (Self::Mysql(ours), Self::Mysql(theirs)) => Self::Mysql(ours.union(theirs)),
            (Self::Mariadb(ours), Self::Mariadb(theirs)) => Self::Mariadb(ours.union(theirs)),
            _ => self.clone(),
        }
    }

    /// What of this `other` lacks. Of MariaDB: the last lacking transaction of every domain and server.
    #[must_use]
    pub fn minus(&self, other: &Self) -> Self {
        match (self, other) {
            (Self::Mysql(ours), Self::Mysql(theirs)) => Self::Mysql(ours.minus(theirs)),
            (Self::Mariadb(ours), Self::Mariadb(theirs)) => Self::Mariadb(ours.minus(theirs)),
            _ => self.clone(),
        }
    }

    /// This without what that server itself made: its uuid on MySQL, its number on MariaDB.
    #[must_use]
    pub fn without_origin(&self, uuid: Option<&str>, server_id: u64) -> Self {
        match self {
            Self::Mysql(set) => Self::Mysql(match uuid.and_then(|uuid| uuid.parse().ok()) {
                Some(uuid) => set.without(uuid),
                None => set.clone(),
            }),
            Self::Mariadb(history) => {
                let mut history = history.clone();
                history.last.retain(|(_, server), _| u64::from(*server) != server_id);
                Self::Mariadb(history)
            }
        }
    }

    /// What of this `other` lacks, in words and counted.
    pub fn missing_from(&self, other: &Self) -> Missing {
        match (self, other) {
            (Self::Mysql(ours), Self::Mysql(theirs)) => {
                let missing = ours.minus(theirs);
                Missing { text: missing.to_string(), count: u64::try_from(missing.count()).unwrap_or(u64::MAX) }
            }
            (Self::Mariadb(ours), Self::Mariadb(theirs)) => ours.missing_from(theirs),
            _ => Missing { text: self.to_string(), count: u64::MAX },
        }
    }
}

impl fmt::Display for History {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Mysql(set) => set.fmt(f),
            Self::Mariadb(history) => history.fmt(f),
        }
    }
}

impl TryFrom<Text> for History {
    type Error = GtidError;

    fn try_from(text: Text) -> Result<Self, GtidError> {
        Self::parse(text.flavour, &text.gtids)
    }
}

impl From<History> for Text {
    fn from(history: History) -> Self {
        Self { flavour: history.flavour(), gtids: history.to_string() }
    }
}

/// MariaDB's `@@gtid_binlog_state`: the last transaction of every domain *and* server that made it. A position tells only
/// the domain's last, under which a diverged server's own transactions would disappear.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MariaHistory {
    /// By (domain, server), the sequence.
    last: BTreeMap<(u32, u32), u64>,
}

impl MariaHistory {
    fn union(&self, other: &Self) -> Self {
        let mut last = self.last.clone();
        for (&place, &sequence) in &other.last {
            let ours = last.entry(place).or_insert(sequence);
            *ours = sequence.max(*ours);
        }
        Self { last }
    }

    fn minus(&self, other: &Self) -> Self {
        let had = |place| other.last.get(place).copied().unwrap_or(0);
        Self { last: self.last.iter().filter(|(place, seq)| **seq > had(place)).map(|(&p, &s)| (p, s)).collect() }
    }

    /// Sequences are counted by domain, so servers share them: the count is the most that there can be.
    fn missing_from(&self, other: &Self) -> Missing {
        let mut missing = Missing::default();
        let mut texts = Vec::new();
        for (&(domain, server), &sequence) in &self.minus(other).last {
            // Of this domain, `other` has at least what precedes the newest of this server's that it has.
            let had = other.last.get(&(domain, server)).copied().unwrap_or_else(|| {
                let earlier = other.last.iter().filter(|&(&(d, _), &s)| d == domain && s < sequence);
                earlier.map(|(_, &s)| s).max().unwrap_or(0)
            });
            let first = had + 1;
            texts.push(if first < sequence {
                format!("{domain}-{server}-{first}..{domain}-{server}-{sequence}")
            } else {
                format!("{domain}-{server}-{sequence}")
            });
            missing.count = missing.count.saturating_add(sequence - had);
        }
        missing.text = texts.join(",");
        missing
    }
}

impl FromStr for MariaHistory {
    type Err = GtidError;

    fn from_str(text: &str) -> Result<Self, GtidError> {
        let mut last = BTreeMap::new();
        for member in text.split(',').map(str::trim).filter(|member| !member.is_empty()) {
            let bad = || GtidError::Maria(excerpt(member));
            let numbers: Vec<&str> = member.split('-').map(str::trim).collect();
            // `parse` alone would take a sign.
            if numbers.iter().any(|number| !number.bytes().all(|b| b.is_ascii_digit())) {
                return Err(bad());
            }
            let [domain, server, sequence] = *numbers else { return Err(bad()) };
            let place = (domain.parse().map_err(|_| bad())?, server.parse().map_err(|_| bad())?);
            let sequence: u64 = sequence.parse().map_err(|_| bad())?;
            let known = last.entry(place).or_insert(sequence);
            *known = sequence.max(*known);
        }
        Ok(Self { last })
    }
}

/// As the server writes it: `0-11-120,0-12-131`.
impl fmt::Display for MariaHistory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (place, ((domain, server), sequence)) in self.last.iter().enumerate() {
            let comma = if place == 0 { "" } else { "," };
            write!(f, "{comma}{domain}-{server}-{sequence}")?;
        }
        Ok(())
    }
}
