//! What a probe makes of servers that are none, or that refuse: fakes on loopback, no MySQL needed.

mod probe_support;

use std::time::Duration;

use probe_support::{Fake, greeting, probe, watch_probe};
use shunt_core::observation::FailureKind;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// A packet: length, sequence number, payload.
fn packet(sequence: u8, payload: &[u8]) -> Vec<u8> {
    let mut packet = (payload.len() as u32).to_le_bytes()[..3].to_vec();
    packet.push(sequence);
    packet.extend_from_slice(payload);
    packet
}

/// An error packet as it is sent in place of a greeting, without SQL state.
fn error(code: u16, words: &str) -> Vec<u8> {
    let mut payload = vec![0xff];
    payload.extend_from_slice(&code.to_le_bytes());
    payload.extend_from_slice(words.as_bytes());
    packet(0, &payload)
}

#[tokio::test]
async fn a_refusal_in_place_of_the_greeting_is_told_by_its_code() {
    for (code, kind) in [
        (1040, FailureKind::TooManyConnections),
        (1045, FailureKind::AuthDenied),
        (1129, FailureKind::HostBlocked),
        (1130, FailureKind::AuthDenied),
        (1053, FailureKind::StartingOrStopping),
    ] {
        let fake = Fake::that_says(error(code, "words of the server")).await;
        let failure = probe(&fake).failure().await;
        assert_eq!(failure.kind, kind, "{code}: {}", failure.detail);
        assert!(failure.detail.contains("words of the server"), "{}", failure.detail);
        assert!(failure.detail.contains(&fake.address.to_string()), "{}", failure.detail);
    }
}

#[tokio::test]
async fn nobody_on_the_port_is_refused() {
    let fake = Fake::that_says(Vec::new()).await;
    let address = fake.address;
    fake.close().await;
    let failure = watch_probe(address).failure().await;
    assert_eq!(failure.kind, FailureKind::Refused);
    assert_eq!(failure.detail, format!("connect to {address}: Connection refused (os error 111)"));
}

#[tokio::test]
async fn http_and_garbage_are_not_mysql() {
    let long_garbage: Vec<u8> = (0..4_000_u32).map(|n| (n * 7919 % 251) as u8).collect();
    for words in [
        b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n".to_vec(),
        b"SSH-2.0-OpenSSH_9.2p1\r\n".to_vec(),
        packet(0, &[0x0a]),
        packet(0, b"\x09ancient protocol\0"),
        packet(3, &greeting(true)),
        long_garbage,
    ] {
        let fake = Fake::that_says(words.clone()).await;
        let failure = probe(&fake).failure().await;
        assert_eq!(failure.kind, FailureKind::NotMysql, "{:?}: {}", words.get(..8), failure.detail);
    }
}

#[tokio::test]
async fn silence_is_a_timeout_of_a_server_that_accepted() {
    let fake = Fake::that_says(Vec::new()).await;
    let failure = probe(&fake).failure().await;
    assert_eq!(failure.kind, FailureKind::Timeout);
    assert!(failure.detail.contains("the connection was accepted"), "{}", failure.detail);
}

#[tokio::test]
async fn accepting_and_closing_is_a_broken_connection() {
    let fake = Fake::that(|socket| async move { drop(socket) }).await;
    assert_eq!(probe(&fake).failure().await.kind, FailureKind::Reset);
}

#[tokio::test]
async fn a_greeting_of_16_megabytes_is_refused_by_its_header() {
    let fake = Fake::that(|mut socket| async move {
        let chunk = vec![b'x'; 64 << 10];
        let _ = socket.write_all(&[0xff, 0xff, 0xff, 0]).await;
        while socket.write_all(&chunk).await.is_ok() {}
    })
    .await;
    let before = resident_kilobytes();
    let mut probe = probe(&fake);
    for _ in 0..5 {
        assert_eq!(probe.failure().await.kind, FailureKind::NotMysql);
    }
    let grown = resident_kilobytes().saturating_sub(before);
    assert!(grown < 8 << 10, "{grown} KiB kept");
}

#[tokio::test]
async fn an_endless_trickle_of_a_greeting_ends_at_the_deadline() {
    let fake = Fake::that(|mut socket| async move {
        let _ = socket.write_all(&[0xff, 0xff, 0x3f, 0]).await;
        while socket.write_all(b"x").await.is_ok() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
    assert_eq!(probe(&fake).failure().await.kind, FailureKind::Timeout);
}

#[tokio::test]
async fn a_tls_handshake_that_fails_is_not_a_death() {
    let fake = Fake::that(|mut socket| async move {
        let _ = socket.write_all(&packet(0, &greeting(true))).await;
        let mut request = [0; 36];
        let _ = socket.read_exact(&mut request).await;
        let _ = socket.write_all(b"this is no TLS record at all").await;
        let _ = socket.read(&mut request).await;
    })
    .await;
    let failure = probe(&fake).failure().await;
    assert_eq!(failure.kind, FailureKind::Tls, "{}", failure.detail);
    assert!(failure.kind.is_alive());
}

#[tokio::test]
async fn a_server_without_tls_is_asked_in_plain_and_costs_one_aborted_handshake_only() {
    let fake = Fake::that(|mut socket| async move {
        let _ = socket.write_all(&packet(0, &greeting(false))).await;
        let mut response = vec![0; 4096];
        if socket.read(&mut response).await.is_ok_and(|n| n > 0) {
            let mut refusal = vec![0xff, 0x15, 0x04];
            refusal.extend_from_slice(b"#28000Access denied");
            let _ = socket.write_all(&packet(2, &refusal)).await;
        }
    })
    .await;
    let mut probe = probe(&fake);
    for _ in 0..4 {
        let failure = probe.failure().await;
        assert_eq!(failure.kind, FailureKind::AuthDenied, "{}", failure.detail);
        assert!(failure.detail.contains("Access denied"), "{}", failure.detail);
    }
    // Four logins, and one more connection for finding out that there is no TLS.
    assert!((5..=6).contains(&fake.accepted()), "{}", fake.accepted());
}

#[tokio::test]
async fn a_public_key_that_is_none_is_not_mysql_rather_than_the_end_of_the_probe() {
    let fake = Fake::that(|mut socket| async move {
        let mut buffer = vec![0; 4096];
        let _ = socket.write_all(&packet(0, &greeting(false))).await;
        if socket.read(&mut buffer).await.is_ok_and(|n| n > 0) {
            // Full authentication, then the key that the client asks for.
            let _ = socket.write_all(&packet(2, &[0x01, 0x04])).await;
            let _ = socket.read(&mut buffer).await;
            let _ = socket.write_all(&packet(4, b"\x01no key")).await;
            let _ = socket.read(&mut buffer).await;
        }
    })
    .await;
    let mut probe = probe(&fake);
    for _ in 0..2 {
        assert_eq!(probe.failure().await.kind, FailureKind::NotMysql);
    }
}

#[tokio::test]
async fn a_server_that_always_fails_is_asked_once_an_interval_and_no_oftener() {
    let fake = Fake::that(|socket| async move { drop(socket) }).await;
    let mut probe = probe(&fake);
    let first = probe.observation().await.at;
    let mut last = first;
    for _ in 0..6 {
        last = probe.observation().await.at;
    }
    // An interval of 100 ms: six more rounds take six intervals, give or take the one that the first was early by.
    assert!(last.since(first) >= Duration::from_millis(450), "{:?}", last.since(first));
}

#[tokio::test]
async fn no_text_contains_the_password() {
    for fake in [
        Fake::that_says(error(1045, "Access denied for user 'probe'@'localhost' (using password: YES)")).await,
        Fake::that_says(b"HTTP/1.1 400 Bad Request\r\n\r\n".to_vec()).await,
        Fake::that_says(Vec::new()).await,
    ] {
        let observation = probe(&fake).observation().await;
        assert!(!format!("{observation:?}").contains(probe_support::PASSWORD), "{observation:?}");
    }
}

/// VmRSS of this process.
fn resident_kilobytes() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}
