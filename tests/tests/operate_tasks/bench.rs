//! Servers, and an executor to order tasks from.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Result, bail, ensure};
use mysql_async::{Conn, OptsBuilder, SslOpts};
use shunt::config::{Credentials, Password};
use shunt::operate::{Executor, Terms};
use shunt_core::operation::{Cause, Order, OrderId, Report, Standing, Task, TaskError};
use shunt_tests::template::PASSWORD;
use shunt_tests::{Cluster, Flavour, Host, Install, Lan, eventually};

pub const PATIENCE: Duration = Duration::from_secs(30);

/// A cluster, and the host that the agent would be on.
pub struct Bench {
    cluster: Cluster,
    agent: Host,
    _lan: Lan,
}

impl Bench {
    pub fn start(install: &Install, count: u8, options: &[&str]) -> Result<Self> {
        let lan = Lan::new()?;
        let agent = lan.host("agent", 2)?;
        let cluster = Cluster::start_with(&lan, install, count, options)?;
        Ok(Self { cluster, agent, _lan: lan })
    }

    /// Runs the test's body where the agent is.
    pub fn run(mut self, body: impl AsyncFnOnce(&mut Cluster, Tasks) -> Result<()> + Send) -> Result<()> {
        let cluster = &mut self.cluster;
        self.agent.ns().inside_async(move || async move { body(cluster, Tasks::of("shunt")).await })?
    }
}

pub fn credentials(user: &str) -> Credentials {
    Credentials { user: user.to_owned(), password_file: PathBuf::new(), password: Password::new(PASSWORD) }
}

/// An executor, and short words for its tasks.
#[derive(Clone)]
pub struct Tasks(pub Executor);

pub fn terms(login: Credentials) -> Terms {
    Terms { login, heartbeat: Duration::from_secs(1), applies: false }
}

impl Tasks {
    pub fn of(user: &str) -> Self {
        Self(Executor::new(credentials(user), terms(credentials("repl"))))
    }

    pub async fn order(&self, task: Task, within: Duration) -> Result<Report, TaskError> {
        self.0.run(&Order { id: OrderId(1), task, within }).await
    }

    pub async fn standing(&self, task: Task) -> Result<Standing> {
        let word = task.word();
        match self.order(task, PATIENCE).await {
            Ok(Report::Standing(standing)) => Ok(*standing),
            Ok(other) => bail!("{word}: {other:?}"),
            Err(error) => bail!("{word}: {error:?}"),
        }
    }

    /// Once, and once more: the second time there is nothing left to do, and the answer is the same.
    pub async fn twice(&self, task: Task) -> Result<Standing> {
        let first = self.standing(task.clone()).await?;
        let second = self.standing(task.clone()).await?;
        ensure!(first == second, "{task:?} gave {first:?} and then {second:?}");
        Ok(second)
    }

    pub async fn refusal(&self, task: Task) -> Result<TaskError> {
        match self.order(task.clone(), PATIENCE).await {
            Err(error) if error.cause == Cause::Refused => Ok(error),
            other => bail!("{task:?} was not refused: {other:?}"),
        }
    }
}

pub fn insert(cluster: &mut Cluster, server: usize, note: &str) -> Result<()> {
    cluster.server(server).sql(&format!("INSERT INTO app.t (note) VALUES ('{note}')"))?;
    Ok(())
}

pub fn notes(cluster: &mut Cluster, server: usize) -> Result<Vec<String>> {
    let rows = cluster.server(server).sql("SELECT note FROM app.t ORDER BY id")?;
    Ok(rows.into_iter().flatten().flatten().collect())
}

pub fn wait_for_note(cluster: &mut Cluster, server: usize, note: &str) -> Result<()> {
    eventually(&format!("{note} on db{}", server + 1), PATIENCE, || {
        Ok(notes(cluster, server)?.iter().any(|n| n == note).then_some(()))
    })
}

/// Addresses by number.
pub fn addresses(cluster: &Cluster) -> Vec<SocketAddr> {
    cluster.servers().iter().map(shunt_tests::Server::address).collect()
}

/// Semi-sync on every server, off.
pub fn with_semi_sync(install: &Install) -> &'static [&'static str] {
    match install.flavour {
        Flavour::Mysql => {
            &["--plugin-load=rpl_semi_sync_source=semisync_source.so;rpl_semi_sync_replica=semisync_replica.so"]
        }
        Flavour::Mariadb => &[],
    }
}

/// The words of semi-sync's variables: the source's prefix.
pub fn semi_source(flavour: Flavour) -> &'static str {
    match flavour {
        Flavour::Mysql => "rpl_semi_sync_source",
        Flavour::Mariadb => "rpl_semi_sync_master",
    }
}

/// An ordinary client's connection.
pub async fn client(server: SocketAddr, flavour: Flavour) -> Result<Conn> {
    let tls = || SslOpts::default().with_danger_accept_invalid_certs(true).with_danger_skip_domain_validation(true);
    let opts = OptsBuilder::default()
        .ip_or_hostname(server.ip().to_string())
        .tcp_port(server.port())
        .user(Some("app"))
        .pass(Some(PASSWORD))
        .ssl_opts((flavour == Flavour::Mysql).then(tls))
        .prefer_socket(false);
    Ok(Conn::new(opts).await?)
}
