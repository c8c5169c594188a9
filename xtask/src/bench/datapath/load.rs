//! The load: eight threads on the client's host, each with one connection and one operation at a time. They block in
//! system calls, which costs less than anything that multiplexes.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::thread::ScopedJoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, ensure};
use shunt_tests::Host;

use super::select::Selects;
use super::service::{BLOCK, BULK, MEBIBYTE, MESSAGE, REPLY};
use crate::bench::machine::Busy;

pub const THREADS: usize = 8;

/// How long it runs before it is measured: at first, and after it has changed over from one way to another.
const WARM_UP: Duration = Duration::from_millis(150);
const CHANGE_OVER: Duration = Duration::from_millis(10);

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
    with_load(row, client, &[to], |load| load.watch(0, length))
}

/// Two addresses in the order ABBA, and BAAB every other time: what else goes on in the machine then hits both alike. Each time with other
/// connections: on which processor one's threads happen to lie makes more of a difference than what is compared.
pub fn compare(row: Row, client: &Host, to: [SocketAddr; 2], length: Duration, times: usize) -> Result<Vec<[f64; 2]>> {
    (0..times)
        .map(|time| {
            with_load(row, client, &to, |load| {
                in_turn(time, |way| {
                    load.turn.store(way, Ordering::Relaxed);
                    std::thread::sleep(CHANGE_OVER);
                    Ok(load.watch(way, length)?.per_second)
                })
            })
        })
        .collect()
}

/// One address in two states, in the same order. The connections stay the same, so nothing differs but the state.
pub fn toggle(
    row: Row,
    client: &Host,
    to: SocketAddr,
    length: Duration,
    times: usize,
    mut switch: impl FnMut(usize) -> Result<()> + Send,
) -> Result<Vec<[f64; 2]>> {
    with_load(row, client, &[to], |load| {
        let pair = |time| {
            in_turn(time, |state| {
                switch(state)?;
                std::thread::sleep(CHANGE_OVER);
                Ok(load.watch(0, length)?.per_second)
            })
        };
        (0..times).map(pair).collect()
    })
}

fn in_turn(time: usize, mut measure: impl FnMut(usize) -> Result<f64>) -> Result<[f64; 2]> {
    let mut sums = [0.0; 2];
    // Fresh connections are slower at first, and so would always be the one that begins.
    for one in if time.is_multiple_of(2) { [0, 1, 1, 0] } else { [1, 0, 0, 1] } {
        sums[one] += measure(one)?;
    }
    Ok(sums.map(|sum| sum / 2.0))
}

/// What the threads of a load share.
struct Load<'a> {
    row: Row,
    to: &'a [SocketAddr],
    /// Which of the addresses has its turn, or [`STOP`].
    turn: AtomicUsize,
    /// Operations, by thread and address.
    counts: [[Count; 2]; THREADS],
}

const STOP: usize = usize::MAX;

/// On a cache line of its own, so that counting costs nothing.
#[derive(Default)]
#[repr(align(128))]
struct Count(AtomicU64);

/// Runs the load for as long as `watch` does.
fn with_load<T: Send>(
    row: Row,
    client: &Host,
    to: &[SocketAddr],
    watch: impl FnOnce(&Load<'_>) -> Result<T> + Send,
) -> Result<T> {
    let load = Load { row, to, turn: AtomicUsize::new(0), counts: Default::default() };
    client.ns().inside(|| {
        std::thread::scope(|scope| {
            let load = &load;
            // A thread is born into the namespace of the one that starts it.
            let threads: Vec<_> = load.counts.iter().map(|counts| scope.spawn(|| load.work(counts))).collect();
            std::thread::sleep(WARM_UP);
            let result = watch(load);
            let halted = threads.iter().any(ScopedJoinHandle::is_finished);
            load.turn.store(STOP, Ordering::Relaxed);
            // A thread's own error says more than a halt.
            for thread in threads {
                thread.join().map_err(|_| anyhow!("a thread of the load panicked"))??;
            }
            ensure!(!halted, "the load came to a halt");
            result
        })
    })?
}

impl Load<'_> {
    fn watch(&self, way: usize, length: Duration) -> Result<Cell> {
        let total = || self.counts.iter().map(|counts| counts[way].0.load(Ordering::Relaxed)).sum::<u64>();
        let (before, cpu_before, started) = (total(), Busy::now()?, Instant::now());
        std::thread::sleep(length);
        let (after, cpu_after, took) = (total(), Busy::now()?, started.elapsed());
        let operations = (after - before) as f64;
        Ok(Cell {
            per_second: operations / took.as_secs_f64(),
            cpu_us: cpu_after.since(cpu_before).as_secs_f64() * 1e6 / operations,
        })
    }

    fn work(&self, counts: &[Count; 2]) -> Result<()> {
        let mut wires = self.to.iter().map(|&to| Wire::open(self.row, to)).collect::<Result<Vec<_>>>()?;
        let mut block = vec![0; BLOCK];
        loop {
            let turn = self.turn.load(Ordering::Relaxed);
            if turn == STOP {
                return Ok(());
            }
            match &mut wires[turn] {
                Wire::Selects(selects) => selects.next()?,
                Wire::Requests(stream) => ask(stream)?,
                Wire::Bulk(stream) => fetch(stream, &mut block)?,
                Wire::New => ask(&mut connect(self.to[turn])?)?,
            }
            counts[turn].0.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// A thread's connection through one way.
enum Wire {
    Selects(Box<Selects>),
    Requests(TcpStream),
    Bulk(TcpStream),
    /// None yet: each operation makes one.
    New,
}

impl Wire {
    fn open(row: Row, to: SocketAddr) -> Result<Self> {
        Ok(match row {
            Row::Select => Self::Selects(Box::new(Selects::open(to)?)),
            Row::RequestReply => Self::Requests(connect(to)?),
            Row::Connect => Self::New,
            Row::Bulk => Self::Bulk(connect(to)?),
        })
    }
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

/// One request and much in reply.
fn fetch(stream: &mut TcpStream, block: &mut [u8]) -> Result<()> {
    stream.write_all(&[BULK; MESSAGE])?;
    let mut left = MEBIBYTE;
    while left > 0 {
        let bytes = stream.read(block).context("in a bulk transfer")?;
        ensure!(bytes > 0, "the server ended a bulk transfer");
        left = left.checked_sub(bytes).context("more came than was asked for")?;
    }
    Ok(())
}
