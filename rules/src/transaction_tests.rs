//! Against the kernel, each in a network namespace of its thread's own, which ends with the thread.

use std::io::Write as _;
use std::time::Instant;

use nix::sched::{CloneFlags, unshare};

use super::*;
use crate::element::{Pair, Value};
use crate::netlink::read;
use crate::netlink::write;
use crate::ruleset::Layout;
use crate::state::plan::Op;

fn in_a_namespace(test: &str, work: impl FnOnce(&mut Netlink) + Send + 'static) {
    let test = test.to_owned();
    let done = std::thread::spawn(move || {
        if let Err(error) = unshare(CloneFlags::CLONE_NEWNET) {
            // Not through the macros, whose output the test harness swallows; in one piece, as tests run side by side.
            let words = format!("\nskipped: {test}: cannot make a network namespace: {error}\n");
            let _ = io::stderr().write_all(words.as_bytes());
            return;
        }
        work(&mut Netlink::open().unwrap());
    });
    done.join().unwrap();
}

fn commit(netlink: &mut Netlink, fill: impl FnOnce(&mut Batch)) -> Result<Duration, DatapathError> {
    let mut batch = Batch::new(netlink.next_seq());
    fill(&mut batch);
    Rejected::commit(netlink, batch).map_err(|rejected| rejected.name("t"))
}

fn primary(host: u8) -> Op {
    let backend = Some(([10, 9, 0, 1], 3306).into());
    Op::Add(Key::Primary(([10, 1, 0, host], 3306).into()), Value { backend, ..Value::default() })
}

fn rejected(outcome: Result<Duration, DatapathError>) -> (String, Option<i32>) {
    match outcome {
        Err(DatapathError::Rejected { what, source }) => (what, source.raw_os_error()),
        other => panic!("{other:?}"),
    }
}

#[test]
fn the_one_element_that_was_rejected_is_named_among_many() {
    in_a_namespace("the_one_element_that_was_rejected_is_named_among_many", |netlink| {
        let now = Instant::now();
        commit(netlink, |batch| {
            write::create(batch, "t", &Layout::of("t"));
            write::ops(batch, "t", &[primary(77)], now);
        })
        .unwrap();
        let many: Vec<Op> = (1..=200).map(primary).collect();
        let outcome = rejected(commit(netlink, |batch| write::ops(batch, "t", &many, now)));
        let expected = "element 10.1.0.77:3306 of map primary4 in table inet t".to_owned();
        assert_eq!(outcome, (expected, Some(libc::EEXIST)));
        let found = read::table(netlink, "t").unwrap().unwrap();
        assert_eq!(found.elements.len(), 1, "nothing of the transaction is there");
    });
}

#[test]
fn a_missing_element_a_missing_table_and_an_existing_one_are_named() {
    in_a_namespace("a_missing_element_a_missing_table_and_an_existing_one_are_named", |netlink| {
        let now = Instant::now();
        let delete = |timed| {
            let pair = Pair { listener: "[fd00::1]:1".parse().unwrap(), backend: "[fd00::2]:1".parse().unwrap() };
            [Op::Delete { key: Key::Live(pair), timed }]
        };
        let what = "element [fd00::1]:1 → [fd00::2]:1 of set live6 in table inet t".to_owned();
        let outcome = rejected(commit(netlink, |batch| write::ops(batch, "t", &delete(false), now)));
        assert_eq!(outcome.1, Some(libc::ENOENT));
        commit(netlink, |batch| write::create(batch, "t", &Layout::of("t"))).unwrap();
        let outcome = rejected(commit(netlink, |batch| write::ops(batch, "t", &delete(true), now)));
        assert_eq!(outcome, (what, Some(libc::ENOENT)));
        let outcome = rejected(commit(netlink, |batch| write::create(batch, "t", &Layout::of("t"))));
        assert_eq!(outcome, ("table inet t".to_owned(), Some(libc::EEXIST)));
    });
}

#[test]
fn ten_thousand_elements_of_each_set_fit_into_one_transaction_and_read_back() {
    in_a_namespace("ten_thousand_elements_of_each_set_fit_into_one_transaction_and_read_back", |netlink| {
        let now = Instant::now();
        // The longest there are: IPv6, with a timeout or the longest comment.
        let address = |n: u32, net: u16| std::net::Ipv6Addr::from((u128::from(net) << 112) | u128::from(n));
        let note = Some("x".repeat(90));
        let ops: Vec<Op> = (0..10_000u32)
            .map(|n| {
                let (listener, backend) = ((address(n, 0xfd00), 3306).into(), (address(n, 0xfd01), 3306).into());
                let deadline = Some(now + Duration::from_secs(600));
                Op::Add(
                    Key::Live(Pair { listener, backend }),
                    Value { deadline, note: note.clone(), ..Value::default() },
                )
            })
            .chain((0..10_000u32).map(|n| {
                let (listener, backend) = ((address(n, 0xfd00), 3306).into(), (address(n, 0xfd01), 3306).into());
                let value = Value { backend: Some(backend), note: note.clone(), ..Value::default() };
                Op::Add(Key::Primary(listener), value)
            }))
            .collect();
        commit(netlink, |batch| {
            write::create(batch, "t", &Layout::of("t"));
            write::ops(batch, "t", &ops, now);
        })
        .unwrap();
        let found = read::table(netlink, "t").unwrap().unwrap();
        assert_eq!(found.elements.len(), 20_000);
        for op in &ops {
            let Op::Add(key, value) = op else { unreachable!("all are additions") };
            let read = &found.elements[key];
            assert_eq!(
                (read.backend, &read.note, read.deadline.is_some()),
                (value.backend, &value.note, value.deadline.is_some())
            );
        }
    });
}
