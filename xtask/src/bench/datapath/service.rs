//! The plain TCP server at the other end: a few threads that accept, serve a connection to its end, and accept again.
//! No thread is started for a connection: that would cost more than what is measured.

use std::io::{self, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsRawFd as _;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context as _, Result};
use nix::sys::socket::{Shutdown, shutdown};
use shunt_tests::Host;

/// Bytes of a request and of a reply.
pub const MESSAGE: usize = 64;

/// Bytes of a bulk transfer, and what is written or read of it at once.
pub const MEBIBYTE: usize = 1024 * 1024;
pub const BLOCK: usize = 128 * 1024;

/// The first byte of a request that wants a reply, and of one that wants a bulk transfer.
pub const REPLY: u8 = b'r';
pub const BULK: u8 = b'b';

pub struct Service {
    listener: Arc<TcpListener>,
    threads: Vec<JoinHandle<()>>,
}

impl Service {
    /// `threads` is how many connections can be served at a time; others wait.
    pub fn start(host: &Host, address: SocketAddr, threads: usize) -> Result<Self> {
        let listener = host.ns().inside(|| TcpListener::bind(address))?;
        let listener = Arc::new(listener.with_context(|| format!("cannot listen at {address}"))?);
        let threads = (0..threads)
            .map(|_| {
                let listener = Arc::clone(&listener);
                std::thread::spawn(move || {
                    // Ends when the listener is shut down.
                    while let Ok((stream, _)) = listener.accept() {
                        // A client that goes away in the middle is the client's business.
                        let _ = serve(stream);
                    }
                })
            })
            .collect();
        Ok(Self { listener, threads })
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        // Wakes every thread that waits in accept.
        let _ = shutdown(self.listener.as_raw_fd(), Shutdown::Both);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

fn serve(mut stream: TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    // A connection whose end was never told must not keep this thread.
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    stream.set_write_timeout(Some(Duration::from_secs(10)))?;
    let mut message = [0; MESSAGE];
    let mut block = Vec::new();
    loop {
        stream.read_exact(&mut message)?;
        if message[0] == BULK {
            block.resize(BLOCK, 0);
            for _ in 0..MEBIBYTE / BLOCK {
                stream.write_all(&block)?;
            }
            continue;
        }
        stream.write_all(&message)?;
    }
}
