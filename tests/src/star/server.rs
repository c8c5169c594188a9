//! A database, as far as TCP can tell: it greets each client with its own name and the client's address, and sends back
//! every line. It knows how each of its connections ended. Two lines are orders and not sent back:
//!
//! - `linger`: when the client closes its half, the server keeps its own open.
//! - `half-close`: the server closes its half, and goes on listening to the client.

use std::collections::BTreeMap;
use std::io::{self, BufRead as _, BufReader, Write as _};
use std::net::{Ipv6Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsRawFd as _;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;

use nix::poll::PollTimeout;

use super::conversation::ended_within;

/// How a connection ended for its server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// By the client's own closing.
    Closed,
    Reset,
}

pub struct Server {
    listener: Arc<TcpListener>,
    book: Arc<Book>,
}

/// Connections by their clients' addresses as the server sees them.
#[derive(Default)]
struct Book(Mutex<Accepted>);

#[derive(Default)]
struct Accepted {
    count: usize,
    latest: Option<SocketAddr>,
    open: BTreeMap<SocketAddr, Arc<TcpStream>>,
    ended: BTreeMap<SocketAddr, End>,
}

impl Book {
    fn lock(&self) -> MutexGuard<'_, Accepted> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Server {
    /// Listens at every address of the calling thread's namespace.
    pub fn start(name: &str, port: u16) -> io::Result<Self> {
        let listener = Arc::new(TcpListener::bind((Ipv6Addr::UNSPECIFIED, port))?);
        let book = Arc::new(Book::default());
        let (ours, name, kept) = (Arc::clone(&listener), name.to_owned(), Arc::clone(&book));
        thread::spawn(move || {
            while let Ok((stream, peer)) = ours.accept() {
                let peer = SocketAddr::new(peer.ip().to_canonical(), peer.port());
                let stream = Arc::new(stream);
                {
                    let mut book = kept.lock();
                    book.count += 1;
                    book.latest = Some(peer);
                    book.ended.remove(&peer);
                    book.open.insert(peer, Arc::clone(&stream));
                }
                let (name, book) = (name.clone(), Arc::clone(&kept));
                thread::spawn(move || {
                    let end = converse(&stream, &name, peer);
                    let mut book = book.lock();
                    book.ended.insert(peer, end);
                    // The port may have been given to another connection by now.
                    if book.open.get(&peer).is_some_and(|open| Arc::ptr_eq(open, &stream)) {
                        book.open.remove(&peer);
                    }
                });
            }
        });
        Ok(Self { listener, book })
    }

    /// How the connection of the client that is seen so has ended; `None`: it has not.
    pub fn end_of(&self, peer: SocketAddr) -> Option<End> {
        self.book.lock().ended.get(&peer).copied()
    }

    /// Whom the server saw connect last.
    pub fn latest(&self) -> Option<SocketAddr> {
        self.book.lock().latest
    }

    /// Connections since the start.
    pub fn accepted(&self) -> usize {
        self.book.lock().count
    }

    /// Sends a line to a client that did not ask for it.
    pub fn say(&self, peer: SocketAddr, line: &str) -> io::Result<()> {
        let stream = self.book.lock().open.get(&peer).cloned().ok_or(io::ErrorKind::NotConnected)?;
        (&*stream).write_all(format!("{line}\n").as_bytes())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Ends the accepting thread, and those of the connections; there is nothing to do about an error.
        let _ = nix::sys::socket::shutdown(self.listener.as_raw_fd(), nix::sys::socket::Shutdown::Both);
        for stream in self.book.lock().open.values() {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }
}

/// Speaks with a client to the end.
fn converse(stream: &TcpStream, name: &str, peer: SocketAddr) -> End {
    let _ = stream.set_nodelay(true);
    // Errors of writing come again when reading.
    let _ = (&*stream).write_all(format!("{name} {peer}\n").as_bytes());
    let mut lingers = false;
    for line in BufReader::new(stream).lines() {
        match line.as_deref() {
            Ok("linger") => lingers = true,
            Ok("half-close") => drop(stream.shutdown(Shutdown::Write)),
            Ok(text) => drop((&*stream).write_all(format!("{text}\n").as_bytes())),
            Err(_) => return End::Reset,
        }
    }
    // The kernel tells of a reset once, to a writer just as well as to a reader, who then only sees the end.
    if ended_within(stream, if lingers { PollTimeout::NONE } else { PollTimeout::ZERO }) {
        End::Reset
    } else {
        End::Closed
    }
}
