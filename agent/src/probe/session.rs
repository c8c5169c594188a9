//! A connection to a server and what can be asked on it. Every call has a deadline of its own: the client library has
//! none, and a connection on which one has passed is thrown away and never waited for.

use std::net::SocketAddr;
use std::sync::OnceLock;
use std::time::Duration;

use mysql_async::{Conn, DriverError, Error, Opts, OptsBuilder, SslOpts};
use shunt_core::observation::{Failure, FailureKind, Flavour, ServerState};
use tokio::time::timeout;

use super::answer::{Rows, answers, name_values};
use super::classify::{kind, of_io, words};
use super::socket::{Mark, News, Socket};
use super::{ProbeSpec, mariadb, mysql, promoter};
use crate::config::Password;

/// The variables that tell the flavours and capabilities apart.
const VARIABLES: &str = "SHOW GLOBAL VARIABLES WHERE Variable_name IN ('version', 'server_uuid', 'gtid_domain_id', \
     'group_replication_group_name', 'rpl_semi_sync_source_enabled', 'rpl_semi_sync_replica_enabled', \
     'rpl_semi_sync_master_enabled', 'rpl_semi_sync_slave_enabled', 'wsrep_on', 'wsrep_provider')";

/// Errors of statements: a syntax that this version does not know; no privilege for it.
const ER_PARSE_ERROR: u16 = 1064;
const ER_SPECIFIC_ACCESS_DENIED: u16 = 1227;

/// Logged in, and knowing what the server has.
pub struct Session {
    conn: Conn,
    socket: Option<Socket>,
    capabilities: Capabilities,
    /// The text of an ordinary round, and of one that asks for more.
    texts: [String; 2],
}

enum Capabilities {
    Mysql(mysql::Capabilities),
    Mariadb(mariadb::Capabilities),
}

/// How to log in. The transport that worked last is tried first, because every attempt that is given up in the middle
/// counts towards the server's `max_connect_errors`.
pub struct Login {
    spec: ProbeSpec,
    plain: bool,
}

impl Login {
    pub fn new(spec: ProbeSpec) -> Self {
        Self { spec, plain: false }
    }

    /// Connects, logs in, asks what there is.
    pub async fn open(&mut self) -> Result<Session, Failure> {
        let mark = Mark::next();
        let opened = timeout(self.spec.timeout, open(&self.spec, mark, &mut self.plain)).await;
        let failure = match opened {
            Ok(Ok(session)) => {
                // By the next time the server may have learnt TLS.
                self.plain = false;
                return Ok(session);
            }
            Ok(Err(failure)) => failure,
            Err(_) => {
                // Only now can it be told apart: is there a connection, or not even that?
                let socket = Socket::find(self.spec.server, mark).ok().flatten();
                if let Some(socket) = &socket {
                    socket.shut_down();
                }
                late_connect(&self.spec, socket.is_some())
            }
        };
        Err(failure)
    }
}

fn late_connect(spec: &ProbeSpec, connected: bool) -> Failure {
    let ProbeSpec { server, timeout, .. } = spec;
    if connected {
        let detail = format!("connected to {server}, and it did not let us log in within {}", ms(*timeout));
        Failure { kind: FailureKind::NoAnswer, detail }
    } else {
        Failure { kind: FailureKind::Timeout, detail: format!("no connection to {server} within {}", ms(*timeout)) }
    }
}

fn ms(time: Duration) -> String {
    format!("{} ms", time.as_millis())
}

async fn open(spec: &ProbeSpec, mark: Mark, plain: &mut bool) -> Result<Session, Failure> {
    let failed = |error: &Error| Failure {
        kind: kind(error),
        detail: format!("cannot log in as {} at {}: {}", spec.user, spec.server, words(error)),
    };
    let mut conn = match Conn::new(options(spec.server, &spec.user, &spec.password, mark, *plain)).await {
        Err(Error::Driver(DriverError::NoClientSslFlagFromServer)) => {
            // Remembered whatever comes of it: the greeting that was just wasted counts towards max_connect_errors.
            *plain = true;
            Conn::new(options(spec.server, &spec.user, &spec.password, mark, true)).await
        }
        done => done,
    }
    .map_err(|e| failed(&e))?;
    // Without it a broken connection is only noticed at the next tick.
    let socket = Socket::find(spec.server, mark).unwrap_or_else(|error| {
        tracing::debug!(server = %spec.server, %error, "cannot watch the connection between ticks");
        None
    });
    let capabilities = ask_capabilities(&mut conn, spec).await?;
    let texts = [capabilities.tick(false), capabilities.tick(true)];
    Ok(Session { conn, socket, capabilities, texts })
}

/// How every connection of the agent to a server is made.
pub fn options(server: SocketAddr, user: &str, password: &Password, mark: Mark, plain: bool) -> Opts {
    // One for all: the TLS configuration in it is made at the first use and shared from then on.
    static TLS: OnceLock<Opts> = OnceLock::new();
    let tls = || {
        let ssl = SslOpts::default().with_danger_accept_invalid_certs(true).with_danger_skip_domain_validation(true);
        Opts::from(OptsBuilder::default().ssl_opts(ssl))
    };
    let base = if plain { OptsBuilder::default() } else { OptsBuilder::from_opts(TLS.get_or_init(tls).clone()) };
    base.ip_or_hostname(server.ip().to_string())
        .resolved_ips(Some(vec![server.ip()]))
        .tcp_port(server.port())
        .user(Some(user))
        .pass(Some(password.reveal()))
        .prefer_socket(false)
        .tcp_keepalive(Some(mark.keepalive()))
        // Told, so that it need not be asked.
        .max_allowed_packet(Some(16 << 20))
        .wait_timeout(Some(28_800))
        .stmt_cache_size(0)
        .into()
}

impl Session {
    /// One round of questions.
    pub async fn ask(&mut self, spec: &ProbeSpec, urgent: bool) -> Result<ServerState, Failure> {
        let wide = self.capabilities.is_wide(urgent);
        let asked = timeout(spec.timeout, run(&mut self.conn, &self.texts[usize::from(wide)])).await;
        match asked {
            Ok(Ok(answer)) => self.capabilities.read(&answer, wide).ok_or_else(|| Failure {
                kind: FailureKind::Query,
                detail: format!("{} answered with less than it was asked for", spec.server),
            }),
            Ok(Err(error)) => Err(self.failure(&error, spec)),
            Err(_) => {
                let detail = format!("{} did not answer within {}", spec.server, ms(spec.timeout));
                Err(Failure { kind: FailureKind::NoAnswer, detail })
            }
        }
    }

    fn failure(&self, error: &Error, spec: &ProbeSpec) -> Failure {
        Failure {
            kind: kind(error),
            detail: format!("asking {}: {}{}", spec.server, words(error), hint(error, self.capabilities.flavour())),
        }
    }

    /// Waits for what nobody asked for.
    pub async fn news(&self) -> News {
        match &self.socket {
            Some(socket) => socket.news().await,
            None => std::future::pending().await,
        }
    }

    /// The connection, for other questions than these.
    pub fn into_conn(self) -> Conn {
        self.conn
    }

    /// Throws the connection away, whatever state it is in.
    pub fn abandon(self) {
        if let Some(socket) = &self.socket {
            // The library may be reading the rest of an answer in a task of its own, for ever.
            socket.shut_down();
        }
    }
}

/// What a broken connection is in an observation.
pub fn broken(spec: &ProbeSpec, error: &std::io::Error) -> Failure {
    let kind = match of_io(error) {
        // ETIMEDOUT of an established connection: the kernel gave up on it.
        FailureKind::Timeout => FailureKind::NoAnswer,
        kind => kind,
    };
    Failure { kind, detail: format!("the connection to {} broke: {error}", spec.server) }
}

/// All rows of all statements.
async fn run(conn: &mut Conn, sql: &str) -> Result<Vec<Rows>, Error> {
    let (rows, ended) = answers(conn, sql).await;
    ended.map(|()| rows)
}

async fn ask_capabilities(conn: &mut Conn, spec: &ProbeSpec) -> Result<Capabilities, Failure> {
    let failed = |error: &Error, flavour: Flavour| Failure {
        kind: kind(error),
        detail: format!("asking {} what it has: {}{}", spec.server, words(error), hint(error, flavour)),
    };
    let asked = if spec.promotes { format!("{VARIABLES};{}", promoter::expiry(spec)) } else { VARIABLES.to_owned() };
    let rows = run(conn, &asked).await.map_err(|e| failed(&e, Flavour::Mysql))?;
    let variables = name_values(rows.first().map_or(&[], Vec::as_slice));
    if let Some(identity) = mariadb::identity(&variables) {
        return Ok(Capabilities::Mariadb(mariadb::Capabilities::new(identity, &variables, spec.promotes)));
    }
    let Some(identity) = mysql::identity(&variables) else {
        let detail = format!("{} speaks MySQL and is neither MySQL nor MariaDB", spec.server);
        return Err(Failure { kind: FailureKind::NotMysql, detail });
    };
    let mut found = mysql::Capabilities::new(identity, &variables, spec.promotes);
    for form in mysql::STATUS_FORMS {
        found.status_form = form;
        match run(conn, form).await {
            Err(Error::Server(error)) if error.code == ER_PARSE_ERROR => {}
            Err(error) => return Err(failed(&error, Flavour::Mysql)),
            Ok(_) => break,
        }
    }
    found.narrow = match run(conn, mysql::CHANNELS).await {
        Ok(_) => true,
        Err(Error::Server(_)) => false,
        Err(error) => return Err(failed(&error, Flavour::Mysql)),
    };
    if found.group {
        found.members = match run(conn, mysql::MEMBERS).await {
            Ok(_) => true,
            Err(Error::Server(_)) => false,
            Err(error) => return Err(failed(&error, Flavour::Mysql)),
        };
    }
    Ok(Capabilities::Mysql(found))
}

impl Capabilities {
    const fn flavour(&self) -> Flavour {
        match self {
            Self::Mysql(_) => Flavour::Mysql,
            Self::Mariadb(_) => Flavour::Mariadb,
        }
    }

    /// Whether the next round is one of those that ask for more.
    fn is_wide(&self, urgent: bool) -> bool {
        match self {
            Self::Mysql(found) => found.is_wide(urgent),
            Self::Mariadb(_) => true,
        }
    }

    fn tick(&self, wide: bool) -> String {
        match self {
            Self::Mysql(found) => found.tick(wide),
            Self::Mariadb(found) => found.tick(),
        }
    }

    fn read(&mut self, answer: &[Rows], wide: bool) -> Option<ServerState> {
        match self {
            Self::Mysql(found) => found.read(answer, wide),
            Self::Mariadb(found) => found.read(answer),
        }
    }
}

/// What to run when a privilege is missing.
fn hint(error: &Error, flavour: Flavour) -> String {
    match error {
        Error::Server(error) if error.code == ER_SPECIFIC_ACCESS_DENIED => {
            format!(" (run: {})", super::grants(flavour)[0])
        }
        _ => String::new(),
    }
}
