//! A full disk: a small tmpfs in a mount namespace that belongs to the test's own thread and goes with it.

use std::fs::{self, File};
use std::io::Write;
use std::path::Path;
use std::time::{Duration, Instant};

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use shunt_core::Epoch;
use shunt_core::operation::{OpId, Outcome, Step};
use tempfile::TempDir;

use super::operations::{BEFORE, at, ending, failover};
use super::{Health, Limits, Pin, Store, StoreError, address, cluster, event, folder, sql};

const LIMITS: Limits = Limits { events: 1_000_000, operations: 1_000, reserve: 1 << 20 };

/// Runs a test with a disk of 8 MiB, or says loudly why it does not.
fn with_small_disk(name: &str, options: &'static str, test: impl FnOnce(&Path) + Send + 'static) {
    if !nix::unistd::geteuid().is_root() {
        announce(&format!("SKIPPED {name}: it needs root to mount a small disk\n"));
        return;
    }
    let mount_point: TempDir = folder();
    let path = mount_point.path().to_owned();
    let thread = std::thread::spawn(move || {
        unshare(CloneFlags::CLONE_NEWNS).expect("a mount namespace");
        let none = None::<&str>;
        mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none).expect("mounts of one's own");
        mount(Some("small"), &path, Some("tmpfs"), MsFlags::empty(), Some(options)).expect("a small disk");
        test(&path);
    });
    if let Err(panic) = thread.join() {
        std::panic::resume_unwind(panic);
    }
}

/// To stderr itself, which the test harness does not capture.
fn announce(text: &str) {
    let _ = nix::unistd::write(std::io::stderr(), text.as_bytes());
}

/// Fills the disk to the last byte.
fn fill(disk: &Path) {
    let mut file = File::create(disk.join("ballast")).expect("a file");
    for size in [1 << 16, 1 << 12, 1] {
        while file.write(&vec![1; size]).is_ok_and(|written| written > 0) {}
    }
}

#[test]
fn on_a_full_disk_epochs_pins_and_pauses_are_still_kept_and_events_are_refused() {
    with_small_disk("a full disk", "size=8m", |disk| {
        let orders = cluster("orders");
        let server = address("10.0.0.11:3306");
        let db1 = Some(server);
        let mut store = Store::open_with(disk, LIMITS).unwrap();
        store.advance(&orders, Epoch(1), db1).unwrap();
        store.record(&event("before")).unwrap();
        // A new store's log is empty: it has no space of its own yet to write into.
        drop(store);
        let mut store = Store::open_with(disk, LIMITS).unwrap();
        fill(disk);

        assert!(matches!(store.record(&event("lost")).unwrap_err(), StoreError::DiskFull { .. }));
        assert_eq!(store.health(), Health::DiskFull);
        assert!(disk.join("reserve").exists(), "the reserve is not for events");
        for epoch in 2..400 {
            store.advance(&orders, Epoch(epoch), db1).unwrap();
        }
        let pin = Pin { cluster: orders.clone(), listener: None, server, since_ms: 0, by: "root".into() };
        store.pin(&pin).unwrap();
        assert!(!disk.join("reserve").exists());
        assert_eq!(store.health(), Health::DiskFull);
        assert!(matches!(store.record(&event("lost")).unwrap_err(), StoreError::DiskFull { .. }));
        drop(store);

        // The next agent starts on the same full disk.
        let mut store = Store::open_with(disk, LIMITS).unwrap();
        assert_eq!(store.epochs().unwrap()[&orders], (Epoch(399), db1));
        assert_eq!(store.pins().unwrap(), [pin]);
        store.advance(&orders, Epoch(400), db1).unwrap();
        assert!(matches!(store.record(&event("lost")).unwrap_err(), StoreError::DiskFull { .. }));
        assert_eq!(store.health(), Health::DiskFull);

        fs::remove_file(disk.join("ballast")).unwrap();
        let deadline = Instant::now() + Duration::from_secs(30);
        while store.recover() == Health::DiskFull {
            assert!(Instant::now() < deadline, "the reserve is not made anew");
            std::thread::sleep(Duration::from_millis(50));
        }
        assert_eq!(fs::metadata(disk.join("reserve")).unwrap().len(), 1 << 20);
        store.record(&event("after")).unwrap();
        assert_eq!(store.latest_events(None, 1).unwrap()[0].event.message, "after");
    });
}

#[test]
fn on_a_full_disk_operations_go_on_step_by_step() {
    with_small_disk("operations on a full disk", "size=8m", |disk| {
        let orders = cluster("orders");
        drop(Store::open_with(disk, LIMITS).unwrap());
        let mut store = Store::open_with(disk, LIMITS).unwrap();
        fill(disk);
        let steps = [Step::Fence, Step::Disarm, Step::Drain, Step::Recheck, Step::Promote, Step::Open, Step::Repoint];
        for id in 1..=20 {
            let mut operation = failover(id);
            store.begin_step(&orders, &operation, 1).unwrap();
            for step in steps {
                operation = at(operation, step);
                store.begin_step(&orders, &operation, 2).unwrap();
            }
            store.end_operation(&orders, &operation, &ending(Outcome::Done), 3).unwrap();
        }
        store.begin_step(&orders, &failover(21), 4).unwrap();
        assert_eq!(store.health(), Health::DiskFull);
        drop(store);
        let store = Store::open_with(disk, LIMITS).unwrap();
        assert_eq!(store.unfinished(&orders).unwrap(), Some(failover(21)));
        let record = store.operation(&orders, OpId(20)).unwrap().unwrap();
        assert_eq!((record.steps.len(), record.operation.step), (1 + steps.len(), Step::Repoint));
    });
}

#[test]
fn a_new_version_starts_on_a_full_disk_because_the_reserve_gives_room_for_its_tables() {
    with_small_disk("an upgrade on a full disk", "size=8m", |disk| {
        let orders = cluster("orders");
        let mut store = Store::open_with(disk, LIMITS).unwrap();
        store.advance(&orders, Epoch(3), None).unwrap();
        drop(store);
        sql(disk, BEFORE);
        fill(disk);
        let mut store = Store::open_with(disk, LIMITS).unwrap();
        assert_eq!((store.health(), store.epochs().unwrap()[&orders]), (Health::DiskFull, (Epoch(3), None)));
        store.begin_step(&orders, &failover(1), 1).unwrap();
    });
}

#[test]
fn a_first_start_on_a_full_disk_is_a_clear_error_and_leaves_nothing_half_made() {
    with_small_disk("a first start on a full disk", "size=8m", |disk| {
        fill(disk);
        let error = Store::open_with(disk, LIMITS).unwrap_err();
        assert!(matches!(error, StoreError::DiskFull { .. }), "{error:?}");
        assert!(!disk.join("shunt.db").exists());
        fs::remove_file(disk.join("ballast")).unwrap();
        assert_eq!(Store::open_with(disk, LIMITS).unwrap().health(), Health::Good);
    });
}

#[test]
fn a_folder_on_a_read_only_disk_is_a_clear_error() {
    with_small_disk("a read-only disk", "size=8m,ro", |disk| {
        let error = Store::open(disk).unwrap_err();
        let StoreError::Io { what, path, .. } = &error else { panic!("{error:?}") };
        assert_eq!((*what, path.ends_with("lock")), ("open the lock file", true));
    });
}

#[test]
fn a_disk_without_inodes_keeps_epochs_too() {
    with_small_disk("a disk without inodes", "size=8m,nr_inodes=8", |disk| {
        let orders = cluster("orders");
        let mut store = Store::open_with(disk, LIMITS).unwrap();
        let mut files = 0;
        while File::create(disk.join(format!("ballast{files}"))).is_ok() {
            files += 1;
        }
        store.advance(&orders, Epoch(1), None).unwrap();
        drop(store);
        let mut store = Store::open_with(disk, LIMITS).unwrap();
        store.advance(&orders, Epoch(2), None).unwrap();
    });
}
