//! MySQL's sets of transactions: `uuid:1-5:7:tag:1-3,uuid:…`. (Reference manual, “GTID Format and Storage”; tags since 8.3.)

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use super::{GtidError, Uuid, excerpt};

/// A set of transactions.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GtidSet {
    /// By origin, in the server's own order. No entry is empty.
    origins: BTreeMap<(Uuid, Tag), Intervals>,
}

/// A tag in lower case; empty for a transaction without one.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Tag(String);

impl Tag {
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// First and last, both included; in order, with a gap between any two.
type Intervals = Vec<(u64, u64)>;

/// The greatest number of a transaction (`GNO_END - 1` in the server).
const LAST_NUMBER: u64 = i64::MAX as u64 - 1;
const LONGEST_TAG: usize = 32;

impl GtidSet {
    pub fn is_empty(&self) -> bool {
        self.origins.is_empty()
    }

    /// How many transactions. More origins than fit in 64 bits are possible, more than in 128 are not.
    pub fn count(&self) -> u128 {
        self.origins.values().flatten().map(|(first, last)| u128::from(last - first) + 1).sum()
    }

    /// By origin, the first and last of every interval.
    pub fn origins(&self) -> impl Iterator<Item = (Uuid, &Tag, &[(u64, u64)])> {
        self.origins.iter().map(|((uuid, tag), intervals)| (*uuid, tag, intervals.as_slice()))
    }

    pub fn contains(&self, origin: &(Uuid, Tag), number: u64) -> bool {
        let inside = |(first, last): &(u64, u64)| (*first..=*last).contains(&number);
        self.origins.get(origin).is_some_and(|intervals| intervals.iter().any(inside))
    }

    /// Adds one transaction. A number that no server gives is not added.
    pub fn insert(&mut self, origin: (Uuid, Tag), number: u64) {
        if !(1..=LAST_NUMBER).contains(&number) {
            return;
        }
        let intervals = self.origins.entry(origin).or_default();
        match intervals.last_mut() {
            // The usual case: transactions come in order.
            Some((_, last)) if *last + 1 == number => *last = number,
            _ => {
                intervals.push((number, number));
                normalize(intervals);
            }
        }
    }

    /// Everything that is in one or the other.
    #[must_use]
    pub fn union(&self, other: &Self) -> Self {
        let mut origins = self.origins.clone();
        for (origin, theirs) in &other.origins {
            let ours = origins.entry(origin.clone()).or_default();
            ours.extend(theirs);
            normalize(ours);
        }
        Self { origins }
    }

    /// What is in this one and not in `other`.
    #[must_use]
    pub fn minus(&self, other: &Self) -> Self {
        let left = |(origin, ours): (&(Uuid, Tag), &Intervals)| {
            let left = match other.origins.get(origin) {
                Some(theirs) => subtract(ours, theirs),
                None => ours.clone(),
            };
            (!left.is_empty()).then(|| (origin.clone(), left))
        };
        Self { origins: self.origins.iter().filter_map(left).collect() }
    }

    pub fn is_subset(&self, other: &Self) -> bool {
        self.minus(other).is_empty()
    }

    /// The set without what one origin made, whatever its tags. A replica is compared with its primary like this: what
    /// the primary itself made between the two readings is no errant transaction.
    #[must_use]
    pub fn without(&self, uuid: Uuid) -> Self {
        let origins = self.origins.iter().filter(|((origin, _), _)| *origin != uuid);
        Self { origins: origins.map(|(origin, intervals)| (origin.clone(), intervals.clone())).collect() }
    }
}

/// Sorts intervals and joins those that overlap or touch.
fn normalize(intervals: &mut Intervals) {
    intervals.sort_unstable();
    let mut joined: Intervals = Vec::with_capacity(intervals.len());
    for (first, last) in intervals.drain(..) {
        match joined.last_mut() {
            // Numbers end long before `u64` does, so that one more always fits.
            Some((_, end)) if first <= *end + 1 => *end = last.max(*end),
            _ => joined.push((first, last)),
        }
    }
    *intervals = joined;
}

fn subtract(ours: &[(u64, u64)], theirs: &[(u64, u64)]) -> Intervals {
    let mut left = Vec::new();
    let mut theirs = theirs.iter().copied().peekable();
    for &(mut first, last) in ours {
        while theirs.next_if(|(_, end)| *end < first).is_some() {}
        // The last of theirs that reaches in may reach into the next of ours too: it is only looked at.
        while let Some(&(start, end)) = theirs.peek().filter(|(start, _)| *start <= last) {
            if first < start {
                left.push((first, start - 1));
            }
            first = end + 1;
            if end >= last {
                break;
            }
            theirs.next();
        }
        if first <= last {
            left.push((first, last));
        }
    }
    left
}

impl FromStr for GtidSet {
    type Err = GtidError;

    /// Reads what the server reads (tried on 9.7): blanks and line ends may be anywhere between words; empty members,
    /// origins and tags without an interval, and intervals that end before they begin are nothing.
    fn from_str(text: &str) -> Result<Self, GtidError> {
        let mut origins: BTreeMap<(Uuid, Tag), Intervals> = BTreeMap::new();
        for member in text.split(',').map(str::trim).filter(|member| !member.is_empty()) {
            let mut words = member.split(':').map(str::trim);
            let uuid: Uuid = words.next().unwrap_or_default().parse()?;
            let mut tag = Tag::default();
            for word in words {
                if word.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_') {
                    tag = word.parse()?;
                } else if let Some(interval) = interval(word)? {
                    origins.entry((uuid, tag.clone())).or_default().push(interval);
                }
            }
        }
        origins.values_mut().for_each(normalize);
        Ok(Self { origins })
    }
}

fn interval(text: &str) -> Result<Option<(u64, u64)>, GtidError> {
    let bad = || GtidError::Interval(excerpt(text));
    let number = |word: &str| {
        let word = word.trim();
        // `parse` alone would take a sign.
        let number = word.bytes().all(|b| b.is_ascii_digit()).then(|| word.parse().ok()).flatten();
        number.filter(|number| (1..=LAST_NUMBER).contains(number)).ok_or_else(bad)
    };
    let (first, last) = match text.split_once('-') {
        Some((first, last)) => (number(first)?, number(last)?),
        None => (number(text)?, number(text)?),
    };
    Ok((first <= last).then_some((first, last)))
}

impl FromStr for Tag {
    type Err = GtidError;

    fn from_str(text: &str) -> Result<Self, GtidError> {
        let good = (1..=LONGEST_TAG).contains(&text.len())
            && !text.as_bytes()[0].is_ascii_digit()
            && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
        if good { Ok(Self(text.to_ascii_lowercase())) } else { Err(GtidError::Tag(excerpt(text))) }
    }
}

/// As the server writes it, in its order and with tags after their origin, but on one line. `{:#}` has a line an origin,
/// which is the server's own form to the byte.
impl fmt::Display for GtidSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut before = None;
        for ((uuid, tag), intervals) in &self.origins {
            if before != Some(uuid) {
                if before.is_some() {
                    f.write_str(if f.alternate() { ",\n" } else { "," })?;
                }
                uuid.fmt(f)?;
            }
            before = Some(uuid);
            if !tag.0.is_empty() {
                write!(f, ":{}", tag.0)?;
            }
            for (first, last) in intervals {
                if first == last { write!(f, ":{first}") } else { write!(f, ":{first}-{last}") }?;
            }
        }
        Ok(())
    }
}
