//! The verdict on the primary of a group, Group Replication's or Galera's. The group decides who takes writes, whatever
//! the cluster's mode; we recognise it.
//!
//! A group with one PRIMARY has made up its mind when a member with a voice (see [`super::council`]) says that it is the
//! one and is writable: then the listeners lead there, whether or not the one before can still be asked. Where every
//! member takes writes, which is no split, the one that is mapped stays as long as it can, and then one other takes over.

use std::net::SocketAddr;

use super::assess::{failing_primary, is_refused, unasked, unheard, verdict, words};
use super::council::Council;
use super::health::{Evidence, Health};
use super::verdict::{Alarm, AlarmKind, Assessment, Direction, Verdict};
use super::view::View;
use crate::config::FailoverMode;
use crate::observation::{GaleraState, GroupView, MemberState, ServerState};

pub(super) fn assess(view: View<'_>, council: &Council<'_>) -> Assessment {
    let mut found = match view.primary.and_then(|p| view.servers.get(&p).map(|h| (p, h))) {
        Some((primary, health)) => known_primary(view, council, primary, health),
        None => no_primary_yet(view, council),
    };
    let strays = council.strays();
    if !strays.is_empty() && found.verdict != Verdict::Split {
        found.reasons.push(format!("{} is writable outside of the group: make it read-only", view.labels(&strays)));
        found.alarm(AlarmKind::Split);
    }
    if view.config.failover == FailoverMode::Promote {
        let message = format!(
            "failover = \"promote\" does not apply: these servers are a {}, which decides itself who takes writes, and shunt \
             follows it",
            name(council)
        );
        found.alarms.push(Alarm { kind: AlarmKind::NotInForce, message });
    }
    found
}

const fn name(council: &Council<'_>) -> &'static str {
    if council.galera { "Galera cluster" } else { "Group Replication group" }
}

fn known_primary(view: View<'_>, council: &Council<'_>, primary: SocketAddr, health: &Health) -> Assessment {
    let label = view.label(primary);
    let elected = council.elected();
    let heirs: Vec<_> = elected.iter().copied().filter(|&server| server != primary).collect();
    match health.evidence(&view.config.probe) {
        Evidence::Unknown => verdict(
            Verdict::Suspect,
            Direction::Keep,
            format!("{label} has not been asked yet since the agent started"),
        ),
        Evidence::Answers if elected.contains(&primary) => in_office(view, council, primary, &heirs),
        Evidence::Answers => out_of_office(view, council, primary, health, &heirs),
        Evidence::Failing(_) | Evidence::Suspect
            if !council.is_multi_primary() && !heirs.is_empty() && !council.has_primary(primary) =>
        {
            let mut found = succeed(view, council, Verdict::Demoted, &heirs, words(health));
            found.reasons.push(format!("for the group {label} is not its PRIMARY any more"));
            found
        }
        Evidence::Failing(kind) => failing_primary(view, primary, kind),
        Evidence::Suspect => verdict(
            Verdict::Suspect,
            Direction::Keep,
            format!("{label} failed {} of {} times: {}", health.failures(), view.config.probe.failures, words(health)),
        ),
        Evidence::Gone => gone(view, council, primary, health, &heirs),
    }
}

/// The primary answers, and is one by the group's word.
fn in_office(view: View<'_>, council: &Council<'_>, primary: SocketAddr, rivals: &[SocketAddr]) -> Assessment {
    let label = view.label(primary);
    if !council.is_multi_primary() && !rivals.is_empty() {
        // The PRIMARY is being changed: one of the two has not been asked since.
        let both = format!("{label} and {} both say that they are the group's PRIMARY", view.labels(rivals));
        return verdict(Verdict::Suspect, Direction::Keep, both);
    }
    let what = standing(view, primary).unwrap_or_default();
    let others = view.servers.len() - 1;
    let also = if council.is_multi_primary() {
        format!("{} of {others} others could take its place", rivals.len())
    } else {
        format!("{} of {others} others are ONLINE with it", council.size() - 1)
    };
    let mut found =
        verdict(Verdict::Healthy, Direction::Lead(primary), format!("{label} answers, is writable and {what}; {also}"));
    if !council.torn().is_empty() {
        found.verdict = Verdict::Split;
        found.reasons.push(format!("{} is in another group with as much to say", view.labels(council.torn())));
        found.alarm(AlarmKind::Split);
    }
    found
}

/// The primary answers, and is none by the group's word or its own.
fn out_of_office(
    view: View<'_>,
    council: &Council<'_>,
    primary: SocketAddr,
    health: &Health,
    heirs: &[SocketAddr],
) -> Assessment {
    let label = view.label(primary);
    let why = format!("{label} {}", standing(view, primary).unwrap_or_else(|| "is in no group".to_owned()));
    // What struck the primary may have struck them, too.
    let is_stale = |heir: SocketAddr| view.servers[&heir].answered_at() <= health.answered_at();
    if let Some(&heir) = heirs.first().filter(|&&heir| council.is_multi_primary() && is_stale(heir)) {
        return await_word(view, why, &[heir]);
    }
    if !heirs.is_empty() {
        return succeed(view, council, Verdict::Demoted, heirs, why);
    }
    let is_writable = health.state().is_some_and(ServerState::is_writable);
    // Galera refuses statements outside of the primary component; a member of Group Replication lets commits wait, and
    // carries them out if it finds the others again.
    let mut found = if is_writable && !council.galera {
        verdict(Verdict::Suspect, Direction::Keep, why)
    } else {
        verdict(Verdict::None, Direction::Fence, why)
    };
    found.reasons.push(vacancy(view, council));
    found.alarm(AlarmKind::NoPrimary);
    found
}

/// The primary does not answer us any more.
fn gone(
    view: View<'_>,
    council: &Council<'_>,
    primary: SocketAddr,
    health: &Health,
    heirs: &[SocketAddr],
) -> Assessment {
    let own = format!("{} failed {} times in a row: {}", view.label(primary), health.failures(), words(health));
    let unheard = unheard(view, primary, health);
    // The group's one PRIMARY needs no more than its own word. Where any will do, it has to be alive.
    match heirs.first() {
        Some(&heir) if council.is_multi_primary() && unheard.contains(&heir) => return await_word(view, own, &[heir]),
        Some(_) => return succeed(view, council, Verdict::Dead, heirs, own),
        None if !unheard.is_empty() => return await_word(view, own, &unheard),
        None => {}
    }
    let any_answer = view.answering().any(|(server, ..)| server != primary);
    if council.has_online(primary) {
        // When its process has ended, the group takes seconds to notice. When it has not, the fault is between us.
        let kind = if is_refused(health) { Verdict::Suspect } else { Verdict::Unreachable };
        let mut found = verdict(kind, Direction::Keep, own);
        found.reasons.push("the group still has it ONLINE".to_owned());
        if kind == Verdict::Unreachable {
            found.alarm(AlarmKind::PrimaryUnreachable);
        }
        return found;
    }
    if any_answer || is_refused(health) {
        let mut found = verdict(Verdict::Dead, Direction::Fence, own);
        found.reasons.push(vacancy(view, council));
        found.alarm(AlarmKind::PrimaryDead);
        return found;
    }
    let mut found = verdict(Verdict::Unreachable, Direction::Keep, own);
    found.reasons.push("no server of the cluster can be asked about it: the fault may well be on our side".to_owned());
    found.alarm(AlarmKind::PrimaryUnreachable);
    found
}

fn await_word(view: View<'_>, why: String, of: &[SocketAddr]) -> Assessment {
    let mut found = verdict(Verdict::Suspect, Direction::Keep, why);
    found.reasons.push(format!("waiting to hear from {}", view.labels(of)));
    found
}

fn succeed(view: View<'_>, council: &Council<'_>, kind: Verdict, heirs: &[SocketAddr], why: String) -> Assessment {
    if !council.is_multi_primary() && heirs.len() > 1 {
        let both = format!("{} all say that they are the group's PRIMARY", view.labels(heirs));
        return Assessment { reasons: vec![why, both], ..verdict(Verdict::Suspect, Direction::Keep, String::new()) };
    }
    let mut found = verdict(kind, Direction::Lead(heirs[0]), why);
    found.reasons.push(format!(
        "{} is writable and {}",
        view.label(heirs[0]),
        standing(view, heirs[0]).unwrap_or_default()
    ));
    found
}

/// Nothing has ever been mapped.
fn no_primary_yet(view: View<'_>, council: &Council<'_>) -> Assessment {
    let unasked = unasked(view);
    if !unasked.is_empty() {
        return verdict(Verdict::None, Direction::Keep, format!("{} not asked yet", view.labels(&unasked)));
    }
    let elected = council.elected();
    let rivals = [council.torn(), &council.strays()[..]].concat();
    match elected[..] {
        [] => {
            let mut found = verdict(Verdict::None, Direction::Fence, vacancy(view, council));
            found.alarm(AlarmKind::NoPrimary);
            found
        }
        [one, ..] if !rivals.is_empty() => {
            let mut found = verdict(
                Verdict::Split,
                Direction::Fence,
                format!(
                    "{} {}, but {} is writable outside of that group: pin the primary",
                    view.label(one),
                    standing(view, one).unwrap_or_default(),
                    view.labels(&rivals)
                ),
            );
            found.alarm(AlarmKind::Split);
            found
        }
        [_, _, ..] if !council.is_multi_primary() => {
            let both = format!("{} all say that they are the group's PRIMARY", view.labels(&elected));
            verdict(Verdict::None, Direction::Keep, both)
        }
        [one, ..] => {
            let why = format!("{} is writable and {}", view.label(one), standing(view, one).unwrap_or_default());
            verdict(Verdict::Healthy, Direction::Lead(one), why)
        }
    }
}

/// Why nobody is the primary.
fn vacancy(view: View<'_>, council: &Council<'_>) -> String {
    let barred = council.barred();
    if !barred.is_empty() {
        return format!("only {} could take over, and must not (promotion = \"must_not\")", view.labels(&barred));
    }
    if let Some(uuid) = council.named_primary(view.primary) {
        let server =
            view.servers.keys().copied().find(|&s| view.uuid(s).is_some_and(|is| is.eq_ignore_ascii_case(uuid)));
        let answers = |server| view.answering().any(|(s, ..)| s == server);
        return match server {
            Some(server) if answers(server) => {
                format!("{} is the group's PRIMARY and not writable yet", view.label(server))
            }
            Some(server) => format!("the group's PRIMARY is {}, which does not answer us", view.label(server)),
            None => {
                format!("the group's PRIMARY is a server with the uuid {uuid}, and none that has answered has that")
            }
        };
    }
    match (council.is_silent(), council.galera) {
        (true, true) => "no server that answers is Synced in a primary component".to_owned(),
        (true, false) => "no server that answers is ONLINE in a majority of its group".to_owned(),
        (false, true) => "no Synced node is writable".to_owned(),
        (false, false) => "the group has not made another server its PRIMARY".to_owned(),
    }
}

/// How a member stands in its group by its own word: `is …`.
pub(super) fn standing(view: View<'_>, server: SocketAddr) -> Option<String> {
    let state = view.servers.get(&server).and_then(Health::state)?;
    Some(match state.group.as_ref()? {
        GroupView::Replication(group) => {
            let own = group.member(state.identity.uuid.as_deref()?)?;
            let role = match (own.state, own.primary) {
                (MemberState::Online, true) => " PRIMARY",
                (MemberState::Online, false) => " SECONDARY",
                _ => "",
            };
            let (word, known) = (own.state.word(), group.members.len());
            if group.has_majority() || !own.state.counts() {
                format!("is {word}{role} in a group of {known}")
            } else {
                format!("is {word}{role} and has lost the majority of its group of {known}: its commits wait")
            }
        }
        GroupView::Galera(node) => {
            let state = match node.state {
                GaleraState::Synced => "Synced",
                GaleraState::Donor => "Donor/Desynced",
                GaleraState::Joining => "not Synced",
            };
            match (node.in_primary_component, node.ready) {
                (true, true) => format!("is {state} in a component of {}", node.size),
                (true, false) => "is in the primary component and not ready".to_owned(),
                (false, _) => "is not in a primary component, so it refuses statements".to_owned(),
            }
        }
    })
}
