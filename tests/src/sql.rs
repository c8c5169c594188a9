//! Blocking SQL over a server's Unix socket, as root. A socket in the file system is reachable from every network
//! namespace, so this works also while the server's network is cut.

use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use mysql_async::prelude::Queryable as _;
use mysql_async::{Conn, OptsBuilder, Row, Value};
use tokio::runtime::Runtime;
use tokio::sync::Mutex;

/// Bound of one statement. Stopping a replica's threads may take a few seconds; nothing here takes a minute.
const DEADLINE: Duration = Duration::from_secs(60);

/// One row, as text; `None` is NULL.
pub type Line = Vec<Option<String>>;

/// A kept connection, made again when it broke.
#[derive(Clone)]
pub struct Console {
    socket: PathBuf,
    conn: Arc<Mutex<Option<Conn>>>,
}

impl Console {
    pub fn new(socket: &Path) -> Self {
        Self { socket: socket.to_path_buf(), conn: Arc::default() }
    }

    /// Runs one statement; its rows.
    pub fn query(&self, sql: &str) -> Result<Vec<Line>> {
        let (this, statement) = (self.clone(), sql.to_owned());
        let done = wait_for(async move { tokio::time::timeout(DEADLINE, this.ask(&statement)).await })?;
        done.map_err(|_| anyhow!("no answer within {DEADLINE:?}"))
            .and_then(|answer| answer)
            .with_context(|| format!("{sql} (on {})", self.socket.display()))
    }

    /// Runs one statement; the first column of its first row, or "" for NULL or no row.
    pub fn value(&self, sql: &str) -> Result<String> {
        let rows = self.query(sql)?;
        Ok(rows.into_iter().next().and_then(|row| row.into_iter().next().flatten()).unwrap_or_default())
    }

    /// Runs one statement; its first row by column name.
    pub fn named(&self, sql: &str) -> Result<std::collections::HashMap<String, String>> {
        let (this, statement) = (self.clone(), sql.to_owned());
        let row = wait_for(async move { tokio::time::timeout(DEADLINE, this.first(&statement)).await })?;
        let row = row.map_err(|_| anyhow!("no answer within {DEADLINE:?}"))?.with_context(|| sql.to_owned())?;
        let Some(row) = row else { return Ok(std::collections::HashMap::new()) };
        let names: Vec<String> = row.columns_ref().iter().map(|c| c.name_str().into_owned()).collect();
        Ok(names.into_iter().zip(text(row).into_iter().map(Option::unwrap_or_default)).collect())
    }

    /// Forgets the connection: the server behind it is gone.
    pub fn forget(&self) {
        let conn = Arc::clone(&self.conn);
        let _ = wait_for(async move { drop(conn.lock().await.take()) });
    }

    async fn ask(&self, sql: &str) -> Result<Vec<Line>> {
        let mut slot = self.conn.lock().await;
        let conn = self.open(&mut slot).await?;
        match conn.query::<Row, _>(sql).await {
            Ok(rows) => Ok(rows.into_iter().map(text).collect()),
            Err(error) => Err(fail(&mut slot, error)),
        }
    }

    async fn first(&self, sql: &str) -> Result<Option<Row>> {
        let mut slot = self.conn.lock().await;
        let conn = self.open(&mut slot).await?;
        conn.query_first::<Row, _>(sql).await.map_err(|error| fail(&mut slot, error))
    }

    async fn open<'a>(&self, slot: &'a mut Option<Conn>) -> Result<&'a mut Conn> {
        let conn = if let Some(conn) = slot.take() {
            conn
        } else {
            let opts = OptsBuilder::default().socket(self.socket.to_str()).user(Some("root")).prefer_socket(false);
            Conn::new(opts).await.context("cannot connect")?
        };
        Ok(slot.insert(conn))
    }
}

/// An error of the server's leaves the connection usable; any other does not.
fn fail(slot: &mut Option<Conn>, error: mysql_async::Error) -> anyhow::Error {
    if !matches!(error, mysql_async::Error::Server(_)) {
        *slot = None;
    }
    error.into()
}

fn text(row: Row) -> Line {
    let one = |value: Value| match value {
        Value::NULL => None,
        Value::Bytes(bytes) => Some(String::from_utf8_lossy(&bytes).into_owned()),
        other => Some(other.as_sql(true).trim_matches('\'').to_owned()),
    };
    row.unwrap().into_iter().map(one).collect()
}

/// Waits for async work from anywhere, also from within another runtime: it runs on a runtime of the lab's own.
fn wait_for<T: Send + 'static>(work: impl Future<Output = T> + Send + 'static) -> Result<T> {
    static RUNTIME: OnceLock<Runtime> = OnceLock::new();
    let runtime = if let Some(runtime) = RUNTIME.get() {
        runtime
    } else {
        let made = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
        RUNTIME.get_or_init(|| made)
    };
    let (answer, done) = std::sync::mpsc::channel();
    runtime.spawn(async move {
        let _ = answer.send(work.await);
    });
    done.recv().context("the lab's SQL task panicked")
}
