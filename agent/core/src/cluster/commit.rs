//! From a decision to the kernel: what is wanted, what is in flight, what came of it.

use std::collections::BTreeMap;
use std::time::Duration;

use super::event::{Action, Stage};
use super::plan::{self, Basis, Plan};
use super::readers::Fit;
use super::view::View;
use super::{Cluster, ListenerSince, RETRY, record};
use crate::{Epoch, Mono};

impl Cluster {
    pub(super) fn commit_if_changed(&mut self, now: Mono, actions: &mut Vec<Action>) {
        if self.in_flight.is_some() {
            return;
        }
        let wanted = self.wanted(now);
        let is_held = |plan: &Plan| self.committed.as_ref().is_some_and(|held| held.asks_the_same_as(plan));
        if is_held(&wanted) {
            self.failed = None;
            return;
        }
        let next = match &self.failed {
            Some((stage, _, retry_at)) if now < *retry_at => {
                // An epoch that cannot be written down must not be acted on; a fence needs no new epoch.
                let fence = self.fence_under_old_epoch(now);
                if *stage == Stage::Datapath || is_held(&fence) {
                    return;
                }
                fence
            }
            _ => wanted,
        };
        self.in_flight = Some(next.clone());
        actions.push(Action::Commit(next));
    }

    pub(super) fn wanted(&self, now: Mono) -> Plan {
        let view = self.view(now);
        let leaving = self.committed.as_ref().and_then(|p| p.primary);
        // An operation stands above every word but its own.
        let none = BTreeMap::new();
        let pins = if self.run.is_some() { &none } else { &self.pins };
        let (fit, lapses) = (&self.fit, &self.lapses);
        plan::plan(view, Basis { epoch: self.epoch, fit, pins, lapses, leaving, spared: self.spared })
    }

    pub(super) fn fence_under_old_epoch(&self, now: Mono) -> Plan {
        let (epoch, old) = self.committed.as_ref().map_or((Epoch::default(), None), |c| (c.epoch, c.primary));
        let view = View { primary: old, open: false, ..self.view(now) };
        let (fit, pins, lapses) = (&Fit::new(), &BTreeMap::new(), &self.lapses);
        plan::plan(view, Basis { epoch, fit, pins, lapses, leaving: old, spared: None })
    }

    pub(super) fn carried_out(&mut self, commit: Duration, now: Mono, actions: &mut Vec<Action>) {
        let Some(plan) = self.in_flight.take() else { return };
        for mapping in &plan.mappings {
            let before = self.listeners.get(&mapping.listener);
            if before.is_some_and(|b| b.route == mapping.route) {
                continue;
            }
            // What the agent found in the kernel when it started is no news.
            if !(self.committed.is_none() && commit.is_zero()) {
                actions.push(Action::Record(plan::mapping_entry(&self.config, mapping, plan.epoch, commit)));
            }
            self.listeners.insert(mapping.listener, ListenerSince { route: mapping.route.clone(), since: now });
        }
        self.listeners.retain(|listener, _| plan.mappings.iter().any(|m| m.listener == *listener));
        let wrote_epoch = plan.epoch >= self.epoch;
        self.committed = Some(plan);
        if wrote_epoch {
            self.failed = None;
        }
    }

    pub(super) fn not_carried_out(&mut self, stage: Stage, error: String, now: Mono, actions: &mut Vec<Action>) {
        self.in_flight = None;
        if self.failed.as_ref().is_none_or(|(s, e, _)| *s != stage || *e != error) {
            let what = match stage {
                Stage::State => "the epoch could not be written down, so the new primary stays fenced",
                Stage::Datapath => "the mapping could not be taken into the kernel",
            };
            actions.push(record("commit_failed", format!("{what}: {error}")));
        }
        self.failed = Some((stage, error, now + RETRY));
    }
}
