//! Plain TCP: who answers at an address, without MySQL in between.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result};

use crate::Host;

/// Greets every connection with the host's name and a newline, then sends back what it gets.
pub struct Echo {
    address: SocketAddr,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Echo {
    pub fn start(host: &Host, address: SocketAddr) -> Result<Self> {
        let listener = host.ns().inside(|| TcpListener::bind(address))?;
        let listener = listener.with_context(|| format!("cannot listen at {address} on {}", host.name()))?;
        listener.set_nonblocking(true)?;
        let stop = Arc::new(AtomicBool::new(false));
        let (ending, name) = (Arc::clone(&stop), host.name().to_owned());
        let thread = std::thread::spawn(move || {
            while !ending.load(Ordering::Relaxed) {
                if let Ok((stream, _)) = listener.accept() {
                    let (name, ending) = (name.clone(), Arc::clone(&ending));
                    std::thread::spawn(move || echo(stream, &name, &ending));
                } else {
                    std::thread::sleep(Duration::from_millis(5));
                }
            }
        });
        Ok(Self { address, stop, thread: Some(thread) })
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for Echo {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn echo(mut stream: TcpStream, name: &str, ending: &AtomicBool) {
    let _ = stream.set_nonblocking(false);
    let _ = stream.set_read_timeout(Some(Duration::from_millis(100)));
    if stream.write_all(format!("{name}\n").as_bytes()).is_err() {
        return;
    }
    let mut buffer = [0; 4096];
    while !ending.load(Ordering::Relaxed) {
        match stream.read(&mut buffer) {
            Ok(0) => return,
            Ok(n) => {
                if stream.write_all(&buffer[..n]).is_err() {
                    return;
                }
            }
            Err(error) if matches!(error.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut) => {}
            Err(_) => return,
        }
    }
}

/// A connection from a host. Its reads and writes are bounded by `patience`, too.
pub fn connect(from: &Host, to: SocketAddr, patience: Duration) -> Result<TcpStream> {
    let stream = from.ns().inside(|| TcpStream::connect_timeout(&to, patience))?;
    let stream = stream.with_context(|| format!("{} cannot connect to {to}", from.name()))?;
    stream.set_read_timeout(Some(patience))?;
    stream.set_write_timeout(Some(patience))?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// The name that an [`Echo`] behind `to` greets with.
pub fn who(from: &Host, to: SocketAddr, patience: Duration) -> Result<String> {
    let mut line = String::new();
    BufReader::new(connect(from, to, patience)?).read_line(&mut line)?;
    Ok(line.trim_end().to_owned())
}
