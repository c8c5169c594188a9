//! What traffic tells of servers, and when that is a reason to ask them. A suspicion hastens the probes and is nothing more:
//! no verdict depends on it. Clients can go unanswered for many reasons, and only who asks a server himself knows which.

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::time::Duration;

use crate::Mono;

/// So long nothing is heard of a backend that was asked something. Its host acknowledges what it receives within 40 ms as a
/// rule, also when a statement then takes its time.
pub const SILENCE: Duration = Duration::from_millis(150);

/// What is counted is compared with what was so long before.
const WINDOW: Duration = Duration::from_millis(500);

/// Of what a healthy network does now and then: so many within a window, and so many times more than in the one before.
const MANY: u64 = 5;
const RISING: u64 = 3;

/// A server is asked for the sake of a suspicion this often at most; and a suspicion is over when there was no sign of it
/// for as long.
const HASTE_EVERY: Duration = Duration::from_millis(500);

/// What a datapath has heard of a listener's backend.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Signals {
    /// A small number that is this pair's alone as long as it is there, and which of the pairs that had it this is.
    pub place: usize,
    pub life: u32,
    pub listener: SocketAddr,
    pub backend: SocketAddr,
    /// For how long something has been asked of the backend and nothing was heard of it; `None`: nothing is awaited.
    pub awaited: Option<Duration>,
    pub counts: Counts,
}

/// Packets since the pair was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// SYNs that were passed on for the first time, and the SYN-ACKs to them.
    pub syns: u64,
    pub syn_acks: u64,
    /// SYNs that were sent again.
    pub syns_again: u64,
    /// Clients' data that were sent again.
    pub data_again: u64,
    /// SYNs that the backend answered with an RST.
    pub refused: u64,
    /// Other RSTs of the backend.
    pub resets: u64,
}

/// How long backends took to answer SYNs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConnectTimes {
    pub listener: SocketAddr,
    pub backend: SocketAddr,
    /// So many connections took less than this, and no less than the one before; the last one has no bound.
    pub buckets: Vec<(Duration, u64)>,
    /// Of all of them together.
    pub total: Duration,
    pub counts: Counts,
}

/// What makes a server suspect, from the lightest to the gravest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Sign {
    Retransmissions,
    Resets,
    UnansweredSyns,
    Refusals,
    Silence,
}

/// A reason to ask a server at once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Suspicion {
    pub listener: SocketAddr,
    pub backend: SocketAddr,
    pub sign: Sign,
    /// For how long nothing was heard.
    pub awaited: Option<Duration>,
}

impl fmt::Display for Suspicion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { listener, backend, sign, awaited } = self;
        match (sign, awaited) {
            (Sign::Silence, Some(time)) => {
                write!(f, "clients get no answer from {backend} through {listener} for {} ms", time.as_millis())
            }
            (Sign::Silence, None) => write!(f, "clients get no answer from {backend} through {listener}"),
            (Sign::Refusals, _) => write!(f, "{backend} refuses connections through {listener}"),
            (Sign::UnansweredSyns, _) => write!(f, "connections through {listener} to {backend} stay unanswered"),
            (Sign::Resets, _) => write!(f, "{backend} resets connections through {listener} more often than before"),
            (Sign::Retransmissions, _) => {
                write!(f, "clients send to {backend} through {listener} again more often than before")
            }
        }
    }
}

/// What was heard before.
#[derive(Clone, Debug, Default)]
pub struct Watch {
    pairs: Vec<Option<Heard>>,
    /// When a server was last asked because of a suspicion.
    hastened: BTreeMap<SocketAddr, Mono>,
}

#[derive(Clone, Debug)]
struct Heard {
    life: u32,
    /// Since when the window is open, and what had been counted by then.
    since: Mono,
    base: Counts,
    /// What came in the window before.
    before: Rise,
    /// The gravest sign that was acted upon, until there has been none for a while.
    noticed: Option<Sign>,
    last_sign: Mono,
}

/// How much more of the signs was counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Rise {
    syns_again: u64,
    data_again: u64,
    refused: u64,
    resets: u64,
}

impl Watch {
    /// Looks at one pair. `Some`: its backend, and whoever can speak of it, should be asked now.
    pub fn look(&mut self, told: &Signals, now: Mono) -> Option<Suspicion> {
        if self.pairs.len() <= told.place {
            self.pairs.resize(told.place + 1, None);
        }
        let place = &mut self.pairs[told.place];
        let heard = match place {
            Some(heard) if heard.life == told.life => heard,
            // What was counted before somebody looked is no news.
            _ => place.insert(Heard::of(told, now)),
        };
        let sign = heard.sign(told, now)?;
        let is_noticed = heard.noticed.is_some_and(|noticed| noticed >= sign);
        let last = self.hastened.get(&told.backend);
        if is_noticed || last.is_some_and(|last| now.since(*last) < HASTE_EVERY) {
            return None;
        }
        heard.noticed = Some(sign);
        self.hastened.insert(told.backend, now);
        Some(Suspicion { listener: told.listener, backend: told.backend, sign, awaited: told.awaited })
    }
}

impl Heard {
    fn of(told: &Signals, now: Mono) -> Self {
        Self { life: told.life, since: now, base: told.counts, before: Rise::default(), noticed: None, last_sign: now }
    }

    /// The gravest sign that there is now.
    fn sign(&mut self, told: &Signals, now: Mono) -> Option<Sign> {
        let rise = Rise::between(&self.base, &told.counts);
        let sign = sign(told.awaited, rise, self.before);
        if now.since(self.since) >= WINDOW {
            (self.since, self.base, self.before) = (now, told.counts, rise);
        }
        if sign.is_some() {
            self.last_sign = now;
        } else if now.since(self.last_sign) >= HASTE_EVERY {
            self.noticed = None;
        }
        sign
    }
}

impl Rise {
    fn between(base: &Counts, now: &Counts) -> Self {
        Self {
            syns_again: now.syns_again.saturating_sub(base.syns_again),
            data_again: now.data_again.saturating_sub(base.data_again),
            refused: now.refused.saturating_sub(base.refused),
            resets: now.resets.saturating_sub(base.resets),
        }
    }
}

/// Silence, a refusal and a SYN that had to be sent again are signs by themselves. Data are sent again on any network, and
/// connections are reset by any server: only that there are more and more of them is one.
fn sign(awaited: Option<Duration>, rise: Rise, before: Rise) -> Option<Sign> {
    let rises = |now: u64, before: u64| now >= MANY && now >= before * RISING;
    if awaited.is_some_and(|time| time >= SILENCE) {
        Some(Sign::Silence)
    } else if rise.refused > 0 {
        Some(Sign::Refusals)
    } else if rise.syns_again > 0 {
        Some(Sign::UnansweredSyns)
    } else if rises(rise.resets, before.resets) {
        Some(Sign::Resets)
    } else if rises(rise.data_again, before.data_again) {
        Some(Sign::Retransmissions)
    } else {
        None
    }
}

#[cfg(test)]
#[path = "signal_tests.rs"]
mod tests;
