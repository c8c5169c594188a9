//! What is known of one server from the observations so far.

use std::collections::BTreeMap;
use std::time::Duration;

use super::acknowledged::Past;
use super::freshness::Freshness;
use crate::Mono;
use crate::config::ProbeConfig;
use crate::observation::{
    Channel, Failure, FailureKind, GroupView, IoThread, Observation, Outcome, PromoterLock, ServerState,
};

/// A replica whose source is silent for this many heartbeat periods receives from it no more. The thread's state alone
/// says "connected" for `replica_net_timeout` (60 s) after a silent loss.
const SILENT_HEARTBEATS: u32 = 2;

/// One server, as far as observed.
#[derive(Clone, Debug, Default)]
pub struct Health {
    answer: Option<Answer>,
    trouble: Option<Trouble>,
    /// By channel: the last mark of something received, and when it last differed.
    received: BTreeMap<String, (String, Mono)>,
    /// It took writes, its connection broke, and when it answered again it took none: it was restarted so.
    restarted_read_only: bool,
    /// Answers to questions from before this are older than what was done to the server since.
    changed_at: Option<Mono>,
    /// It has been seen replicating from a server of the cluster while it was read-only. Its turning writable without a
    /// source is then a promotion that was witnessed.
    seen_as_replica: bool,
    semi_sync: Past,
    freshness: Freshness,
}

#[derive(Clone, Debug)]
struct Answer {
    at: Mono,
    took: Duration,
    state: ServerState,
}

/// Failures since the last answer.
#[derive(Clone, Debug)]
struct Trouble {
    since: Mono,
    last_at: Mono,
    last: Failure,
    /// Refused, or broken by the other side: the host's own word.
    hard: u32,
    /// Silence.
    silent: u32,
    /// It was refused or broken at any time of it, whatever came after.
    broke: bool,
}

/// What our own observations say of a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Evidence {
    /// It has not been asked yet.
    Unknown,
    Answers,
    /// It is alive and fails us; never dead.
    Failing(FailureKind),
    /// It failed, not yet often enough.
    Suspect,
    /// A broken connection and refused reconnects, or `failures` timeouts in a row.
    Gone,
}

impl Health {
    pub fn observe(&mut self, seen: &Observation) {
        match &seen.outcome {
            Outcome::Answered(_) if self.changed_at.is_some_and(|at| seen.at - seen.took < at) => self.trouble = None,
            Outcome::Answered(state) => {
                let was_writable = self.answer.as_ref().is_some_and(|answer| answer.state.is_writable());
                let broke = self.trouble.as_ref().is_some_and(|trouble| trouble.broke);
                self.restarted_read_only =
                    !state.is_writable() && (self.restarted_read_only || (was_writable && broke));
                self.trouble = None;
                self.note_received(&state.channels, seen.at);
                let before = self.answer.as_ref().map(|answer| &answer.state);
                self.semi_sync.note(before, state, seen.at - seen.took, seen.at);
                self.freshness.note(state.group.as_ref().and_then(GroupView::backlog), seen.at - seen.took);
                self.answer = Some(Answer { at: seen.at, took: seen.took, state: (**state).clone() });
            }
            Outcome::Failed(failure) => self.note_failure(failure, seen.at),
        }
    }

    /// Remembers that the server was seen as a read-only replica within the cluster.
    pub fn note_replica(&mut self) {
        self.seen_as_replica = true;
    }

    /// Forgets that it was ever a replica: it has been made the primary, and the next promotion is another story.
    pub fn note_primary(&mut self) {
        self.seen_as_replica = false;
    }

    /// It was just made read-only, whatever it last said.
    pub fn note_read_only(&mut self, at: Mono) {
        self.restarted_read_only = false;
        self.changed_at = Some(at);
        if let Some(answer) = &mut self.answer {
            answer.state.read_only = true;
        }
    }

    /// It was just made a primary, whatever it last said.
    pub fn note_writable(&mut self, at: Mono) {
        self.restarted_read_only = false;
        self.changed_at = Some(at);
        self.trouble = None;
        self.received.clear();
        if let Some(answer) = &mut self.answer {
            answer.at = at;
            answer.took = Duration::ZERO;
            (answer.state.read_only, answer.state.super_read_only) = (false, false);
            answer.state.channels.clear();
        }
    }

    /// Whether we hold its lock is not known any more.
    pub fn forget_lock(&mut self) {
        if let Some(answer) = &mut self.answer {
            answer.state.promoter = PromoterLock::NotAsked;
        }
    }

    /// It was just told to wait for acknowledgements.
    pub fn note_semi_sync_source(&mut self) {
        if let Some(semi) = self.answer.as_mut().and_then(|answer| answer.state.semi_sync.as_mut()) {
            semi.source_enabled = true;
        }
    }

    pub const fn restarted_read_only(&self) -> bool {
        self.restarted_read_only
    }

    pub const fn was_replica(&self) -> bool {
        self.seen_as_replica
    }

    fn note_received(&mut self, channels: &[Channel], at: Mono) {
        self.received.retain(|name, _| channels.iter().any(|c| &c.name == name));
        for channel in channels {
            match self.received.get_mut(&channel.name) {
                Some((mark, _)) if *mark == channel.received => {}
                Some(entry) => *entry = (channel.received.clone(), at),
                None => {
                    self.received.insert(channel.name.clone(), (channel.received.clone(), at));
                }
            }
        }
    }

    fn note_failure(&mut self, failure: &Failure, at: Mono) {
        let trouble = self.trouble.get_or_insert_with(|| Trouble {
            since: at,
            last_at: at,
            last: failure.clone(),
            hard: 0,
            silent: 0,
            broke: false,
        });
        trouble.last = failure.clone();
        trouble.last_at = at;
        match failure.kind {
            FailureKind::Refused | FailureKind::Reset => {
                trouble.hard += 1;
                trouble.broke = true;
            }
            FailureKind::Timeout | FailureKind::NoAnswer | FailureKind::Unreachable => trouble.silent += 1,
            // Whoever answers is alive, so what was counted before proves nothing.
            _ => (trouble.hard, trouble.silent, trouble.since) = (0, 0, at),
        }
    }

    /// What we ourselves can say, by the rule of `probe`.
    pub fn evidence(&self, probe: &ProbeConfig) -> Evidence {
        match (&self.trouble, &self.answer) {
            (None, None) => Evidence::Unknown,
            (None, Some(_)) => Evidence::Answers,
            (Some(t), _) if t.last.kind.is_alive() => Evidence::Failing(t.last.kind),
            (Some(t), _) if t.hard >= 2 || t.hard + t.silent >= probe.failures => Evidence::Gone,
            (Some(_), _) => Evidence::Suspect,
        }
    }

    /// What it said when it answered last, however long ago.
    pub fn state(&self) -> Option<&ServerState> {
        self.answer.as_ref().map(|a| &a.state)
    }

    /// When it answered last.
    pub fn answered_at(&self) -> Option<Mono> {
        self.answer.as_ref().map(|a| a.at)
    }

    /// When it was asked what it answered last. An answer that lay unread for long is as old as its question.
    pub fn asked_at(&self) -> Option<Mono> {
        self.answer.as_ref().map(|a| a.at - a.took)
    }

    /// What answers before the last one said of semi-sync.
    pub(super) const fn semi_sync_past(&self) -> &Past {
        &self.semi_sync
    }

    /// How long the last answer took.
    pub fn took(&self) -> Option<Duration> {
        self.answer.as_ref().map(|a| a.took)
    }

    /// How old the data of a member of a group were at most when it answered last; `None`: it has not told, or has been
    /// behind ever since it was first asked.
    pub fn group_lag(&self) -> Option<Duration> {
        self.answered_at().zip(self.freshness.as_of()).map(|(at, as_of)| at.since(as_of))
    }

    /// When it was last observed at all, answer or failure.
    pub fn observed_at(&self) -> Option<Mono> {
        self.trouble.as_ref().map(|t| t.last_at).max(self.answered_at())
    }

    /// The last failure, if it has not answered since.
    pub fn failure(&self) -> Option<&Failure> {
        self.trouble.as_ref().map(|t| &t.last)
    }

    /// Since when it has not answered.
    pub fn failing_since(&self) -> Option<Mono> {
        self.trouble.as_ref().map(|t| t.since)
    }

    /// How often in a row it failed.
    pub fn failures(&self) -> u32 {
        self.trouble.as_ref().map_or(0, |t| t.hard + t.silent)
    }

    /// Whether something was received on the channel of late: its thread is connected, and heartbeats or events have not
    /// been missing for longer than heartbeats can.
    pub fn receives(&self, channel: &Channel, now: Mono) -> bool {
        if channel.io != IoThread::Connected {
            return false;
        }
        let Some((_, changed)) = self.received.get(&channel.name) else { return true };
        match channel.heartbeat_period {
            Some(period) if !period.is_zero() => now.since(*changed) <= period * SILENT_HEARTBEATS,
            // A source that sends no heartbeats may rightly be silent for ever.
            _ => true,
        }
    }
}
