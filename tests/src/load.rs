//! Many clients at once, as a pool of an application has them: sessions with short transactions and rests between them,
//! and newcomers that connect, ask and go. Everything that any of them waited for is on record.

use std::fs::File;
use std::net::SocketAddr;
use std::os::fd::AsFd as _;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow};
use mysql_async::prelude::Queryable as _;
use mysql_async::{Conn, Opts};
use nix::sched::{CloneFlags, setns};

use crate::client::login;
use crate::{Flavour, Host};

#[derive(Clone, Copy, Debug)]
pub struct Shape {
    pub sessions: usize,
    /// Clients that connect, ask one question and go, again and again.
    pub newcomers: usize,
    /// Between the statements of a transaction.
    pub between: Duration,
    /// Between two transactions of a session, and two visits of a newcomer.
    pub rest: Duration,
    /// Bound of a connection attempt, and of a statement: generous, since it is their waits that are measured.
    pub patience: Duration,
}

/// What a client was at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum What {
    /// TCP and login. An error counts as a connection that was refused, whatever the reason.
    Connect,
    /// The first statement of a transaction, or a newcomer's only one. A session that finds itself cut off here was idle:
    /// it connects again and repeats the statement, and nothing of the application is lost.
    First,
    /// The statement after BEGIN. An error is a transaction aborted that has not done anything yet: MariaDB shows nobody
    /// that such a one has begun.
    Second,
    /// A later statement of a transaction, its COMMIT included. An error is a transaction aborted that has changed
    /// something; after one of a COMMIT the application does not even know.
    Inside,
}

/// One wait.
#[derive(Clone, Debug)]
pub struct Wait {
    pub what: What,
    pub began: Instant,
    pub ended: Instant,
    pub outcome: Result<(), String>,
}

pub struct Load {
    waits: Arc<Mutex<Vec<Wait>>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<Result<()>>>,
}

impl Load {
    /// Starts them all, on a thread of their own in the host's namespace.
    pub fn start(from: &Host, to: SocketAddr, flavour: Flavour, shape: Shape) -> Result<Self> {
        let namespace = File::open(from.ns().path())?;
        let (waits, stop): (Arc<Mutex<Vec<Wait>>>, Arc<AtomicBool>) = Default::default();
        let client = Client { opts: login(to, flavour), shape, waits: Arc::clone(&waits), stop: Arc::clone(&stop) };
        let thread = std::thread::spawn(move || -> Result<()> {
            setns(namespace.as_fd(), CloneFlags::CLONE_NEWNET)?;
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            runtime.block_on(async {
                let mut all = tokio::task::JoinSet::new();
                for number in 0..shape.sessions {
                    all.spawn(client.clone().session(number));
                }
                for _ in 0..shape.newcomers {
                    all.spawn(client.clone().newcomer());
                }
                all.join_all().await;
            });
            runtime.shutdown_background();
            Ok(())
        });
        Ok(Self { waits, stop, thread: Some(thread) })
    }

    /// Everything so far.
    pub fn waits(&self) -> Vec<Wait> {
        self.waits.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Ends it, each client after what it is at; everything they waited for.
    pub fn finish(mut self) -> Result<Vec<Wait>> {
        self.join()?;
        Ok(self.waits())
    }

    fn join(&mut self) -> Result<()> {
        self.stop.store(true, Ordering::Relaxed);
        let Some(thread) = self.thread.take() else { return Ok(()) };
        thread.join().map_err(|_| anyhow!("the load panicked"))?
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        let _ = self.join();
    }
}

#[derive(Clone)]
struct Client {
    opts: Opts,
    shape: Shape,
    waits: Arc<Mutex<Vec<Wait>>>,
    stop: Arc<AtomicBool>,
}

impl Client {
    async fn session(self, number: usize) {
        // Not all in step: each begins at its own time of the first rest.
        let share = number as f64 / self.shape.sessions.max(1) as f64;
        tokio::time::sleep(self.shape.rest.mul_f64(share)).await;
        let mut kept = None;
        let mut round = 0_u64;
        while !self.stopped() {
            round += 1;
            let Some(mut conn) = self.begin(kept.take(), "BEGIN").await else { continue };
            let insert = format!("INSERT INTO app.t (note) VALUES ('session {number} {round}')");
            let update = "UPDATE app.t SET note = CONCAT(note, '.') WHERE id = LAST_INSERT_ID()".to_owned();
            let mut whole = true;
            let statements = [(What::Second, insert), (What::Inside, update), (What::Inside, "COMMIT".to_owned())];
            for (what, statement) in statements {
                tokio::time::sleep(self.shape.between).await;
                whole = self.ask(&mut conn, what, Instant::now(), &statement).await;
                if !whole {
                    break;
                }
            }
            kept = whole.then_some(conn);
            tokio::time::sleep(self.shape.rest).await;
        }
    }

    async fn newcomer(self) {
        while !self.stopped() {
            if let Some(conn) = self.begin(None, "SELECT 1").await {
                let _ = tokio::time::timeout(self.shape.patience, conn.disconnect()).await;
            }
            tokio::time::sleep(self.shape.rest).await;
        }
    }

    /// The first statement, on a new connection if there is none or it has been cut: what it waited for lasts from its
    /// first attempt to its answer.
    async fn begin(&self, kept: Option<Conn>, statement: &str) -> Option<Conn> {
        let began = Instant::now();
        if let Some(mut conn) = kept
            && self.ask(&mut conn, What::First, began, statement).await
        {
            return Some(conn);
        }
        let mut conn = self.connect().await?;
        self.ask(&mut conn, What::First, began, statement).await.then_some(conn)
    }

    async fn connect(&self) -> Option<Conn> {
        let began = Instant::now();
        let (conn, outcome) = match tokio::time::timeout(self.shape.patience, Conn::new(self.opts.clone())).await {
            Ok(Ok(conn)) => (Some(conn), Ok(())),
            Ok(Err(error)) => (None, Err(error.to_string())),
            Err(_) => (None, Err("no answer".to_owned())),
        };
        self.record(What::Connect, began, outcome);
        conn
    }

    async fn ask(&self, conn: &mut Conn, what: What, began: Instant, statement: &str) -> bool {
        let outcome = match tokio::time::timeout(self.shape.patience, conn.query_drop(statement)).await {
            Ok(answer) => answer.map_err(|error| format!("{statement}: {error}")),
            Err(_) => Err(format!("{statement}: no answer")),
        };
        let good = outcome.is_ok();
        self.record(what, began, outcome);
        good
    }

    fn record(&self, what: What, began: Instant, outcome: Result<(), String>) {
        let wait = Wait { what, began, ended: Instant::now(), outcome };
        self.waits.lock().unwrap_or_else(PoisonError::into_inner).push(wait);
    }

    fn stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }
}
