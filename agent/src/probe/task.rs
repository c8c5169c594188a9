//! The pace of a probe: when to connect, when to ask, and what to tell.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use shunt_core::Mono;
use shunt_core::observation::{FailureKind, Observation, Outcome};
use tokio::sync::{mpsc, watch};
use tokio::time::{sleep, sleep_until};

use super::session::{Login, Session, broken};
use super::socket::News;
use super::{Cadence, ProbeSpec};
use crate::clock::Clock;

/// The pace while evidence is being gathered, and the least time between two attempts to connect.
const URGENT: Duration = Duration::from_millis(50);

/// A server that is frozen takes connections all the same, and when it goes on it counts each that we gave up towards
/// `max_connect_errors`; behind NAT reaching that blocks every client. So many attempts are evidence enough, after them
/// there is one every so often.
const PATIENT_AFTER: u32 = 4;
const PATIENCE: Duration = Duration::from_secs(5);

/// Nobody receives observations any more.
struct Gone;

struct Probe {
    spec: ProbeSpec,
    cadence: watch::Receiver<Cadence>,
    observations: mpsc::Sender<Observation>,
    clock: Clock,
    phase: Duration,
}

pub async fn run(
    spec: ProbeSpec,
    cadence: watch::Receiver<Cadence>,
    observations: mpsc::Sender<Observation>,
    clock: Clock,
) {
    let phase = phase(spec.server, spec.interval);
    let login = Login::new(spec.clone());
    let Err(Gone) = (Probe { spec, cadence, observations, clock, phase }).observe(login).await;
}

impl Probe {
    async fn observe(&mut self, mut login: Login) -> Result<std::convert::Infallible, Gone> {
        self.next_tick().await?;
        let mut silent = 0;
        loop {
            let started = self.clock.now();
            match login.open().await {
                Err(failure) => {
                    silent = if failure.kind == FailureKind::NoAnswer { silent + 1 } else { 0 };
                    self.tell(started, Outcome::Failed(failure)).await?;
                    if silent >= PATIENT_AFTER {
                        sleep(PATIENCE).await;
                    }
                    self.next_tick().await?;
                }
                Ok(session) => {
                    silent = 0;
                    let answered = self.keep_asking(session).await?;
                    if answered {
                        // It worked a moment ago: whether it still does is wanted at once. But a server that breaks every
                        // connection is not to be hammered.
                        sleep_until(self.clock.instant(started + URGENT).into()).await;
                    } else {
                        self.next_tick().await?;
                    }
                }
            }
        }
    }

    /// Rounds over one connection until it breaks; whether there was an answer before that.
    async fn keep_asking(&mut self, mut session: Session) -> Result<bool, Gone> {
        let mut answered = false;
        loop {
            let asked_at = self.clock.now();
            let urgent = *self.cadence.borrow() == Cadence::Urgent;
            match session.ask(&self.spec, urgent).await {
                Ok(state) => {
                    answered = true;
                    self.tell(asked_at, Outcome::Answered(Box::new(state))).await?;
                }
                Err(failure) => {
                    session.abandon();
                    self.tell(asked_at, Outcome::Failed(failure)).await?;
                    return Ok(answered);
                }
            }
            tokio::select! {
                ticked = self.next_tick() => ticked?,
                news = session.news() => if let News::Broken(error) = news {
                    session.abandon();
                    let now = self.clock.now();
                    self.tell(now, Outcome::Failed(broken(&self.spec, &error))).await?;
                    return Ok(answered);
                }
                // What it spoke is read with the next round, which comes at once.
            }
        }
    }

    async fn tell(&self, since: Mono, outcome: Outcome) -> Result<(), Gone> {
        let at = self.clock.now();
        let seen = Observation { server: self.spec.server, at, took: at.since(since), outcome };
        self.observations.send(seen).await.map_err(|_| Gone)
    }

    /// Waits for the next tick, by whatever cadence is in force by then.
    async fn next_tick(&mut self) -> Result<(), Gone> {
        let from = self.clock.now();
        loop {
            let every = match *self.cadence.borrow_and_update() {
                Cadence::Normal => self.spec.interval,
                Cadence::Urgent => URGENT.min(self.spec.interval),
            };
            let at = self.clock.instant(following(from, every, self.phase)).into();
            tokio::select! {
                () = sleep_until(at) => return Ok(()),
                changed = self.cadence.changed() => changed.map_err(|_| Gone)?,
                () = self.observations.closed() => return Err(Gone),
            }
        }
    }
}

/// The first moment after `now` that is `phase` after a multiple of `every`.
fn following(now: Mono, every: Duration, phase: Duration) -> Mono {
    let every = every.as_nanos().max(1);
    let phase = phase.as_nanos() % every;
    let rest = (now.0.as_nanos() + every - phase) % every;
    now + Duration::from_nanos((every - rest) as u64)
}

/// Where in the interval a server's ticks lie: by its address, so that many servers are not asked all at once, and the
/// same after every start. FNV-1a.
fn phase(server: SocketAddr, interval: Duration) -> Duration {
    let ip = match server.ip() {
        IpAddr::V4(ip) => ip.octets().to_vec(),
        IpAddr::V6(ip) => ip.octets().to_vec(),
    };
    let hash = ip
        .into_iter()
        .chain(server.port().to_be_bytes())
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3));
    // The low bits of consecutive addresses differ little: take the high ones.
    Duration::from_nanos(((interval.as_nanos() * u128::from(hash >> 32)) >> 32) as u64)
}
