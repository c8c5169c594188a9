//! The load: eight threads on the client's host, each with one connection and one operation at a time. They block in
//! system calls, which costs less than anything that multiplexes.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::ScopedJoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, bail};
use shunt_tests::Host;

use super::select::Selects;
use super::service::{BLOCK, BULK, MESSAGE, REPLY};
use crate::bench::machine::Busy;

pub const THREADS: usize = 8;

/// How long it runs before it is measured.
const WARM_UP: Duration = Duration::from_millis(150);

/// No operation takes this long unless something is wrong.
const PATIENCE: Duration = Duration::from_secs(5);

/// One kind of operation: a row of the results.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Row {
    /// A prepared SELECT of one row by its primary key.
    Select,
    /// 64 bytes there and 64 back.
    RequestReply,
    /// A new connection, 64 bytes there and back, and its end.
    Connect,
    /// A mebibyte from server to client.
    Bulk,
}

impl Row {
    pub const ALL: [Self; 4] = [Self::Select, Self::RequestReply, Self::Connect, Self::Bulk];

    pub const fn title(self) -> &'static str {
        match self {
            Self::Select => "MySQL point selects",
            Self::RequestReply => "request and reply",
            Self::Connect => "connect, request, close",
            Self::Bulk => "bulk, MiB",
        }
    }

    pub const fn key(self) -> &'static str {
        match self {
            Self::Select => "select",
            Self::RequestReply => "request_reply",
            Self::Connect => "connect",
            Self::Bulk => "bulk",
        }
    }
}

/// What one measurement gave.
#[derive(Clone, Copy, Debug)]
pub struct Cell {
    pub per_second: f64,
    /// Processor time of the whole machine for one operation.
    pub cpu_us: f64,
}

/// Puts load on one address for a while.
pub fn measure(row: Row, client: &Host, to: SocketAddr, length: Duration) -> Result<Cell> {
    let counts: [Count; THREADS] = Default::default();
    let stop = AtomicBool::new(false);
    client.ns().inside(|| {
        std::thread::scope(|scope| {
            // A thread is born into the namespace of the one that starts it.
            let threads: Vec<_> = counts.iter().map(|count| scope.spawn(|| work(row, to, &stop, &count.0))).collect();
            let cell = watch(row, &counts, length, || threads.iter().any(ScopedJoinHandle::is_finished));
            stop.store(true, Ordering::Relaxed);
            for thread in threads {
                thread.join().map_err(|_| anyhow!("a thread of the load panicked"))??;
            }
            cell
        })
    })?
}

/// On a cache line of its own, so that counting costs nothing.
#[derive(Default)]
#[repr(align(128))]
struct Count(AtomicU64);

fn watch(row: Row, counts: &[Count], length: Duration, ended: impl Fn() -> bool) -> Result<Cell> {
    let total = || counts.iter().map(|count| count.0.load(Ordering::Relaxed)).sum::<u64>();
    std::thread::sleep(WARM_UP);
    let (before, cpu_before, started) = (total(), Busy::now()?, Instant::now());
    std::thread::sleep(length);
    let (after, cpu_after, took) = (total(), Busy::now()?, started.elapsed());
    let unit = if row == Row::Bulk { 1024.0 * 1024.0 } else { 1.0 };
    let operations = (after - before) as f64 / unit;
    if ended() || operations < 1.0 {
        // A thread's own error says more, if it has one.
        bail!("the load came to a halt");
    }
    Ok(Cell {
        per_second: operations / took.as_secs_f64(),
        cpu_us: cpu_after.since(cpu_before).as_secs_f64() * 1e6 / operations,
    })
}

fn work(row: Row, to: SocketAddr, stop: &AtomicBool, count: &AtomicU64) -> Result<()> {
    let goes_on = || !stop.load(Ordering::Relaxed);
    let one_more = || count.fetch_add(1, Ordering::Relaxed);
    match row {
        Row::Select => {
            let mut selects = Selects::open(to)?;
            while goes_on() {
                selects.next()?;
                one_more();
            }
        }
        Row::RequestReply => {
            let mut stream = connect(to)?;
            while goes_on() {
                ask(&mut stream)?;
                one_more();
            }
        }
        Row::Connect => {
            while goes_on() {
                ask(&mut connect(to)?)?;
                one_more();
            }
        }
        Row::Bulk => {
            let mut stream = connect(to)?;
            let mut block = vec![0; BLOCK];
            stream.write_all(&[BULK; MESSAGE])?;
            while goes_on() {
                let bytes = stream.read(&mut block).context("in a bulk transfer")?;
                if bytes == 0 {
                    bail!("the server ended a bulk transfer");
                }
                count.fetch_add(bytes as u64, Ordering::Relaxed);
            }
        }
    }
    Ok(())
}

/// A connection whose every call is bounded.
pub fn connect(to: SocketAddr) -> Result<TcpStream> {
    let stream = TcpStream::connect_timeout(&to, PATIENCE).with_context(|| format!("cannot connect to {to}"))?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    Ok(stream)
}

/// One request and its reply.
pub fn ask(stream: &mut TcpStream) -> Result<()> {
    stream.write_all(&[REPLY; MESSAGE])?;
    let mut reply = [0; MESSAGE];
    stream.read_exact(&mut reply).map_err(|error| match error.kind() {
        ErrorKind::WouldBlock => anyhow!("no reply within {PATIENCE:?}"),
        _ => error.into(),
    })
}
