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
///
/// A difference of two also knows after which transactions it begins: without that nobody could fetch it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MariaHistory {
    /// By (domain, server), the sequence.
    last: BTreeMap<Place, u64>,
    /// By the same, the sequence before the first one. Not there: everything from the beginning.
    after: BTreeMap<Place, u64>,
}

/// Domain and server.
type Place = (u32, u32);

impl MariaHistory {
    /// By domain and server: the transactions after the first number, up to the second.
    pub fn spans(&self) -> impl Iterator<Item = (Place, u64, u64)> {
        self.last.iter().map(|(place, &last)| (*place, self.after(*place), last))
    }

    /// Up to which sequence of a server's it reaches; 0: it has none.
    pub fn last(&self, place: Place) -> u64 {
        self.last.get(&place).copied().unwrap_or(0)
    }

    pub fn contains(&self, place: Place, sequence: u64) -> bool {
        sequence > self.after(place) && sequence <= self.last(place)
    }

    fn after(&self, place: Place) -> u64 {
        self.after.get(&place).copied().unwrap_or(0)
    }

    fn add(&mut self, place: Place, after: u64, last: u64) {
        let after = if self.last.contains_key(&place) { after.min(self.after(place)) } else { after };
        let last = last.max(self.last(place));
        self.last.insert(place, last);
        if after == 0 {
            self.after.remove(&place);
        } else {
            self.after.insert(place, after);
        }
    }

    fn union(&self, other: &Self) -> Self {
        let mut both = self.clone();
        for (place, after, last) in other.spans() {
            both.add(place, after, last);
        }
        both
    }

    fn minus(&self, other: &Self) -> Self {
        let mut left = Self::default();
        for (place, after, last) in self.spans() {
            let had = other.last(place);
            if last > had {
                left.add(place, after.max(had), last);
            }
        }
        left
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
            let had = had.max(self.after((domain, server)));
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
        let mut history = Self::default();
        for member in text.split(',').map(str::trim).filter(|member| !member.is_empty()) {
            let bad = || GtidError::Maria(excerpt(member));
            let numbers: Vec<&str> = member.split('-').map(str::trim).collect();
            let [domain, server, sequences] = *numbers else { return Err(bad()) };
            let (first, last) = sequences.split_once("..").unwrap_or(("1", sequences));
            // `parse` alone would take a sign.
            if [domain, server, first, last].iter().any(|number| !number.bytes().all(|b| b.is_ascii_digit())) {
                return Err(bad());
            }
            let place = (domain.parse().map_err(|_| bad())?, server.parse().map_err(|_| bad())?);
            let (first, last): (u64, u64) = (first.parse().map_err(|_| bad())?, last.parse().map_err(|_| bad())?);
            let after = first.saturating_sub(1);
            if sequences.contains("..") && after >= last {
                return Err(bad());
            }
            history.add(place, after, last);
        }
        Ok(history)
    }
}

/// As the server writes it: `0-11-120,0-12-131`. A difference that does not begin with the first transaction has its span:
/// `0-12-122..131`.
impl fmt::Display for MariaHistory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (number, ((domain, server), after, last)) in self.spans().enumerate() {
            let comma = if number == 0 { "" } else { "," };
            write!(f, "{comma}{domain}-{server}-")?;
            if after > 0 {
                write!(f, "{}..", after + 1)?;
            }
            write!(f, "{last}")?;
        }
        Ok(())
    }
}
