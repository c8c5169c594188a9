//! A plan into the kernel: its epoch is written down first.

use std::net::SocketAddr;
use std::time::Instant;

use shunt_core::cluster::{Event, Plan, Stage};
use shunt_core::datapath::Change;

use super::cluster::{ClusterTask, error_chain};

/// Why a plan is not in force.
enum Undone {
    Failed(String),
    /// The leases of these listeners of the cluster had run out.
    Lapsed(Vec<SocketAddr>),
}

impl ClusterTask {
    /// The epoch first, the kernel second.
    pub(super) async fn commit(&mut self, plan: Plan) -> Event {
        let Plan { epoch, primary, mappings, .. } = plan;
        let (decided, lease) = (Instant::now(), self.machine.config().lease);
        // The first primary of all is no failover.
        let before = self.machine.committed().and_then(|held| held.primary);
        let fails_over = before.is_some() && primary.is_some() && before != primary;
        if epoch > self.written {
            if let Err(error) = self.shared.journal.advance(&self.name, epoch, primary).await {
                return Event::CommitFailed { stage: Stage::State, error: error_chain(&error) };
            }
            self.written = epoch;
        }
        let change = Change { set: mappings, remove: Vec::new() };
        let (renewals, clock) = (self.shared.renewals.clone(), self.shared.clock);
        let listeners: Vec<_> = change.set.iter().map(|mapping| mapping.listener).collect();
        let applied = self.shared.datapath.run(move |datapath| {
            // Whoever slept for longer than a lease must look again before it opens anything.
            if let Some(lease) = lease {
                if decided.elapsed() > lease {
                    return (
                        Vec::new(),
                        Err(Undone::Failed("it was decided longer ago than a lease lasts".to_owned())),
                    );
                }
                match renewals.renew_unless_fresh(datapath.as_mut(), clock, lease, &listeners) {
                    Ok(lapsed) if lapsed.is_empty() => {}
                    Ok(lapsed) => return (Vec::new(), Err(Undone::Lapsed(lapsed))),
                    Err(error) => return (Vec::new(), Err(Undone::Failed(error_chain(&error)))),
                }
            }
            let first = match datapath.apply(&change) {
                Ok(applied) => return (Vec::new(), Ok(applied)),
                Err(error) => error,
            };
            // Somebody may have taken our table away a moment ago. Once it is back in line the change may pass.
            match datapath.reconcile() {
                Ok(drift) => (drift, datapath.apply(&change).map_err(|error| Undone::Failed(error_chain(&error)))),
                Err(_) => (Vec::new(), Err(Undone::Failed(error_chain(&first)))),
            }
        });
        let failed = |error| Event::CommitFailed { stage: Stage::Datapath, error };
        match applied.await {
            Ok((drift, result)) => {
                super::watch::note_repair(&self.shared, &drift);
                if fails_over && !matches!(result, Err(Undone::Lapsed(_))) {
                    self.count_failover(result.is_ok());
                }
                match result {
                    Ok(applied) => {
                        if applied.changed > 0 {
                            self.shared.counters.committed(applied.commit);
                        }
                        Event::Committed { commit: applied.commit }
                    }
                    Err(Undone::Failed(error)) => failed(error),
                    Err(Undone::Lapsed(listeners)) => Event::LeaseLapsed { listeners },
                }
            }
            Err(error) => failed(error.to_string()),
        }
    }

    fn count_failover(&self, succeeded: bool) {
        let status = self.machine.status(self.now());
        let reason = if status.pinned.is_some() { "pinned" } else { status.verdict.word() };
        let took = self.machine.trouble_since().map(|since| self.now().since(since));
        self.shared.counters.failover(self.name.as_str(), reason, succeeded, took);
    }
}
