//! What a probe makes of servers that are none, or that do not let it in. They are threads of this process, on loopback.

mod strange;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use shunt::probe::Cadence;
use shunt_core::observation::{Failure, FailureKind};
use strange::{CAPABILITIES, Observed, packet, server};
use tokio::sync::mpsc;

/// A server that says `bytes` as soon as it is connected to, and then listens until the client leaves.
fn greeting(bytes: Vec<u8>) -> SocketAddr {
    server(move |mut connection| {
        let _ = connection.write_all(&bytes);
        let _ = connection.read_to_end(&mut Vec::new());
    })
}

/// An error instead of a greeting, as the servers send it: without a state.
fn error_greeting(code: u16, message: &str) -> SocketAddr {
    greeting(packet(0, &[&[0xff], &code.to_le_bytes()[..], message.as_bytes()].concat()))
}

const CLIENT_SSL: u32 = 0x0800;
/// A proper greeting.
fn handshake(capabilities: u32) -> Vec<u8> {
    strange::handshake("8.4.0", capabilities)
}

fn observe_every(server: SocketAddr, interval: Duration) -> Observed {
    Observed::start(server, interval, Duration::from_millis(300), false, Cadence::Normal)
}

fn observe(server: SocketAddr) -> Observed {
    observe_every(server, Duration::from_millis(50))
}

/// The first failure, which must be of the kind, name the server and not the password.
async fn failure_of(server: SocketAddr, kind: FailureKind) -> Failure {
    let failure = observe(server).failure().await;
    assert_eq!(failure.kind, kind, "{}", failure.detail);
    assert!(failure.detail.contains(&server.to_string()), "{}", failure.detail);
    assert!(!failure.detail.contains("a secret"), "{}", failure.detail);
    failure
}

#[tokio::test]
async fn nobody_on_the_port_is_refused() {
    let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    failure_of(free, FailureKind::Refused).await;
}

#[tokio::test]
async fn silence_after_connecting_is_no_answer() {
    failure_of(greeting(Vec::new()), FailureKind::NoAnswer).await;
}

#[tokio::test]
async fn half_a_greeting_and_then_silence_is_no_answer() {
    let mut half = handshake(CAPABILITIES);
    half.truncate(20);
    failure_of(greeting(half), FailureKind::NoAnswer).await;
}

#[tokio::test]
async fn a_full_backlog_is_a_timeout() {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    socket.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
    socket.listen(0).unwrap();
    let address = socket.local_addr().unwrap().as_socket().unwrap();
    // The kernel takes one more than the backlog, then drops SYNs.
    let _filled: Vec<_> =
        (0..3).map(|_| TcpStream::connect_timeout(&address, Duration::from_millis(200)).ok()).collect();
    failure_of(address, FailureKind::Timeout).await;
}

#[tokio::test]
async fn a_server_that_hangs_up_at_once_is_a_broken_connection() {
    failure_of(server(drop), FailureKind::Reset).await;
}

#[tokio::test]
async fn http_is_not_mysql() {
    failure_of(greeting(b"HTTP/1.1 400 Bad Request\r\n\r\n".to_vec()), FailureKind::NotMysql).await;
}

/// What is taken for the beginning of a long packet shows only in silence.
async fn strange(greets: &[u8]) {
    let failure = observe(greeting(greets.to_vec())).failure().await;
    assert!(matches!(failure.kind, FailureKind::NotMysql | FailureKind::NoAnswer), "{greets:?}: {failure:?}");
}

#[tokio::test]
async fn other_protocols_are_not_mysql() {
    strange(b"SSH-2.0-OpenSSH_9.2p1\r\n").await;
    strange(b"220 mail ESMTP\r\n").await;
    strange(b"\x15\x03\x01\x00\x02\x02\x46").await;
}

#[tokio::test]
async fn garbage_is_not_mysql() {
    strange(&[0x2a; 4096]).await;
    strange(&packet(0, &[0x2a; 100])).await;
    strange(&packet(0, &[])).await;
    strange(&packet(0, &[10])).await;
}

#[tokio::test]
async fn an_endless_greeting_is_not_read() {
    let endless = [&[0xff, 0xff, 0xff, 0][..], &vec![10; (1 << 24) - 1][..]].concat();
    failure_of(greeting(endless), FailureKind::NotMysql).await;
}

#[tokio::test]
async fn errors_instead_of_a_greeting_are_told_apart() {
    let full = failure_of(error_greeting(1040, "Too many connections"), FailureKind::TooManyConnections).await;
    assert!(full.detail.contains("Too many connections"), "{}", full.detail);
    failure_of(error_greeting(1129, "Host is blocked"), FailureKind::HostBlocked).await;
    failure_of(error_greeting(1130, "Host is not allowed to connect"), FailureKind::AuthDenied).await;
    failure_of(error_greeting(1045, "Access denied for user"), FailureKind::AuthDenied).await;
    failure_of(error_greeting(1053, "Server shutdown in progress"), FailureKind::StartingOrStopping).await;
}

#[tokio::test]
async fn a_state_in_an_early_error_is_not_in_its_words() {
    let full = failure_of(error_greeting(1040, "#08004Too many connections"), FailureKind::TooManyConnections).await;
    assert!(!full.detail.contains('#'), "{}", full.detail);
}

#[tokio::test]
async fn a_denied_login_is_auth_denied() {
    let address = server(|mut connection| {
        let _ = connection.write_all(&handshake(CAPABILITIES));
        let mut buffer = [0; 4096];
        let _ = connection.read(&mut buffer);
        let _ = connection.write_all(&packet(2, b"\xff\x15\x04#28000Access denied for user 'shunt'"));
        let _ = connection.read_to_end(&mut Vec::new());
    });
    let failure = failure_of(address, FailureKind::AuthDenied).await;
    assert!(failure.detail.contains("ERROR 1045 (28000): Access denied"), "{}", failure.detail);
}

#[tokio::test]
async fn a_tls_handshake_that_fails_is_tls() {
    for answer in [&b"\x15\x03\x03\x00\x02\x02\x28"[..], b"this is not TLS at all", b""] {
        let address = server(move |mut connection| {
            let _ = connection.write_all(&handshake(CAPABILITIES | CLIENT_SSL));
            let mut buffer = [0; 4096];
            let _ = connection.read(&mut buffer);
            let _ = connection.write_all(answer);
            // The client must have been read, or closing would be a reset.
            let _ = connection.shutdown(std::net::Shutdown::Write);
            let _ = connection.read_to_end(&mut Vec::new());
        });
        failure_of(address, FailureKind::Tls).await;
    }
}

#[tokio::test]
async fn a_server_without_tls_is_asked_for_it_once() {
    let (plain, mut logins) = mpsc::unbounded_channel();
    let address = server(move |mut connection| {
        let _ = connection.write_all(&handshake(CAPABILITIES));
        let mut buffer = [0; 4096];
        let read = connection.read(&mut buffer).unwrap_or(0);
        let _ = plain.send(read > 4);
        let _ = connection.write_all(&packet(2, b"\xff\x15\x04#28000Access denied for user 'shunt'"));
        let _ = connection.read_to_end(&mut Vec::new());
    });
    let mut observed = observe(address);
    for _ in 0..4 {
        assert_eq!(observed.failure().await.kind, FailureKind::AuthDenied);
    }
    let mut given_up = 0;
    while let Ok(is_login) = logins.try_recv() {
        given_up += usize::from(!is_login);
    }
    assert!(given_up <= 1, "{given_up} connections without a login count towards max_connect_errors");
}

#[tokio::test]
async fn urgency_takes_effect_in_the_middle_of_an_interval() {
    let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let mut observed = observe_every(free, Duration::from_secs(3600));
    observed.cadence.send_replace(Cadence::Urgent);
    for _ in 0..3 {
        assert_eq!(observed.failure().await.kind, FailureKind::Refused);
    }
}

#[tokio::test]
async fn a_dropped_probe_closes_its_connection() {
    let (opened, mut openings) = mpsc::unbounded_channel();
    let (closed, mut closings) = mpsc::unbounded_channel();
    let address = server(move |mut connection| {
        let _ = opened.send(());
        let _ = connection.read_to_end(&mut Vec::new());
        let _ = closed.send(());
    });
    let Observed { observations, cadence, probe } = observe(address);
    tokio::time::timeout(Duration::from_secs(30), openings.recv()).await.unwrap().unwrap();
    drop(probe);
    tokio::time::timeout(Duration::from_secs(30), closings.recv()).await.unwrap().unwrap();
    drop((observations, cadence));
}
