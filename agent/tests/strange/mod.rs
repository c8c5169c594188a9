//! What tests of the probe share: servers that are threads of this process, on loopback, and a probe that asks them.

use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use shunt::clock::Clock;
use shunt::config::Password;
use shunt::probe::{self, Cadence, ProbeHandle, ProbeSpec};
use shunt_core::observation::{Failure, Observation, Outcome};
use tokio::sync::{mpsc, watch};

/// LONG_PASSWORD, PROTOCOL_41, TRANSACTIONS, SECURE_CONNECTION, MULTI_STATEMENTS, MULTI_RESULTS, PLUGIN_AUTH,
/// DEPRECATE_EOF.
pub const CAPABILITIES: u32 = 0x0001 | 0x0200 | 0x2000 | 0x8000 | 0x0001_0000 | 0x0002_0000 | 0x0008_0000 | 0x0100_0000;

/// A server that does the same to every connection. It ends with the test's process.
pub fn server(mut serve: impl FnMut(TcpStream) + Send + 'static) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for connection in listener.incoming() {
            serve(connection.unwrap());
        }
    });
    address
}

/// A packet with its header.
pub fn packet(sequence: u8, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_le_bytes();
    [&length[..3], &[sequence], payload].concat()
}

/// A proper greeting (protocol 10).
pub fn handshake(version: &str, capabilities: u32) -> Vec<u8> {
    let [c0, c1, c2, c3] = capabilities.to_le_bytes();
    let mut payload = vec![10];
    payload.extend(version.as_bytes());
    payload.push(0);
    payload.extend([1, 0, 0, 0]);
    payload.extend(b"abcdefgh\0");
    payload.extend([c0, c1, 45, 2, 0, c2, c3, 21]);
    payload.extend([0; 10]);
    payload.extend(b"ijklmnopqrst\0");
    payload.extend(b"mysql_native_password\0");
    packet(0, &payload)
}

/// What a probe tells of a server.
pub struct Observed {
    pub observations: mpsc::Receiver<Observation>,
    pub cadence: watch::Sender<Cadence>,
    pub probe: ProbeHandle,
}

impl Observed {
    pub fn start(server: SocketAddr, interval: Duration, timeout: Duration, promotes: bool, cadence: Cadence) -> Self {
        let password = Password::new("a secret");
        let spec = ProbeSpec { server, user: "shunt".to_owned(), password, interval, timeout, promotes };
        let cadence = watch::Sender::new(cadence);
        let (observer, observations) = mpsc::channel(64);
        let probe = probe::spawn(spec, cadence.subscribe(), observer, Clock::start());
        Self { observations, cadence, probe }
    }

    pub async fn next(&mut self) -> Observation {
        tokio::time::timeout(Duration::from_secs(30), self.observations.recv()).await.unwrap().unwrap()
    }

    pub async fn failure(&mut self) -> Failure {
        match self.next().await.outcome {
            Outcome::Failed(failure) => failure,
            Outcome::Answered(state) => panic!("an answer: {state:?}"),
        }
    }
}
