//! The events of a binary log, as far as they have to be understood: their headers, whose transaction begins, and what a
//! reader has to be told. (MySQL's `mysql/binlog/event`, MariaDB's `sql/log_event.h`.)

use std::fmt;

use shunt_core::gtid::{History, Tag, Uuid};

use super::bytes::Bytes;

/// The beginning of every event.
pub(super) const HEADER: usize = 19;
/// CRC-32 at the end of an event.
pub(super) const CHECKSUM: usize = 4;
/// What is read of an event that has to be understood as a whole: all of them are small.
pub(super) const SMALL: usize = 64 << 10;

/// Types of events. Those from 160 on are MariaDB's.
pub(super) mod kind {
    pub const QUERY: u8 = 2;
    pub const STOP: u8 = 3;
    pub const ROTATE: u8 = 4;
    pub const INTVAR: u8 = 5;
    pub const RAND: u8 = 13;
    pub const FORMAT_DESCRIPTION: u8 = 15;
    pub const XID: u8 = 16;
    pub const TABLE_MAP: u8 = 19;
    pub const WRITE_ROWS_V1: u8 = 23;
    pub const UPDATE_ROWS_V1: u8 = 24;
    pub const DELETE_ROWS_V1: u8 = 25;
    pub const HEARTBEAT: u8 = 27;
    pub const ROWS_QUERY: u8 = 29;
    pub const WRITE_ROWS: u8 = 30;
    pub const UPDATE_ROWS: u8 = 31;
    pub const DELETE_ROWS: u8 = 32;
    pub const GTID: u8 = 33;
    pub const ANONYMOUS_GTID: u8 = 34;
    pub const PREVIOUS_GTIDS: u8 = 35;
    pub const XA_PREPARE: u8 = 38;
    pub const PARTIAL_UPDATE_ROWS: u8 = 39;
    pub const TRANSACTION_PAYLOAD: u8 = 40;
    pub const HEARTBEAT_V2: u8 = 41;
    pub const GTID_TAGGED: u8 = 42;
    pub const ANNOTATE_ROWS: u8 = 160;
    pub const BINLOG_CHECKPOINT: u8 = 161;
    pub const MARIA_GTID: u8 = 162;
    pub const GTID_LIST: u8 = 163;
    pub const START_ENCRYPTION: u8 = 164;
    pub const QUERY_COMPRESSED: u8 = 165;
    pub const WRITE_ROWS_COMPRESSED_V1: u8 = 166;
    pub const UPDATE_ROWS_COMPRESSED_V1: u8 = 167;
    pub const DELETE_ROWS_COMPRESSED_V1: u8 = 168;
    pub const WRITE_ROWS_COMPRESSED: u8 = 169;
    pub const UPDATE_ROWS_COMPRESSED: u8 = 170;
    pub const DELETE_ROWS_COMPRESSED: u8 = 171;
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Header {
    /// Seconds since 1970.
    pub time: u32,
    pub kind: u8,
    pub server: u32,
    /// With the header and, if there is one, the checksum.
    pub size: u32,
    /// Where the event ends, in its file.
    pub end: u32,
    pub flags: u16,
}

impl Header {
    pub(super) fn read(bytes: &[u8; HEADER]) -> Option<Self> {
        let mut bytes = Bytes(bytes);
        let time = bytes.number(4)? as u32;
        let kind = bytes.byte()?;
        let server = bytes.number(4)? as u32;
        let size = bytes.number(4)? as u32;
        let end = bytes.number(4)? as u32;
        let flags = bytes.number(2)? as u16;
        (size as usize >= HEADER).then_some(Self { time, kind, server, size, end, flags })
    }

    pub(super) fn write(&self) -> [u8; HEADER] {
        let mut bytes = [0; HEADER];
        bytes[0..4].copy_from_slice(&self.time.to_le_bytes());
        bytes[4] = self.kind;
        bytes[5..9].copy_from_slice(&self.server.to_le_bytes());
        bytes[9..13].copy_from_slice(&self.size.to_le_bytes());
        bytes[13..17].copy_from_slice(&self.end.to_le_bytes());
        bytes[17..19].copy_from_slice(&self.flags.to_le_bytes());
        bytes
    }

    /// Whether a transaction begins with it.
    pub(super) const fn is_gtid(&self) -> bool {
        matches!(self.kind, kind::GTID | kind::GTID_TAGGED | kind::MARIA_GTID)
    }

    /// Whether it belongs to the log and to no transaction.
    pub(super) const fn is_of_the_log(&self) -> bool {
        matches!(
            self.kind,
            kind::STOP
                | kind::ROTATE
                | kind::PREVIOUS_GTIDS
                | kind::ANONYMOUS_GTID
                | kind::BINLOG_CHECKPOINT
                | kind::GTID_LIST
                | kind::START_ENCRYPTION
        )
    }

    pub(super) const fn is_heartbeat(&self) -> bool {
        matches!(self.kind, kind::HEARTBEAT | kind::HEARTBEAT_V2)
    }
}

/// The number of a transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Gtid {
    Mysql { origin: (Uuid, Tag), number: u64 },
    Mariadb { domain: u32, server: u32, sequence: u64, flags: u8 },
}

/// Of a MariaDB transaction: it is a single statement, without BEGIN and COMMIT.
const STANDALONE: u8 = 1;
/// It is a prepared XA transaction, or the end of one.
const XA: u8 = 64 | 128;

impl Gtid {
    pub(super) fn read(header: &Header, body: &[u8]) -> Option<Self> {
        let mut bytes = Bytes(body);
        match header.kind {
            kind::GTID => {
                bytes.take(1)?;
                let uuid = Uuid(u128::from_be_bytes(bytes.take(16)?.try_into().ok()?));
                Some(Self::Mysql { origin: (uuid, Tag::default()), number: bytes.number(8)? })
            }
            kind::GTID_TAGGED => read_tagged(bytes),
            kind::MARIA_GTID => {
                let sequence = bytes.number(8)?;
                let domain = bytes.number(4)? as u32;
                Some(Self::Mariadb { domain, server: header.server, sequence, flags: bytes.byte()? })
            }
            _ => None,
        }
    }

    pub(super) fn is_in(&self, history: &History) -> bool {
        match (self, history) {
            (Self::Mysql { origin, number }, History::Mysql(set)) => set.contains(origin, *number),
            (Self::Mariadb { domain, server, sequence, .. }, History::Mariadb(history)) => {
                history.contains((*domain, *server), *sequence)
            }
            _ => false,
        }
    }

    /// Whether it is known to end without a COMMIT.
    pub(super) fn is_standalone(&self) -> bool {
        matches!(self, Self::Mariadb { flags, .. } if flags & STANDALONE != 0)
    }

    pub(super) fn is_xa(&self) -> bool {
        matches!(self, Self::Mariadb { flags, .. } if flags & XA != 0)
    }
}

/// The form since MySQL 8.3: numbered fields, of which the first four are these. (WL#15294)
fn read_tagged(mut bytes: Bytes<'_>) -> Option<Gtid> {
    let [_version, _size, _last_needed] = [bytes.varlen()?, bytes.varlen()?, bytes.varlen()?];
    let [flags, _flags, origin] = [bytes.varlen()?, bytes.varlen()?, bytes.varlen()?];
    if (flags, origin) != (0, 1) {
        return None;
    }
    let mut uuid = [0; 16];
    for byte in &mut uuid {
        *byte = u8::try_from(bytes.varlen()?).ok()?;
    }
    if bytes.varlen()? != 2 {
        return None;
    }
    let number = u64::try_from(bytes.varlen_signed()?).ok()?;
    let tag = if bytes.varlen() == Some(3) {
        let length = usize::try_from(bytes.varlen()?).ok()?;
        std::str::from_utf8(bytes.take(length)?).ok()?
    } else {
        ""
    };
    let tag = if tag.is_empty() { Tag::default() } else { tag.parse().ok()? };
    Some(Gtid::Mysql { origin: (Uuid(u128::from_be_bytes(uuid)), tag), number })
}

/// As the server writes it.
impl fmt::Display for Gtid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Mysql { origin: (uuid, tag), number } if tag.as_str().is_empty() => write!(f, "{uuid}:{number}"),
            Self::Mysql { origin: (uuid, tag), number } => write!(f, "{uuid}:{}:{number}", tag.as_str()),
            Self::Mariadb { domain, server, sequence, .. } => write!(f, "{domain}-{server}-{sequence}"),
        }
    }
}

/// Offsets in the body of a FORMAT_DESCRIPTION event.
const CREATED: usize = 52;
const POST_HEADERS: usize = 57;

/// What a server says of its log before anything else.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Format {
    /// Its body without the checksum, as it stands in the kept file: checksums are on, and it was made at no time, lest a
    /// server that reads it take that for a restart and drop temporary tables.
    pub body: Vec<u8>,
    /// Whether what follows has checksums.
    pub checksummed: bool,
}

impl Format {
    /// From a body with its checksum, which this event always has.
    pub(super) fn read(body: &[u8]) -> Option<Self> {
        let (body, _checksum) = body.split_at_checked(body.len().checked_sub(CHECKSUM)?)?;
        let mut body = body.to_vec();
        if body.len() <= POST_HEADERS || body[0..2] != [4, 0] || usize::from(body[CREATED + 4]) != HEADER {
            return None;
        }
        let algorithm = body.last_mut()?;
        let checksummed = match *algorithm {
            0 => false,
            1 => true,
            _ => return None,
        };
        *algorithm = 1;
        body[CREATED..CREATED + 4].fill(0);
        Some(Self { body, checksummed })
    }

    /// The server's version.
    pub(super) fn version(&self) -> String {
        String::from_utf8_lossy(Bytes(&self.body[2..CREATED]).text()).into_owned()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_header_is_written_as_it_was_read(bytes in any::<[u8; HEADER]>()) {
            if let Some(header) = Header::read(&bytes) {
                prop_assert_eq!(header.write(), bytes);
            } else {
                prop_assert!(u32::from_le_bytes([bytes[9], bytes[10], bytes[11], bytes[12]]) < HEADER as u32);
            }
        }

        #[test]
        fn no_body_makes_it_panic(body in prop::collection::vec(any::<u8>(), 0..160)) {
            for kind in [kind::GTID, kind::GTID_TAGGED, kind::MARIA_GTID] {
                let header = Header { time: 0, kind, server: 1, size: 19, end: 0, flags: 0 };
                Gtid::read(&header, &body);
            }
            if let Some(format) = Format::read(&body) {
                format.version();
            }
        }
    }
}
