//! From evidence to a verdict on the primary, in `follow` mode: somebody else promotes, we recognise it.
//!
//! The one rule that matters: a server is never the primary merely because it is writable. To *become* the primary of a
//! cluster it must be writable, replicate from nobody in the cluster, **and** be vouched for: another server replicates
//! from it, or its group made it PRIMARY, or we ourselves saw it turn from a read-only replica into a writable server
//! without a source. And the primary before it must be unable to take writes: dead, or read-only.

use std::net::SocketAddr;

use super::acknowledged::degraded;
use super::council::Council;
use super::group;
use super::health::{Evidence, Health};
use super::verdict::{Alarm, AlarmKind, Assessment, Direction, Verdict};
use super::view::View;
use crate::observation::FailureKind;

/// The verdict on the primary and what follows from it.
pub fn assess(view: View<'_>) -> Assessment {
    let mut found = match (Council::of(view), view.primary.and_then(|p| view.servers.get(&p).map(|h| (p, h)))) {
        (Some(council), _) => group::assess(view, &council),
        (None, Some((primary, health))) => known_primary(view, primary, health),
        (None, None) => no_primary_yet(view),
    };
    found.alarms.extend(server_alarms(view));
    found.alarms.sort();
    found
}

fn known_primary(view: View<'_>, primary: SocketAddr, health: &Health) -> Assessment {
    let label = view.label(primary);
    match health.evidence(&view.config.probe) {
        Evidence::Unknown => verdict(
            Verdict::Suspect,
            Direction::Keep,
            format!("{label} has not been asked yet since the agent started"),
        ),
        Evidence::Answers => match health.state() {
            Some(state) if state.is_writable() => writable_primary(view, primary),
            _ => read_only_primary(view, primary),
        },
        Evidence::Failing(kind) => failing_primary(view, primary, kind),
        Evidence::Suspect => verdict(
            Verdict::Suspect,
            Direction::Keep,
            format!("{label} failed {} of {} times: {}", health.failures(), view.config.probe.failures, words(health)),
        ),
        Evidence::Gone => gone_primary(view, primary, health),
    }
}

fn writable_primary(view: View<'_>, primary: SocketAddr) -> Assessment {
    let label = view.label(primary);
    let others: Vec<_> = view.writable().filter(|&s| s != primary).collect();
    if let Some(doubt) = view.looks_deposed(primary) {
        let mut found = verdict(Verdict::None, Direction::Keep, doubt);
        found.alarm(AlarmKind::NoPrimary);
        return found;
    }
    if others.is_empty() {
        let receivers = view.receivers_of(primary).len();
        return verdict(
            Verdict::Healthy,
            Direction::Lead(primary),
            format!(
                "{label} answers, is writable, and {receivers} of {} others receive from it",
                view.servers.len() - 1
            ),
        );
    }
    let names = others.iter().map(|&s| view.label(s)).collect::<Vec<_>>().join(", ");
    let mut found = verdict(
        Verdict::Split,
        Direction::Lead(primary),
        format!("{label} is the primary and writable, and so is {names}: the mapping stays"),
    );
    for &other in &others {
        let how = if view.replicates(other) {
            "although it is a replica: make it read-only"
        } else {
            "and replicates from nobody: find out who writes to it, then make one of the two read-only"
        };
        found.reasons.push(format!("{} is writable {how}", view.label(other)));
    }
    found.alarm(AlarmKind::Split);
    found
}

fn read_only_primary(view: View<'_>, primary: SocketAddr) -> Assessment {
    let label = view.label(primary);
    succession(view, primary, Verdict::Demoted, Verdict::None, &format!("{label} is read-only"), AlarmKind::NoPrimary)
}

pub(super) fn failing_primary(view: View<'_>, primary: SocketAddr, kind: FailureKind) -> Assessment {
    let label = view.label(primary);
    let words = view.servers.get(&primary).map(words).unwrap_or_default();
    if kind == FailureKind::TooManyConnections {
        let mut found = verdict(
            Verdict::Saturated,
            Direction::Keep,
            format!("{label} is alive but has no connection left for us: {words}"),
        );
        found.alarm(AlarmKind::PrimarySaturated);
        return found;
    }
    let receivers = view.receivers_of(primary);
    let mut found = verdict(Verdict::Suspect, Direction::Keep, format!("{label} is alive but fails us: {words}"));
    if !receivers.is_empty() {
        found.reasons.push(format!("{} still receive from it", view.labels(&receivers)));
    }
    found
}

fn gone_primary(view: View<'_>, primary: SocketAddr, health: &Health) -> Assessment {
    let label = view.label(primary);
    let words = words(health);
    let own = format!("{label} failed {} times in a row: {words}", health.failures());
    let refused = is_refused(health);
    let others = || view.servers.iter().filter(|&(&s, _)| s != primary);

    // A server alone has nobody to vouch for its death: be twice as patient, unless the host itself says so.
    if view.servers.len() == 1 {
        if !refused && health.failures() < view.config.probe.failures * 2 {
            return verdict(Verdict::Suspect, Direction::Keep, own);
        }
        return succession(view, primary, Verdict::Dead, Verdict::Dead, &own, AlarmKind::PrimaryDead);
    }

    let unheard = unheard(view, primary, health);
    if !unheard.is_empty() {
        let mut found = verdict(Verdict::Suspect, Direction::Keep, own);
        found.reasons.push(format!("waiting to hear from {}", view.labels(&unheard)));
        return found;
    }

    let receivers = view.receivers_of(primary);
    let any_answer = others().any(|(_, h)| h.evidence(&view.config.probe) == Evidence::Answers);
    if receivers.is_empty() && (any_answer || refused) {
        let mut found = succession(view, primary, Verdict::Dead, Verdict::Dead, &own, AlarmKind::PrimaryDead);
        found.reasons.push("no replica receives from it".to_owned());
        return found;
    }
    let (kind, alarm) = match health.failure().map(|f| f.kind) {
        Some(FailureKind::NoAnswer) if !receivers.is_empty() => (Verdict::Saturated, AlarmKind::PrimarySaturated),
        _ => (Verdict::Unreachable, AlarmKind::PrimaryUnreachable),
    };
    let mut found = verdict(kind, Direction::Keep, own);
    found.reasons.push(if receivers.is_empty() {
        "no server of the cluster can be asked about it: the fault may well be on our side".to_owned()
    } else {
        format!("{} still receive from it, so it is not dead", view.labels(&receivers))
    });
    found.alarm(alarm);
    found
}

/// Whether the host itself says that nobody is there.
pub(super) fn is_refused(health: &Health) -> bool {
    health.failure().is_some_and(|f| matches!(f.kind, FailureKind::Refused | FailureKind::Reset))
}

/// Only what the others said after the primary fell silent is news about it: those that have not spoken since.
pub(super) fn unheard(view: View<'_>, primary: SocketAddr, health: &Health) -> Vec<SocketAddr> {
    let since = health.failing_since().unwrap_or(view.now);
    let others = view.servers.iter().filter(|&(&s, _)| s != primary);
    others
        .filter(|(_, h)| match h.evidence(&view.config.probe) {
            Evidence::Unknown | Evidence::Suspect => true,
            Evidence::Answers => h.answered_at().is_none_or(|at| at <= since),
            Evidence::Failing(_) | Evidence::Gone => false,
        })
        .map(|(&s, _)| s)
        .collect()
}

/// The primary can take no writes. Who has been made its successor?
fn succession(
    view: View<'_>,
    primary: SocketAddr,
    succeeded: Verdict,
    vacant: Verdict,
    why: &str,
    alarm: AlarmKind,
) -> Assessment {
    let heirs: Vec<_> =
        view.writable().filter(|&s| s != primary && !view.replicates(s) && view.is_vouched(s)).collect();
    match heirs[..] {
        [heir] => {
            let mut found = verdict(succeeded, Direction::Lead(heir), why.to_owned());
            found.reasons.push(format!("{} {}", view.label(heir), view.voucher(heir)));
            found
        }
        [] => {
            let mut found = verdict(vacant, Direction::Fence, why.to_owned());
            let doubtful: Vec<_> = view.writable().filter(|&s| s != primary).collect();
            found.reasons.push(if doubtful.is_empty() {
                "no other server is writable".to_owned()
            } else {
                format!(
                    "{} is writable, but nobody replicates from it and it was not seen being promoted: not trusted (pin it if it is the primary)",
                    view.labels(&doubtful)
                )
            });
            found.alarm(alarm);
            found
        }
        _ => {
            let mut found = verdict(Verdict::Split, Direction::Fence, why.to_owned());
            found.reasons.push(format!("{} all look like its successor: pin one", view.labels(&heirs)));
            found.alarm(AlarmKind::Split);
            found
        }
    }
}

/// Nothing has ever been mapped: the primary must show itself beyond doubt.
fn no_primary_yet(view: View<'_>) -> Assessment {
    let unasked = unasked(view);
    if !unasked.is_empty() {
        return verdict(Verdict::None, Direction::Keep, format!("{} not asked yet", view.labels(&unasked)));
    }
    let alone = view.servers.len() == 1;
    let sources: Vec<_> = view
        .writable()
        .filter(|&s| !view.replicates(s))
        .filter(|&s| alone || view.is_vouched(s) || view.is_configured_source(s))
        .collect();
    // A second writable server that replicates from nobody may be the true primary, whoever vouches for the first.
    let rivals: Vec<_> = view.writable().filter(|&s| !view.replicates(s) && !sources.contains(&s)).collect();
    match (&sources[..], &rivals[..]) {
        ([one], []) => {
            let mut found = verdict(
                Verdict::Healthy,
                Direction::Lead(*one),
                format!(
                    "{} is writable {}",
                    view.label(*one),
                    if alone { "and the only server".to_owned() } else { format!("and {}", view.voucher(*one)) }
                ),
            );
            let writable_replicas: Vec<_> = view.writable().filter(|s| s != one).collect();
            if !writable_replicas.is_empty() {
                found.verdict = Verdict::Split;
                found.reasons.push(format!(
                    "{} is writable although it is a replica: make it read-only",
                    view.labels(&writable_replicas)
                ));
                found.alarm(AlarmKind::Split);
            }
            found
        }
        ([], []) => {
            let mut found = verdict(Verdict::None, Direction::Fence, "no server is writable".to_owned());
            found.alarm(AlarmKind::NoPrimary);
            found
        }
        ([], [_]) => {
            let mut found = verdict(
                Verdict::None,
                Direction::Fence,
                format!(
                    "{} is writable, but nobody replicates from it: not trusted (pin it if it is the primary)",
                    view.labels(&rivals)
                ),
            );
            found.alarm(AlarmKind::NoPrimary);
            found
        }
        _ => {
            let all: Vec<_> = sources.iter().chain(&rivals).copied().collect();
            let mut found = verdict(
                Verdict::Split,
                Direction::Fence,
                format!(
                    "{} are writable and replicate from nobody: pin the primary, make the others read-only",
                    view.labels(&all)
                ),
            );
            found.alarm(AlarmKind::Split);
            found
        }
    }
}

/// Servers that have neither answered nor failed yet.
pub(super) fn unasked(view: View<'_>) -> Vec<SocketAddr> {
    let is_unknown = |health: &Health| health.evidence(&view.config.probe) == Evidence::Unknown;
    view.servers.iter().filter(|(_, h)| is_unknown(h)).map(|(&s, _)| s).collect()
}

/// What is amiss with single servers, whatever the verdict on the primary.
fn server_alarms(view: View<'_>) -> Vec<Alarm> {
    let mut alarms = Vec::new();
    for (&server, health) in view.servers {
        let (kind, what) = match health.evidence(&view.config.probe) {
            Evidence::Failing(FailureKind::AuthDenied) => (AlarmKind::AuthDenied, "is alive, but denies us"),
            Evidence::Failing(_) => (AlarmKind::ServerFailing, "is alive, but fails us"),
            Evidence::Gone if Some(server) != view.primary => (AlarmKind::ServerDown, "does not answer"),
            _ => continue,
        };
        alarms.push(Alarm { kind, message: format!("{} {what}: {}", view.label(server), words(health)) });
    }
    let degraded = view.primary.and_then(|primary| degraded(view, primary));
    alarms.extend(degraded.map(|message| Alarm { kind: AlarmKind::SemiSyncDegraded, message }));
    alarms
}

pub(super) fn words(health: &Health) -> String {
    health.failure().map(|f| format!("{} ({})", f.kind, f.detail)).unwrap_or_default()
}

pub(super) fn verdict(verdict: Verdict, direction: Direction, reason: String) -> Assessment {
    Assessment { verdict, reasons: vec![reason], direction, alarms: Vec::new() }
}

impl Assessment {
    pub(super) fn alarm(&mut self, kind: AlarmKind) {
        let message = self.reasons.join("; ");
        self.alarms.push(Alarm { kind, message });
    }
}
