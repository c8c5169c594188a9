//! For the tests of probes: a probe whose observations one awaits, and servers that say what they are told to.

use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use shunt::clock::Clock;
use shunt::probe::{Cadence, Probe, ProbeSpec, Secret, spawn};
use shunt_core::observation::{Failure, Observation, Outcome};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::timeout;

pub const PASSWORD: &str = "a-password-to-look-for";

/// No event that a test waits for takes this long unless it never comes.
const PATIENCE: Duration = Duration::from_secs(20);

/// A probe and what it observes.
pub struct Watched {
    observations: mpsc::Receiver<Observation>,
    _cadence: watch::Sender<Cadence>,
    _probe: Probe,
}

impl Watched {
    pub async fn observation(&mut self) -> Observation {
        timeout(PATIENCE, self.observations.recv()).await.expect("an observation in time").expect("a living probe")
    }

    pub async fn failure(&mut self) -> Failure {
        match self.observation().await.outcome {
            Outcome::Failed(failure) => failure,
            Outcome::Answered(state) => panic!("answered: {state:?}"),
        }
    }
}

/// A probe of a fake.
pub fn probe(fake: &Fake) -> Watched {
    watch_probe(fake.address)
}

/// A probe that asks every 100 ms and waits 300 ms for an answer.
pub fn watch_probe(server: SocketAddr) -> Watched {
    let (cadence, receiver) = watch::channel(Cadence::Normal);
    let (out, observations) = mpsc::channel(64);
    let spec = ProbeSpec {
        server,
        user: "probe".to_owned(),
        password: Secret::new(PASSWORD),
        interval: Duration::from_millis(100),
        timeout: Duration::from_millis(300),
    };
    let probe = spawn(spec, receiver, out, Clock::start());
    Watched { observations, _cadence: cadence, _probe: probe }
}

/// A server on loopback that treats every connection alike.
pub struct Fake {
    pub address: SocketAddr,
    accepted: Arc<AtomicUsize>,
    task: JoinHandle<()>,
}

impl Fake {
    /// Runs `treat` on every connection.
    pub async fn that<F>(treat: impl Fn(TcpStream) -> F + Send + 'static) -> Self
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let accepted = Arc::new(AtomicUsize::new(0));
        let counter = Arc::clone(&accepted);
        let task = tokio::spawn(async move {
            while let Ok((socket, _)) = listener.accept().await {
                counter.fetch_add(1, Ordering::Relaxed);
                tokio::spawn(treat(socket));
            }
        });
        Self { address, accepted, task }
    }

    /// Sends the words, if any, and keeps the connection open until the client closes it.
    pub async fn that_says(words: Vec<u8>) -> Self {
        Self::that(move |mut socket| {
            let words = words.clone();
            async move {
                let _ = socket.write_all(&words).await;
                let mut sink = vec![0; 1024];
                while socket.read(&mut sink).await.is_ok_and(|n| n > 0) {}
            }
        })
        .await
    }

    /// How many connections were accepted so far.
    pub fn accepted(&self) -> usize {
        self.accepted.load(Ordering::Relaxed)
    }

    /// Closes the port.
    pub async fn close(self) {
        self.task.abort();
        let _ = self.task.await;
    }
}

/// The payload of a greeting of MySQL 8 with caching_sha2_password.
pub fn greeting(offers_tls: bool) -> Vec<u8> {
    // CLIENT_SSL is 0x800; CLIENT_LONG_PASSWORD marks it as MySQL's.
    let capabilities: u32 = if offers_tls { 0xcfff_ffdf } else { 0xcfff_f7df };
    let [a, b, c, d] = capabilities.to_le_bytes();
    let mut payload = b"\x0a8.0.99-fake\0".to_vec();
    payload.extend_from_slice(&7_u32.to_le_bytes());
    payload.extend_from_slice(b"abcdefgh\0");
    payload.extend_from_slice(&[a, b, 0xff, 2, 0, c, d, 21]);
    payload.extend_from_slice(&[0; 10]);
    payload.extend_from_slice(b"ijklmnopqrst\0caching_sha2_password\0");
    payload
}
