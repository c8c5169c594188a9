//! The server that transactions are applied to: numbering them, and knowing which are there.
//!
//! MySQL gives a transaction the number that it is told. MariaDB does so only if it is higher than all of its domain: in
//! strict mode it refuses others, and without it its replicas would miss them. So where the new primary has gone on in the
//! same domain, a transaction gets a new number there. Then its own history does not tell that it is there, and a file does,
//! which is written before and after each of them.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use shunt_core::gtid::{GtidError, GtidSet, History, MariaHistory};

use super::statement::{binlog, put};
use crate::operate::salvage::event::{CHECKSUM, Format, Gtid, HEADER, Header};
use crate::operate::salvage::trouble::Trouble;
use crate::operate::salvage::wire::Wire;

pub(super) struct Target {
    wire: Wire,
    numbers: Numbers,
    /// What one command may have.
    longest: usize,
}

enum Numbers {
    Mysql { executed: GtidSet },
    Mariadb { state: MariaHistory, highest: BTreeMap<u32, u64>, own: u32, ledger: Ledger },
}

impl Target {
    pub(super) async fn open(
        mut wire: Wire,
        lacking: &History,
        ledger: &Path,
        unsealed: &mut bool,
    ) -> Result<Self, Trouble> {
        let bad = |error: GtidError| Trouble::nonsense(error.to_string());
        let numbers = match lacking {
            History::Mysql(_) => {
                // With super_read_only nobody may write, with read_only alone those who administer connections may.
                if wire.value("SELECT @@GLOBAL.super_read_only").await? == "1" {
                    *unsealed = true;
                    wire.run(b"SET GLOBAL super_read_only = OFF").await?;
                }
                let executed = wire.value("SELECT @@GLOBAL.gtid_executed").await?;
                Numbers::Mysql { executed: executed.parse().map_err(bad)? }
            }
            History::Mariadb(_) => {
                let mode = wire.value("SELECT @@GLOBAL.slave_exec_mode").await?;
                if mode != "STRICT" {
                    let why = format!("slave_exec_mode is {mode} there: conflicts would be passed over in silence");
                    return Err(Trouble::Refused(why));
                }
                let text =
                    wire.value("SELECT CONCAT(@@GLOBAL.gtid_binlog_state, ',', @@GLOBAL.gtid_slave_pos)").await?;
                let state: MariaHistory = text.parse().map_err(bad)?;
                let mut highest = BTreeMap::new();
                for ((domain, _), _, last) in state.spans() {
                    let known = highest.entry(domain).or_insert(last);
                    *known = last.max(*known);
                }
                let own = wire.value("SELECT @@GLOBAL.server_id").await?;
                let own = own.parse().map_err(|_| Trouble::nonsense(format!("a server_id of {own:?}")))?;
                Numbers::Mariadb { state, highest, own, ledger: Ledger::open(ledger)? }
            }
        };
        let longest = wire.value("SELECT @@GLOBAL.max_allowed_packet").await?;
        Ok(Self { wire, numbers, longest: longest.parse().unwrap_or(16 << 20) })
    }

    /// Whether it has the transaction.
    pub(super) fn has(&self, gtid: &Gtid) -> bool {
        match (&self.numbers, gtid) {
            (Numbers::Mysql { executed }, Gtid::Mysql { origin, number }) => executed.contains(origin, *number),
            (Numbers::Mariadb { state, ledger, .. }, Gtid::Mariadb { domain, server, sequence, .. }) => {
                state.last((*domain, *server)) >= *sequence || ledger.done.contains(&gtid.to_string())
            }
            _ => false,
        }
    }

    /// What the events that follow are read by.
    pub(super) async fn describe(&mut self, header: &Header, format: &Format) -> Result<(), Trouble> {
        let mut body = format.body.clone();
        // Those that follow are sent without checksums. This one has one whatever it says.
        if let Some(algorithm) = body.last_mut() {
            *algorithm = 0;
        }
        let whole = Header { size: (HEADER + body.len() + CHECKSUM) as u32, ..*header };
        let sum = crc32fast::hash(&[whole.write().as_slice(), &body].concat());
        body.extend(sum.to_le_bytes());
        let mut event = Vec::new();
        put(&mut event, header, &body);
        self.wire.ask(&binlog(&[&event])).await.map(drop)
    }

    /// Gives the next transaction its number.
    pub(super) async fn number(&mut self, gtid: &Gtid) -> Result<(), Trouble> {
        let set = match (&mut self.numbers, gtid) {
            (Numbers::Mariadb { highest, own, ledger, .. }, Gtid::Mariadb { domain, server, sequence, .. }) => {
                let highest = highest.entry(*domain).or_insert(0);
                if *sequence > *highest {
                    *highest = *sequence;
                    format!("SET SESSION gtid_domain_id={domain}, server_id={server}, gtid_seq_no={sequence}")
                } else {
                    ledger.begin(gtid)?;
                    *highest += 1;
                    format!("SET SESSION gtid_domain_id={domain}, server_id={own}, gtid_seq_no=0")
                }
            }
            _ => format!("SET SESSION gtid_next='{gtid}'"),
        };
        self.wire.run(set.as_bytes()).await
    }

    pub(super) async fn run(&mut self, sql: &[u8]) -> Result<(), Trouble> {
        self.fits(sql.len())?;
        self.wire.run(sql).await
    }

    /// Sends a command that is ready.
    pub(super) async fn replay(&mut self, command: Vec<u8>) -> Result<(), Trouble> {
        self.fits(command.len())?;
        self.wire.ask(&command).await.map(drop)
    }

    fn fits(&self, length: usize) -> Result<(), Trouble> {
        if length < self.longest {
            return Ok(());
        }
        Err(Trouble::Refused(format!(
            "it takes a statement of {length} bytes, and max_allowed_packet is {}",
            self.longest
        )))
    }

    pub(super) async fn commit(&mut self, gtid: &Gtid) -> Result<(), Trouble> {
        self.wire.run(b"COMMIT").await?;
        self.done(gtid).await
    }

    /// It is committed.
    pub(super) async fn done(&mut self, gtid: &Gtid) -> Result<(), Trouble> {
        if let Numbers::Mariadb { ledger, .. } = &mut self.numbers
            && ledger.is_begun(gtid)
        {
            let own = self.wire.value("SELECT @@SESSION.last_gtid").await?;
            ledger.done(gtid, &own)?;
        }
        Ok(())
    }

    /// Rolls back what was begun.
    pub(super) async fn undo(&mut self, gtid: &Gtid) -> Result<(), Trouble> {
        self.wire.run(b"ROLLBACK").await?;
        match &mut self.numbers {
            Numbers::Mysql { .. } => self.wire.run(b"SET SESSION gtid_next='AUTOMATIC'").await,
            Numbers::Mariadb { ledger, .. } => ledger.undone(gtid),
        }
    }

    /// How many got other numbers.
    pub(super) fn renumbered(&self) -> u64 {
        match &self.numbers {
            Numbers::Mysql { .. } => 0,
            Numbers::Mariadb { ledger, .. } => ledger.done.len() as u64,
        }
    }
}

/// Which transactions were applied under other numbers: a line before each of them and one after.
struct Ledger {
    path: PathBuf,
    file: Option<File>,
    begun: BTreeSet<String>,
    done: BTreeSet<String>,
}

impl Ledger {
    fn open(path: &Path) -> Result<Self, Trouble> {
        let mut ledger = Self { path: path.into(), file: None, begun: BTreeSet::new(), done: BTreeSet::new() };
        let text = match fs::read_to_string(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(ledger),
            read => read.map_err(|error| ledger.trouble(error))?,
        };
        for line in text.lines() {
            let mut words = line.split(' ');
            let (what, gtid) = (words.next(), words.next().unwrap_or_default().to_owned());
            match what {
                Some("begin") => drop(ledger.begun.insert(gtid)),
                Some("undone") => drop(ledger.begun.remove(&gtid)),
                Some("done") => {
                    ledger.begun.remove(&gtid);
                    ledger.done.insert(gtid);
                }
                _ => {}
            }
        }
        if let Some(open) = ledger.begun.first() {
            let why = format!("nobody knows whether {open} was applied: the last attempt ended in its middle");
            return Err(Trouble::Refused(format!("{why} (see {})", path.display())));
        }
        Ok(ledger)
    }

    fn trouble(&self, error: io::Error) -> Trouble {
        Trouble::File(format!("cannot keep {}", self.path.display()), error)
    }

    fn line(&mut self, line: &str) -> Result<(), Trouble> {
        let write = |file: &mut File| {
            file.write_all(line.as_bytes())?;
            file.sync_data()
        };
        let opened = match self.file.take() {
            Some(file) => Ok(file),
            None => OpenOptions::new().append(true).create(true).mode(0o600).open(&self.path),
        };
        let written = opened.and_then(|mut file| write(&mut file).map(|()| file));
        self.file = Some(written.map_err(|error| self.trouble(error))?);
        Ok(())
    }

    fn is_begun(&self, gtid: &Gtid) -> bool {
        self.begun.contains(&gtid.to_string())
    }

    fn begin(&mut self, gtid: &Gtid) -> Result<(), Trouble> {
        self.line(&format!("begin {gtid}\n"))?;
        self.begun.insert(gtid.to_string());
        Ok(())
    }

    fn done(&mut self, gtid: &Gtid, own: &str) -> Result<(), Trouble> {
        self.line(&format!("done {gtid} as {own}\n"))?;
        self.begun.remove(&gtid.to_string());
        self.done.insert(gtid.to_string());
        Ok(())
    }

    fn undone(&mut self, gtid: &Gtid) -> Result<(), Trouble> {
        if self.begun.remove(&gtid.to_string()) {
            self.line(&format!("undone {gtid}\n"))?;
        }
        Ok(())
    }
}
