//! Traffic as a reason to ask: the datapath's signals are looked at many times a second, which costs no system call, and
//! whose backend is suspect has its cluster's servers asked at once.

use std::sync::Arc;
use std::time::Duration;

use shunt_core::datapath::{DatapathError, Meter};
use shunt_core::signal::{ConnectTimes, Suspicion, Watch};

use super::agent::Agent;
use super::cluster::Request;

/// On top of the silence that it takes: a backend that is lost without a word is suspected after 150 to 200 ms, and whatever its
/// clients take until they ask something, and the agent until it is its turn. `bench suspicion` measures it.
const EVERY: Duration = Duration::from_millis(50);

/// Starts the task that looks, if the datapath has signals.
pub(super) fn start(agent: Arc<Agent>) {
    tokio::spawn(async move {
        let meter = agent.shared.datapath.run(|datapath| datapath.meter()).await;
        let mut meter = match meter {
            Ok(Ok(meter)) => meter,
            Ok(Err(error)) => {
                tracing::warn!(error = super::error_chain(&error), "what traffic tells of servers cannot be read");
                return;
            }
            Err(_) => return,
        };
        let mut watch = Watch::default();
        let mut timer = tokio::time::interval(EVERY);
        timer.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            timer.tick().await;
            match agent.listen(&mut *meter, &mut watch) {
                Ok(()) => {}
                Err(DatapathError::Unsupported(why)) => {
                    tracing::debug!(why, "servers are asked at their usual times only");
                    return;
                }
                Err(error) => {
                    tracing::warn!(error = super::error_chain(&error), "what traffic tells of servers cannot be read");
                    return;
                }
            }
        }
    });
}

impl Agent {
    fn listen(&self, meter: &mut dyn Meter, watch: &mut Watch) -> Result<(), DatapathError> {
        let now = self.shared.clock.now();
        meter.signals(&mut |told| {
            if let Some(suspicion) = watch.look(told, now) {
                self.suspect(suspicion);
            }
        })
    }

    /// A cluster whose task has no room for it has more pressing news already.
    fn suspect(&self, suspicion: Suspicion) {
        let Some(requests) = self.cluster_of(suspicion.listener).and_then(|cluster| self.requests(&cluster)) else {
            return;
        };
        if requests.try_send(Request::Suspected(suspicion)).is_err() {
            tracing::debug!("a cluster's task is too busy to be told of a suspicion");
        }
    }

    /// What traffic has told of each listener's backends; `None` when that cannot be told.
    pub async fn connect_times(&self) -> Option<Vec<ConnectTimes>> {
        match self.meter.run(|meter| meter.connect_times()).await {
            Ok(Ok(times)) => Some(times),
            Ok(Err(DatapathError::Unsupported(_))) | Err(_) => None,
            Ok(Err(error)) => {
                tracing::warn!(error = super::error_chain(&error), "what traffic tells of servers could not be read");
                None
            }
        }
    }
}
