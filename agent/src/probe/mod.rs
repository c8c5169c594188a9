//! Observing servers as an ordinary client. One task a server keeps one connection, asks everything in one round trip a
//! tick, and turns every answer, refusal or silence into an `Observation`. It decides nothing.
//!
//! A tick's way: [`task`] paces, [`session`] connects and asks, [`mysql`] and [`mariadb`] have the words and read the
//! answers, with [`semi_sync`] and [`promoter`] for what both say alike, [`classify`] names what failed, [`socket`] notices
//! a connection that breaks between ticks.

pub(crate) mod answer;
pub(crate) mod classify;
mod mariadb;
pub(crate) mod mysql;
mod promoter;
mod semi_sync;
pub(crate) mod session;
pub(crate) mod socket;
mod task;

use std::net::SocketAddr;
use std::time::Duration;

use shunt_core::observation::{Failure, FailureKind, Flavour, Observation, Outcome};
use tokio::sync::{mpsc, watch};
use tokio::task::{JoinError, JoinHandle, JoinSet};

use crate::clock::Clock;
use crate::config::Password;

/// Whom to observe, as whom, how often.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProbeSpec {
    pub server: SocketAddr,
    pub user: String,
    pub password: Password,
    /// Between two rounds of questions while all is calm.
    pub interval: Duration,
    /// For a connection with its login, and for a round.
    pub timeout: Duration,
    /// Whether the agent may promote here: then its connection holds the server's lock for that, as far as it is free.
    pub promotes: bool,
}

/// How urgently somebody wants to know. A change takes effect at once. Sent again as it is, it asks for one round now:
/// [`hasten`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cadence {
    /// A round every `ProbeSpec::interval`.
    Normal,
    /// A round every 50 ms: evidence is being gathered.
    Urgent,
}

/// Has everybody who goes by that cadence ask once, now.
pub fn hasten(cadence: &watch::Sender<Cadence>) {
    cadence.send_modify(|_| {});
}

/// A running probe. Dropping it ends the probe and closes its connection.
#[derive(Debug)]
pub struct ProbeHandle {
    spec: ProbeSpec,
    task: JoinHandle<()>,
}

impl ProbeHandle {
    /// Whether it observes as it is to, so that its connection, and the lock that this one holds, can be kept.
    pub fn serves(&self, spec: &ProbeSpec) -> bool {
        self.spec == *spec && !self.task.is_finished()
    }
}

impl Drop for ProbeHandle {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Starts observing a server. Must be called within a tokio runtime. The probe ends with its handle, or when nobody
/// receives its observations any more.
pub fn spawn(
    spec: ProbeSpec,
    cadence: watch::Receiver<Cadence>,
    observations: mpsc::Sender<Observation>,
    clock: Clock,
) -> ProbeHandle {
    let observed = spec.clone();
    let task = tokio::spawn(async move {
        // The client library panics on some of what a strange server can say (a malformed public key, an empty packet). That
        // is an observation like any other, and must not be the last one of its server.
        while let Some(Err(ended)) = run_once(&spec, &cadence, &observations, clock).await {
            if !ended.is_panic() {
                return;
            }
            let detail = format!("{} said something that the client library cannot read", spec.server);
            let outcome = Outcome::Failed(Failure { kind: FailureKind::NotMysql, detail });
            let seen = Observation { server: spec.server, at: clock.now(), took: Duration::ZERO, outcome };
            if observations.send(seen).await.is_err() {
                return;
            }
            tokio::time::sleep(spec.interval).await;
        }
    });
    ProbeHandle { spec: observed, task }
}

/// The probe in a task of its own, which ends with this one.
async fn run_once(
    spec: &ProbeSpec,
    cadence: &watch::Receiver<Cadence>,
    observations: &mpsc::Sender<Observation>,
    clock: Clock,
) -> Option<Result<(), JoinError>> {
    let mut probe = JoinSet::new();
    probe.spawn(task::run(spec.clone(), cadence.clone(), observations.clone(), clock));
    probe.join_next().await
}

/// Logs in once, as a probe would, for whoever has other questions than a probe.
pub async fn connect(spec: ProbeSpec) -> Result<mysql_async::Conn, Failure> {
    session::Login::new(spec).open().await.map(session::Session::into_conn)
}

/// What the probe's user needs, as statements with `shunt@'%'` for it. The first is required, the others only make the
/// evidence better.
pub const fn grants(flavour: Flavour) -> &'static [&'static str] {
    match flavour {
        Flavour::Mysql => mysql::GRANTS,
        Flavour::Mariadb => mariadb::GRANTS,
    }
}
