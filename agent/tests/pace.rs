//! When a probe asks, connects and connects again. Its server is a thread of this process that speaks just enough MySQL
//! to be taken for a MariaDB without replicas. The probe's interval is an hour, so that whatever comes came at once.

#[expect(dead_code, reason = "only the other tests end a probe on purpose")]
mod strange;

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use shunt::probe::{self, Cadence};
use shunt_core::observation::{FailureKind, Outcome, PromoterLock, ServerState};
use strange::{CAPABILITIES, Observed, handshake, packet, server};

const HOUR: Duration = Duration::from_secs(3600);

fn string(text: &str) -> Vec<u8> {
    [&[u8::try_from(text.len()).unwrap()], text.as_bytes()].concat()
}

/// The answers to one query, as text: columns, then rows.
type Set<'a> = (&'a [&'a str], Vec<Vec<&'a str>>);

fn answers(sets: &[Set<'_>]) -> Vec<u8> {
    let (mut bytes, mut sequence) = (Vec::new(), 0_u8);
    let mut send = |payload: &[u8]| {
        sequence += 1;
        bytes.extend(packet(sequence, payload));
    };
    for (place, (columns, rows)) in sets.iter().enumerate() {
        send(&[u8::try_from(columns.len()).unwrap()]);
        for column in *columns {
            let names = ["def", "", "", "", column, ""].map(string).concat();
            send(&[&names[..], &[0x0c, 45, 0, 255, 0, 0, 0, 0xfd, 0, 0, 0, 0, 0]].concat());
        }
        for row in rows {
            send(&row.iter().flat_map(|value| string(value)).collect::<Vec<_>>());
        }
        let more = if place + 1 < sets.len() { 0x08 } else { 0 };
        send(&[0xfe, 0, 0, 2 | more, 0, 0, 0]);
    }
    bytes
}

/// What the client says next; `None`: it is gone.
fn heard(connection: &mut TcpStream) -> Option<Vec<u8>> {
    let mut header = [0; 4];
    connection.read_exact(&mut header).ok()?;
    let mut payload = vec![0; u32::from_le_bytes([header[0], header[1], header[2], 0]) as usize];
    connection.read_exact(&mut payload).ok()?;
    Some(payload)
}

/// A server, the connections that are open to it, and everything that it was asked.
#[derive(Clone, Default)]
struct Fake {
    open: Arc<Mutex<Vec<TcpStream>>>,
    asked: Arc<Mutex<Vec<String>>>,
    /// Whether it closes every connection after its first answer to a round.
    is_fickle: bool,
}

impl Fake {
    fn listen(&self) -> SocketAddr {
        let fake = self.clone();
        server(move |connection| {
            let fake = fake.clone();
            fake.open.lock().unwrap().push(connection.try_clone().unwrap());
            std::thread::spawn(move || fake.serve(connection));
        })
    }

    fn serve(&self, mut connection: TcpStream) -> Option<()> {
        connection.write_all(&handshake("10.11.0-MariaDB", CAPABILITIES)).ok()?;
        heard(&mut connection)?;
        connection.write_all(&packet(2, &[0, 0, 0, 2, 0, 0, 0])).ok()?;
        while let Some(said) = heard(&mut connection) {
            let query = String::from_utf8_lossy(&said[1..]).into_owned();
            let is_round = !query.contains("SHOW GLOBAL VARIABLES");
            let answer = if is_round {
                let columns = if query.contains("GET_LOCK") {
                    &["server_id", "read_only", "gtid", "promoter"][..]
                } else {
                    &["server_id", "read_only", "gtid"][..]
                };
                let row = ["1", "0", "0-1-7", "1"][..columns.len()].to_vec();
                answers(&[(columns, vec![row]), (&["Connection_name"], Vec::new())])
            } else {
                let variables = vec![vec!["version", "10.11.0-MariaDB"], vec!["gtid_domain_id", "0"]];
                answers(&[(&["Variable_name", "Value"], variables)])
            };
            self.asked.lock().unwrap().push(query);
            connection.write_all(&answer).ok()?;
            if is_round && self.is_fickle {
                let _ = connection.shutdown(Shutdown::Both);
            }
        }
        Some(())
    }

    /// As the death of a process does.
    fn break_connections(&self) {
        for connection in self.open.lock().unwrap().drain(..) {
            let _ = connection.shutdown(Shutdown::Both);
        }
    }
}

fn observe(server: SocketAddr, promotes: bool) -> Observed {
    Observed::start(server, HOUR, Duration::from_secs(10), promotes, Cadence::Urgent)
}

impl Observed {
    async fn answer(&mut self) -> ServerState {
        match self.next().await.outcome {
            Outcome::Answered(state) => *state,
            Outcome::Failed(failure) => panic!("no answer: {failure:?}"),
        }
    }

    /// Connected, and the next tick an hour away.
    async fn calm(&mut self) {
        self.answer().await;
        self.cadence.send_replace(Cadence::Normal);
        // What was under way comes to its end.
        while tokio::time::timeout(Duration::from_millis(500), self.observations.recv()).await.is_ok() {}
    }
}

#[tokio::test]
async fn a_server_that_is_connected_is_asked_as_soon_as_it_turns_urgent() {
    let mut observed = observe(Fake::default().listen(), false);
    observed.calm().await;
    observed.cadence.send_replace(Cadence::Urgent);
    for _ in 0..5 {
        observed.answer().await;
    }
}

#[tokio::test]
async fn who_is_hastened_asks_once_whatever_the_pace() {
    let mut observed = observe(Fake::default().listen(), false);
    observed.calm().await;
    for _ in 0..3 {
        probe::hasten(&observed.cadence);
        observed.answer().await;
        let more = tokio::time::timeout(Duration::from_millis(300), observed.observations.recv()).await;
        assert!(more.is_err(), "the next tick is an hour away: {more:?}");
    }
    // It is still the pace that changes: this is no hastening.
    observed.cadence.send_replace(Cadence::Urgent);
    for _ in 0..5 {
        observed.answer().await;
    }
}

#[tokio::test]
async fn a_connection_that_worked_and_breaks_is_made_again_at_once() {
    let fake = Fake::default();
    let mut observed = observe(fake.listen(), false);
    observed.calm().await;
    fake.break_connections();
    assert_eq!(observed.failure().await.kind, FailureKind::Reset);
    observed.answer().await;
}

#[tokio::test]
async fn a_server_that_breaks_every_connection_is_not_hammered() {
    let mut observed = observe(Fake { is_fickle: true, ..Fake::default() }.listen(), false);
    let (start, mut broken) = (Instant::now(), 0_u32);
    while broken < 41 {
        broken += u32::from(matches!(observed.next().await.outcome, Outcome::Failed(_)));
    }
    assert!(start.elapsed() >= Duration::from_secs(2), "{broken} connections in {:?}", start.elapsed());
}

#[tokio::test]
async fn the_promoters_lock_is_asked_for_only_where_the_agent_may_promote() {
    for (promotes, expected) in [(true, PromoterLock::Ours), (false, PromoterLock::NotAsked)] {
        let fake = Fake::default();
        assert_eq!(observe(fake.listen(), promotes).answer().await.promoter, expected);
        let asked = fake.asked.lock().unwrap().join("\n");
        assert_eq!(asked.contains("GET_LOCK"), promotes, "{asked}");
    }
}
