//! Saving what a former primary has and its successor lacks, with real servers and their own tools.

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, ensure};
use shunt::config::Password;
use shunt::operate::salvage::{Login, file_name, salvage};
use shunt_core::gtid::History;
use shunt_core::operation::{Salvaged, TaskError};
use shunt_tests::scratch::Dir;
use shunt_tests::template::PASSWORD;
use shunt_tests::wait::PATIENCE;
use shunt_tests::{Cluster, Flavour, Host, Install, Lan, Server, each_flavour, eventually, jail, skip};

const WITHIN: Duration = Duration::from_secs(120);

/// What the agent's user needs to read a binary log, and to apply what was in it.
fn grants(flavour: Flavour) -> &'static [&'static str] {
    match flavour {
        Flavour::Mysql => &[
            "GRANT REPLICATION SLAVE ON *.* TO shunt@'%'",
            "GRANT REPLICATION_APPLIER, SESSION_VARIABLES_ADMIN, SYSTEM_VARIABLES_ADMIN, CONNECTION_ADMIN, \
             TRANSACTION_GTID_TAG ON *.* TO shunt@'%'",
            "GRANT SELECT, INSERT, UPDATE, DELETE, CREATE, ALTER, DROP, INDEX ON *.* TO shunt@'%'",
        ],
        Flavour::Mariadb => &[
            "GRANT REPLICATION SLAVE, BINLOG MONITOR ON *.* TO shunt@'%'",
            "GRANT BINLOG REPLAY, READ_ONLY ADMIN ON *.* TO shunt@'%'",
            "GRANT SELECT, INSERT, UPDATE, DELETE, CREATE, ALTER, DROP, INDEX ON *.* TO shunt@'%'",
        ],
    }
}

/// A primary, db1, and a replica, db2, that does not receive any more.
struct Parted {
    cluster: Cluster,
    host: Host,
    dir: Dir,
    install: Install,
    _lan: Lan,
}

impl Parted {
    fn start(install: &Install) -> Result<Self> {
        let lan = Lan::new()?;
        let host = lan.host("proxy", 2)?;
        let cluster = Cluster::start(&lan, install, 2)?;
        let this = Self { cluster, host, dir: Dir::new("salvage")?, install: install.clone(), _lan: lan };
        this.cluster.set_read_only(1, false)?;
        for server in [this.primary(), this.other()] {
            let log = if install.flavour == Flavour::Mysql { "sql_log_bin" } else { "SESSION sql_log_bin" };
            server.sql(&format!("SET {log} = 0"))?;
            for grant in grants(install.flavour) {
                server.sql(grant)?;
            }
            server.sql(&format!("SET {log} = 1"))?;
            server.set_durable(false)?;
        }
        this.cluster.set_read_only(1, true)?;
        this.on_primary(&[
            "CREATE TABLE app.a (id INT PRIMARY KEY, name VARCHAR(300), price DECIMAL(20,6), at DATETIME(3), \
             kind ENUM('x','y'), marks SET('p','q'), bits BIT(11), day DATE, y YEAR, f FLOAT, d DOUBLE, letters CHAR(80), \
             t TIME(6), s TIMESTAMP(2) NULL)",
            "CREATE TABLE app.b (id INT PRIMARY KEY, body LONGBLOB, doc JSON)",
            "INSERT INTO app.a (id, name) VALUES (1,'one'),(2,'two'),(3,'three'),(4,'four')",
        ])?;
        if install.flavour == Flavour::Mysql {
            this.on_primary(&["SET gtid_next='AUTOMATIC:before'", "INSERT INTO app.a (id) VALUES (5)"])?;
            this.on_primary(&["SET gtid_next='AUTOMATIC'"])?;
        }
        this.wait_equal()?;
        let stop = if install.flavour == Flavour::Mysql { "STOP REPLICA" } else { "STOP SLAVE" };
        this.other().sql(stop)?;
        Ok(this)
    }

    fn primary(&self) -> &Server {
        &self.cluster.servers()[0]
    }

    fn other(&self) -> &Server {
        &self.cluster.servers()[1]
    }

    fn on_primary(&self, statements: &[&str]) -> Result<()> {
        statements.iter().try_for_each(|statement| self.primary().sql(statement).map(drop))
    }

    /// Twenty transactions that only the primary has, and how many rows of which table they change.
    fn diverge(&self) -> Result<Vec<(String, u64)>> {
        // MariaDB's default writes statements where they do.
        self.on_primary(&["SET SESSION binlog_format = ROW"])?;
        self.on_primary(&[
            "INSERT INTO app.a VALUES (10,'é',-12.5,'2026-01-02 03:04:05.678','y','p,q',b'10110011101','2026-01-02',2026,1.5,2.5,\
             'letters','01:02:03.5','2026-01-02 03:04:05.67')",
            "INSERT INTO app.a (id, name) VALUES (11,REPEAT('n',290))",
            "INSERT INTO app.a (id, name) VALUES (12,NULL),(13,''),(14,'x')",
            "UPDATE app.a SET name = 'changed', at = '2026-02-03 04:05:06' WHERE id <= 3",
            "DELETE FROM app.a WHERE id = 4",
            "INSERT INTO app.b VALUES (1,'small','{\"k\": [1, 2, {\"x\": null}]}')",
            "FLUSH BINARY LOGS",
            "INSERT INTO app.b VALUES (2,REPEAT('big',2000000),'{}')",
            "UPDATE app.b SET doc = JSON_SET(doc, '$.k', 7)",
            "USE app",
            "ALTER TABLE a ADD COLUMN extra INT NOT NULL DEFAULT 7",
            "CREATE TABLE c (id INT PRIMARY KEY) COMMENT 'c''s'",
            "BEGIN",
            "INSERT INTO a (id) VALUES (20)",
            "INSERT INTO b (id, body) VALUES (20,'both')",
            "INSERT INTO c VALUES (1)",
            "COMMIT",
        ])?;
        match self.install.flavour {
            Flavour::Mysql => self.on_primary(&[
                "SET gtid_next='AUTOMATIC:salvage_me'",
                "INSERT INTO a (id) VALUES (30)",
                "DELETE FROM a WHERE id = 14",
                "SET gtid_next='AUTOMATIC'",
                "SET SESSION binlog_transaction_compression = ON",
                "INSERT INTO c SELECT id + 100 FROM a",
                "SET SESSION binlog_transaction_compression = OFF",
            ])?,
            Flavour::Mariadb => self.on_primary(&[
                "SET GLOBAL log_bin_compress = ON",
                "INSERT INTO a (id) VALUES (30)",
                "DELETE FROM a WHERE id = 14",
                "INSERT INTO c SELECT id + 100 FROM a",
                "SET GLOBAL log_bin_compress = OFF",
            ])?,
        }
        for id in 40..45 {
            self.primary().sql(&format!("INSERT INTO a (id, name) VALUES ({id},'{id}')"))?;
        }
        // Sixteen in the first block without USE and FLUSH: eleven; three; five; and one more.
        self.on_primary(&["INSERT INTO c VALUES (2),(3)"])?;
        let many = self.primary().value("SELECT COUNT(*) FROM c WHERE id > 100")?.parse::<u64>()?;
        Ok(vec![
            ("app.a".into(), 1 + 1 + 3 + 3 + 1 + 1 + 2 + 5),
            ("app.b".into(), 1 + 1 + 2 + 1),
            ("app.c".into(), 3 + many),
        ])
    }

    fn history(&self, server: &Server) -> Result<History> {
        Ok(match self.install.flavour {
            Flavour::Mysql => History::parse(
                shunt_core::observation::Flavour::Mysql,
                &server.value("SELECT @@GLOBAL.gtid_executed")?,
            )?,
            Flavour::Mariadb => {
                let state = server.value("SELECT @@GLOBAL.gtid_binlog_state")?;
                History::parse(shunt_core::observation::Flavour::Mariadb, &state)?
            }
        })
    }

    fn lacking(&self) -> Result<History> {
        Ok(self.history(self.primary())?.minus(&self.history(self.other())?))
    }

    fn login(server: &Server) -> Login {
        Login { server: server.address(), user: "shunt".into(), password: Password::new(PASSWORD) }
    }

    fn folder(&self) -> PathBuf {
        self.dir.path().join("kept")
    }

    fn salvage(&self, lacking: &History, apply: bool) -> Result<Result<Salvaged, TaskError>> {
        let (from, into) = (Self::login(self.primary()), Self::login(self.other()));
        let (folder, name) = (self.folder(), file_name("orders/17", from.server));
        let into = apply.then_some(&into);
        self.host.ns().inside_async(|| async { salvage(&from, lacking, &folder, &name, into, WITHIN).await })
    }

    fn kept(&self, lacking: &History, apply: bool) -> Result<Salvaged> {
        self.salvage(lacking, apply)?.map_err(|error| anyhow!("{:?}: {}", error.cause, error.message))
    }

    fn wait_equal(&self) -> Result<()> {
        eventually("the replica to have everything", PATIENCE, || {
            Ok(self.history(self.primary())?.is_subset(&self.history(self.other())?).then_some(()))
        })
    }

    fn sums(&self, server: &Server) -> Result<Vec<String>> {
        ["a", "b", "c"]
            .iter()
            .map(|table| Ok(format!("{:?}", server.sql(&format!("CHECKSUM TABLE app.{table}"))?)))
            .collect()
    }

    /// What the flavour's own tool says of a file; `None` if the tool is not there.
    fn read_by_tool(&self, file: &Path, test: &str) -> Result<Option<String>> {
        let tool = match self.install.flavour {
            Flavour::Mysql => "usr/bin/mysqlbinlog",
            Flavour::Mariadb => "usr/bin/mariadb-binlog",
        };
        if !self.install.file(tool).exists() {
            skip::skip(test, &format!("the rest of it: there is no {tool} in the installation"));
            return Ok(None);
        }
        let mut command = Command::new(Path::new("/").join(tool));
        command.env_clear().args(["--no-defaults", "--verify-binlog-checksum", "--base64-output=decode-rows", "-v"]);
        let folder = file.parent().context("a file is in a folder")?;
        command.arg(self.install.inside(folder).join(file.file_name().context("a file has a name")?));
        if let Some(root) = &self.install.root {
            jail::confine(&mut command, root, folder)?;
        }
        let output = command.output()?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success() && !said.to_lowercase().contains("error"), "{tool}: {said}");
        Ok(Some(String::from_utf8_lossy(&output.stdout).into_owned()))
    }

    /// The transactions in what the tool printed.
    fn gtids_in(&self, printed: &str) -> Vec<String> {
        let quoted = |line: &str| Some(line.split_once("GTID_NEXT= '")?.1.split_once('\'')?.0.to_owned());
        let after = |line: &str| Some(line.split_once("\tGTID ")?.1.split_whitespace().next()?.to_owned());
        let found: Vec<String> = match self.install.flavour {
            Flavour::Mysql => printed.lines().filter_map(quoted).filter(|gtid| gtid.contains(':')).collect(),
            Flavour::Mariadb => printed.lines().filter_map(after).collect(),
        };
        found
    }
}

each_flavour! {
    fn exactly_what_the_other_lacks_is_kept_and_the_servers_own_tool_reads_it(install) {
        let parted = Parted::start(install)?;
        let tables = parted.diverge()?;
        let lacking = parted.lacking()?;
        let kept = parted.kept(&lacking, false)?;
        ensure!(kept.transactions == 20, "{kept:?}");
        ensure!(kept.gtids == lacking.to_string() && !kept.applied, "{kept:?}");
        ensure!(kept.tables == tables, "{kept:?}, expected {tables:?}");

        let file = PathBuf::from(&kept.file);
        ensure!(file.file_name().is_some_and(|name| name == "orders-17-10.77.0.11_3306.binlog"), "{kept:?}");
        let mode = |path: &Path| Ok::<_, std::io::Error>(path.metadata()?.permissions().mode() & 0o7777);
        ensure!(mode(&file)? == 0o600 && mode(&file.with_extension("txt"))? == 0o600);
        ensure!(mode(&parted.folder())? == 0o700);
        ensure!(std::fs::read_dir(parted.folder())?.count() == 2, "a part was left");

        let text = std::fs::read_to_string(file.with_extension("txt"))?;
        ensure!(text.contains("app.a: 3 updated") && text.contains("ALTER TABLE a ADD COLUMN extra"), "{text}");
        ensure!(text.contains("20 transactions"), "{text}");

        let test = "exactly_what_the_other_lacks_is_kept_and_the_servers_own_tool_reads_it";
        if let Some(printed) = parted.read_by_tool(&file, test)? {
            let there = parted.gtids_in(&printed);
            ensure!(there.len() == 20, "{there:?}\n{text}");
            for gtid in &there {
                let one = History::parse(lacking.flavour(), gtid)?;
                ensure!(one.is_subset(&lacking), "{gtid} was not lacking");
                ensure!(text.contains(gtid.as_str()), "{gtid} is not in the list\n{text}");
            }
        }
        Ok(())
    }
}
