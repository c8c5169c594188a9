//! Saving what a former primary has and its successor lacks. The transactions are fetched from its binary logs over the
//! MySQL protocol, as a replica would fetch them, and kept: as a binary log file, with a list for people beside it. Only
//! then, and only if that is wanted, they are applied to the successor.
//!
//! The file and the list contain the operator's data: they are readable by the agent's user alone, and nothing here deletes
//! them.
//!
//! A salvage may read as much as a server wrote while nobody looked. It runs on a thread of its own, holds a piece of an
//! event in memory and never a transaction, and ends when its time is up or nobody waits for it any more.

mod apply;
mod bytes;
mod event;
mod fetch;
mod got;
mod keep;
mod list;
mod log;
mod login;
mod query;
mod request;
mod rows;
#[cfg(test)]
mod tests;
mod tls;
mod trouble;
mod wire;

use std::fs::File;
use std::io::{self, Write as _};
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use shunt_core::gtid::History;
use shunt_core::operation::{Cause, Salvaged, TaskError};
use tokio::sync::oneshot;
use tokio::time::{Instant, timeout, timeout_at};

use apply::Progress;
use keep::{Keep, Part};
use list::Total;
use log::Log;
pub use login::Login;
use trouble::Trouble;

/// How the files of a server's salvage in an operation are named, but for `.binlog` and `.txt`: `orders-17-10.0.0.11_3306`.
/// The operation is `orders/17`.
pub fn file_name(operation: &str, server: SocketAddr) -> String {
    let host = match server.ip() {
        IpAddr::V4(ip) => ip.to_string(),
        IpAddr::V6(ip) => ip.to_string().replace(':', "-"),
    };
    format!("{}-{host}_{}", operation.replace('/', "-"), server.port())
}

/// Fetches the transactions `lacking` from the binary logs of `from`, keeps them as `name.binlog` and `name.txt` in
/// `folder`, and with `into` applies them there. That they could not all be applied is no error: they are kept, and
/// [`Salvaged::stopped`] says why.
pub async fn salvage(
    from: &Login,
    lacking: &History,
    folder: &Path,
    name: &str,
    into: Option<&Login>,
    within: Duration,
) -> Result<Salvaged, TaskError> {
    let work = Work {
        from: from.clone(),
        lacking: lacking.clone(),
        folder: folder.to_path_buf(),
        name: name.to_owned(),
        into: into.cloned(),
    };
    let within = within.min(LONGEST);
    let server = from.server;
    let broke = |why: &str| TaskError { cause: Cause::Unknown, message: format!("salvaging from {server}: {why}") };
    let (tell, told) = oneshot::channel();
    let thread = std::thread::Builder::new().name("salvage".into());
    thread.spawn(move || work.run(within, tell)).map_err(|e| broke(&e.to_string()))?;
    // The library that decompresses, or that encrypts, may panic on what a strange server says: that ends the thread only.
    // It ends by itself when the time is up; only a disk that does not answer can hold it.
    match timeout(within + SEAL * 2, told).await {
        Ok(told) => told.unwrap_or_else(|_| Err(broke("it ended unexpectedly"))),
        Err(_) => Err(broke("the time was up")),
    }
}

/// No salvage is waited for any longer.
const LONGEST: Duration = Duration::from_secs(7 * 86_400);
/// To put a server back as it was.
const SEAL: Duration = Duration::from_secs(10);

type Outcome = Result<Salvaged, TaskError>;

/// What comes of some work, until the time is up or nobody waits for it any more.
async fn bounded<T>(
    until: Instant,
    tell: &mut oneshot::Sender<Outcome>,
    work: impl Future<Output = Result<T, Trouble>>,
) -> Result<T, Trouble> {
    tokio::select! {
        () = tell.closed() => Err(Trouble::Late),
        done = timeout_at(until, work) => done.unwrap_or(Err(Trouble::Late)),
    }
}

fn unreadable(error: io::Error) -> Trouble {
    Trouble::File("what was fetched cannot be read back".into(), error)
}

struct Work {
    from: Login,
    lacking: History,
    folder: PathBuf,
    name: String,
    into: Option<Login>,
}

impl Work {
    fn run(&self, within: Duration, mut tell: oneshot::Sender<Outcome>) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let done = match runtime {
            Err(error) => Err(Trouble::Refused(format!("no runtime: {error}")).told("salvaging")),
            Ok(runtime) => runtime.block_on(self.all(Instant::now() + within, &mut tell)),
        };
        let _ = tell.send(done);
    }

    async fn all(&self, until: Instant, tell: &mut oneshot::Sender<Outcome>) -> Outcome {
        let doing = format!("salvaging from {}", self.from.server);
        let kept = bounded(until, tell, self.keep(until.into_std())).await;
        let (file, total) = kept.map_err(|trouble| trouble.told(&doing))?;
        let changes = total.changes;
        let mut salvaged = Salvaged {
            file: file.display().to_string(),
            gtids: self.lacking.to_string(),
            transactions: total.transactions,
            tables: total.tables.into_iter().collect(),
            applied: false,
            stopped: None,
        };
        if let Some(into) = &self.into {
            let doing = format!("applying {} to {}", salvaged.file, into.server);
            let mut progress = Progress::default();
            let done = bounded(
                until,
                tell,
                apply::apply(into, &self.lacking, &changes, &file, until.into_std(), &mut progress),
            )
            .await;
            if progress.unsealed {
                // Also when the time is up: the server was opened for this alone.
                let sealed = timeout(SEAL, apply::seal(into)).await.unwrap_or(Err(Trouble::Late));
                sealed.map_err(|trouble| trouble.told(&format!("{doing}: making it super_read_only again")))?;
            }
            done.map_err(|trouble| trouble.told(&doing))?;
            salvaged.stopped = progress.in_words(salvaged.transactions);
            salvaged.applied = salvaged.stopped.is_none();
            Self::note(&file, into, &progress, &salvaged).map_err(|trouble| trouble.told(&doing))?;
        }
        Ok(salvaged)
    }

    /// Fetches and lists, unless that was done before. Only what can be read back gets a name.
    async fn keep(&self, until: std::time::Instant) -> Result<(PathBuf, Total), Trouble> {
        if self.name.contains('/') || self.name.is_empty() {
            return Err(Trouble::Refused(format!("{:?} cannot name a file", self.name)));
        }
        // What was kept before under this name may be the only copy: it is never written over.
        let (mut name, mut number) = (self.name.clone(), 1);
        while self.folder.join(format!("{name}.binlog")).exists() || self.folder.join(format!("{name}.txt")).exists() {
            if let Some(kept) = self.kept(&self.folder.join(format!("{name}.binlog")), until).await {
                return Ok(kept);
            }
            number += 1;
            name = format!("{}-{number}", self.name);
        }
        let binlog = format!("{name}.binlog");
        let mut wire = self.from.open().await?;
        let mut keep = Keep::create(&self.folder, &binlog)?;
        fetch::fetch(&mut wire, &self.lacking, &mut keep).await?;
        drop(wire);
        let mut part = keep.into_part();
        let mut log = Log::open(part.so_far()?, until).map_err(unreadable)?;
        let mut text = Part::create(&self.folder, &format!("{name}.txt"))?;
        text.write_all(self.head(&binlog).as_bytes()).map_err(|e| Trouble::File("cannot write the list".into(), e))?;
        let total = list::list(&mut log, &mut text).await?;
        text.finish()?;
        Ok((part.finish()?, total))
    }

    /// What an earlier attempt kept, if it is all that is wanted: the server that it came from may be gone by now.
    async fn kept(&self, file: &Path, until: std::time::Instant) -> Option<(PathBuf, Total)> {
        let mut log = Log::open(file, until).ok()?;
        match list::list(&mut log, &mut io::sink()).await {
            Ok(total) => total.got.absent(&self.lacking).is_empty().then(|| (file.to_path_buf(), total)),
            Err(error) => {
                tracing::warn!(file = %file.display(), %error, "what was kept before cannot be read; it stays, and is fetched again");
                None
            }
        }
    }

    /// Tells in the list what became of the transactions.
    fn note(file: &Path, into: &Login, progress: &Progress, done: &Salvaged) -> Result<(), Trouble> {
        let path = file.with_extension("txt");
        let mut words = match &done.stopped {
            Some(stopped) => format!("\nNot all were applied to {}: {stopped}\n", into.server),
            None => format!("\nAll were applied to {}.\n", into.server),
        };
        if progress.renumbered > 0 {
            words.push_str(&format!(
                "{} of them under new numbers: it has gone on in their domain. Which is which: {}.\n",
                progress.renumbered,
                file.with_extension("applied").display()
            ));
        }
        let written = File::options().append(true).open(&path).and_then(|mut text| {
            text.write_all(words.as_bytes())?;
            text.sync_all()
        });
        written.map_err(|e| Trouble::File(format!("cannot write {}", path.display()), e))
    }

    /// What the list begins with.
    fn head(&self, binlog: &str) -> String {
        let (reader, set) = match self.lacking {
            History::Mysql(_) => ("mysqlbinlog", "gtids"),
            History::Mariadb(_) => ("mariadb-binlog", "transactions by domain, server and sequence"),
        };
        let server = self.from.server;
        format!(
            "Transactions that {server} had and its successor lacked.\nThey are in {binlog}, which {reader} reads.\n\
             {set}: {}\n\n",
            self.lacking
        )
    }
}
