//! The database's tables, and the way to them from every earlier version. `PRAGMA user_version` counts the steps taken.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::Connection;

use super::StoreError;

/// One step from each version to the next. A step that was released is never changed.
const STEPS: &[&str] = &[
    r"
    CREATE TABLE clusters (
        name            TEXT    PRIMARY KEY,
        epoch           INTEGER NOT NULL,
        primary_address TEXT
    ) STRICT;

    -- Without a listener a pin is for all listeners of its cluster.
    CREATE TABLE pins (
        cluster  TEXT    NOT NULL,
        listener TEXT,
        server   TEXT    NOT NULL,
        since    INTEGER NOT NULL, -- unix ms, as all times here
        by       TEXT    NOT NULL
    ) STRICT;
    CREATE UNIQUE INDEX pin_place ON pins (cluster, ifnull(listener, ''));

    CREATE TABLE pauses (
        cluster TEXT    PRIMARY KEY,
        until   INTEGER, -- NULL: until resumed
        reason  TEXT    NOT NULL,
        since   INTEGER NOT NULL,
        by      TEXT    NOT NULL
    ) STRICT;

    CREATE TABLE events (
        id      INTEGER PRIMARY KEY AUTOINCREMENT,
        at_ms   INTEGER NOT NULL,
        cluster TEXT,
        kind    TEXT    NOT NULL,
        message TEXT    NOT NULL,
        data    TEXT    NOT NULL -- JSON
    ) STRICT;
    CREATE INDEX events_of_cluster ON events (cluster, id);
",
    r"
    -- What is decided by (kind, step, outcome, and so on) lies beside the JSON, which a later version may not be able to read.
    CREATE TABLE operations (
        cluster  TEXT    NOT NULL,
        id       INTEGER NOT NULL,
        kind     TEXT    NOT NULL,
        dry_run  INTEGER NOT NULL,
        format   INTEGER NOT NULL, -- of the JSON
        state    TEXT    NOT NULL, -- JSON, as of the newest step
        serial   INTEGER NOT NULL, -- of that step
        step     TEXT    NOT NULL,
        begun_ms INTEGER NOT NULL,
        ended_ms INTEGER, -- NULL: under way
        outcome  TEXT,
        message  TEXT,
        PRIMARY KEY (cluster, id)
    ) STRICT;
    CREATE UNIQUE INDEX operation_under_way ON operations (cluster) WHERE ended_ms IS NULL;

    CREATE TABLE steps (
        cluster TEXT    NOT NULL,
        op      INTEGER NOT NULL,
        serial  INTEGER NOT NULL,
        step    TEXT    NOT NULL,
        at_ms   INTEGER NOT NULL,
        PRIMARY KEY (cluster, op, serial)
    ) STRICT, WITHOUT ROWID;

    CREATE TABLE outcasts (
        cluster TEXT    NOT NULL,
        server  TEXT    NOT NULL,
        format  INTEGER NOT NULL, -- of the JSON
        state   TEXT    NOT NULL, -- JSON
        PRIMARY KEY (cluster, server)
    ) STRICT, WITHOUT ROWID;
",
];

/// Opens the database of a folder, or makes it if the folder has none, and brings it to this version's schema.
pub(super) fn open(path: &Path) -> Result<Connection, StoreError> {
    match fs::metadata(path) {
        Ok(metadata) if metadata.is_file() && metadata.len() > 0 => {}
        Ok(_) => {
            let detail = "it is empty or no regular file".into();
            return Err(StoreError::Corrupt { path: path.to_owned(), detail });
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => create(path)?,
        Err(source) => return Err(StoreError::Io { what: "look at", path: path.to_owned(), source }),
    }
    let mut db = connect(path)?;
    let failed = |what| move |source| StoreError::sqlite(what, path, source);
    // The lock on the folder already keeps other agents out. In this mode SQLite needs no shared-memory file, which it
    // could not make on a full disk.
    pragma(&db, "locking_mode", "exclusive").map_err(failed("open"))?;
    pragma(&db, "journal_mode", "wal").map_err(failed("open"))?;
    // 64 pages of 4 KiB: the log is small enough for the reserve to hold it several times.
    pragma(&db, "wal_autocheckpoint", "64").map_err(failed("open"))?;
    pragma(&db, "synchronous", "full").map_err(failed("open"))?;
    let verdict: String = db.query_row("PRAGMA quick_check(1)", [], |row| row.get(0)).map_err(failed("check"))?;
    if verdict != "ok" {
        return Err(StoreError::Corrupt { path: path.to_owned(), detail: verdict });
    }
    migrate(&mut db, path)?;
    Ok(db)
}

/// Makes a database under another name and moves it into its place when it is complete: one that is empty or half made
/// is then never a crash at the first start, but always damage.
fn create(path: &Path) -> Result<(), StoreError> {
    let wal = side_file(path, "-wal");
    if fs::metadata(&wal).is_ok_and(|metadata| metadata.len() > 0) {
        let detail = format!("it is gone, but its log {} is there", wal.display());
        return Err(StoreError::Corrupt { path: path.to_owned(), detail });
    }
    let draft = side_file(path, ".new");
    let remove = || {
        for suffix in ["", "-journal", "-wal", "-shm"] {
            let _ = fs::remove_file(side_file(&draft, suffix));
        }
    };
    remove();
    let make = || -> Result<(), StoreError> {
        let mut db = connect(&draft)?;
        migrate(&mut db, path)?;
        // Kept in the file's header: a first start on a disk that then fills up has nothing left to change.
        pragma(&db, "journal_mode", "wal").map_err(|source| StoreError::sqlite("create the database", path, source))?;
        db.close().map_err(|(_, source)| StoreError::sqlite("create the database", path, source))?;
        let failed = |source| StoreError::Io { what: "create", path: path.to_owned(), source };
        private(&draft).and_then(|()| fs::rename(&draft, path)).map_err(failed)?;
        let dir = path.parent().unwrap_or(Path::new("."));
        fs::File::open(dir).and_then(|dir| dir.sync_all()).map_err(failed)
    };
    make().inspect_err(|_| remove())
}

fn private(path: &Path) -> io::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    fs::set_permissions(path, fs::Permissions::from_mode(0o640))
}

fn connect(path: &Path) -> Result<Connection, StoreError> {
    let db = Connection::open(path).map_err(|source| StoreError::sqlite("open", path, source))?;
    // Somebody may be making a backup with sqlite3.
    db.busy_timeout(Duration::from_secs(5)).map_err(|source| StoreError::sqlite("open", path, source))?;
    Ok(db)
}

/// Sets a pragma; those that answer with their new value are let answer.
pub(super) fn pragma(db: &Connection, name: &str, value: &str) -> rusqlite::Result<()> {
    db.pragma_update_and_check(None, name, value, |_| Ok(())).or_else(|error| match error {
        rusqlite::Error::QueryReturnedNoRows => Ok(()),
        error => Err(error),
    })
}

fn migrate(db: &mut Connection, path: &Path) -> Result<(), StoreError> {
    let failed = |source| StoreError::sqlite("bring the schema up to date", path, source);
    let version: i64 = db.query_row("PRAGMA user_version", [], |row| row.get(0)).map_err(failed)?;
    let Ok(done) = usize::try_from(version) else {
        let detail = format!("its schema is {version}");
        return Err(StoreError::Corrupt { path: path.to_owned(), detail });
    };
    let known = STEPS.len();
    let Some(steps) = STEPS.get(done..) else {
        return Err(StoreError::Newer { path: path.to_owned(), found: done, known });
    };
    if steps.is_empty() {
        return Ok(());
    }
    let transaction = db.transaction().map_err(failed)?;
    for step in steps {
        transaction.execute_batch(step).map_err(failed)?;
    }
    transaction.pragma_update(None, "user_version", known as u32).map_err(failed)?;
    transaction.commit().map_err(failed)
}

/// `shunt.db` → `shunt.db-wal`.
fn side_file(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}
