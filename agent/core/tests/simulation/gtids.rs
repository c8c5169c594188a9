//! Sets of transactions as the servers of the simulation keep them: bits, so that what the core's own sets say is checked
//! by something else than themselves.

use std::fmt;

use shunt_core::gtid::History;
use shunt_core::observation::Flavour;

/// One transaction: who made it, and its number there, from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Txn {
    pub origin: usize,
    pub number: u32,
}

impl fmt::Display for Txn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "db{}:{}", self.origin + 1, self.number)
    }
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Gtids {
    /// By origin, a bit a number.
    origins: Vec<Vec<u64>>,
}

/// The uuid of the server with that index.
pub fn uuid(server: usize) -> String {
    format!("00000000-0000-0000-0000-{:012x}", server + 1)
}

impl Gtids {
    pub fn insert(&mut self, txn: Txn) {
        if self.origins.len() <= txn.origin {
            self.origins.resize(txn.origin + 1, Vec::new());
        }
        let (word, bit) = place(txn.number);
        let words = &mut self.origins[txn.origin];
        if words.len() <= word {
            words.resize(word + 1, 0);
        }
        words[word] |= bit;
    }

    pub fn add(&mut self, other: &Self) {
        if self.origins.len() < other.origins.len() {
            self.origins.resize(other.origins.len(), Vec::new());
        }
        for (origin, words) in other.origins.iter().enumerate() {
            let ours = &mut self.origins[origin];
            if ours.len() < words.len() {
                ours.resize(words.len(), 0);
            }
            for (at, bits) in words.iter().enumerate() {
                ours[at] |= bits;
            }
        }
    }

    pub fn contains(&self, txn: Txn) -> bool {
        let (word, bit) = place(txn.number);
        self.word(txn.origin, word) & bit != 0
    }

    fn word(&self, origin: usize, word: usize) -> u64 {
        self.origins.get(origin).and_then(|words| words.get(word)).copied().unwrap_or(0)
    }

    pub fn is_subset(&self, other: &Self) -> bool {
        self.words().all(|(origin, word, bits)| bits & !other.word(origin, word) == 0)
    }

    pub fn minus(&self, other: &Self) -> Self {
        let mut left = self.clone();
        for (origin, words) in left.origins.iter_mut().enumerate() {
            for (at, word) in words.iter_mut().enumerate() {
                *word &= !other.word(origin, at);
            }
        }
        left
    }

    pub fn is_empty(&self) -> bool {
        self.words().all(|(_, _, bits)| bits == 0)
    }

    fn words(&self) -> impl Iterator<Item = (usize, usize, u64)> + '_ {
        let of = |(origin, words): (usize, &'_ Vec<u64>)| (origin, words.len());
        let lengths: Vec<_> = self.origins.iter().enumerate().map(of).collect();
        let all = lengths.into_iter().flat_map(|(origin, length)| (0..length).map(move |at| (origin, at)));
        all.map(|(origin, at)| (origin, at, self.origins[origin][at]))
    }

    /// First and last, of one origin after the other.
    fn intervals(&self, origin: usize) -> Vec<(u32, u32)> {
        let mut intervals: Vec<(u32, u32)> = Vec::new();
        for (at, &bits) in self.origins[origin].iter().enumerate() {
            let (mut left, mut bit) = (bits, at as u32 * 64);
            while left != 0 {
                let gap = left.trailing_zeros();
                let run = (left >> gap).trailing_ones();
                let first = bit + gap + 1;
                match intervals.last_mut() {
                    Some((_, last)) if *last + 1 == first => *last += run,
                    _ => intervals.push((first, first + run - 1)),
                }
                bit += gap + run;
                left = left.checked_shr(gap + run).unwrap_or(0);
            }
        }
        intervals
    }

    pub fn iter(&self) -> impl Iterator<Item = Txn> + '_ {
        self.words().flat_map(|(origin, at, bits)| {
            (0..64)
                .filter(move |bit| bits >> bit & 1 == 1)
                .map(move |bit| Txn { origin, number: at as u32 * 64 + bit + 1 })
        })
    }

    /// As the server writes it.
    pub fn text(&self) -> String {
        self.written(uuid)
    }

    /// By the servers' short names, for people.
    pub fn short(&self) -> String {
        self.written(|origin| format!("db{}", origin + 1))
    }

    fn written(&self, name: impl Fn(usize) -> String) -> String {
        let mut text = String::new();
        for origin in 0..self.origins.len() {
            let intervals = self.intervals(origin);
            if intervals.is_empty() {
                continue;
            }
            if !text.is_empty() {
                text.push(',');
            }
            text.push_str(&name(origin));
            for (first, last) in intervals {
                text.push_str(&if first == last { format!(":{first}") } else { format!(":{first}-{last}") });
            }
        }
        text
    }

    pub fn to_history(&self) -> History {
        History::parse(Flavour::Mysql, &self.text()).expect("the simulation writes sets that can be read")
    }

    /// Reads what [`Self::text`] and the core write.
    pub fn from_history(history: &History) -> Self {
        let mut set = Self::default();
        let text = history.to_string();
        for member in text.split(',').filter(|member| !member.is_empty()) {
            let mut words = member.split(':');
            let uuid = words.next().unwrap_or_default();
            let origin = usize::from_str_radix(&uuid[uuid.len() - 12..], 16).expect("a uuid of the simulation") - 1;
            for interval in words {
                let (first, last) = interval.split_once('-').unwrap_or((interval, interval));
                let (first, last): (u32, u32) = (first.parse().expect("a number"), last.parse().expect("a number"));
                for number in first..=last {
                    set.insert(Txn { origin, number });
                }
            }
        }
        set
    }
}

const fn place(number: u32) -> (usize, u64) {
    let at = number - 1;
    ((at / 64) as usize, 1 << (at % 64))
}

#[test]
fn sets_are_written_as_the_core_reads_them() {
    let mut set = Gtids::default();
    for (origin, number) in [(0, 1), (0, 2), (0, 3), (0, 64), (0, 65), (2, 7)] {
        set.insert(Txn { origin, number });
    }
    let history = set.to_history();
    assert_eq!(history.to_string(), set.text());
    assert_eq!(Gtids::from_history(&history), set);
    assert_eq!(set.short(), "db1:1-3:64-65,db3:7");
}
