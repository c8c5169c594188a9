//! Sets of transactions, and how far one is behind another. MySQL and MariaDB number transactions in ways that have
//! nothing in common: [`GtidSet`] and [`MariaGtid`] are theirs, [`GtidPosition`] is whichever a server has.
//!
//! Texts come from servers and may be anything: parsing gives errors and nothing here overflows.

mod history;
mod maria;
mod mysql;
mod uuid;

#[cfg(test)]
mod tests;

use std::fmt;

pub use history::{History, MariaHistory};
pub use maria::MariaGtid;
pub use mysql::{GtidSet, Tag};
pub use uuid::Uuid;

use crate::observation::Flavour;

/// Why a text is not a set of transactions.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum GtidError {
    #[error("{0:?} is not a UUID")]
    Uuid(String),
    #[error("{0:?} is not a tag: up to 32 letters, digits and `_`, not beginning with a digit")]
    Tag(String),
    #[error("{0:?} is not an interval of transaction numbers")]
    Interval(String),
    #[error("{0:?} is not of the form domain-server-sequence")]
    Maria(String),
}

/// The transactions that a server has, in its own numbering.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum GtidPosition {
    Mysql(GtidSet),
    Mariadb(MariaGtid),
}

/// Transactions that one has and another lacks.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Missing {
    /// Which ones; empty if none.
    pub text: String,
    /// How many; `u64::MAX` also stands for more.
    pub count: u64,
}

impl GtidPosition {
    /// Reads what a server of that flavour says: `@@gtid_executed`, or `@@gtid_current_pos`.
    pub fn parse(flavour: Flavour, text: &str) -> Result<Self, GtidError> {
        match flavour {
            Flavour::Mysql => text.parse().map(Self::Mysql),
            Flavour::Mariadb => text.parse().map(Self::Mariadb),
        }
    }

    /// What of this is missing from `other`: `primary.missing_from(replica)` is how far the replica is behind.
    /// `None` if the two are numbered differently, so that nobody can tell.
    pub fn missing_from(&self, other: &Self) -> Option<Missing> {
        match (self, other) {
            (Self::Mysql(ours), Self::Mysql(theirs)) => {
                let missing = ours.minus(theirs);
                Some(Missing { text: missing.to_string(), count: u64::try_from(missing.count()).unwrap_or(u64::MAX) })
            }
            (Self::Mariadb(ours), Self::Mariadb(theirs)) => Some(ours.missing_from(theirs)),
            _ => None,
        }
    }

    /// Whether `other` has everything that this has. `None` as in [`missing_from`](Self::missing_from).
    pub fn is_subset(&self, other: &Self) -> Option<bool> {
        match (self, other) {
            (Self::Mysql(ours), Self::Mysql(theirs)) => Some(ours.is_subset(theirs)),
            (Self::Mariadb(ours), Self::Mariadb(theirs)) => Some(ours.is_subset(theirs)),
            _ => None,
        }
    }
}

impl fmt::Display for GtidPosition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Mysql(set) => set.fmt(f),
            Self::Mariadb(position) => position.fmt(f),
        }
    }
}

/// A piece of a foreign text for an error: long ones are cut.
fn excerpt(text: &str) -> String {
    const LONGEST: usize = 60;
    match text.char_indices().nth(LONGEST) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}
