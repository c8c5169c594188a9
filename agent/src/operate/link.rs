//! Connections to servers, kept while they are needed: a promotion must not pay for TCP, TLS and a login. One on which a
//! deadline passed, or whose user went away in the middle of a question, is thrown away and never asked again.

use std::collections::HashMap;
use std::fmt;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use mysql_async::{Conn, DriverError, Error};
use shunt_core::operation::{Cause, TaskError};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, sleep, timeout, timeout_at};

use super::dialect::{self, Dialect};
use crate::config::Credentials;
use crate::probe::answer::{Rows, answers, name_values};
use crate::probe::classify::words;
use crate::probe::session::options;
use crate::probe::socket::{Mark, Socket};

/// At a time to one server: a `SET GLOBAL super_read_only` that hangs blocks neither KILL nor the next look.
const AT_MOST: usize = 4;

/// An idle connection is kept for so long.
const KEPT: Duration = Duration::from_secs(300);

/// Errors after which the session is over: ER_SERVER_SHUTDOWN, ER_CONNECTION_KILLED of MariaDB, ER_SESSION_WAS_KILLED,
/// ER_CLIENT_INTERACTION_TIMEOUT.
const GONE: [u16; 4] = [1053, 1927, 3169, 4031];

/// What every connection begins with. The `sql_mode` decides how literals are read; a session that its agent forgot ends.
const HELLO: &str = "SET SESSION sql_mode = '', autocommit = 1, wait_timeout = 900";

/// Every server's connections; cheap to clone.
#[derive(Clone)]
pub struct Links(Arc<Inner>);

struct Inner {
    login: Credentials,
    pools: Mutex<HashMap<SocketAddr, Arc<Pool>>>,
}

struct Pool {
    server: SocketAddr,
    permits: Arc<Semaphore>,
    idle: Mutex<Vec<Idle>>,
    /// The server has no TLS.
    plain: AtomicBool,
    swept: AtomicBool,
}

struct Idle {
    open: Open,
    since: Instant,
}

/// Logged in, and knowing what the server has.
struct Open {
    conn: Conn,
    socket: Option<Socket>,
    dialect: Arc<dyn Dialect>,
    tls: bool,
}

/// A connection that is in use. Dropped, it is kept if nothing is outstanding on it, and nothing lacking.
pub struct Link {
    // `None` only while it is being dropped.
    open: Option<Open>,
    pool: Arc<Pool>,
    sound: bool,
    /// Whether it was used before: then it may have broken without anybody noticing.
    pub reused: bool,
    _permit: OwnedSemaphorePermit,
}

/// Why a script did not come to its end.
#[derive(Debug)]
pub enum Stopped {
    /// The server refused the statement with this number; the earlier ones are done, the later ones are not.
    Refused { statement: usize, code: u16, words: String },
    /// The connection broke.
    Broken(String),
    /// The time was up.
    Late,
}

impl Links {
    pub fn new(login: Credentials) -> Self {
        Self(Arc::new(Inner { login, pools: Mutex::default() }))
    }

    /// A kept connection, or a new one.
    pub async fn get(&self, server: SocketAddr, by: Instant) -> Result<Link, TaskError> {
        let pool = self.pool(server);
        let permit = permit(&pool, by).await?;
        let kept = loop {
            let Some(idle) = locked(&pool.idle).pop() else { break None };
            let broken = idle.open.socket.as_ref().is_some_and(Socket::has_news);
            if !broken {
                break Some(idle.open);
            }
            idle.open.abandon();
        };
        let (open, reused) = match kept {
            Some(open) => (open, true),
            None => (self.open(&pool, by).await?, false),
        };
        Ok(Link { open: Some(open), pool, sound: true, reused, _permit: permit })
    }

    /// Sees to it that a connection to each of them is kept, from now on for some minutes. Those that cannot be opened are
    /// left out.
    pub async fn warm(&self, servers: &[SocketAddr], within: Duration) {
        let by = Instant::now() + within;
        let mut opened = tokio::task::JoinSet::new();
        for &server in servers {
            let links = self.clone();
            opened.spawn(async move {
                // Given back at once, which begins its time anew.
                if let Err(error) = links.get(server, by).await {
                    tracing::debug!(%server, error = error.message, "no connection is kept");
                }
            });
        }
        while opened.join_next().await.is_some() {}
    }

    fn pool(&self, server: SocketAddr) -> Arc<Pool> {
        let mut pools = locked(&self.0.pools);
        Arc::clone(pools.entry(server).or_insert_with(|| {
            Arc::new(Pool {
                server,
                permits: Arc::new(Semaphore::new(AT_MOST)),
                idle: Mutex::default(),
                plain: AtomicBool::new(false),
                swept: AtomicBool::new(false),
            })
        }))
    }

    async fn open(&self, pool: &Pool, by: Instant) -> Result<Open, TaskError> {
        let (server, user) = (pool.server, &self.0.login.user);
        let mark = Mark::next();
        let opened = timeout_at(by, self.log_in(pool, mark)).await;
        opened.unwrap_or_else(|_| {
            let socket = Socket::find(server, mark).ok().flatten();
            if let Some(socket) = &socket {
                socket.shut_down();
            }
            Err(if socket.is_some() {
                unreachable(format!("connected to {server}, and it did not let {user} log in in time"))
            } else {
                unreachable(format!("no connection to {server} in time"))
            })
        })
    }

    async fn log_in(&self, pool: &Pool, mark: Mark) -> Result<Open, TaskError> {
        let Credentials { user, password, .. } = &self.0.login;
        let server = pool.server;
        let failed = |error: &Error| unreachable(format!("cannot log in as {user} at {server}: {}", words(error)));
        let mut plain = pool.plain.load(Ordering::Relaxed);
        let connected = match Conn::new(options(server, user, password, mark, plain)).await {
            Err(Error::Driver(DriverError::NoClientSslFlagFromServer)) => {
                plain = true;
                Conn::new(options(server, user, password, mark, true)).await
            }
            done => done,
        };
        pool.plain.store(plain, Ordering::Relaxed);
        let mut conn = connected.map_err(|e| failed(&e))?;
        let socket = Socket::find(server, mark).ok().flatten();
        let asked = |error: &Error| unreachable(format!("asking {server} what it has: {}", words(error)));
        let hello = format!("{HELLO};{}", dialect::VARIABLES);
        let (answer, ended) = answers(&mut conn, &hello).await;
        ended.map_err(|e| asked(&e))?;
        let variables = name_values(answer.last().map_or(&[], Vec::as_slice));
        let introduction = dialect::introduction(&variables);
        let (answer, ended) = answers(&mut conn, &introduction.join(";")).await;
        ended.map_err(|e| asked(&e))?;
        let dialect = dialect::of(&variables, &answer)
            .ok_or_else(|| unreachable(format!("{server} speaks MySQL and is neither MySQL nor MariaDB")))?;
        Ok(Open { conn, socket, dialect, tls: !plain })
    }
}

impl fmt::Debug for Links {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Links").field("user", &self.0.login.user).finish_non_exhaustive()
    }
}

async fn permit(pool: &Pool, by: Instant) -> Result<OwnedSemaphorePermit, TaskError> {
    match timeout_at(by, Arc::clone(&pool.permits).acquire_owned()).await {
        Ok(Ok(permit)) => Ok(permit),
        Ok(Err(_)) | Err(_) => Err(unreachable(format!(
            "{} has not answered on any of the {AT_MOST} connections that it is asked on",
            pool.server
        ))),
    }
}

impl Link {
    pub fn dialect(&self) -> Arc<dyn Dialect> {
        Arc::clone(&self.open().dialect)
    }

    pub fn tls(&self) -> bool {
        self.open().tls
    }

    /// The number of its session on the server.
    pub fn id(&self) -> u32 {
        self.open().conn.id()
    }

    /// The rows of every statement. The server stops at the first one that it refuses.
    pub async fn run(&mut self, script: &[String], by: Instant) -> Result<Vec<Rows>, Stopped> {
        self.sound = false;
        let Some(open) = &mut self.open else { return Err(Stopped::Broken("it is closed".to_owned())) };
        let Ok((answer, ended)) = timeout_at(by, answers(&mut open.conn, &script.join(";"))).await else {
            return Err(Stopped::Late);
        };
        match ended {
            Ok(()) => {
                self.sound = true;
                Ok(answer)
            }
            Err(error) => {
                let words = words(&error);
                match error {
                    Error::Server(error) if !GONE.contains(&error.code) => {
                        self.sound = true;
                        Err(Stopped::Refused { statement: answer.len(), code: error.code, words })
                    }
                    _ => Err(Stopped::Broken(words)),
                }
            }
        }
    }

    /// Throws it away.
    pub fn abandon(mut self) {
        self.sound = false;
    }

    fn open(&self) -> &Open {
        match &self.open {
            Some(open) => open,
            None => unreachable!("only a link that is being dropped has nothing open"),
        }
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        let Some(open) = self.open.take() else { return };
        // What is granted from now on counts for new connections only, so one that lacks something is not used again.
        if self.sound && open.dialect.missing().is_empty() {
            locked(&self.pool.idle).push(Idle { open, since: Instant::now() });
            sweep(&self.pool);
        } else {
            open.abandon();
        }
    }
}

impl Open {
    fn abandon(self) {
        if let Some(socket) = &self.socket {
            // The library may be reading the rest of an answer in a task of its own, for ever.
            socket.shut_down();
        }
    }
}

/// Closes what has been idle for long, as long as there is any.
fn sweep(pool: &Arc<Pool>) {
    let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
    if pool.swept.swap(true, Ordering::Relaxed) {
        return;
    }
    let pool: Weak<Pool> = Arc::downgrade(pool);
    runtime.spawn(async move {
        loop {
            sleep(KEPT / 10).await;
            let Some(pool) = pool.upgrade() else { return };
            let (old, left) = {
                let mut idle = locked(&pool.idle);
                let old: Vec<Idle> = idle.extract_if(.., |kept| kept.since.elapsed() >= KEPT).collect();
                (old, idle.len())
            };
            for Idle { open, .. } in old {
                let _ = timeout(Duration::from_secs(1), open.conn.disconnect()).await;
            }
            if left == 0 {
                pool.swept.store(false, Ordering::Relaxed);
                // One that was given back in between has seen that there is a sweeper.
                if locked(&pool.idle).is_empty() || pool.swept.swap(true, Ordering::Relaxed) {
                    return;
                }
            }
        }
    });
}

fn unreachable(message: String) -> TaskError {
    TaskError { cause: Cause::Unreachable, message }
}

/// What is behind it stays whole even if somebody panicked with it.
fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
