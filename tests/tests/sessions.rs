//! Ending a primary's sessions through the real datapath, on real servers: idle ones at once, those inside a transaction
//! when it is over, and nobody in the middle of a statement.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use mysql_async::Conn;
use mysql_async::prelude::Queryable as _;
use shunt::config::{Credentials, Password};
use shunt::driver::Worker;
use shunt::operate::{Executor, Hands, Terms};
use shunt_core::ClusterName;
use shunt_core::config::Snat;
use shunt_core::datapath::{Change, Datapath, DatapathError};
use shunt_core::mapping::{Admission, Leaving, Mapping, Route};
use shunt_core::operation::{Sessions, TaskError};
use shunt_ebpf::{EbpfDatapath, Size};
use shunt_rules::NftDatapath;
use shunt_tests::client::login;
use shunt_tests::datapath::MAX_FLOWS;
use shunt_tests::scratch::{BpfFs, Dir};
use shunt_tests::template::{FOLLOWER, PASSWORD};
use shunt_tests::{Cluster, Host, Install, Lan, on_each_datapath, on_each_datapath_with_mariadb, skip};
use tokio::runtime::Runtime;
use tokio::task::JoinHandle;

const PATIENCE: Duration = Duration::from_secs(30);
const GRACE: Duration = Duration::from_secs(4);

/// A server behind a listener, and clients that come through it.
struct Bench {
    cluster: Cluster,
    listener: SocketAddr,
    /// Runs what the agent's host runs, and what the client's.
    agent: Runtime,
    clients: Runtime,
    hands: Hands,
    _pins: Option<Pins>,
    _proxy: Host,
    _client: Host,
    _lan: Lan,
}

impl Bench {
    fn start(install: &Install) -> Result<Self> {
        Self::start_with(install, &[])
    }

    /// The same, with further server options.
    fn start_with(install: &Install, options: &[&str]) -> Result<Self> {
        let lan = Lan::new()?;
        let (proxy, client) = (lan.host("proxy", 2)?, lan.host("client", 3)?);
        proxy.ns().sysctl("ipv4/ip_forward", "1")?;
        let cluster = Cluster::start_with(&lan, install, 1, options)?;
        let listener = SocketAddr::new(proxy.v4(), 3306);
        let pins =
            (shunt_tests::Datapath::of_this_test() == shunt_tests::Datapath::Ebpf).then(Pins::make).transpose()?;
        let hands = proxy.ns().inside(|| -> Result<Hands> {
            let mut datapath = open(pins.as_ref())?;
            let set = vec![mapping(listener, Route::Single(cluster.servers()[0].address()), None)];
            datapath.apply(&Change { set, remove: Vec::new() })?;
            let meter = datapath.meter()?;
            Ok(Hands { datapath: Worker::start("datapath", datapath)?, meter: Worker::start("meter", meter)? })
        })??;
        let (agent, clients) = (threads(&proxy)?, threads(&client)?);
        Ok(Self { cluster, listener, agent, clients, hands, _pins: pins, _proxy: proxy, _client: client, _lan: lan })
    }

    fn server(&self) -> SocketAddr {
        self.cluster.servers()[0].address()
    }

    fn connect(&self, number: usize) -> Result<Vec<Conn>> {
        let opts = login(self.listener, self.cluster.flavour());
        self.clients.block_on(async {
            let mut all = Vec::new();
            for _ in 0..number {
                let opts = opts.clone();
                all.push(self.clients.spawn(Conn::new(opts)).await??);
            }
            Ok(all)
        })
    }

    fn say(&self, conn: Conn, sql: &str) -> (Conn, Result<(), mysql_async::Error>) {
        let (mut conn, sql) = (conn, sql.to_owned());
        let said = self.clients.spawn(async move {
            let answer = tokio::time::timeout(PATIENCE, conn.query_drop(sql)).await;
            (conn, answer.expect("neither an answer nor an end"))
        });
        self.clients.block_on(said).expect("the client panicked")
    }

    /// Holds new connections from now on, and sends those home that are there.
    fn end_sessions(&self, user: &str, grace: Duration) -> JoinHandle<Result<Sessions, TaskError>> {
        let (server, listener, hands) = (self.server(), self.listener, self.hands.clone());
        let password = Password::new(PASSWORD);
        let login = Credentials { user: user.to_owned(), password_file: PathBuf::new(), password };
        let executor = Executor::new(login.clone(), Terms { login, heartbeat: Duration::from_secs(1), applies: false });
        self.agent.spawn(async move {
            executor.warm(&[server], PATIENCE).await;
            let set = vec![mapping(listener, Route::Hold(PATIENCE), Some(server))];
            let held = hands.datapath.run(move |datapath| datapath.apply(&Change { set, remove: Vec::new() })).await;
            held.expect("the datapath's thread").expect("the fence");
            executor.end_sessions(server, &[listener], grace, grace + PATIENCE, hands).await
        })
    }

    fn ended(&self, ending: JoinHandle<Result<Sessions, TaskError>>) -> Result<Sessions> {
        let ended = self.agent.block_on(ending)?;
        ended.map_err(|error| anyhow::anyhow!("{:?}: {}", error.cause, error.message))
    }

    fn count(&self, what: &str) -> Result<u64> {
        Ok(self.cluster.servers()[0]
            .value(&format!("SELECT COUNT(*) FROM app.t WHERE note LIKE '{what}%'"))?
            .parse()?)
    }
}

/// Where the eBPF datapath pins what it has: a file system that goes with the test, before the folder that it is mounted in.
struct Pins {
    _bpf: BpfFs,
    dir: Dir,
}

impl Pins {
    fn make() -> Result<Self> {
        let dir = Dir::new("sessions")?;
        Ok(Self { _bpf: BpfFs::mount(&dir)?, dir })
    }
}

/// The datapath of this test, in the calling thread's network namespace.
fn open(pins: Option<&Pins>) -> Result<Box<dyn Datapath>, DatapathError> {
    let Some(pins) = pins else { return Ok(Box::new(NftDatapath::open(shunt_rules::Options::default())?)) };
    Ok(Box::new(EbpfDatapath::open(shunt_ebpf::Options {
        pins: BpfFs::of(&pins.dir).join("shunt"),
        size: Size { flows: MAX_FLOWS, ..Size::default() },
        ..shunt_ebpf::Options::default()
    })?))
}

/// A runtime whose threads are on that host.
fn threads(host: &Host) -> Result<Runtime> {
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    let runtime = host.ns().inside(|| builder.worker_threads(2).enable_all().build())?;
    runtime.context("a runtime")
}

fn mapping(listener: SocketAddr, route: Route, spared: Option<SocketAddr>) -> Mapping {
    Mapping {
        listener,
        cluster: ClusterName::new("orders").expect("a name"),
        route,
        snat: Snat::Masquerade,
        leaving: Leaving::Sever,
        admission: Admission::default(),
        lease: None,
        spared,
    }
}

fn insert(note: &str) -> String {
    format!("INSERT INTO app.t (note) VALUES ('{note}')")
}

on_each_datapath! {
    fn idle_sessions_end_at_once_and_those_inside_a_transaction_after_it(install) {
        let bench = Bench::start(install)?;
        let idle = bench.connect(16)?;
        let [patient, endless]: [Conn; 2] = bench.connect(2)?.try_into().expect("two");
        let (patient, said) = bench.say(patient, &format!("BEGIN; {}", insert("patient 1")));
        said?;
        let (endless, said) = bench.say(endless, &format!("BEGIN; {}", insert("endless")));
        said?;
        let ending = bench.end_sessions("shunt", GRACE);
        // Until one is severed it is served.
        let idle: Vec<Conn> = idle.into_iter().map(|conn| bench.say(conn, "SELECT SLEEP(0.02)").0).collect();
        std::thread::sleep(Duration::from_millis(300));
        let (patient, said) = bench.say(patient, &insert("patient 2"));
        said.context("the second statement of a transaction")?;
        let (patient, said) = bench.say(patient, "COMMIT");
        said.context("a commit within the grace")?;
        let ended = bench.ended(ending)?;
        drop(idle);
        ensure!(ended.idle + ended.finished == 17, "{ended:?}");
        ensure!(ended.cut == 1 && !ended.blind, "{ended:?}");
        for conn in [patient, endless] {
            ensure!(bench.say(conn, "SELECT 1").1.is_err(), "a session that was ended goes on");
        }
        ensure!(bench.count("patient")? == 2 && bench.count("endless")? == 0, "not what was committed");
        Ok(())
    }

    fn idle_sessions_alone_are_ended_without_waiting_for_the_grace(install) {
        let bench = Bench::start(install)?;
        let idle = bench.connect(64)?;
        let begin = Instant::now();
        let ended = bench.ended(bench.end_sessions("shunt", Duration::from_secs(600)))?;
        ensure!(ended == Sessions { idle: 64, ..Sessions::default() }, "{ended:?}");
        ensure!(begin.elapsed() < PATIENCE, "it waited for nobody");
        drop(idle);
        Ok(())
    }

    fn nobody_who_is_busy_loses_a_statement_or_a_transaction_that_had_begun(install) {
        const WRITERS: usize = 8;
        let bench = Bench::start(install)?;
        let acknowledged = Arc::new(AtomicU64::new(0));
        let mut writers = Vec::new();
        for (number, mut conn) in (0..).zip(bench.connect(WRITERS)?) {
            let acknowledged = Arc::clone(&acknowledged);
            let in_transactions = number % 2 == 0;
            writers.push(bench.clients.spawn(async move {
                loop {
                    if in_transactions {
                        // One that has not touched a table yet is none for MariaDB's monitor.
                        let begun = conn.query_drop(format!("BEGIN; {}", insert("busy"))).await;
                        if begun.is_err() {
                            return Ok(());
                        }
                        conn.query_drop(insert("busy")).await.map_err(|error| format!("the second statement: {error}"))?;
                        conn.query_drop("COMMIT").await.map_err(|error| format!("the commit: {error}"))?;
                        acknowledged.fetch_add(2, Ordering::Relaxed);
                    } else {
                        if conn.query_drop(insert("busy")).await.is_err() {
                            return Ok::<_, String>(());
                        }
                        acknowledged.fetch_add(1, Ordering::Relaxed);
                    }
                }
            }));
        }
        std::thread::sleep(Duration::from_millis(300));
        let ended = bench.ended(bench.end_sessions("shunt", PATIENCE))?;
        for writer in writers {
            let lost = bench.clients.block_on(async { tokio::time::timeout(PATIENCE, writer).await })??;
            ensure!(lost.is_ok(), "{lost:?} {ended:?}");
        }
        ensure!(ended.cut == 0 && ended.idle + ended.finished == WRITERS as u64, "{ended:?}");
        let (written, told) = (bench.count("busy")?, acknowledged.load(Ordering::Relaxed));
        ensure!(written == told, "{written} were written and {told} acknowledged: somebody was cut off in the middle");
        ensure!(told > 0, "nobody was busy");
        Ok(())
    }

    fn without_the_privilege_to_see_sessions_each_has_the_grace(install) {
        let bench = Bench::start(install)?;
        let idle = bench.connect(3)?;
        let grace = Duration::from_secs(1);
        let begin = Instant::now();
        let ended = bench.ended(bench.end_sessions(FOLLOWER, grace))?;
        ensure!(ended == Sessions { cut: 3, blind: true, ..Sessions::default() }, "{ended:?}");
        ensure!(begin.elapsed() >= grace, "they had less than the grace");
        drop(idle);
        Ok(())
    }

    fn a_task_that_is_broken_off_leaves_no_flow_blocked(install) {
        let bench = Bench::start(install)?;
        let mut conns = bench.connect(4)?;
        let busy = conns.pop().expect("four");
        let (busy, said) = bench.say(busy, &format!("BEGIN; {}", insert("kept")));
        said?;
        let ending = bench.end_sessions("shunt", PATIENCE);
        std::thread::sleep(Duration::from_millis(500));
        ending.abort();
        let (_, said) = bench.say(busy, "COMMIT");
        said.context("a flow that nobody looks after any more")?;
        ensure!(bench.count("kept")? == 1, "it was not committed");
        Ok(())
    }
}

/// What has performance_schema show transactions and locks.
const INSTRUMENTED: [&str; 4] = [
    "--performance-schema=ON",
    "--performance-schema-instrument=transaction=ON",
    "--performance-schema-instrument=wait/lock/metadata/sql/mdl=ON",
    "--performance-schema-consumer-events-transactions-current=ON",
];
const MAY_SEE: &str = "GRANT SELECT ON performance_schema.* TO shunt@'%'";

impl Bench {
    /// Of three sessions one has only begun a transaction, one has locked a table, and one has done nothing. Those that do
    /// not count as idle come to their end within the grace.
    fn begun_and_locked(&self, begun_is_seen: bool, lock_is_seen: bool) -> Result<Sessions> {
        self.cluster.servers()[0].sql("CREATE TABLE app.l (id INT PRIMARY KEY) ENGINE=InnoDB")?;
        let [begun, locked, idle]: [Conn; 3] = self.connect(3)?.try_into().expect("three");
        let (begun, said) = self.say(begun, "BEGIN");
        said?;
        let (locked, said) = self.say(locked, "LOCK TABLES app.l WRITE");
        said?;
        let ending = self.end_sessions("shunt", GRACE);
        std::thread::sleep(Duration::from_secs(1));
        let mut after = Vec::new();
        for (conn, sql, is_seen) in [
            (begun, format!("{}; COMMIT", insert("begun")), begun_is_seen),
            (locked, "INSERT INTO app.l VALUES (1); UNLOCK TABLES".to_owned(), lock_is_seen),
        ] {
            // Whoever counts as idle has ended by now.
            if is_seen {
                let (conn, said) = self.say(conn, &sql);
                said.with_context(|| sql)?;
                after.push(conn);
            }
        }
        let ended = self.ended(ending)?;
        ensure!(self.count("begun")? == u64::from(begun_is_seen), "{ended:?}");
        drop((idle, after));
        Ok(ended)
    }
}

on_each_datapath_with_mariadb! {
    fn an_instrumented_mariadb_shows_a_transaction_that_touched_no_table_and_a_table_that_is_locked(install) {
        let bench = Bench::start_with(install, &INSTRUMENTED)?;
        bench.cluster.servers()[0].sql(MAY_SEE)?;
        let ended = bench.begun_and_locked(true, true)?;
        ensure!(ended == Sessions { idle: 1, finished: 2, ..Sessions::default() }, "{ended:?}");
        Ok(())
    }

    fn without_performance_schema_mariadb_shows_neither(install) {
        let bench = Bench::start_with(install, &["--performance-schema=OFF"])?;
        bench.cluster.servers()[0].sql(MAY_SEE)?;
        let ended = bench.begun_and_locked(false, false)?;
        ensure!(ended == Sessions { idle: 3, ..Sessions::default() }, "{ended:?}");
        Ok(())
    }

    fn a_performance_schema_that_may_not_be_read_is_no_hindrance(install) {
        let bench = Bench::start_with(install, &INSTRUMENTED)?;
        let ended = bench.begun_and_locked(false, false)?;
        ensure!(ended == Sessions { idle: 3, ..Sessions::default() }, "{ended:?}");
        Ok(())
    }

    fn the_plugin_metadata_lock_info_shows_a_table_that_is_locked(install) {
        let bench = Bench::start_with(install, &["--performance-schema=OFF"])?;
        if let Err(error) = bench.cluster.servers()[0].sql("INSTALL SONAME 'metadata_lock_info'") {
            skip::skip("the_plugin_metadata_lock_info_shows_a_table_that_is_locked", &format!("{error:#}"));
            return Ok(());
        }
        let ended = bench.begun_and_locked(false, true)?;
        ensure!(ended == Sessions { idle: 2, finished: 1, ..Sessions::default() }, "{ended:?}");
        Ok(())
    }
}
