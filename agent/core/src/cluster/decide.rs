//! From what is known to a verdict, and from the verdict to where the listeners lead.

use std::net::SocketAddr;

use super::acknowledged::acknowledged_by;
use super::assess::assess;
use super::event::{Action, Entry, Pace};
use super::verdict::{Assessment, Direction, Verdict};
use super::{Cluster, URGENT_FOR};
use crate::Mono;
use crate::config::FailoverMode;
use crate::operation::Step;

impl Cluster {
    /// From what is known to a verdict, from the verdict to a plan, and to the driver if the plan is new.
    pub(super) fn decide(&mut self, now: Mono, actions: &mut Vec<Action>) {
        let found = assess(self.view(now));
        let direction = found.direction;
        self.note_verdict(found, now, actions);
        self.note_proof(now);
        self.cooldown_until = self.cooldown_until.filter(|until| now < *until);
        self.advance(now, actions);
        if self.run.is_none() {
            self.steer(direction, actions);
            self.fail_over_if_due(now, actions);
        }
        self.forget_lingering_if_void(actions);
        self.start_receiving_again(now, actions);
        self.meet_outcasts(now, actions);
        self.restore_primary(now, actions);
        self.examine_when_due(now, actions);
        self.fit = self.fit_now(now);
        self.end_lapses(direction);
        self.commit_if_changed(now, actions);
        self.set_pace(now, actions);
    }

    /// Keeps the proof of the moment in which a dead primary was fenced off, and no other.
    pub(super) fn note_proof(&mut self, now: Mono) {
        let Some(primary) = self.primary.filter(|_| self.assessment.verdict == Verdict::Dead) else {
            if self.run.is_none() {
                self.proof = None;
            }
            return;
        };
        let on_the_way_to_a_fence = self.run.as_ref().is_some_and(|run| run.op.step <= Step::Fence);
        if self.open || on_the_way_to_a_fence {
            self.proof = acknowledged_by(self.view(now), primary);
        }
    }

    pub(super) fn note_verdict(&mut self, found: Assessment, now: Mono, actions: &mut Vec<Action>) {
        if found.verdict != self.assessment.verdict {
            let mut entry = Entry {
                kind: "verdict",
                message: format!("{} → {}: {}", self.assessment.verdict, found.verdict, found.reasons.join("; ")),
                data: vec![("verdict", found.verdict.to_string()), ("before", self.assessment.verdict.to_string())],
            };
            if let Some(primary) = self.primary {
                entry.data.push(("primary", primary.to_string()));
            }
            actions.push(Action::Record(entry));
            self.verdict_since = now;
            self.trouble_since =
                if found.verdict == Verdict::Healthy { None } else { self.trouble_since.or(Some(now)) };
        }
        let new: Vec<_> =
            found.alarms.iter().filter(|a| !self.assessment.alarms.iter().any(|b| b.kind == a.kind)).collect();
        for alarm in new {
            actions.push(Action::Record(Entry {
                kind: "alarm",
                message: format!("{}: {}", alarm.kind.word(), alarm.message),
                data: vec![("alarm", alarm.kind.word().to_owned())],
            }));
        }
        self.assessment = found;
    }

    /// Applies the direction, unless an operator's word stands above it.
    pub(super) fn steer(&mut self, direction: Direction, actions: &mut Vec<Action>) {
        if let Some(&pinned) = self.pins.get(&None) {
            self.lead(pinned, "pinned", actions);
            return;
        }
        if self.sealed.is_some() || self.pause.is_some() || self.config.failover == FailoverMode::Off {
            return;
        }
        match direction {
            Direction::Keep => {}
            // It was succeeded, or nearly, and is compared before it is led to again.
            Direction::Lead(server) if self.outcasts.contains_key(&server) => self.open = false,
            Direction::Lead(server) => self.lead(server, self.assessment.verdict.word(), actions),
            Direction::Fence => self.open = false,
        }
    }

    pub(super) fn lead(&mut self, server: SocketAddr, why: &'static str, actions: &mut Vec<Action>) {
        self.open = true;
        if self.outcasts.remove(&server).is_some() {
            self.keep_outcasts(actions);
        }
        if self.primary == Some(server) {
            return;
        }
        let before = self.primary.replace(server);
        self.epoch = self.epoch.next();
        let from = before.map_or_else(|| "nobody".to_owned(), |b| self.label(b));
        let mut data =
            vec![("epoch", self.epoch.to_string()), ("primary", server.to_string()), ("why", why.to_owned())];
        if let Some(before) = before {
            data.push(("before", before.to_string()));
        }
        actions.push(Action::Record(Entry {
            kind: "primary",
            message: format!(
                "{from} → {}, epoch {}: {}",
                self.label(server),
                self.epoch,
                self.assessment.reasons.join("; ")
            ),
            data,
        }));
        if let Some(health) = self.servers.get_mut(&server) {
            health.note_primary();
        }
    }

    pub(super) fn set_pace(&mut self, now: Mono, actions: &mut Vec<Action>) {
        let pace = if self.urgent_until().is_some_and(|until| now < until) { Pace::Urgent } else { Pace::Normal };
        if pace != self.pace {
            self.pace = pace;
            actions.push(Action::Pace(pace));
        }
    }

    /// Until when there is a reason to ask more often than usual.
    pub(super) fn urgent_until(&self) -> Option<Mono> {
        let verdict = self.assessment.verdict.is_urgent().then_some(self.verdict_since);
        verdict.max(self.lapses.since()).map(|since| since + URGENT_FOR)
    }
}
