//! The tasks of a cluster's operations, each running on its own, and what they come to.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use shunt_core::ClusterName;
use shunt_core::datapath::{Datapath, Meter};
use shunt_core::operation::{Cause, Order, OrderId, Report, Task, TaskError};
use tokio::sync::mpsc;
use tokio::task::AbortHandle;

use super::worker::Worker;
use crate::config::Credentials;
use crate::hooks::Hooks;
use crate::operate::salvage::{self, Login};
use crate::operate::{Executor, Hands, Terms};

/// A task that does not keep its own bound is broken off after this much more.
const SLACK: Duration = Duration::from_secs(1);

/// Whom to log in as: the agent itself, and replicas at their source.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Logins {
    pub agent: Credentials,
    pub replication: Credentials,
}

/// What came of an order.
pub type Outcome = (OrderId, Result<Report, TaskError>);

/// What tasks need besides servers.
#[derive(Clone)]
pub struct Tools {
    pub datapath: Worker<Box<dyn Datapath>>,
    pub meter: Worker<Box<dyn Meter>>,
    pub hooks: Hooks,
    /// Where salvaged transactions are kept.
    pub salvage: PathBuf,
}

/// A cluster's running tasks. They end with it.
pub struct Tasks {
    cluster: ClusterName,
    executor: Executor,
    login: Credentials,
    tools: Tools,
    outcomes: mpsc::UnboundedSender<Outcome>,
    running: HashMap<OrderId, AbortHandle>,
}

impl Tasks {
    pub fn new(
        cluster: ClusterName,
        logins: Logins,
        terms: Terms,
        tools: Tools,
    ) -> (Self, mpsc::UnboundedReceiver<Outcome>) {
        let (outcomes, inbox) = mpsc::unbounded_channel();
        let executor = Executor::new(logins.agent.clone(), terms);
        let tasks = Self { cluster, executor, login: logins.agent, tools, outcomes, running: HashMap::new() };
        (tasks, inbox)
    }

    /// Logs in anew as somebody else. What is running goes on as it began.
    pub fn log_in_as(&mut self, logins: Logins, terms: Terms) {
        self.executor = Executor::new(logins.agent.clone(), terms);
        self.login = logins.agent;
    }

    /// Starts them all at once. `epoch` names what they may leave behind.
    pub fn start(&mut self, orders: Vec<Order>, epoch: u64) {
        self.running.retain(|_, task| !task.is_finished());
        for order in orders {
            let (id, bound) = (order.id, order.within + SLACK);
            let work = self.work(order, epoch);
            let outcomes = self.outcomes.clone();
            let task = tokio::spawn(async move {
                let result = match tokio::time::timeout(bound, work).await {
                    Ok(result) => result,
                    Err(_) => Err(TaskError {
                        cause: Cause::Unknown,
                        message: format!("it did not come to an end within {bound:?}"),
                    }),
                };
                // Nobody waits any more if the cluster's task has ended.
                let _ = outcomes.send((id, result));
            });
            self.running.insert(id, task.abort_handle());
        }
    }

    /// Breaks them off: nobody waits for them, and what they would do next must not be done.
    pub fn forget(&mut self, orders: &[OrderId]) {
        for order in orders {
            if let Some(task) = self.running.remove(order) {
                task.abort();
            }
        }
    }

    /// Has connections ready for what may come.
    pub fn warm(&self, servers: Vec<SocketAddr>, within: Duration) {
        let executor = self.executor.clone();
        tokio::spawn(async move { executor.warm(&servers, within).await });
    }

    fn work(&self, order: Order, epoch: u64) -> impl Future<Output = Result<Report, TaskError>> + Send + use<> {
        let (executor, login, tools) = (self.executor.clone(), self.login.clone(), self.tools.clone());
        let name = format!("{}-{epoch}", self.cluster);
        async move {
            let to = |server| Login { server, user: login.user.clone(), password: login.password.clone() };
            match &order.task {
                Task::Salvage { from, lacking, into } => {
                    let (from_login, into_login) = (to(*from), into.map(to));
                    let name = salvage::file_name(&name, *from);
                    let done = salvage::salvage(
                        &from_login,
                        lacking,
                        &tools.salvage,
                        &name,
                        into_login.as_ref(),
                        order.within,
                    );
                    done.await.map(Report::Salvaged)
                }
                Task::Hook { hook, notice } => tools.hooks.run(*hook, notice, order.within).await,
                Task::EndSessions { server, listeners, grace } => {
                    let hands = Hands { datapath: tools.datapath, meter: tools.meter };
                    let done = executor.end_sessions(*server, listeners, *grace, order.within, hands);
                    done.await.map(Report::Sessions)
                }
                _ => executor.run(&order).await,
            }
        }
    }
}

impl Drop for Tasks {
    fn drop(&mut self) {
        for task in self.running.values() {
            task.abort();
        }
    }
}
