//! Ending the sessions that clients have on a primary which is to hand over, through listeners that hold new connections
//! and spare these. [`Dismissal`] decides; here the server is asked what its sessions do, conntrack whose they are, and the
//! datapath blocks, severs and lets go on.
//!
//! Sessions are found by where the server says that they come from. All flows are looked at once, while the
//! server is asked for its sessions: the way through conntrack's table takes longer than all of the rest, and whoever wants a
//! single entry waits for it. Since the listeners hold new connections, whoever is not there then does not come later.

mod list;
mod mariadb;
mod mysql;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::ops::ControlFlow;
use std::time::Duration;

use shunt_core::Mono;
use shunt_core::datapath::{Datapath, DatapathError, Meter};
use shunt_core::flow::{Flow, FlowFilter, Tuple};
use shunt_core::operation::sessions::{Dismissal, Peer, Session, Then, View};
use shunt_core::operation::{Sessions, TaskError};
use tokio::sync::oneshot;
use tokio::time::error::Elapsed;
use tokio::time::{Instant, sleep, timeout_at};

use self::list::List;
pub(crate) use self::mariadb::{Shows, WITNESSES};
use super::work::{Work, refused, unknown};
use super::{Executor, sheltered};
use crate::driver::Worker;

/// What is done with the flows.
#[derive(Clone)]
pub struct Hands {
    pub datapath: Worker<Box<dyn Datapath>>,
    pub meter: Worker<Box<dyn Meter>>,
}

impl Executor {
    /// Ends the sessions that clients have on `server` through `listeners`: idle ones at once, those inside a transaction when
    /// it is over or after `grace`. The listeners spare the server. If it is dropped, or fails, no flow stays blocked.
    pub async fn end_sessions(
        &self,
        server: SocketAddr,
        listeners: &[SocketAddr],
        grace: Duration,
        within: Duration,
        hands: Hands,
    ) -> Result<Sessions, TaskError> {
        let by = Instant::now() + within;
        let (links, listeners) = (self.links.clone(), listeners.to_vec());
        let work = async move {
            let work = Work { links: &links, server, within, by };
            end_sessions(work, listeners, grace, hands).await
        };
        sheltered(Some(server), work).await
    }
}

/// Whether the server shows which of its sessions are inside a transaction.
pub(super) async fn are_shown(work: Work<'_>) -> bool {
    let looked = async { List::open(work).await?.look(work).await };
    match looked.await {
        Ok(sessions) => sessions.is_some(),
        Err(error) => {
            tracing::warn!(server = %work.server, error = error.message, "the sessions there cannot be seen");
            false
        }
    }
}

async fn end_sessions(
    work: Work<'_>,
    listeners: Vec<SocketAddr>,
    grace: Duration,
    hands: Hands,
) -> Result<Sessions, TaskError> {
    let begin = Instant::now();
    let mut blocked = Blocked { datapath: hands.datapath.clone(), flows: Vec::new() };
    let mut flows = Flows { server: work.server, listeners, hands, known: BTreeMap::new() };
    let mut dismissal = Dismissal::new(work.server, grace, Mono::ZERO);
    let (list, meter) = tokio::join!(List::open(work), flows.own_meter(work.by));
    let (mut list, reading) = (list?, flows.begin_to_read(meter?));
    // All flows as they were when new connections had ceased.
    let (sessions, at_first) = tokio::join!(list.look(work), timeout_at(work.by, reading));
    let (mut sessions, at_first) = (sessions?, told(at_first.map(Result::ok))?);
    flows.know(&at_first);
    let mut whole = false;
    loop {
        let known = sessions.as_deref().and_then(addresses).filter(|_| !whole);
        let (found, whole_view) = match known {
            Some(addresses) => (flows.seen_as(addresses, work.by).await?, false),
            None => (flows.all(work.by).await?, true),
        };
        let view = View { flows: &found, whole: whole_view, sessions: sessions.as_deref() };
        let round = dismissal.look(view, Mono(begin.elapsed()));
        flows.order(Order::Unblock, round.unblock, work.by).await?;
        flows.known.retain(|_, flow| !round.sever.contains(&flow.tuple));
        flows.order(Order::Sever, round.sever, work.by).await?;
        blocked.flows = dismissal.blocked();
        flows.order(Order::Block, round.block, work.by).await?;
        match round.then {
            Then::Done(sessions) => return Ok(sessions),
            Then::Look { after, whole: all } => {
                if all
                    && after.is_zero()
                    && let Some(sessions) = dismissal.are_all(&at_first)
                {
                    return Ok(sessions);
                }
                whole = all;
                sleep(after).await;
                sessions = list.look(work).await?;
            }
        }
    }
}

/// Where the sessions come from, if the server says it of all of them.
fn addresses(sessions: &[Session]) -> Option<Vec<SocketAddr>> {
    let address = |session: &Session| match session.peer {
        Peer::Address(address) => Some(address),
        Peer::Port(_) => None,
    };
    sessions.iter().map(address).collect()
}

/// The flows of the server.
struct Flows {
    server: SocketAddr,
    listeners: Vec<SocketAddr>,
    hands: Hands,
    /// Those that were looked up, by whom the server sees.
    known: BTreeMap<SocketAddr, Flow>,
}

#[derive(Clone, Copy)]
enum Order {
    Block,
    Unblock,
    Sever,
}

impl Flows {
    fn know(&mut self, flows: &[Flow]) {
        self.known.extend(flows.iter().map(|flow| (flow.seen_as, *flow)));
    }

    async fn seen_as(&mut self, clients: Vec<SocketAddr>, by: Instant) -> Result<Vec<Flow>, TaskError> {
        let (server, listeners) = (self.server, self.listeners.clone());
        let unknown: Vec<_> = clients.iter().filter(|client| !self.known.contains_key(client)).copied().collect();
        if !unknown.is_empty() {
            let found = self.read(by, move |meter| meter.flows_seen_as(&listeners, server, &unknown)).await?;
            self.know(&found);
        }
        Ok(clients.iter().filter_map(|client| self.known.get(client).copied()).collect())
    }

    async fn all(&self, by: Instant) -> Result<Vec<Flow>, TaskError> {
        self.read(by, self.reader()).await
    }

    async fn own_meter(&self, by: Instant) -> Result<Box<dyn Meter>, TaskError> {
        told(timeout_at(by, self.hands.datapath.run(|datapath| datapath.meter())).await.map(Result::ok))
    }

    /// Reads them all with a meter of its own, so that nobody waits for this one.
    fn begin_to_read(&self, mut meter: Box<dyn Meter>) -> oneshot::Receiver<Read> {
        let (reader, (tell, told)) = (self.reader(), oneshot::channel());
        tokio::task::spawn_blocking(move || {
            // Nobody waits for it any more if the sessions could not be seen.
            let _ = tell.send(reader(&mut meter));
        });
        told
    }

    fn reader(&self) -> impl FnOnce(&mut Box<dyn Meter>) -> Read + Send + use<> {
        let (server, listeners) = (self.server, self.listeners.iter().copied().collect());
        move |meter| {
            let mut all = Vec::new();
            meter.flows(&FlowFilter { listeners, source_port: None }, &mut |flow| {
                if flow.backend == server {
                    all.push(flow);
                }
                ControlFlow::Continue(())
            })?;
            Ok(all)
        }
    }

    async fn read<T: Send + 'static>(
        &self,
        by: Instant,
        job: impl FnOnce(&mut Box<dyn Meter>) -> Result<T, DatapathError> + Send + 'static,
    ) -> Result<T, TaskError> {
        told(timeout_at(by, self.hands.meter.run(job)).await.map(Result::ok))
    }

    async fn order(&self, order: Order, flows: Vec<Tuple>, by: Instant) -> Result<(), TaskError> {
        if flows.is_empty() {
            return Ok(());
        }
        let (what, number) = (order.word(), flows.len());
        let job = move |datapath: &mut Box<dyn Datapath>| match order {
            Order::Block => datapath.block(&flows),
            Order::Unblock => datapath.unblock(&flows),
            Order::Sever => datapath.sever(&flows),
        };
        match timeout_at(by, self.hands.datapath.run(job)).await {
            Ok(Ok(Ok(()))) => Ok(()),
            Ok(Ok(Err(error))) => Err(refused(format!("{number} flows cannot be {what}: {}", words(&error)))),
            Ok(Err(gone)) => Err(refused(format!("{number} flows cannot be {what}: {gone}"))),
            Err(_) => Err(unknown(format!("{number} flows could not be {what} in time"))),
        }
    }
}

type Read = Result<Vec<Flow>, DatapathError>;

/// What was read; `Ok(None)`: by a thread that has ended.
fn told<T>(read: Result<Option<Result<T, DatapathError>>, Elapsed>) -> Result<T, TaskError> {
    match read {
        Ok(Some(Ok(read))) => Ok(read),
        Ok(Some(Err(error))) => Err(refused(format!("the flows cannot be read: {}", words(&error)))),
        Ok(None) => Err(refused("the flows cannot be read: the thread that reads them is gone".to_owned())),
        Err(_) => Err(unknown("the flows could not be read in time".to_owned())),
    }
}

impl Order {
    const fn word(self) -> &'static str {
        match self {
            Self::Block => "blocked",
            Self::Unblock => "unblocked",
            Self::Sever => "severed",
        }
    }
}

/// With its causes.
fn words(error: &DatapathError) -> String {
    crate::driver::error_chain(error)
}

/// Flows that are blocked, and go on if nobody comes back to them.
struct Blocked {
    datapath: Worker<Box<dyn Datapath>>,
    flows: Vec<Tuple>,
}

impl Drop for Blocked {
    fn drop(&mut self) {
        let flows = std::mem::take(&mut self.flows);
        if flows.is_empty() {
            return;
        }
        let sent = self.datapath.send(move |datapath| {
            if let Err(error) = datapath.unblock(&flows) {
                tracing::warn!(error = words(&error), "flows stay blocked until their listener leads somewhere");
            }
        });
        if sent.is_err() {
            tracing::warn!("flows stay blocked until their listener leads somewhere: the datapath's thread is gone");
        }
    }
}
