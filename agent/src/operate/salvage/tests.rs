//! Logs of real servers (`agent/tests/data/salvage`: what the lab's salvage test keeps, with a short row for the long one),
//! as they are and damaged; and servers that say anything.

use std::path::Path;
use std::time::{Duration, Instant};

use proptest::prelude::*;
use shunt_core::gtid::History;
use shunt_core::observation::Flavour;
use tokio::io::AsyncWriteExt as _;

use super::event::{HEADER, Header};
use super::fetch::take_in;
use super::keep::{Keep, MAGIC};
use super::list;
use super::log::Log;
use super::trouble::Trouble;
use super::wire::Wire;

const MYSQL: (&[u8], &str, Flavour) = (
    include_bytes!("../../../tests/data/salvage/mysql-9.7.binlog"),
    include_str!("../../../tests/data/salvage/mysql-9.7.txt"),
    Flavour::Mysql,
);
const MARIADB: (&[u8], &str, Flavour) = (
    include_bytes!("../../../tests/data/salvage/mariadb-10.11.binlog"),
    include_str!("../../../tests/data/salvage/mariadb-10.11.txt"),
    Flavour::Mariadb,
);

fn now<T>(work: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(work)
}

fn listed(log: Vec<u8>) -> Result<String, Trouble> {
    let until = Instant::now() + Duration::from_secs(60);
    let mut log = Log::of(Box::new(log), until).map_err(|e| Trouble::File(String::new(), e))?;
    let mut text = Vec::new();
    now(list::list(&mut log, &mut text))?;
    Ok(String::from_utf8(text).unwrap())
}

/// The events of a log, each as a server sends it.
fn packets(log: &[u8]) -> Vec<Vec<u8>> {
    let mut packets = Vec::new();
    let mut rest = &log[MAGIC.len()..];
    while let Some(header) = rest.first_chunk::<HEADER>().and_then(Header::read) {
        let (event, after) = rest.split_at(header.size as usize);
        packets.push([&[0], event].concat());
        rest = after;
    }
    packets
}

/// What is kept of packets that a server sends.
fn taken(packets: &[Vec<u8>], wanted: &History, folder: &Path) -> Result<Vec<u8>, Trouble> {
    let mut sent = Vec::new();
    for (sequence, packet) in packets.iter().enumerate() {
        sent.extend([&(packet.len() as u32).to_le_bytes()[..3], &[sequence as u8]].concat());
        sent.extend(packet);
    }
    now(async {
        let (ours, mut theirs) = tokio::io::duplex(sent.len().max(1));
        theirs.write_all(&sent).await.unwrap();
        drop(theirs);
        let mut keep = Keep::create(folder, "x.binlog")?;
        take_in(&mut Wire::new(Box::new(ours), 0), wanted, &mut keep).await?;
        Ok(std::fs::read(keep.into_part().finish()?).unwrap())
    })
}

fn wanted(text: &str, flavour: Flavour) -> History {
    let line = text.lines().nth(2).and_then(|line| line.split_once(": ")).unwrap();
    History::parse(flavour, line.1).unwrap()
}

fn end() -> Vec<u8> {
    vec![0xfe, 0, 0, 2, 0]
}

#[test]
fn files_are_named_after_the_operation_and_the_server() {
    for (server, name) in [("10.0.0.11:3306", "orders-17-10.0.0.11_3306"), ("[fd00::b]:3307", "orders-17-fd00--b_3307")]
    {
        assert_eq!(super::file_name("orders/17", server.parse().unwrap()), name);
    }
}

#[test]
fn the_logs_of_real_servers_are_listed_as_they_were() {
    for (log, text, _) in [MYSQL, MARIADB] {
        let head = text.find("\n\n").unwrap() + 2;
        assert_eq!(listed(log.to_vec()).unwrap(), text[head..]);
    }
}

#[test]
fn what_was_kept_is_kept_the_same_when_it_comes_again() {
    let folder = tempfile::tempdir().unwrap();
    for (log, text, flavour) in [MYSQL, MARIADB] {
        let mut packets = packets(log);
        packets.push(end());
        assert!(taken(&packets, &wanted(text, flavour), folder.path()).unwrap() == log);
    }
}

#[test]
fn a_log_that_ends_early_is_not_kept() {
    let folder = tempfile::tempdir().unwrap();
    for (log, text, flavour) in [MYSQL, MARIADB] {
        let mut packets = packets(log);
        // The last transaction, of BEGIN, table, rows and commit; and the end of the log in the server's words.
        packets.truncate(packets.len() - 6);
        packets.push(end());
        let error = taken(&packets, &wanted(text, flavour), folder.path()).unwrap_err().to_string();
        assert!(error.contains("its binary logs have no"), "{error}");
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
    }
}

#[test]
fn a_transaction_without_its_end_is_not_listed() {
    for (log, _, _) in [MYSQL, MARIADB] {
        let last = packets(log).pop().unwrap().len() - 1;
        let error = listed(log[..log.len() - last].to_vec()).unwrap_err().to_string();
        assert!(error.contains("only a part of the transaction"), "{error}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(600))]

    #[test]
    fn a_damaged_log_is_an_error_and_never_a_panic(
        mysql in any::<bool>(),
        places in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
        length in any::<prop::sample::Index>(),
    ) {
        let (log, _, _) = if mysql { MYSQL } else { MARIADB };
        let mut log = log.to_vec();
        let before = log.clone();
        for (place, byte) in places {
            let place = place.index(log.len());
            log[place] = byte;
        }
        prop_assert_eq!(listed(log.clone()).is_ok(), log == before);
        log.truncate(length.index(log.len()));
        let _ = listed(log);
    }

    /// Here the checksums are right, so that what is damaged is read to the end.
    #[test]
    fn a_log_of_nonsense_is_never_a_panic(
        mysql in any::<bool>(),
        event in any::<prop::sample::Index>(),
        places in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
    ) {
        let (log, text, flavour) = if mysql { MYSQL } else { MARIADB };
        let mut packets = packets(log);
        let event = event.index(packets.len());
        let packet = &mut packets[event];
        let length = packet.len();
        for (place, byte) in places {
            // Not its length, nor that it is an event.
            let place = 1 + place.index(length - 1);
            if !(10..14).contains(&place) {
                packet[place] = byte;
            }
        }
        let sum = crc32fast::hash(&packet[1..length - 4]);
        packet[length - 4..].copy_from_slice(&sum.to_le_bytes());
        let changed: Vec<u8> = packets.iter().flat_map(|packet| packet[1..].to_vec()).collect();
        let _ = listed([&MAGIC[..], &changed].concat());
        packets.push(end());
        let folder = tempfile::tempdir().unwrap();
        let _ = taken(&packets, &wanted(text, flavour), folder.path());
    }

    #[test]
    fn no_server_makes_it_panic(packets in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..60), 0..6)) {
        let folder = tempfile::tempdir().unwrap();
        let _ = taken(&packets, &wanted(MYSQL.1, MYSQL.2), folder.path());
        let sent: Vec<u8> = packets.concat();
        now(async {
            let (ours, mut theirs) = tokio::io::duplex(1024);
            theirs.write_all(&sent).await.unwrap();
            drop(theirs);
            let _ = Wire::new(Box::new(ours), 0).query(b"SELECT 1").await;
        });
    }
}
