//! The executors: each task is a few statements on a server, and anything may happen between two of them. A task that was
//! given up may still be done: what is on its way arrives.

use std::time::Duration;

use shunt_core::Mono;
use shunt_core::cluster::Event;
use shunt_core::operation::{Cause, Hook, Order, OrderId, Report, Task, TaskError};

use super::gtids::Gtids;
use super::history::tell;
use super::network::Node;
use super::server::{Life, number};
use super::world::{Happening, World};

/// A connection that is not made by then is given up.
const CONNECT: Duration = Duration::from_secs(1);
/// How often something that is waited for is looked at.
const LOOK: Duration = Duration::from_millis(25);

/// A task under way.
#[derive(Clone, Debug)]
pub struct Run {
    pub p: usize,
    pub life: u64,
    pub order: OrderId,
    pub task: Task,
    pub until: Mono,
    /// Statements that are done.
    pub phase: u32,
    /// The server's process that it is connected to.
    pub generation: Option<u64>,
    /// Nobody waits for it any more: at most one more statement of it arrives.
    pub abandoned: bool,
    result: Option<Result<Report, TaskError>>,
    pub began: Mono,
}

/// What became of a statement.
pub enum Told {
    /// The next one follows.
    Next,
    /// The server has not finished it.
    Waits,
    Ends(Result<Report, TaskError>),
}

pub fn error(cause: Cause, message: &str) -> TaskError {
    TaskError { cause, message: message.to_owned() }
}

impl World {
    pub fn start_task(&mut self, p: usize, order: Order) {
        tell!(self, "agent{} orders {}: {} {}", p + 1, order.id.0, order.task.word(), whom(&order.task));
        self.connections += 1;
        let (run, life) = (self.connections, self.proxies[p].life);
        self.task_ordered(p, &order);
        let until = self.now + order.within;
        self.later(order.within, Happening::TaskTimesOut { run });
        let Some(agent) = &mut self.proxies[p].agent else { return };
        agent.orders.insert(order.id, run);
        agent.past_orders.push(order.id);
        let answer = self.mutation.as_mut().and_then(|m| m.answers_at_once(&order.task));
        let run_of = Run {
            p,
            life,
            order: order.id,
            task: order.task,
            until,
            phase: 0,
            generation: None,
            abandoned: false,
            result: answer,
            began: self.now,
        };
        let at_once = run_of.result.is_some();
        self.runs.insert(run, run_of);
        if at_once {
            self.later(Duration::from_millis(1), Happening::TaskReplies { run });
        } else {
            self.send_statement(run);
        }
    }

    fn send_statement(&mut self, id: u64) {
        let Some(run) = self.runs.get(&id) else { return };
        let Some(server) = run.task.server() else {
            let delay = self.rng.millis(10, 600);
            self.later(delay, Happening::TaskArrives { run: id });
            return;
        };
        let (from, to) = (Node::Proxy(run.p), Node::Server(number(server)));
        if self.net.passes(from, to) {
            let delay = self.net.delay(from, to, &mut self.rng);
            self.later(delay, Happening::TaskArrives { run: id });
        } else if run.phase == 0 {
            self.cannot_connect(id, "timed out");
        } else {
            // TCP sends it again; if the way is open in time it arrives.
            self.later(Duration::from_millis(300), Happening::TaskArrives { run: id });
        }
    }

    fn cannot_connect(&mut self, id: u64, why: &str) {
        let Some(run) = self.runs.get_mut(&id) else { return };
        run.result = Some(Err(error(Cause::Unreachable, why)));
        let left = run.until.since(self.now).min(CONNECT);
        self.later(left, Happening::TaskReplies { run: id });
    }

    /// A statement arrives at its server.
    pub fn task_arrives(&mut self, id: u64) {
        let Some(run) = self.runs.get(&id).cloned() else { return };
        if run.result.is_some() {
            return;
        }
        let Some(address) = run.task.server() else {
            self.hook_ends(id, &run);
            return;
        };
        let (s, node) = (number(address), Node::Server(number(address)));
        if !self.net.passes(Node::Proxy(run.p), node) {
            self.statement_is_lost(id, &run);
            return;
        }
        let server = &self.servers[s];
        if server.life != Life::Running || run.generation.is_some_and(|g| g != server.generation) {
            if run.phase == 0 && run.generation.is_none() {
                let starts = server.life == Life::Starting;
                let why = if starts { "the server is starting" } else { "connection refused" };
                self.reply(id, Err(error(Cause::Unreachable, why)));
            } else {
                self.reply(id, Err(error(Cause::Unknown, "the connection broke")));
            }
            return;
        }
        if server.hung {
            self.statement_is_lost(id, &run);
            return;
        }
        let generation = server.generation;
        if let Some(run) = self.runs.get_mut(&id) {
            run.generation = Some(generation);
        }
        let chaos = !self.healed && self.rng.percent(self.scenario.task_trouble);
        if chaos && self.rng.percent(50) {
            self.reply(id, Err(error(Cause::Refused, "the server said no")));
            return;
        }
        let told = self.statement(id, s, &run);
        if self.violation.is_some() {
            return;
        }
        if run.abandoned {
            self.runs.remove(&id);
            return;
        }
        if chaos {
            // Done, and the answer is lost.
            let Some(run) = self.runs.get_mut(&id) else { return };
            run.result = Some(Err(error(Cause::Unknown, "the connection broke while it was done")));
            let delay = self.rng.millis(1, 400);
            self.later(delay, Happening::TaskReplies { run: id });
            return;
        }
        match told {
            Told::Next => {
                if let Some(run) = self.runs.get_mut(&id) {
                    run.phase += 1;
                }
                let there = self.net.delay(node, Node::Proxy(run.p), &mut self.rng);
                let back = self.net.delay(Node::Proxy(run.p), node, &mut self.rng);
                self.later(there + back, Happening::TaskArrives { run: id });
            }
            Told::Waits => self.later(LOOK, Happening::TaskArrives { run: id }),
            Told::Ends(result) => self.reply(id, result),
        }
    }

    fn statement_is_lost(&mut self, id: u64, run: &Run) {
        if run.abandoned && self.now.since(run.until) > Duration::from_secs(5) {
            self.runs.remove(&id);
        } else {
            self.later(Duration::from_millis(300), Happening::TaskArrives { run: id });
        }
    }

    /// The answer goes back; if it cannot, the task runs out of time.
    fn reply(&mut self, id: u64, result: Result<Report, TaskError>) {
        let Some(run) = self.runs.get_mut(&id) else { return };
        run.result = Some(result);
        if run.abandoned {
            self.runs.remove(&id);
            return;
        }
        let (p, server) = (run.p, run.task.server().map(number));
        if let Some(s) = server {
            if self.net.passes(Node::Server(s), Node::Proxy(p)) {
                let delay = self.net.delay(Node::Server(s), Node::Proxy(p), &mut self.rng);
                self.later(delay, Happening::TaskReplies { run: id });
            }
        } else {
            self.later(Duration::ZERO, Happening::TaskReplies { run: id });
        }
    }

    pub fn task_replies(&mut self, id: u64) {
        let Some(run) = self.runs.remove(&id) else { return };
        if run.abandoned || self.proxies[run.p].life != run.life {
            return;
        }
        if self.proxies[run.p].frozen {
            self.runs.insert(id, run);
            self.later(LOOK, Happening::TaskReplies { run: id });
            return;
        }
        let result = run.result.unwrap_or_else(|| Err(error(Cause::Unknown, "nobody answered")));
        self.task_done(run.p, run.order, result);
    }

    pub fn task_times_out(&mut self, id: u64) {
        let Some(run) = self.runs.get(&id).cloned() else { return };
        if run.abandoned || self.proxies[run.p].life != run.life {
            return;
        }
        // What is on its way may arrive all the same.
        self.abandon(id);
        let drained = match &run.task {
            Task::Drain { server, .. } if run.phase > 0 => Some(number(*server)),
            _ => None,
        };
        let result = match (run.generation, drained) {
            (_, Some(s)) if self.servers[s].is_running() && Some(self.servers[s].generation) == run.generation => {
                Ok(Report::Standing(Box::new(self.servers[s].standing())))
            }
            (None, _) if run.task.server().is_some() => Err(error(Cause::Unreachable, "no connection in time")),
            _ => Err(error(Cause::Unknown, "no answer in time")),
        };
        self.task_done(run.p, run.order, result);
    }

    fn task_done(&mut self, p: usize, order: OrderId, result: Result<Report, TaskError>) {
        if let Some(agent) = &mut self.proxies[p].agent {
            agent.orders.remove(&order);
        }
        self.tell_agent(p, Event::TaskDone { order, result });
    }

    /// Nobody waits for it any more. A statement that has been sent may still arrive.
    fn abandon(&mut self, id: u64) {
        let lingers = self.rng.percent(50);
        let Some(run) = self.runs.get_mut(&id) else { return };
        run.abandoned = true;
        if !lingers || run.result.is_some() {
            self.runs.remove(&id);
        }
    }

    pub fn abandon_runs(&mut self, p: usize) {
        let ids: Vec<_> = self.runs.iter().filter(|(_, r)| r.p == p && !r.abandoned).map(|(&id, _)| id).collect();
        for id in ids {
            self.abandon(id);
        }
    }

    /// The agent wants their results no more. Some go on and report all the same.
    pub fn forget(&mut self, p: usize, orders: &[OrderId]) {
        for order in orders {
            let run = self.proxies[p].agent.as_mut().and_then(|a| a.orders.remove(order));
            if let Some(run) = run
                && self.rng.percent(50)
            {
                self.abandon(run);
            }
        }
    }

    fn hook_ends(&mut self, id: u64, run: &Run) {
        let Task::Hook { hook, notice } = &run.task else { return };
        let fails = self.proxies[run.p].hooks_fail;
        tell!(self, "the {} {}", hook.word(), if fails { "fails" } else { "succeeds" });
        self.proxies[run.p].vetoed = match self.proxies[run.p].agent() {
            Some(agent) if fails => Some(agent.machine.last_operation()),
            _ => None,
        };
        if !fails
            && *hook == Hook::Fence
            && let Some(old) = notice.old
        {
            // It cuts the power; somebody gives it back.
            let n = number(old);
            self.kill(n, false);
            let (generation, delay) = (self.servers[n].generation, self.rng.millis(8_000, 15_000));
            self.later(delay, Happening::Boot { n, generation });
        }
        let result = if fails { Err(error(Cause::Refused, "exit code 1")) } else { Ok(Report::Done) };
        self.reply(id, result);
    }
}

fn whom(task: &Task) -> String {
    let name = |a: std::net::SocketAddr| format!("db{}", number(a) + 1);
    let more = match task {
        Task::CatchUp { source, .. } | Task::Follow { source, .. } => format!(" from {}", name(*source)),
        Task::Promote { has, semi_sync, .. } => {
            format!(" having {}, semi-sync {semi_sync}", Gtids::from_history(has).short())
        }
        Task::Drain { goal, .. } => format!(" up to {}", Gtids::from_history(goal).short()),
        Task::Salvage { lacking, .. } => format!(" of {}", Gtids::from_history(lacking).short()),
        _ => String::new(),
    };
    task.server().map(name).unwrap_or_default() + &more
}
