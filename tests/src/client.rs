//! A client that writes through the proxy, as an application does: one connection, a write every few milliseconds, at
//! once a new connection when it breaks. It records every attempt, so that the outage it saw is a fact.

use std::fs::File;
use std::net::SocketAddr;
use std::os::fd::AsFd as _;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow};
use mysql_async::prelude::Queryable as _;
use mysql_async::{Conn, Opts, OptsBuilder, SslOpts};
use nix::sched::{CloneFlags, setns};

use crate::template::PASSWORD;
use crate::wait::PATIENCE;
use crate::{Flavour, Host, eventually};

#[derive(Clone, Copy, Debug)]
pub struct Pace {
    /// From one write to the next.
    pub every: Duration,
    /// Bound of a connection attempt, login included. A held connection's SYN is repeated by the kernel only after 1 s:
    /// a client that gives up sooner and tries again sees the shorter outage.
    pub connect: Duration,
    /// Bound of a write.
    pub write: Duration,
    /// Every write has a connection of its own, login included.
    pub anew: bool,
}

impl Default for Pace {
    fn default() -> Self {
        Self {
            every: Duration::from_millis(10),
            connect: Duration::from_millis(500),
            write: Duration::from_secs(1),
            anew: false,
        }
    }
}

/// One attempt to write.
#[derive(Clone, Debug)]
pub struct Attempt {
    pub began: Instant,
    pub ended: Instant,
    /// The row's note, which is unique, once the server has acknowledged it; or why not.
    pub outcome: Result<String, String>,
}

pub struct Writer {
    attempts: Arc<Mutex<Vec<Attempt>>>,
    orders: Arc<Orders>,
    thread: Option<JoinHandle<Result<()>>>,
}

/// What the writing thread is told.
#[derive(Default)]
struct Orders {
    stop: AtomicBool,
    /// Locked as long as a write is under way.
    paused: tokio::sync::Mutex<bool>,
}

impl Writer {
    /// Starts writing from a host to `app.t` behind an address.
    pub fn start(from: &Host, to: SocketAddr, flavour: Flavour, pace: Pace) -> Result<Self> {
        Self::start_as("write", from, to, flavour, pace)
    }

    /// The same; its notes begin with `name`, so that those of several writers can be told apart.
    pub fn start_as(name: &str, from: &Host, to: SocketAddr, flavour: Flavour, pace: Pace) -> Result<Self> {
        let name = name.to_owned();
        let namespace = File::open(from.ns().path())?;
        let attempts: Arc<Mutex<Vec<Attempt>>> = Arc::default();
        let orders = Arc::new(Orders::default());
        let (record, told) = (Arc::clone(&attempts), Arc::clone(&orders));
        let opts = login(to, flavour);
        let thread = std::thread::spawn(move || -> Result<()> {
            setns(namespace.as_fd(), CloneFlags::CLONE_NEWNET)?;
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            runtime.block_on(write_on(&name, opts, pace, &record, &told));
            // What still says goodbye to a dead server must not hold us up.
            runtime.shutdown_background();
            Ok(())
        });
        Ok(Self { attempts, orders, thread: Some(thread) })
    }

    /// Everything so far.
    pub fn attempts(&self) -> Vec<Attempt> {
        locked(&self.attempts).clone()
    }

    /// Acknowledged writes so far.
    pub fn acknowledged(&self) -> usize {
        locked(&self.attempts).iter().filter(|a| a.outcome.is_ok()).count()
    }

    /// When the first write that began after `moment` was acknowledged.
    pub fn first_after(&self, moment: Instant) -> Option<Instant> {
        let attempts = locked(&self.attempts);
        attempts.iter().find(|a| a.outcome.is_ok() && a.began >= moment).map(|a| a.ended)
    }

    /// Waits for a write that began after `moment` and was acknowledged.
    pub fn wait_for_write(&self, moment: Instant) -> Result<Instant> {
        self.wait_for_write_within(moment, PATIENCE)
    }

    pub fn wait_for_write_within(&self, moment: Instant, patience: Duration) -> Result<Instant> {
        eventually("the client to write", patience, || Ok(self.first_after(moment))).map_err(|error| {
            let last = self.attempts().into_iter().rev().find_map(|a| a.outcome.err());
            error.context(format!("its last error: {}", last.unwrap_or_else(|| "none".to_owned())))
        })
    }

    /// The longest time between two acknowledged writes, of those that end after `moment`; none if no write has.
    pub fn outage(&self, moment: Instant) -> Option<Duration> {
        let attempts = locked(&self.attempts);
        let acks: Vec<Instant> = attempts.iter().filter(|a| a.outcome.is_ok()).map(|a| a.ended).collect();
        let gaps = acks.windows(2).filter(|pair| pair[1] > moment);
        gaps.map(|pair| pair[1] - pair[0]).max()
    }

    /// Writes nothing until told otherwise; the connection stays. The write that is under way is waited for: in a pause
    /// nothing arrives at a server any more. A pause looks like an outage in the record.
    pub fn pause(&self, on: bool) {
        *self.orders.paused.blocking_lock() = on;
    }

    /// Ends the writing; everything it did.
    pub fn finish(mut self) -> Result<Vec<Attempt>> {
        self.join()?;
        Ok(self.attempts())
    }

    fn join(&mut self) -> Result<()> {
        self.orders.stop.store(true, Ordering::Relaxed);
        let Some(thread) = self.thread.take() else { return Ok(()) };
        thread.join().map_err(|_| anyhow!("the writing client panicked"))?
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        let _ = self.join();
    }
}

/// How the lab's application logs in. MariaDB of the lab offers no TLS; MySQL does, with a certificate of its own making.
pub fn login(to: SocketAddr, flavour: Flavour) -> Opts {
    let tls = SslOpts::default().with_danger_accept_invalid_certs(true).with_danger_skip_domain_validation(true);
    OptsBuilder::default()
        .ip_or_hostname(to.ip().to_string())
        .tcp_port(to.port())
        .user(Some("app"))
        .pass(Some(PASSWORD))
        .db_name(Some("app"))
        .prefer_socket(false)
        // Known beforehand, they need not be asked for at every login.
        .max_allowed_packet(Some(1 << 20))
        .wait_timeout(Some(600))
        .ssl_opts((flavour == Flavour::Mysql).then_some(tls))
        .into()
}

/// One connection from a host, one query, its first column. The whole of it within `patience`.
pub fn ask(from: &Host, to: SocketAddr, flavour: Flavour, query: &str, patience: Duration) -> Result<String> {
    let opts = login(to, flavour);
    let answer = from.ns().inside_async(|| async {
        tokio::time::timeout(patience, async {
            let mut conn = Conn::new(opts).await?;
            let value: Option<String> = conn.query_first(query).await?;
            conn.disconnect().await?;
            Ok::<_, mysql_async::Error>(value.unwrap_or_default())
        })
        .await
    })?;
    let answer = answer.with_context(|| format!("{} asked {to}: no answer within {patience:?}", from.name()))?;
    answer.with_context(|| format!("{} asked {to}: {query}", from.name()))
}

async fn write_on(name: &str, opts: Opts, pace: Pace, record: &Mutex<Vec<Attempt>>, told: &Orders) {
    let mut tick = tokio::time::interval(pace.every);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut kept = None;
    let mut number = 0_u64;
    while !told.stop.load(Ordering::Relaxed) {
        tick.tick().await;
        let paused = told.paused.lock().await;
        if *paused {
            continue;
        }
        number += 1;
        let note = format!("{name} {number}");
        let began = Instant::now();
        let outcome = write(&mut kept, &opts, pace, &note).await;
        if outcome.is_err() {
            kept = None;
        }
        let attempt = Attempt { began, ended: Instant::now(), outcome: outcome.map(|()| note) };
        locked(record).push(attempt);
        if let Some(conn) = kept.take_if(|_| pace.anew) {
            // The write has been acknowledged, whatever becomes of this goodbye.
            let _ = tokio::time::timeout(pace.write, conn.disconnect()).await;
        }
    }
}

async fn write(kept: &mut Option<Conn>, opts: &Opts, pace: Pace, note: &str) -> Result<(), String> {
    let conn = match kept {
        Some(conn) => conn,
        None => match tokio::time::timeout(pace.connect, Conn::new(opts.clone())).await {
            Ok(Ok(conn)) => kept.insert(conn),
            Ok(Err(error)) => return Err(format!("connect: {error}")),
            Err(_) => return Err(format!("connect: no answer within {:?}", pace.connect)),
        },
    };
    let statement = format!("INSERT INTO app.t (note) VALUES ('{note}')");
    match tokio::time::timeout(pace.write, conn.query_drop(statement)).await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(error)) => Err(format!("write: {error}")),
        Err(_) => Err(format!("write: no answer within {:?}", pace.write)),
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // A Vec that is only pushed to is whole even after a panic.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
