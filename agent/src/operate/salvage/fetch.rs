//! Fetching transactions out of a server's binary logs, as a replica would: the server sends its log from where it may
//! contain something that is wanted to its end. Nothing is changed there.

use shunt_core::gtid::{GtidSet, History, MariaHistory};

use super::bytes::Bytes;
use super::event::{CHECKSUM, Format, Gtid, HEADER, Header, SMALL, kind};
use super::got::Got;
use super::keep::Keep;
use super::request;
use super::trouble::Trouble;
use super::wire::{EOF, ERR, OK, Wire};

/// Writes exactly the wanted transactions to the file, or fails.
pub(super) async fn fetch(wire: &mut Wire, wanted: &History, keep: &mut Keep) -> Result<(), Trouble> {
    match wanted {
        History::Mysql(set) => ask_mysql(wire, set).await?,
        History::Mariadb(history) => ask_mariadb(wire, history).await?,
    }
    take_in(wire, wanted, keep).await
}

/// Takes what a server sends that was asked for its log.
pub(super) async fn take_in(wire: &mut Wire, wanted: &History, keep: &mut Keep) -> Result<(), Trouble> {
    let mut intake = Intake { wanted, got: Got::default(), keeping: false, checksummed: false };
    while intake.packet(wire, keep).await? {}
    let absent = intake.got.absent(wanted);
    if absent.is_empty() { Ok(()) } else { Err(Trouble::Refused(format!("its binary logs have no {absent}"))) }
}

async fn ask_mysql(wire: &mut Wire, wanted: &GtidSet) -> Result<(), Trouble> {
    let executed = gtids(wire, "SELECT @@GLOBAL.gtid_executed").await?;
    let absent = wanted.minus(&executed);
    if !absent.is_empty() {
        return Err(Trouble::Refused(format!("it has not executed {absent}")));
    }
    let purged = gtids(wire, "SELECT @@GLOBAL.gtid_purged").await?;
    // What is wanted and not purged; a set has no intersection of its own.
    let gone = wanted.minus(&wanted.minus(&purged));
    if !gone.is_empty() {
        return Err(Trouble::Refused(format!("its binary logs have {gone} no more: they are in its gtid_purged")));
    }
    wire.run(
        b"SET @source_binlog_checksum = @@GLOBAL.binlog_checksum, @master_binlog_checksum = @@GLOBAL.binlog_checksum, \
          @source_heartbeat_period = 5000000000, @master_heartbeat_period = 5000000000",
    )
    .await?;
    wire.command(&request::dump_gtids(&executed.minus(wanted))).await
}

async fn gtids(wire: &mut Wire, question: &str) -> Result<GtidSet, Trouble> {
    wire.value(question).await?.parse().map_err(|error| Trouble::nonsense(format!("{error}")))
}

/// MariaDB is asked for a file rather than for a position: a position names the last transaction of a domain, and two
/// servers that parted ways have none in common that would be sure to precede all that is wanted.
async fn ask_mariadb(wire: &mut Wire, wanted: &MariaHistory) -> Result<(), Trouble> {
    let state: MariaHistory = {
        let text = wire.value("SELECT @@GLOBAL.gtid_binlog_state").await?;
        text.parse().map_err(|error| Trouble::nonsense(format!("{error}")))?
    };
    for ((domain, server), _, last) in wanted.spans() {
        if state.last((domain, server)) < last {
            return Err(Trouble::Refused(format!("its binary logs have no {domain}-{server}-{last}")));
        }
    }
    let logs = wire.query(b"SHOW BINARY LOGS").await?;
    let mut names: Vec<String> = logs.into_iter().filter_map(|row| row.into_iter().next().flatten()).collect();
    let first = loop {
        let Some(name) = names.pop() else {
            return Err(Trouble::Refused(format!(
                "its binary logs do not reach back to {wanted}: older ones were purged"
            )));
        };
        let before = list_of(wire, &name).await?;
        if wanted.spans().all(|(place, after, _)| before.last(place) <= after) {
            break name;
        }
    };
    wire.run(
        b"SET @master_binlog_checksum = @@GLOBAL.binlog_checksum, @mariadb_slave_capability = 4, \
          @master_heartbeat_period = 5000000000",
    )
    .await?;
    wire.command(&request::dump_file(&first)).await
}

/// Up to where everything is in earlier files than this one: its second event says so, or its third.
async fn list_of(wire: &mut Wire, name: &str) -> Result<MariaHistory, Trouble> {
    if !name.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'\'' && byte != b'\\') {
        return Err(Trouble::nonsense(format!("a log named {name:?}")));
    }
    let head = wire.query(format!("SHOW BINLOG EVENTS IN '{name}' LIMIT 4").as_bytes()).await?;
    for row in head {
        if let [_, _, Some(kind), .., Some(info)] = row.as_slice()
            && kind == "Gtid_list"
        {
            let list = info.trim_matches(['[', ']']);
            return list.parse().map_err(|error| Trouble::nonsense(format!("{error}")));
        }
    }
    Err(Trouble::nonsense(format!("{name} does not say what precedes it")))
}

struct Intake<'a> {
    wanted: &'a History,
    got: Got,
    /// Whether what comes belongs to a wanted transaction.
    keeping: bool,
    checksummed: bool,
}

impl Intake<'_> {
    /// Takes one packet in; whether there may be more.
    async fn packet(&mut self, wire: &mut Wire, keep: &mut Keep) -> Result<bool, Trouble> {
        wire.next().await?;
        let mut status = [0];
        wire.fill(&mut status).await?;
        match status[0] {
            OK => {}
            EOF => return Ok(false),
            ERR => {
                let mut packet = vec![ERR];
                packet.extend(wire.rest(SMALL).await?);
                return Err(super::wire::error(&packet));
            }
            other => return Err(Trouble::nonsense(format!("{other} in a binary log"))),
        }
        let mut bytes = [0; HEADER];
        if wire.fill(&mut bytes).await? < HEADER {
            return Err(Trouble::nonsense("an event without a header"));
        }
        let header = Header::read(&bytes).ok_or_else(|| Trouble::nonsense("an event shorter than its header"))?;
        if header.kind == kind::FORMAT_DESCRIPTION {
            let body = wire.rest(SMALL).await?;
            let format = Format::read(&body).ok_or_else(|| Trouble::nonsense("a log of an unknown format"))?;
            self.checksummed = format.checksummed;
            self.keeping = false;
            keep.describe(&header, &format)?;
        } else if header.is_gtid() {
            let mut body = wire.rest(SMALL).await?;
            let gtid = Gtid::read(&header, &body).ok_or_else(|| Trouble::nonsense("a transaction without a number"))?;
            self.keeping = gtid.is_in(self.wanted) && self.got.note(&gtid);
            if !self.keeping && self.is_complete() {
                return Ok(false);
            }
            if self.keeping {
                if !keep.is_described() {
                    return Err(Trouble::nonsense("a transaction before the log's description"));
                }
                self.verify(&bytes, &mut body)?;
                keep.event(&header, &body)?;
            }
        } else if header.is_of_the_log() {
            self.keeping = false;
        } else if self.keeping && !header.is_heartbeat() {
            self.copy(wire, keep, &header, &bytes).await?;
        }
        Ok(true)
    }

    fn is_complete(&self) -> bool {
        // MariaDB's may come out of order, if it is not strict about them: there only the end of the log is the end.
        matches!(self.wanted, History::Mysql(_)) && self.got.absent(self.wanted).is_empty()
    }

    /// Takes the checksum off a body, if it has one and it is right.
    fn verify(&self, header: &[u8], body: &mut Vec<u8>) -> Result<(), Trouble> {
        if !self.checksummed {
            return Ok(());
        }
        let short = || Trouble::nonsense("an event without its checksum");
        let sum = body.split_off(body.len().checked_sub(CHECKSUM).ok_or_else(short)?);
        let mut hasher = crc32fast::Hasher::new();
        hasher.update(header);
        hasher.update(body);
        check(&sum, hasher)
    }

    /// Passes an event of any size on to the file.
    async fn copy(
        &self,
        wire: &mut Wire,
        keep: &mut Keep,
        header: &Header,
        bytes: &[u8; HEADER],
    ) -> Result<(), Trouble> {
        let short = || Trouble::nonsense("an event that is shorter than it says");
        let around = if self.checksummed { HEADER + CHECKSUM } else { HEADER };
        let mut left = (header.size as usize).checked_sub(around).ok_or_else(short)?;
        let mut sum = crc32fast::Hasher::new();
        sum.update(bytes);
        keep.begin(header, left)?;
        let mut piece = vec![0; 64 << 10];
        while left > 0 {
            let most = left.min(piece.len());
            let read = wire.read(&mut piece[..most]).await?;
            if read == 0 {
                return Err(short());
            }
            sum.update(&piece[..read]);
            keep.piece(&piece[..read])?;
            left -= read;
        }
        keep.end()?;
        let tail = wire.rest(CHECKSUM).await?;
        match (self.checksummed, tail.len()) {
            (true, CHECKSUM) => check(&tail, sum),
            (false, 0) => Ok(()),
            _ => Err(Trouble::nonsense("an event that is longer than it says")),
        }
    }
}

fn check(sum: &[u8], of: crc32fast::Hasher) -> Result<(), Trouble> {
    if Bytes(sum).number(CHECKSUM) == Some(of.finalize().into()) {
        Ok(())
    } else {
        Err(Trouble::nonsense("an event whose checksum does not match"))
    }
}
