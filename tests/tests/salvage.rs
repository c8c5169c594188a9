//! Saving what a former primary has and its successor lacks, with real servers and their own tools.

use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, ensure};
use shunt::config::Password;
use shunt::operate::salvage::{Login, file_name, salvage};
use shunt_core::gtid::History;
use shunt_core::operation::{Cause, Salvaged, TaskError};
use shunt_tests::scratch::Dir;
use shunt_tests::template::PASSWORD;
use shunt_tests::wait::PATIENCE;
use shunt_tests::{Cluster, Flavour, Host, Install, Lan, Server, each_flavour, eventually, jail, skip, with_mysql};

const WITHIN: Duration = Duration::from_secs(120);

/// What the agent's user needs to read a binary log, and to apply what was in it.
fn grants(flavour: Flavour) -> &'static [&'static str] {
    match flavour {
        Flavour::Mysql => &[
            "GRANT REPLICATION SLAVE ON *.* TO shunt@'%'",
            "GRANT REPLICATION_APPLIER, SYSTEM_VARIABLES_ADMIN, CONNECTION_ADMIN, \
             TRANSACTION_GTID_TAG ON *.* TO shunt@'%'",
            "GRANT SELECT, INSERT, UPDATE, DELETE, CREATE, ALTER, DROP ON *.* TO shunt@'%'",
        ],
        Flavour::Mariadb => &[
            "GRANT REPLICATION SLAVE, BINLOG MONITOR ON *.* TO shunt@'%'",
            "GRANT BINLOG REPLAY, READ_ONLY ADMIN ON *.* TO shunt@'%'",
            "GRANT SELECT, INSERT, UPDATE, DELETE, CREATE, ALTER, DROP ON *.* TO shunt@'%'",
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
        let cluster = Cluster::start_with(&lan, install, 2, &["--max-allowed-packet=64M"])?;
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

    /// Twenty transactions that only the primary has (one row is longer than a packet), and how many rows of which table they change.
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
            "INSERT INTO app.b VALUES (2,REPEAT('big',7000000),'{}')",
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
        self.salvage_from(self.primary().address(), lacking, apply)
    }

    fn salvage_from(&self, server: SocketAddr, lacking: &History, apply: bool) -> Result<Result<Salvaged, TaskError>> {
        let into = Self::login(self.other());
        let from = Login { server, ..into.clone() };
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

    fn sums(server: &Server) -> Result<Vec<String>> {
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
    fn what_was_kept_is_never_written_over(install) {
        let parted = Parted::start(install)?;
        let before = parted.history(parted.other())?;
        parted.on_primary(&["INSERT INTO app.a (id) VALUES (900)"])?;
        let first_lacking = parted.history(parted.primary())?.minus(&before);
        let first = parted.kept(&first_lacking, false)?;
        let bytes = std::fs::read(&first.file)?;
        parted.on_primary(&["INSERT INTO app.a (id) VALUES (901)"])?;
        let second_lacking = parted.history(parted.primary())?.minus(&before).minus(&first_lacking);
        let second = parted.kept(&second_lacking, false)?;
        ensure!(second.file.ends_with("-2.binlog") && second.gtids == second_lacking.to_string(), "{second:?}");
        ensure!(std::fs::read(&first.file)? == bytes, "the first file was changed");
        // Asked for again, each is found again.
        ensure!(parted.kept(&first_lacking, false)?.file == first.file);
        ensure!(parted.kept(&second_lacking, false)?.file == second.file);
        Ok(())
    }

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

    fn what_was_kept_is_applied_and_the_tables_are_equal(install) {
        let parted = Parted::start(install)?;
        parted.diverge()?;
        let lacking = parted.lacking()?;
        let kept = parted.kept(&lacking, true)?;
        ensure!(kept.applied && kept.stopped.is_none(), "{kept:?}");
        ensure!(Parted::sums(parted.primary())? == Parted::sums(parted.other())?);
        // With their own numbers, so that nobody lacks them any more, and read-only as it was.
        ensure!(parted.lacking()?.is_empty(), "{}", parted.lacking()?);
        let closed = if install.flavour == Flavour::Mysql { "super_read_only" } else { "read_only" };
        ensure!(parted.other().value(&format!("SELECT @@GLOBAL.{closed}"))? == "1");

        // A second time, the old one gone: from the file, and nothing is left to do.
        let mut parted = parted;
        let before = parted.history(parted.other())?;
        let address = parted.primary().address();
        parted.cluster.server(0).kill()?;
        let again = parted.salvage_from(address, &lacking, true)?.map_err(|e| anyhow!("{e:?}"))?;
        ensure!(again.applied && again.transactions == 20, "{again:?}");
        ensure!(parted.history(parted.other())? == before);
        Ok(())
    }

    fn a_conflict_stops_the_applying_before_its_transaction(install) {
        let parted = Parted::start(install)?;
        parted.diverge()?;
        let lacking = parted.lacking()?;
        // The fourth transaction updates this row, which somebody deletes behind everybody's back.
        parted.cluster.set_read_only(1, false)?;
        parted.other().sql("SET SESSION sql_log_bin = 0")?;
        parted.other().sql("DELETE FROM app.a WHERE id = 3")?;
        parted.other().sql("SET SESSION sql_log_bin = 1")?;
        parted.cluster.set_read_only(1, true)?;
        let kept = parted.kept(&lacking, true)?;
        let why = kept.stopped.clone().unwrap_or_default();
        ensure!(!kept.applied && why.starts_with("3 of 20 transactions are applied"), "{kept:?}");
        ensure!(why.contains("1032"), "{why}");
        let rows = parted.other().value("SELECT GROUP_CONCAT(id ORDER BY id) FROM app.a WHERE name = 'changed' OR id > 9")?;
        ensure!(rows == "10,11,12,13,14", "{rows}: half a transaction was applied");
        ensure!(std::fs::read_to_string(Path::new(&kept.file).with_extension("txt"))?.contains(&why));

        // Mended by hand, it goes on.
        parted.cluster.set_read_only(1, false)?;
        parted.other().sql("SET SESSION sql_log_bin = 0")?;
        parted.other().sql("INSERT INTO app.a (id, name) VALUES (3, 'three')")?;
        parted.cluster.set_read_only(1, true)?;
        let kept = parted.kept(&lacking, true)?;
        ensure!(kept.applied, "{kept:?}");
        ensure!(Parted::sums(parted.primary())? == Parted::sums(parted.other())?);
        Ok(())
    }

    fn statements_are_applied_in_the_session_that_they_ran_in(install) {
        let parted = Parted::start(install)?;
        parted.on_primary(&[
            "USE app",
            "SET SESSION binlog_format = STATEMENT",
            "SET SESSION time_zone = '+05:00', sql_mode = 'ANSI_QUOTES', auto_increment_increment = 5, foreign_key_checks = 0",
            "INSERT INTO \"t\" (note) VALUES ('a'), ('b')",
            "BEGIN",
            "INSERT INTO t (note) VALUES (CONCAT('é', NOW(6)))",
            "UPDATE t SET note = CONCAT(note, LAST_INSERT_ID()) WHERE note = 'a'",
            "COMMIT",
            "SET SESSION sql_mode = DEFAULT, time_zone = DEFAULT",
            "CREATE TABLE c AS SELECT id, at FROM t",
            "RENAME TABLE b TO b2",
            "RENAME TABLE b2 TO b",
            "TRUNCATE TABLE a",
            "SET SESSION binlog_format = ROW",
            "CREATE TABLE d AS SELECT id, note FROM t",
        ])?;
        let lacking = parted.lacking()?;
        let kept = parted.kept(&lacking, true)?;
        let text = std::fs::read_to_string(Path::new(&kept.file).with_extension("txt"))?;
        ensure!(kept.applied && kept.transactions == 7, "{kept:?}\n{text}");
        ensure!(text.contains("INSERT INTO \"t\" (note) VALUES ('a'), ('b') (in app)"), "{text}");
        ensure!(Parted::sums(parted.primary())? == Parted::sums(parted.other())?);
        let rows = "SELECT GROUP_CONCAT(id, note, at ORDER BY id) FROM app.t";
        let (ours, theirs) = (parted.primary().value(rows)?, parted.other().value(rows)?);
        let copied = "SELECT GROUP_CONCAT(id, note ORDER BY id) FROM app.d";
        ensure!(parted.primary().value(copied)? == parted.other().value(copied)?);
        ensure!(ours == theirs, "{ours}\n{theirs}");
        Ok(())
    }

    fn a_server_that_has_gone_on_gets_them_all_the_same_and_only_once(install) {
        let parted = Parted::start(install)?;
        parted.diverge()?;
        parted.cluster.set_read_only(1, false)?;
        parted.other().sql("INSERT INTO app.t (note) VALUES ('went on')")?;
        let lacking = parted.lacking()?;
        let kept = parted.kept(&lacking, true)?;
        ensure!(kept.applied, "{kept:?}");
        ensure!(Parted::sums(parted.primary())? == Parted::sums(parted.other())?);
        let text = std::fs::read_to_string(Path::new(&kept.file).with_extension("txt"))?;
        ensure!(text.contains("under new numbers") == (install.flavour == Flavour::Mariadb), "{text}");
        let before = parted.history(parted.other())?;
        let again = parted.kept(&lacking, true)?;
        ensure!(again.applied, "{again:?}");
        ensure!(parted.history(parted.other())? == before, "something was applied twice");
        Ok(())
    }

    fn a_privilege_that_is_missing_is_found_before_anything_is_applied(install) {
        let parted = Parted::start(install)?;
        parted.diverge()?;
        let lacking = parted.lacking()?;
        let before = parted.history(parted.other())?;
        // By schema is as good as everywhere, but for one right: the fifth transaction deletes.
        let missing: &[&str] = match install.flavour {
            Flavour::Mysql => &["REPLICATION_APPLIER ON *.*", "TRANSACTION_GTID_TAG ON *.*", "DELETE ON app.a"],
            Flavour::Mariadb => &["BINLOG REPLAY ON *.*"],
        };
        parted.cluster.set_read_only(1, false)?;
        parted.other().sql("SET SESSION sql_log_bin = 0")?;
        parted.other().sql("REVOKE SELECT, INSERT, UPDATE, DELETE, CREATE, ALTER, DROP ON *.* FROM shunt@'%'")?;
        parted.other().sql("GRANT SELECT, INSERT, UPDATE, CREATE, ALTER, DROP ON app.* TO shunt@'%'")?;
        for revoked in missing.iter().filter(|right| right.ends_with("*.*")) {
            parted.other().sql(&format!("REVOKE {revoked} FROM shunt@'%'"))?;
        }
        parted.cluster.set_read_only(1, true)?;
        let kept = parted.kept(&lacking, true)?;
        let why = kept.stopped.clone().unwrap_or_default();
        ensure!(!kept.applied && why.starts_with("none of 20 transactions is applied"), "{kept:?}");
        for right in missing {
            let (privilege, on) = right.split_once(" ON ").context("a right")?;
            ensure!(why.contains(privilege) && why.contains(&format!("ON {on} TO 'shunt'@'%'")), "{right}: {why}");
        }
        ensure!(parted.history(parted.other())? == before, "something was applied");

        // The statements that it gives are all that is needed.
        let statements = why.split_once("(run: ").and_then(|(_, rest)| rest.strip_suffix(')')).context("statements")?;
        parted.cluster.set_read_only(1, false)?;
        for statement in statements.split("; ") {
            parted.other().sql(statement)?;
        }
        parted.cluster.set_read_only(1, true)?;
        let kept = parted.kept(&lacking, true)?;
        ensure!(kept.applied, "{kept:?}");
        ensure!(Parted::sums(parted.primary())? == Parted::sums(parted.other())?);
        Ok(())
    }

    fn what_was_purged_is_named_and_nothing_is_kept(install) {
        let parted = Parted::start(install)?;
        parted.on_primary(&["INSERT INTO app.t (note) VALUES ('lost')", "FLUSH BINARY LOGS"])?;
        let lacking = parted.lacking()?;
        let last = parted.primary().sql("SHOW BINARY LOGS")?.pop().and_then(|row| row.into_iter().next().flatten());
        let purge = format!("PURGE BINARY LOGS TO '{}'", last.context("a log")?);
        // Not while the replica's dump still reads the old one, nor before MariaDB has a checkpoint in the new one.
        eventually("the old log to go", PATIENCE, || {
            parted.on_primary(&[&purge])?;
            Ok((parted.primary().sql("SHOW BINARY LOGS")?.len() == 1).then_some(()))
        })?;
        let error = parted.salvage(&lacking, false)?.err().context("it was kept")?;
        let word = if install.flavour == Flavour::Mysql { "gtid_purged" } else { "purged" };
        ensure!(error.cause == Cause::Refused && error.message.contains(word), "{error:?}");
        ensure!(error.message.contains(&lacking.to_string()), "{error:?}");
        ensure!(std::fs::read_dir(parted.folder())?.count() == 0);
        Ok(())
    }

    fn a_server_that_falls_silent_does_not_hold_it_and_leaves_nothing(install) {
        let mut parted = Parted::start(install)?;
        parted.diverge()?;
        let lacking = parted.lacking()?;
        parted.cluster.server(0).freeze()?;
        let from = Parted::login(parted.primary());
        let folder = parted.folder();
        let lacking = &lacking;
        let within = Duration::from_secs(2);
        let done = parted.host.ns().inside_async(|| async {
            tokio::time::timeout(WITHIN, salvage(&from, lacking, &folder, "x", None, within)).await
        })?;
        let error = done?.err().context("it was kept")?;
        ensure!(error.cause == Cause::Unknown && error.message.contains("time was up"), "{error:?}");
        ensure!(!parted.folder().exists() || std::fs::read_dir(parted.folder())?.count() == 0);
        parted.cluster.server(0).thaw()
    }
}

with_mysql! {
    fn without_tls_the_password_is_encrypted_with_the_servers_key(install) {
        let lan = Lan::new()?;
        let host = lan.host("proxy", 2)?;
        let server = Server::start(lan.host("db1", 11)?, install, 1, &["--tls-version="])?;
        server.sql("SET sql_log_bin = 0")?;
        server.sql("GRANT REPLICATION SLAVE ON *.* TO shunt@'%'")?;
        server.sql("SET sql_log_bin = 1")?;
        server.sql("INSERT INTO app.t (note) VALUES ('only here')")?;
        let executed = server.value("SELECT @@GLOBAL.gtid_executed")?;
        let lacking = History::parse(shunt_core::observation::Flavour::Mysql, &executed)?;
        let (from, dir) = (Parted::login(&server), Dir::new("salvage")?);
        let kept = host.ns().inside_async(|| async { salvage(&from, &lacking, dir.path(), "x", None, WITHIN).await })?;
        let kept = kept.map_err(|error| anyhow!("{error:?}"))?;
        ensure!(kept.tables == [("app.t".to_owned(), 1)], "{kept:?}");

        let wrong = Login { password: Password::new("wrong"), ..from };
        let refused = host.ns().inside_async(|| async { salvage(&wrong, &lacking, dir.path(), "y", None, WITHIN).await })?;
        let error = refused.err().context("it was let in")?;
        ensure!(error.cause == Cause::Unreachable && error.message.contains("1045"), "{error:?}");
        Ok(())
    }
}
