//! Semi-synchronous replication: what replicas have for certain, and what a failover would lose.

use std::collections::BTreeSet;
use std::net::SocketAddr;

use super::health::{Evidence, Health};
use super::view::View;
use crate::Mono;
use crate::gtid::GtidPosition;
use crate::observation::{Channel, IoThread, ServerState};

/// That every transaction whose commit was acknowledged to a client has been received by a replica. One of the
/// acknowledgers is known to have them all as soon as fewer than `wait_count` of them have not been heard.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Proof {
    /// So many replicas have each of those transactions.
    pub wait_count: u32,
    /// The replicas that can have been among them.
    pub acknowledgers: BTreeSet<SocketAddr>,
}

/// Whether the primary, if it is dead now, has told no client of a commit that no replica has. `None`: nobody can tell.
///
/// A source stops waiting, unseen by us, at the earliest when somebody has waited for its whole timeout. Whoever waits
/// began to after we last *asked* and found nobody waiting, so until the timeout has passed from that moment the source
/// still waits; its last answer may be younger, and does not help if sessions were waiting then, for nobody knows how long
/// they had been. A busy source is seldom found without, so this wants a long timeout. With `wait_no_replica` off there is
/// no time at all: the timeout reads as zero.
///
/// A source that was just promoted, or has just had semi-sync switched on, is active at once, however far its replicas are
/// behind. So as many of them as it waits for must have been seen with what it had when it was first seen active; from
/// there on an acknowledgement of one transaction is one of all before it.
///
/// The acknowledgers are those that were connected when the source last answered: it counts them, they say so
/// themselves. That session ends with the source, so what they said before the source fell silent is what counts. A replica
/// that had fallen silent before is left out only if the others make up the count; if there are fewer than it counts,
/// somebody unknown may have acknowledged.
///
/// What it cannot see: somebody who switches semi-sync off by hand, or shortens the timeout, or a source that restarts
/// without it and dies again, all between two rounds; and a silent replica that came back, acknowledged alone, and went
/// again between the source's last answer and its death.
pub fn acknowledged_by(view: View<'_>, primary: SocketAddr) -> Option<Proof> {
    let source = view.servers.get(&primary)?;
    let state = source.state()?;
    let semi = state.semi_sync?;
    let counted = semi.clients as usize;
    if !(semi.source_enabled && semi.source_active) || semi.wait_count == 0 || semi.clients < semi.wait_count {
        return None;
    }
    if view.now.since(source.semi_sync_past().nobody_waited_at?) >= semi.timeout {
        return None;
    }
    let (mut acknowledgers, silent) = connected(view, primary, source.asked_at()?);
    if acknowledgers.len() < counted {
        acknowledgers.extend(silent);
    }
    if acknowledgers.len() < counted {
        return None;
    }
    let had = source.semi_sync_past().had_when_activated.as_deref()?;
    let had = GtidPosition::parse(state.identity.flavour, had).ok()?;
    let complete = acknowledgers.iter().filter(|server| has(view, **server, &had)).count();
    let wait_count = semi.wait_count;
    (complete >= wait_count as usize).then_some(Proof { wait_count, acknowledgers })
}

/// Who acknowledged to the primary at that moment; and who did when last heard, and was not heard any more by then.
fn connected(view: View<'_>, primary: SocketAddr, at: Mono) -> (BTreeSet<SocketAddr>, BTreeSet<SocketAddr>) {
    let (mut connected, mut silent) = (BTreeSet::new(), BTreeSet::new());
    for (&server, health) in view.servers.iter().filter(|(s, _)| **s != primary) {
        let from_primary = |channels: &[Channel]| channels.iter().any(|c| is_received(c) && view.is_source(c, primary));
        let acknowledges = match (health.state(), &health.semi_sync_past().ceased) {
            (Some(state), _) if is_acknowledging(state) => from_primary(&state.channels),
            (_, Some(ceased)) => ceased.at >= at && from_primary(&ceased.channels),
            _ => false,
        };
        if acknowledges {
            let lost_before = health.failing_since().is_some_and(|since| since < at);
            if lost_before { &mut silent } else { &mut connected }.insert(server);
        }
    }
    (connected, silent)
}

fn is_received(channel: &Channel) -> bool {
    channel.io == IoThread::Connected
}

/// A replica whose source is gone calls itself semi-synchronous until it has another one, or is stopped.
fn is_acknowledging(state: &ServerState) -> bool {
    state.semi_sync.is_some_and(|semi| semi.replica_enabled) && state.channels.iter().any(is_received)
}

fn has(view: View<'_>, server: SocketAddr, wanted: &GtidPosition) -> bool {
    position(view.servers.get(&server)).is_some_and(|executed| wanted.is_subset(&executed) == Some(true))
}

fn position(health: Option<&Health>) -> Option<GtidPosition> {
    let state = health?.state()?;
    GtidPosition::parse(state.identity.flavour, &state.gtid_executed).ok()
}

/// What earlier answers of a server said of semi-sync and its last one does not tell.
#[derive(Clone, Debug, Default)]
pub struct Past {
    /// When the source was last asked and nobody was waiting; it has been active in every answer since.
    nobody_waited_at: Option<Mono>,
    /// What the source had when it was first seen active, if it has been in every answer since.
    had_when_activated: Option<String>,
    /// The end of a replica's acknowledging, until it begins again.
    ceased: Option<Ceased>,
}

#[derive(Clone, Debug)]
struct Ceased {
    /// When the first answer came that did not say so any more.
    at: Mono,
    /// As in the last answer that did.
    channels: Vec<Channel>,
}

impl Past {
    /// Takes an answer in, before it replaces the one before.
    pub fn note(&mut self, before: Option<&ServerState>, state: &ServerState, asked_at: Mono, at: Mono) {
        // A replica's source side may be active all along; what counts begins when it is made a source.
        let is_source = state.is_writable() || state.channels.is_empty();
        if let Some(semi) = state.semi_sync.filter(|semi| is_source && semi.source_enabled && semi.source_active) {
            if semi.waiting == 0 {
                self.nobody_waited_at = Some(asked_at);
            }
            self.had_when_activated.get_or_insert_with(|| state.gtid_executed.clone());
        } else {
            (self.nobody_waited_at, self.had_when_activated) = (None, None);
        }
        if is_acknowledging(state) {
            self.ceased = None;
        } else if let Some(before) = before.filter(|before| is_acknowledging(before)) {
            self.ceased = Some(Ceased { at, channels: before.channels.clone() });
        }
    }
}

/// What of the transactions that clients know to be committed a failover would lose now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AtRisk {
    /// Semi-sync is active: nothing.
    Nothing,
    /// Replication is asynchronous, and the replica that has most lacked so many when both were last asked. What was
    /// committed since comes on top.
    Lacking { replica: SocketAddr, count: u64 },
    /// No replica answers, or none that can be compared.
    Unknown,
}

/// What a failover would lose, as of the last answers; a dead primary's too.
pub fn at_risk(view: View<'_>) -> Option<AtRisk> {
    let primary = view.primary?;
    let health = view.servers.get(&primary)?;
    let state = health.state()?;
    if view.servers.len() == 1 {
        return None;
    }
    let waits = state.semi_sync.is_some_and(|semi| semi.source_enabled && semi.source_active);
    let answers = health.evidence(&view.config.probe) == Evidence::Answers;
    // While it answers, what it last said is true; of a silent one it must be proven that it still was.
    if waits && (answers || acknowledged_by(view, primary).is_some()) {
        return Some(AtRisk::Nothing);
    }
    let Some(executed) = position(Some(health)) else { return Some(AtRisk::Unknown) };
    let lacking = view.answering().filter(|&(server, ..)| server != primary).filter_map(|(replica, health, _)| {
        let missing = executed.missing_from(&position(Some(health))?)?;
        Some(AtRisk::Lacking { replica, count: missing.count })
    });
    Some(lacking.min_by_key(AtRisk::count).unwrap_or(AtRisk::Unknown))
}

impl AtRisk {
    const fn count(&self) -> u64 {
        match self {
            Self::Nothing => 0,
            Self::Lacking { count, .. } => *count,
            Self::Unknown => u64::MAX,
        }
    }

    /// In an operator's words.
    pub fn words(&self, view: View<'_>) -> String {
        match self {
            Self::Nothing => "nothing that was acknowledged: semi-sync is active".to_owned(),
            Self::Lacking { replica, count: 0 } => format!(
                "what the primary has not sent yet: replication is asynchronous; {} had everything when it was last asked",
                view.label(*replica)
            ),
            Self::Lacking { replica, count: 1 } => {
                format!(
                    "1 transaction that {} lacked when it was last asked, and what came since",
                    view.label(*replica)
                )
            }
            Self::Lacking { replica, count } => format!(
                "{count} transactions that {} lacked when it was last asked, and what came since",
                view.label(*replica)
            ),
            Self::Unknown => "unknown: no replica answers that can be compared with the primary".to_owned(),
        }
    }
}

/// Why commits on the primary are not, or soon will not be, waited for, although they should; in an operator's words.
pub fn degraded(view: View<'_>, primary: SocketAddr) -> Option<String> {
    let health = view.servers.get(&primary).filter(|h| h.evidence(&view.config.probe) == Evidence::Answers)?;
    let semi = health.state()?.semi_sync.filter(|semi| semi.source_enabled)?;
    let label = view.label(primary);
    let acknowledge = format!("{} of the {} replicas that it waits for acknowledge", semi.clients, semi.wait_count);
    if !semi.source_active {
        return Some(format!(
            "{label} has semi-sync switched on and commits without it: {acknowledge}, and a failover may lose what no replica has"
        ));
    }
    (semi.clients < semi.wait_count).then(|| {
        let then = if semi.timeout.is_zero() {
            "commits are not waited for".to_owned()
        } else {
            format!("a commit waits up to {} ms, then all go on without", semi.timeout.as_millis())
        };
        format!("{acknowledge} to {label}: {then}")
    })
}
