//! One task a cluster: it feeds the state machine, carries its actions out in order, and publishes its status.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use shunt_core::cluster::{Action, Cluster, ClusterStatus, Entry, Event, Pace};
use shunt_core::config::{ClusterConfig, FailoverMode, Salvage};
use shunt_core::datapath::Datapath;
use shunt_core::observation::Observation;
use shunt_core::operation::{Intent, OpId};
use shunt_core::signal::Suspicion;
use shunt_core::{ClusterName, Epoch, Mono};
use tokio::sync::{mpsc, oneshot, watch};

use super::journal::Journal;
use super::lease::Renewals;
use super::operate::Owed;
use super::tasks::{Logins, Outcome, Tasks, Tools};
use super::worker::Worker;
use crate::clock::Clock;
use crate::control::api::{Problem, ProblemCode, SCHEMA_VERSION};
use crate::operate::Terms;
use crate::probe::{self, Cadence, ProbeHandle};
use crate::store;
use crate::telemetry::Counters;

/// How many requests or observations may wait for a cluster's task.
const QUEUE: usize = 64;

/// What the task shares with the rest of the agent.
#[derive(Clone)]
pub struct Shared {
    pub clock: Clock,
    pub journal: Journal,
    pub datapath: Worker<Box<dyn Datapath>>,
    pub counters: Counters,
    pub renewals: Renewals,
    pub tools: Tools,
}

/// The way to a cluster's task. Dropping it ends the task and its probes; the kernel keeps what it holds.
pub struct ClusterHandle {
    requests: mpsc::Sender<Request>,
    status: watch::Receiver<ClusterStatus>,
    pub config: ClusterConfig,
    pub login: Logins,
}

/// What an operator, or a reload, asks of a cluster.
pub enum Request {
    Pin {
        server: SocketAddr,
        listener: Option<SocketAddr>,
        confirmed: bool,
        by: String,
        reply: Reply,
    },
    Unpin {
        listener: Option<SocketAddr>,
        by: String,
        reply: Reply,
    },
    Pause {
        time: Option<Duration>,
        reason: String,
        by: String,
        reply: Reply,
    },
    Resume {
        by: String,
        reply: Reply,
    },
    /// A failover or a switchover, or a dry run of one. Answered as soon as it has begun.
    Operate {
        intent: Intent,
        reply: oneshot::Sender<Result<OpId, Problem>>,
    },
    /// What is under way is to be taken back.
    Abort {
        by: String,
        reply: Reply,
    },
    /// A server that was cast out is to be compared anew.
    Rejoin {
        server: SocketAddr,
        by: String,
        reply: Reply,
    },
    /// The mark is to be taken from a server that was cast out.
    Clear {
        server: SocketAddr,
        by: String,
        reply: Reply,
    },
    Reconfigure {
        config: Box<ClusterConfig>,
        login: Logins,
        reply: oneshot::Sender<()>,
    },
    /// The kernel has stopped these listeners.
    LeaseLapsed(Vec<SocketAddr>),
    /// Traffic gives a reason to ask.
    Suspected(Suspicion),
    /// The status as of now.
    Status(oneshot::Sender<ClusterStatus>),
    /// Answered when the task gets round to it: a sign of life.
    Ping(oneshot::Sender<()>),
    /// Answered when nothing more will be sent to the kernel. The task ends.
    Stop(oneshot::Sender<()>),
}

pub(super) type Reply = oneshot::Sender<Result<String, Problem>>;

/// What a request comes to: what is to be done, and what to say when it has been.
pub(super) struct Served {
    pub(super) actions: Vec<Action>,
    pub(super) answer: Option<(Reply, Result<String, Problem>)>,
    /// Told when the actions have been carried out.
    pub(super) done: Option<oneshot::Sender<()>>,
}

pub(super) struct ClusterTask {
    pub(super) name: ClusterName,
    pub(super) machine: Cluster,
    pub(super) shared: Shared,
    pub(super) login: Logins,
    requests: mpsc::Receiver<Request>,
    observations: mpsc::Receiver<Observation>,
    pub(super) observer: mpsc::Sender<Observation>,
    pub(super) cadence: watch::Sender<Cadence>,
    pub(super) probes: BTreeMap<SocketAddr, ProbeHandle>,
    status: watch::Sender<ClusterStatus>,
    /// The mode that the probes run in.
    pub(super) probing: FailoverMode,
    /// The epoch that the store has.
    pub(super) written: Epoch,
    pub(super) tasks: Tasks,
    outcomes: mpsc::UnboundedReceiver<Outcome>,
    pub(super) owed: Owed,
}

impl ClusterHandle {
    /// Starts the task. It returns when the cluster's first plan has been carried out, or has failed.
    pub async fn start(
        config: ClusterConfig,
        login: Logins,
        remembered: shunt_core::cluster::Remembered,
        shared: Shared,
    ) -> Self {
        let (requests, inbox) = mpsc::channel(QUEUE);
        let (observer, observations) = mpsc::channel(QUEUE);
        let now = shared.clock.now();
        let written = remembered.epoch;
        let kept_login = login.clone();
        let (machine, actions) = Cluster::new(config.clone(), remembered, now);
        let (status, watched) = watch::channel(machine.status(now));
        let (tasks, outcomes) =
            Tasks::new(config.name.clone(), login.clone(), terms(&config, &login), shared.tools.clone());
        let mut task = ClusterTask {
            name: config.name.clone(),
            machine,
            shared,
            login,
            requests: inbox,
            observations,
            observer,
            cadence: watch::Sender::new(Cadence::Normal),
            probes: BTreeMap::new(),
            status,
            probing: config.failover,
            written,
            tasks,
            outcomes,
            owed: Owed::default(),
        };
        task.carry_out(actions).await;
        task.probe_as_configured();
        tokio::spawn(task.run());
        Self { requests, status: watched, config, login: kept_login }
    }

    /// The status as of the last decision, for when the task does not get round to telling it anew.
    pub fn last_status(&self) -> ClusterStatus {
        self.status.borrow().clone()
    }

    /// A way to send requests that outlives the borrow of the handle.
    pub fn requests(&self) -> mpsc::Sender<Request> {
        self.requests.clone()
    }
}

impl ClusterTask {
    async fn run(mut self) {
        loop {
            let owed = self.owed.is_some().then(|| self.now() + Duration::from_secs(1));
            let deadline = self.machine.next_deadline().into_iter().chain(owed).min();
            let deadline = deadline.map(|at| self.shared.clock.instant(at));
            let sleep = async {
                match deadline {
                    Some(at) => tokio::time::sleep_until(at.into()).await,
                    None => std::future::pending().await,
                }
            };
            let Served { actions, answer, done } = tokio::select! {
                request = self.requests.recv() => match request {
                    Some(Request::Stop(stopped)) => {
                        let _ = stopped.send(());
                        return;
                    }
                    Some(request) => self.serve(request).await,
                    None => return,
                },
                Some(seen) = self.observations.recv() => self.handle(Event::Observed(seen)).into(),
                Some((order, result)) = self.outcomes.recv() => self.handle(Event::TaskDone { order, result }).into(),
                () = sleep => self.handle(Event::Deadline).into(),
            };
            if self.owed.is_some() {
                self.pay().await;
            }
            if !actions.is_empty() {
                self.carry_out(actions).await;
                self.status.send_replace(self.machine.status(self.now()));
            }
            // A mode that had to wait for an operation's end.
            if self.probing != self.machine.config().failover {
                self.probe_as_configured();
            }
            if let Some(done) = done {
                let _ = done.send(());
            }
            if let Some((reply, answer)) = answer {
                // Whoever asked may have gone.
                let _ = reply.send(self.with_outcome(answer));
            }
        }
    }

    /// What an operator is told: that it was written down, and whether the kernel has it too.
    fn with_outcome(&self, answer: Result<String, Problem>) -> Result<String, Problem> {
        let Some(trouble) = self.machine.trouble() else { return answer };
        answer.map(|done| format!("{done}, but it is not in force yet: {trouble}"))
    }

    pub(super) fn handle(&mut self, event: Event) -> Vec<Action> {
        self.machine.handle(event, self.now())
    }

    pub(super) fn now(&self) -> Mono {
        self.shared.clock.now()
    }

    /// Carries actions out in order, and those that follow from their results.
    async fn carry_out(&mut self, actions: Vec<Action>) {
        let mut actions = std::collections::VecDeque::from(actions);
        while let Some(action) = actions.pop_front() {
            match action {
                Action::Commit(plan) => {
                    let outcome = self.commit(plan).await;
                    actions.extend(self.handle(outcome));
                }
                Action::Pace(pace) => {
                    self.cadence.send_replace(match pace {
                        Pace::Normal => Cadence::Normal,
                        Pace::Urgent => Cadence::Urgent,
                    });
                    self.warm_up(pace);
                }
                Action::Hasten => probe::hasten(&self.cadence),
                Action::Record(entry) => self.shared.journal.record(Some(&self.name), entry),
                Action::Begin { operation, orders } => {
                    let outcome = self.begin(operation, orders).await;
                    actions.extend(self.handle(outcome));
                }
                Action::Start(orders) => self.start(orders),
                Action::Forget(orders) => self.tasks.forget(&orders),
                Action::End { operation, ending } => self.end(operation, ending).await,
                Action::KeepOutcasts(outcasts) => self.keep_outcasts(outcasts).await,
                Action::Notify(notice) => self.shared.tools.hooks.tell(notice),
            }
        }
    }

    /// In trouble, what may have to be done next must not wait for a login.
    fn warm_up(&self, pace: Pace) {
        let config = self.machine.config();
        if pace == Pace::Urgent && config.failover == FailoverMode::Promote {
            self.tasks.warm(config.servers.iter().map(|s| s.address).collect(), config.probe.timeout * 2);
        }
    }

    async fn serve(&mut self, request: Request) -> Served {
        match request {
            Request::Pin { server, listener, confirmed, by, reply } => {
                if let Some(busy) = self.busy() {
                    return Served { actions: Vec::new(), answer: Some((reply, Err(busy))), done: None };
                }
                let doubts = self.machine.pin_doubts(server);
                if !confirmed && !doubts.is_empty() {
                    let doubt = Problem {
                        schema_version: SCHEMA_VERSION,
                        code: ProblemCode::NeedsConfirmation,
                        error: doubts.join("; "),
                        hint: Some("confirm it with --yes if you know better".to_owned()),
                        details: None,
                    };
                    return Served { actions: Vec::new(), answer: Some((reply, Err(doubt))), done: None };
                }
                let since_ms = self.shared.clock.unix_ms_now();
                let pin = store::Pin { cluster: self.name.clone(), listener, server, since_ms, by: by.clone() };
                let saved = self.shared.journal.with(move |store| store.pin(&pin)).await;
                if saved.is_ok() && listener.is_none() {
                    // Who the primary is has been said: nobody goes on with what cannot be read.
                    self.put_aside_unreadable(format!("pinned to {server} by {by}")).await;
                }
                let what = format!("{} pinned to {server} by {by}", pinned_words(&self.name, listener));
                self.answer(saved, what, reply, Event::Pin { listener, server })
            }
            Request::Unpin { listener, by, reply } => {
                let name = self.name.clone();
                let saved = self.shared.journal.with(move |store| store.unpin(&name, listener)).await;
                let words = pinned_words(&self.name, listener);
                let mut what = match saved {
                    Ok(false) => format!("{words} was not pinned"),
                    _ => format!("{words} unpinned by {by}"),
                };
                for (still, server) in self.machine.pins().iter().filter(|(l, _)| **l != listener) {
                    what.push_str(&format!("; {} still is, to {server}", pinned_words(&self.name, *still)));
                }
                self.answer(saved.map(|_| ()), what, reply, Event::Unpin { listener })
            }
            Request::Pause { time, reason, by, reply } => {
                let since_ms = self.shared.clock.unix_ms_now();
                let pause = store::Pause {
                    cluster: self.name.clone(),
                    until_ms: time.map(|t| since_ms.saturating_add(i64::try_from(t.as_millis()).unwrap_or(i64::MAX))),
                    reason: reason.clone(),
                    since_ms,
                    by: by.clone(),
                };
                let saved = self.shared.journal.with(move |store| store.pause(&pause)).await;
                let what = format!("{} paused by {by}: {reason}", self.name);
                let until = time.map(|t| self.now() + t);
                self.answer(saved, what, reply, Event::Pause { until, reason: format!("{reason} ({by})") })
            }
            Request::Resume { by, reply } => {
                let name = self.name.clone();
                let saved = self.shared.journal.with(move |store| store.resume(&name)).await;
                let what = format!("{} resumed by {by}", self.name);
                self.answer(saved.map(|_| ()), what, reply, Event::Resume)
            }
            Request::Reconfigure { config, login, reply } => {
                self.tasks.log_in_as(login.clone(), terms(&config, &login));
                self.login = login;
                // Before anything is decided on locks that went with their connections.
                let reconnected = self.set_probes(&config, self.machine.mode_for_now(&config));
                let actions = self.machine.reconfigure(*config, &reconnected, self.now());
                self.forget_lost_pins().await;
                Served { actions, answer: None, done: Some(reply) }
            }
            Request::Operate { intent, reply } => {
                let (actions, begun) = self.operate(intent);
                // Whoever asked may have gone.
                let _ = reply.send(begun);
                actions.into()
            }
            Request::Abort { by, reply } => self.abort(by, reply).await,
            Request::Rejoin { server, by, reply } => {
                if let Some(busy) = self.busy() {
                    return Served { actions: Vec::new(), answer: Some((reply, Err(busy))), done: None };
                }
                if self.machine.follows_already(server, self.now()) {
                    let done = format!(
                        "{server} replicates from the primary of {} already: there is nothing to do",
                        self.name
                    );
                    return Served { actions: Vec::new(), answer: Some((reply, Ok(done))), done: None };
                }
                let done = format!("{server} is compared with the primary of {}, asked for by {by}", self.name);
                let actions = self.handle(Event::Rejoin { server, by });
                Served { actions, answer: Some((reply, Ok(done))), done: None }
            }
            Request::Clear { server, by, reply } => {
                if let Some(busy) = self.busy() {
                    return Served { actions: Vec::new(), answer: Some((reply, Err(busy))), done: None };
                }
                let done = format!("{server} of {} is cast out no more, cleared by {by}", self.name);
                let actions = self.handle(Event::Clear { server, by });
                Served { actions, answer: Some((reply, Ok(done))), done: None }
            }
            Request::LeaseLapsed(listeners) => self.handle(Event::LeaseLapsed { listeners }).into(),
            Request::Suspected(suspicion) => self.handle(Event::Suspected(suspicion)).into(),
            Request::Status(reply) => {
                let _ = reply.send(self.machine.status(self.now()));
                Vec::new().into()
            }
            Request::Ping(reply) | Request::Stop(reply) => {
                let _ = reply.send(());
                Vec::new().into()
            }
        }
    }

    /// An operator's word counts once it is written down, and not before.
    pub(super) fn answer(
        &mut self,
        saved: Result<(), super::journal::JournalError>,
        done: String,
        reply: Reply,
        event: Event,
    ) -> Served {
        match saved {
            Ok(()) => Served { actions: self.handle(event), answer: Some((reply, Ok(done))), done: None },
            Err(error) => {
                let error = error_chain(&error);
                let problem = Problem {
                    schema_version: SCHEMA_VERSION,
                    code: ProblemCode::Failed,
                    error: format!("nothing was changed, because it could not be written down: {error}"),
                    hint: None,
                    details: None,
                };
                let entry = Entry { kind: "refused", message: error, data: Vec::new() };
                Served { actions: vec![Action::Record(entry)], answer: Some((reply, Err(problem))), done: None }
            }
        }
    }

    /// A pin to a server that has left the configuration must not come back with the server, or with the agent.
    async fn forget_lost_pins(&self) {
        let (name, kept) = (self.name.clone(), self.machine.pins().clone());
        let forgotten = self.shared.journal.with(move |store| {
            for pin in store.pins()?.into_iter().filter(|pin| pin.cluster == name && !kept.contains_key(&pin.listener))
            {
                store.unpin(&pin.cluster, pin.listener)?;
            }
            Ok(())
        });
        if let Err(error) = forgotten.await {
            tracing::error!(error = error_chain(&error), "a pin that is void could not be removed from the store");
        }
    }
}

impl From<Vec<Action>> for Served {
    fn from(actions: Vec<Action>) -> Self {
        Self { actions, answer: None, done: None }
    }
}

fn terms(config: &ClusterConfig, login: &Logins) -> Terms {
    Terms {
        login: login.replication.clone(),
        // Replicas are to know of a silent source as soon as the probes do.
        heartbeat: config.probe.interval.clamp(Duration::from_millis(200), Duration::from_secs(1)),
        applies: config.promoting.salvage == Salvage::Apply,
    }
}

fn pinned_words(cluster: &ClusterName, listener: Option<SocketAddr>) -> String {
    listener.map_or_else(|| cluster.to_string(), |l| format!("listener {l} of {cluster}"))
}

/// An error with all its causes, in one line.
pub fn error_chain(error: &dyn std::error::Error) -> String {
    let mut words = error.to_string();
    let mut cause = error.source();
    while let Some(next) = cause {
        let text = next.to_string();
        if !words.ends_with(&text) {
            words = format!("{words}: {text}");
        }
        cause = next.source();
    }
    words
}
