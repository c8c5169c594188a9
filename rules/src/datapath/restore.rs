//! The table as a whole: read back, built, and brought back to what it should be.

use std::time::{Duration, Instant};

use shunt_core::datapath::{DatapathError, Drift};

use super::{NftDatapath, Presence};
use crate::drift::{Comparison, compare, our_wording, repair};
use crate::element::{Key, Pair};
use crate::netlink::read::{self, Snapshot};
use crate::netlink::write;
use crate::owner::own;
use crate::ruleset::{ADMIT, chains};
use crate::state::plan::{Op, difference};
use crate::state::{Elements, State};

/// What was amiss, and the repair.
#[derive(Default)]
pub(super) struct Restored {
    pub drift: Vec<Drift>,
    pub commit: Duration,
    /// Pairs that somebody else had let pass.
    pub dead: Vec<Pair>,
}

impl NftDatapath {
    /// Reads the table back. `None`: there is none. Somebody else's is an error.
    pub(super) fn read_back(&mut self) -> Result<Option<Snapshot>, DatapathError> {
        let found = read::table(&mut self.netlink, &self.table)
            .map_err(|(what, source)| DatapathError::Kernel { what, source })?;
        if let Some(found) = &found {
            own(&self.table, found.comment.as_deref())?;
        }
        Ok(found)
    }

    /// Makes a new table with everything in `state`, in the place of the old one when `replace`.
    pub(super) fn build(&mut self, state: &State, replace: bool, now: Instant) -> Result<Duration, DatapathError> {
        let ops = difference(&Elements::new(), &state.elements(), now);
        let mut batch = self.batch();
        if replace {
            write::delete_table(&mut batch, &self.table);
        }
        write::create(&mut batch, &self.table, &self.layout(state));
        write::ops(&mut batch, &self.table, &ops, now);
        match self.commit(batch) {
            Ok(commit) => Ok(commit),
            Err(rejection) => {
                // A table that was not there a moment ago: whose is it?
                if rejection.is(libc::EEXIST) {
                    self.read_back()?;
                }
                Err(self.name(rejection))
            }
        }
    }

    /// Brings the table to `desired` in one transaction, whatever it is like now.
    pub(super) fn restore(&mut self, desired: &State, now: Instant) -> Result<Restored, DatapathError> {
        let found = self.read_back()?;
        let Some(found) = found else {
            if self.presence == Presence::Absent && desired.listeners.is_empty() {
                return Ok(Restored::default());
            }
            let commit = self.build(desired, false, now)?;
            self.presence = Presence::Current;
            let drift = vec![Drift { what: format!("table inet {} is gone", self.table) }];
            return Ok(Restored { drift, commit, dead: Vec::new() });
        };
        let expected = self.state.elements();
        let Comparison { drift, rebuild, mut chains } = compare(&self.table, &found, &expected, &self.wording, now);
        if desired.source_limits() != self.state.source_limits() && !chains.contains(&ADMIT) {
            chains.push(ADMIT);
        }
        let strangers: Vec<Pair> = found.elements.keys().filter_map(|key| stranger(key, desired)).collect();
        let commit = if rebuild {
            self.build(desired, true, now)?
        } else {
            self.mend(&chains, desired, &repair(&found.elements, &desired.elements(), now), now)?
        };
        self.presence = Presence::Current;
        if !chains.is_empty() {
            self.learn_wording(desired)?;
        }
        Ok(Restored { drift, commit, dead: strangers })
    }

    /// Rewrites the rules of `chains` and changes elements.
    fn mend(
        &mut self,
        rewrite: &[&'static str],
        desired: &State,
        ops: &[Op],
        now: Instant,
    ) -> Result<Duration, DatapathError> {
        let mut batch = self.batch();
        let chains = chains(&self.layout(desired));
        write::rewrite(&mut batch, &self.table, chains.iter().filter(|chain| rewrite.contains(&chain.name)));
        write::ops(&mut batch, &self.table, ops, now);
        if batch.is_empty() {
            return Ok(Duration::ZERO);
        }
        self.commit(batch).map_err(|rejection| self.name(rejection))
    }

    /// A kernel that puts the rules that we have just written in other words is taken at its word, or every
    /// reconciliation would write them anew.
    fn learn_wording(&mut self, written: &State) -> Result<(), DatapathError> {
        self.wording = our_wording(&self.layout(written));
        if let Some(found) = self.read_back()?
            && found.rules != self.wording
        {
            tracing::warn!(table = self.table, "this kernel reads our rules back in other words");
            self.wording = found.rules;
        }
        Ok(())
    }
}

/// A pair that passes and that `desired` does not have.
fn stranger(key: &Key, desired: &State) -> Option<Pair> {
    let (Key::Live(pair) | Key::Sparing(pair)) = key else { return None };
    let known = desired.listeners.get(&pair.listener).is_some_and(|l| l.passing().any(|b| b == pair.backend));
    (!known).then_some(*pair)
}
