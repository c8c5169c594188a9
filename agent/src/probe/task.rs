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

/// When it turns urgent, whoever is connected is asked at once and then this often for a short while: a replica notices the
/// end of its source some milliseconds after we did, and the next 50 ms would be waited for in vain.
const BURST_EVERY: Duration = Duration::from_millis(10);
const BURST: Duration = Duration::from_millis(100);

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
    /// The cadence when it was last looked at.
    known: Cadence,
    /// Since when it is urgent, as far as this probe has taken notice.
    urgent_since: Option<Mono>,
}

/// What is waited for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Tick {
    Connect,
    Ask,
}

pub async fn run(
    spec: ProbeSpec,
    cadence: watch::Receiver<Cadence>,
    observations: mpsc::Sender<Observation>,
    clock: Clock,
) {
    let phase = phase(spec.server, spec.interval);
    let login = Login::new(spec.clone());
    let known = *cadence.borrow();
    let Err(Gone) =
        (Probe { spec, cadence, observations, clock, phase, known, urgent_since: None }).observe(login).await;
}

impl Probe {
    async fn observe(&mut self, mut login: Login) -> Result<std::convert::Infallible, Gone> {
        self.next(Tick::Connect).await?;
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
                    self.next(Tick::Connect).await?;
                }
                Ok(session) => {
                    silent = 0;
                    let answered = self.keep_asking(session).await?;
                    if answered {
                        // It worked a moment ago: whether it still does is wanted at once. But a server that breaks every
                        // connection soon after it was made is not to be hammered.
                        sleep_until(self.clock.instant(started + URGENT).into()).await;
                    } else {
                        self.next(Tick::Connect).await?;
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
                ticked = self.next(Tick::Ask) => ticked?,
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

    /// Waits for the next tick, by whatever cadence is in force by then. That it has turned urgent is a tick of its own, and so
    /// is being asked to hasten, be it while the last round was under way.
    async fn next(&mut self, tick: Tick) -> Result<(), Gone> {
        let from = self.clock.now();
        let mut is_told = false;
        loop {
            let cadence = {
                let cadence = self.cadence.borrow_and_update();
                is_told |= cadence.has_changed();
                *cadence
            };
            let is_hastened = is_told && cadence == self.known;
            self.known = cadence;
            match (cadence, self.urgent_since) {
                (Cadence::Normal, _) => self.urgent_since = None,
                (Cadence::Urgent, Some(_)) => {}
                (Cadence::Urgent, None) => {
                    self.urgent_since = Some(self.clock.now());
                    return Ok(());
                }
            }
            if is_hastened {
                return Ok(());
            }
            let urgent_for = self.urgent_since.map(|since| from.since(since));
            let every = every(tick, urgent_for).map_or(self.spec.interval, |every| every.min(self.spec.interval));
            let at = self.clock.instant(following(from, every, self.phase)).into();
            tokio::select! {
                () = sleep_until(at) => return Ok(()),
                changed = self.cadence.changed() => {
                    changed.map_err(|_| Gone)?;
                    is_told = true;
                }
                () = self.observations.closed() => return Err(Gone),
            }
        }
    }
}

/// From one tick to the next, by how long it has been urgent. `None`: as is usual.
fn every(tick: Tick, urgent_for: Option<Duration>) -> Option<Duration> {
    let urgent_for = urgent_for?;
    let is_burst = tick == Tick::Ask && urgent_for < BURST;
    Some(if is_burst { BURST_EVERY } else { URGENT })
}

/// The first moment after `now` that is `phase` after a multiple of `every`.
fn following(now: Mono, every: Duration, phase: Duration) -> Mono {
    let every = every.as_nanos().max(1);
    let phase = phase.as_nanos() % every;
    let rest = (now.0.as_nanos() + every - phase) % every;
    now + Duration::from_nanos((every - rest) as u64)
}

/// So many moments in an interval at which servers are asked. Those that share one are asked in one waking of the agent,
/// and waking costs more than asking: 300 probes cost 9.2 % of a core with a moment each, 6.1 % with 25, 3.8 % with 10.
const SLOTS: u128 = 10;

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
    let slot = (SLOTS * u128::from(hash >> 32)) >> 32;
    Duration::from_nanos((interval.as_nanos() / SLOTS * slot) as u64)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn many_servers_are_asked_at_many_moments_and_each_always_at_its_own() {
        let interval = Duration::from_millis(500);
        let servers: Vec<SocketAddr> =
            (0..3).flat_map(|host| (0..100).map(move |n| SocketAddr::from(([10, 0, host, n], 3306)))).collect();
        let phases: BTreeSet<_> = servers.iter().map(|&server| phase(server, interval)).collect();
        assert!(phases.len() as u128 > SLOTS / 2, "{phases:?}");
        assert!(phases.iter().all(|phase| *phase < interval));
        assert_eq!(phase(servers[7], interval), phase(servers[7], interval));
    }

    #[test]
    fn who_is_connected_is_asked_in_a_burst_when_it_turns_urgent_and_nobody_is_called_in_one() {
        assert_eq!(every(Tick::Ask, None), None);
        assert_eq!(every(Tick::Connect, None), None);
        assert_eq!(every(Tick::Ask, Some(Duration::ZERO)), Some(BURST_EVERY));
        assert_eq!(every(Tick::Connect, Some(Duration::ZERO)), Some(URGENT));
        assert_eq!(every(Tick::Ask, Some(BURST)), Some(URGENT));
    }

    #[test]
    fn the_next_tick_is_the_first_of_its_phase_that_lies_ahead() {
        let (every, phase) = (Duration::from_millis(500), Duration::from_millis(120));
        let next = |now| following(Mono::from_millis(now), every, phase);
        assert_eq!(next(0), Mono::from_millis(120));
        assert_eq!(next(119), Mono::from_millis(120));
        assert_eq!(next(120), Mono::from_millis(620));
        assert_eq!(next(700), Mono::from_millis(1120));
    }
}
