//! Carrying out what an operation asks of the servers. A [`Task`] is a bounded piece of work on one server; the executor
//! speaks the SQL for it and tells what came of it. It decides nothing.
//!
//! A task's way: [`link`] has a connection ready, [`dialect`] the server's words ([`mysql`], [`mariadb`]), [`work`] looks and
//! runs scripts with a deadline, and [`tasks`], [`disarm`] and [`follow`] know the order of things.

mod dialect;
mod disarm;
mod follow;
pub mod grants;
mod link;
mod mariadb;
mod mysql;
pub mod salvage;
mod sessions;
mod standing;
mod tasks;
mod work;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use shunt_core::operation::{Cause, Order, Report, Task, TaskError};
use tokio::task::JoinSet;
use tokio::time::Instant;

use self::link::Links;
pub use self::sessions::Hands;
pub(crate) use self::sessions::{Shows, WITNESSES};
use self::work::Work;
use crate::config::Credentials;

/// On what terms a server replicates from another.
#[derive(Clone, Debug)]
pub struct Terms {
    /// As whom it logs in there.
    pub login: Credentials,
    /// How often it hears from an idle source, at least.
    pub heartbeat: Duration,
    /// Whether what is salvaged is applied, so that an examination looks for what that takes.
    pub applies: bool,
}

/// Runs tasks on servers. Cheap to clone; all clones share their connections.
#[derive(Clone, Debug)]
pub struct Executor {
    links: Links,
    terms: Arc<Terms>,
}

impl Executor {
    /// `agent` has to have the grants of [`grants::statements`] on every server, the terms' login REPLICATION SLAVE.
    pub fn new(agent: Credentials, terms: Terms) -> Self {
        Self { links: Links::new(agent), terms: Arc::new(terms) }
    }

    /// Has a connection to each of them ready, for some minutes. To be called as soon as there is trouble, and as often as
    /// one likes: a connection that is there is not opened again.
    pub async fn warm(&self, servers: &[SocketAddr], within: Duration) {
        self.links.warm(servers, within).await;
    }

    /// Carries an order out, within its time. May be dropped: nothing is done after that, but what the server was asked
    /// last may still come to its end there.
    pub async fn run(&self, order: &Order) -> Result<Report, TaskError> {
        let by = Instant::now() + order.within;
        let (this, task, within) = (self.clone(), order.task.clone(), order.within);
        sheltered(order.task.server(), async move { this.carry_out(&task, within, by).await }).await
    }

    async fn carry_out(&self, task: &Task, within: Duration, by: Instant) -> Result<Report, TaskError> {
        let work = |server: &SocketAddr| Work { links: &self.links, server: *server, within, by };
        let standing = match task {
            Task::Examine { server } => tasks::examine(work(server), self.terms.applies).await,
            Task::MakeReadOnly { server, end_sessions } => disarm::make_read_only(work(server), *end_sessions).await,
            Task::MakeWritable { server } => tasks::make_writable(work(server)).await,
            Task::StopReceiving { server } => tasks::stop_receiving(work(server)).await,
            Task::CatchUp { server, source, goal } => follow::catch_up(work(server), *source, goal, &self.terms).await,
            Task::Drain { server, goal } => tasks::drain(work(server), goal).await,
            Task::Promote { server, has, semi_sync } => tasks::promote(work(server), has, *semi_sync).await,
            Task::Follow { server, source, semi_sync } => {
                follow::follow(work(server), *source, *semi_sync, &self.terms).await
            }
            Task::Salvage { .. } | Task::EndSessions { .. } | Task::Hook { .. } => Err(TaskError {
                cause: Cause::Refused,
                message: format!("{:?} is not done by this executor", task.word()),
            }),
        };
        standing.map(|standing| Report::Standing(Box::new(standing)))
    }
}

/// Runs the work in a task of its own, because the client library panics on some of what a strange server can say. It ends
/// with this one.
async fn sheltered<T: Send + 'static>(
    server: Option<SocketAddr>,
    work: impl Future<Output = Result<T, TaskError>> + Send + 'static,
) -> Result<T, TaskError> {
    let mut running = JoinSet::new();
    running.spawn(work);
    match running.join_next().await {
        Some(Ok(result)) => result,
        Some(Err(_)) | None => Err(TaskError {
            cause: Cause::Unknown,
            message: match server {
                Some(server) => format!("{server} said something that the client library cannot read"),
                None => "the task was broken off".to_owned(),
            },
        }),
    }
}
