//! One end of many connections: a thread that watches them all with epoll and notes when each ends.
//!
//! Each side is a process of its own ([`super::side`]): both together would need more open files than many a machine
//! allows one process.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, bail};
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};

use crate::bench::moment;

/// Bytes of a request and of its echo.
const MESSAGE: [u8; 16] = *b"are you there? \n";

/// A connection must come to be within this time.
const PATIENCE: Duration = Duration::from_secs(10);

/// The listener among an epoll's events; connections have their place in the list.
const LISTENER: u64 = u64::MAX;

/// How one end of a connection ended.
#[derive(Clone, Copy, Debug)]
pub struct Ended {
    pub at: i64,
    /// By RST; otherwise by FIN.
    pub reset: bool,
}

/// The ends on one side. The thread stops, and what is still open closes, when this is dropped.
pub struct Ends {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<Result<()>>>,
}

#[derive(Default)]
struct Shared {
    stop: AtomicBool,
    open: AtomicUsize,
    ended: Mutex<Vec<Ended>>,
}

impl Ends {
    /// The clients' side: so many connections, each of which has had an answer. The first `busy` of them send a request
    /// each `every`.
    pub fn connect(to: SocketAddr, count: usize, busy: usize, every: Duration) -> Result<Self> {
        let mut watch = Watch::new(None)?;
        for _ in 0..count {
            watch.add(connect(to)?)?;
        }
        watch.requests = Some(Requests { busy, every, started: Instant::now(), sent: 0 });
        Ok(Self::run(watch))
    }

    /// The server's side: accepts, and sends back what it gets.
    pub fn serve(at: SocketAddr) -> Result<Self> {
        let listener = TcpListener::bind(at).with_context(|| format!("cannot listen at {at}"))?;
        listener.set_nonblocking(true)?;
        Ok(Self::run(Watch::new(Some(listener))?))
    }

    fn run(mut watch: Watch) -> Self {
        let shared = Arc::clone(&watch.shared);
        Self { shared, thread: Some(std::thread::spawn(move || watch.run())) }
    }

    /// Connections that have not ended.
    pub fn open(&mut self) -> Result<usize> {
        if self.thread.as_ref().is_none_or(JoinHandle::is_finished) {
            // Its own error says why.
            self.stop()?;
            bail!("the thread that watches connections has ended");
        }
        Ok(self.shared.open.load(Ordering::Relaxed))
    }

    /// Closes what is open; what had ended until now.
    pub fn finish(mut self) -> Result<Vec<Ended>> {
        self.stop()?;
        Ok(std::mem::take(&mut *self.shared.ended.lock().unwrap_or_else(PoisonError::into_inner)))
    }

    fn stop(&mut self) -> Result<()> {
        self.shared.stop.store(true, Ordering::Relaxed);
        match self.thread.take() {
            Some(thread) => thread.join().map_err(|_| anyhow!("a thread that watches connections panicked"))?,
            None => Ok(()),
        }
    }
}

impl Drop for Ends {
    fn drop(&mut self) {
        let _ = self.stop();
    }
}

struct Watch {
    epoll: Epoll,
    listener: Option<TcpListener>,
    streams: Vec<Option<TcpStream>>,
    requests: Option<Requests>,
    shared: Arc<Shared>,
}

/// What busy clients send, evenly over time.
struct Requests {
    busy: usize,
    every: Duration,
    started: Instant,
    sent: usize,
}

impl Watch {
    fn new(listener: Option<TcpListener>) -> Result<Self> {
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        if let Some(listener) = &listener {
            epoll.add(listener, EpollEvent::new(EpollFlags::EPOLLIN, LISTENER))?;
        }
        Ok(Self { epoll, listener, streams: Vec::new(), requests: None, shared: Arc::default() })
    }

    fn add(&mut self, stream: TcpStream) -> Result<()> {
        stream.set_nonblocking(true)?;
        // Errors and hang-ups are always told.
        self.epoll.add(&stream, EpollEvent::new(EpollFlags::EPOLLIN, self.streams.len() as u64))?;
        self.streams.push(Some(stream));
        self.shared.open.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    fn run(&mut self) -> Result<()> {
        let mut events = vec![EpollEvent::empty(); 256];
        while !self.shared.stop.load(Ordering::Relaxed) {
            self.send()?;
            let wait: u16 = if self.requests.is_some() { 1 } else { 20 };
            let count = self.epoll.wait(&mut events, EpollTimeout::from(wait))?;
            for event in &events[..count] {
                match event.data() {
                    LISTENER => self.accept()?,
                    place => self.read(place as usize)?,
                }
            }
        }
        Ok(())
    }

    fn accept(&mut self) -> Result<()> {
        while let Some(listener) = &self.listener {
            match listener.accept() {
                Ok((stream, _)) => {
                    stream.set_nodelay(true)?;
                    self.add(stream)?;
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) => return Err(error).context("cannot accept a connection"),
            }
        }
        Ok(())
    }

    /// Reads what there is; a server sends it back.
    fn read(&mut self, place: usize) -> Result<()> {
        let mut buffer = [0; 256];
        while let Some(stream) = &mut self.streams[place] {
            match stream.read(&mut buffer) {
                Ok(0) => self.ended(place, false)?,
                Ok(bytes) => {
                    if self.listener.is_some() && stream.write_all(&buffer[..bytes]).is_err() {
                        self.ended(place, true)?;
                    }
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(_) => self.ended(place, true)?,
            }
        }
        Ok(())
    }

    /// Sends the requests that are due.
    fn send(&mut self) -> Result<()> {
        let Some(Requests { busy, every, started, sent }) = &mut self.requests else { return Ok(()) };
        if *busy == 0 {
            return Ok(());
        }
        let due = (started.elapsed().as_secs_f64() / every.as_secs_f64() * *busy as f64) as usize;
        let places: Vec<usize> = (*sent..due).take(*busy).map(|number| number % *busy).collect();
        *sent = due;
        for place in places {
            let Some(stream) = &mut self.streams[place] else { continue };
            match stream.write(&MESSAGE) {
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(_) => self.ended(place, true)?,
            }
        }
        Ok(())
    }

    fn ended(&mut self, place: usize, reset: bool) -> Result<()> {
        let at = moment::now()?;
        self.streams[place] = None;
        self.shared.open.fetch_sub(1, Ordering::Relaxed);
        self.shared.ended.lock().unwrap_or_else(PoisonError::into_inner).push(Ended { at, reset });
        Ok(())
    }
}

/// A connection that has had an answer from the server: the handshake alone would prove less.
fn connect(to: SocketAddr) -> Result<TcpStream> {
    let open = || {
        let mut stream = TcpStream::connect_timeout(&to, PATIENCE)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.write_all(&MESSAGE)?;
        stream.read_exact(&mut [0; MESSAGE.len()])?;
        std::io::Result::Ok(stream)
    };
    open().with_context(|| format!("cannot open a connection to {to}"))
}
