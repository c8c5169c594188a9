//! Keeping the kernel in line: a comparison on every change that somebody else makes, where the datapath gives notice of
//! that, and on a timer.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use shunt_core::cluster::Entry;
use shunt_core::datapath::{Datapath, DatapathError, Drift};

use super::agent::{Agent, write};
use super::cluster::Shared;
use super::worker::Gone;
use crate::datapath::Notices;

/// The comparison that happens even if nobody gave notice.
const EVERY: Duration = Duration::from_secs(10);
/// A firewall reload is many commits: let it come to rest, so that one comparison does.
const SETTLE: Duration = Duration::from_millis(50);

/// Starts the task that listens to the kernel and compares.
pub fn start(agent: Arc<Agent>, mut notices: Notices) {
    let files = agent.clone();
    tokio::spawn(async move {
        // Names are resolved there, which may take long: drift must not wait for it.
        let mut timer = tokio::time::interval(EVERY);
        timer.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            timer.tick().await;
            files.start_what_was_broken().await;
            if let Ok(_no_reload) = files.reloading.try_lock() {
                files.drop_orphans().await;
            }
        }
    });
    tokio::spawn(async move {
        let mut timer = tokio::time::interval(EVERY);
        timer.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut listening = true;
        loop {
            tokio::select! {
                _ = timer.tick() => {
                    let full = !agent.shared.journal.has_room().await;
                    agent.disk_is_full.store(full, Ordering::Relaxed);
                }
                changed = notices.others_changed(), if listening => match changed {
                    Ok(true) => {
                        agent.sight.rules_changed.store(true, Ordering::Relaxed);
                        tokio::time::sleep(SETTLE).await;
                    }
                    Ok(false) => continue,
                    Err(error) => {
                        tracing::error!(%error, "no notice of others' changes any more: drift is found on a timer only");
                        listening = false;
                    }
                },
            }
            agent.compare().await;
        }
    });
}

impl Agent {
    async fn compare(&self) {
        // An interface that has just come is no drift: upkeep sees to it.
        let compare = |datapath: &mut Box<dyn Datapath>| datapath.upkeep().and_then(|()| datapath.reconcile());
        let found = self.shared.datapath.run(compare).await;
        self.shared.counters.reconciled(self.shared.clock.unix_ms_now());
        self.note_drift(found);
    }

    fn note_drift(&self, found: Result<Result<Vec<Drift>, DatapathError>, Gone>) {
        let failure = match found {
            Ok(Ok(drift)) => {
                note_repair(&self.shared, &drift);
                None
            }
            Ok(Err(error)) => Some(super::error_chain(&error)),
            Err(error) => Some(error.to_string()),
        };
        let mut alarm = write(&self.drift_alarm);
        if let Some(message) = &failure
            && *alarm != failure
        {
            let entry = Entry {
                kind: "alarm",
                message: format!("the kernel could not be compared: {message}"),
                data: Vec::new(),
            };
            self.shared.journal.record(None, entry);
        }
        *alarm = failure;
    }
}

/// Puts what was amiss, and is repaired, into the history. How much of it is said is bounded; that it is said is not.
pub(super) fn note_repair(shared: &Shared, drift: &[Drift]) {
    const MOST: usize = 5;
    if drift.is_empty() {
        return;
    }
    shared.counters.repaired();
    let words: Vec<_> = drift.iter().take(MOST).map(ToString::to_string).collect();
    let more = if drift.len() > MOST { format!(" and {} more", drift.len() - MOST) } else { String::new() };
    let message = format!("somebody changed the kernel's tables; repaired: {}{more}", words.join("; "));
    shared.journal.record(None, Entry { kind: "drift", message, data: vec![("places", drift.len().to_string())] });
}
