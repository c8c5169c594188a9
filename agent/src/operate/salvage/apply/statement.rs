//! The statements that an event becomes.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use crate::operate::salvage::bytes::Bytes;
use crate::operate::salvage::event::{HEADER, Header, kind};
use crate::operate::salvage::query::Query;
use crate::operate::salvage::rows::STATEMENT_END;
use crate::operate::salvage::wire::COM_QUERY;

/// So much is gathered before it is sent. A statement of millions of rows is thereby several.
const CHUNK: usize = 1 << 20;
/// Where a rows event has its flags.
const FLAGS: usize = HEADER + 6;
/// Of a header: the statement does not depend on a database, or makes it.
const SUPPRESS_USE: u16 = 8;

/// Rows events of one statement, with the tables that they need.
#[derive(Default)]
pub(super) struct Statement {
    tables: Vec<u8>,
    rows: Vec<u8>,
    /// Where the last of the rows events begins.
    last: usize,
}

impl Statement {
    pub(super) fn table(&mut self, header: &Header, body: &[u8]) {
        put(&mut self.tables, header, body);
    }

    /// Adds rows; the command to send, if it is time.
    pub(super) fn rows(&mut self, header: &Header, body: &[u8]) -> Option<Vec<u8>> {
        self.last = self.rows.len();
        put(&mut self.rows, header, body);
        let flags = Bytes(body.get(6..).unwrap_or_default()).number(2).unwrap_or(0) as u16;
        let over = flags & STATEMENT_END != 0;
        if !over && self.rows.len() < CHUNK {
            return None;
        }
        // To the server every piece is a statement of its own: at the end of one it closes the tables.
        if let Some(flags) = self.rows.get_mut(self.last + FLAGS) {
            *flags |= STATEMENT_END as u8;
        }
        let command = binlog(&[&self.tables, &self.rows]);
        self.rows = Vec::new();
        if over {
            self.tables.clear();
        }
        Some(command)
    }
}

/// An event without a checksum.
pub(super) fn put(into: &mut Vec<u8>, header: &Header, body: &[u8]) {
    let size = (HEADER + body.len()) as u32;
    into.extend(Header { size, ..*header }.write());
    into.extend(body);
}

/// The command that replays events.
pub(super) fn binlog(events: &[&[u8]]) -> Vec<u8> {
    let mut command = vec![COM_QUERY];
    command.extend(b"BINLOG '");
    for events in events.iter().filter(|events| !events.is_empty()) {
        let from = command.len();
        let length = base64::encoded_len(events.len(), true).unwrap_or(0);
        command.resize(from + length, 0);
        // As long as it has to be, so that it cannot fail.
        let written = STANDARD.encode_slice(events, &mut command[from..]).unwrap_or(0);
        command.truncate(from + written);
        command.push(b'\n');
    }
    command.push(b'\'');
    command
}

/// What makes the session the one that a statement ran in.
pub(super) fn session(header: &Header, query: &Query) -> Vec<String> {
    let mut set = vec![format!(
        "SET SESSION timestamp={}.{:06}, pseudo_thread_id={}",
        header.time, query.variables.microseconds, query.thread
    )];
    set.extend(query.variables.set.iter().map(|variables| {
        let each: Vec<String> = variables.split(", ").map(|one| format!("@@SESSION.{one}")).collect();
        format!("SET {}", each.join(", "))
    }));
    if !query.database.is_empty() && header.flags & SUPPRESS_USE == 0 {
        set.push(format!("USE `{}`", query.database.replace('`', "``")));
    }
    set
}

/// The statement for an event that sets something for the next one.
pub(super) fn setting(kind: u8, body: &[u8]) -> Option<Vec<u8>> {
    let mut bytes = Bytes(body);
    let text = if kind == kind::RAND {
        format!("SET @@SESSION.rand_seed1={}, @@SESSION.rand_seed2={}", bytes.number(8)?, bytes.number(8)?)
    } else {
        let name = match bytes.byte()? {
            1 => "last_insert_id",
            2 => "insert_id",
            _ => return None,
        };
        format!("SET @@SESSION.{name}={}", bytes.number(8)?)
    };
    Some(text.into_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(kind: u8) -> Header {
        Header { time: 1, kind, server: 2, size: 0, end: 0, flags: 0 }
    }

    #[test]
    fn a_long_statement_is_sent_in_pieces_that_end_and_begin_with_their_tables() {
        let mut statement = Statement::default();
        statement.table(&header(kind::TABLE_MAP), b"table");
        let mut body = vec![0; 300 << 10];
        let sent: Vec<usize> = (0..8).filter_map(|_| statement.rows(&header(30), &body)).map(|c| c.len()).collect();
        assert_eq!(sent.len(), 2);
        assert!(sent.iter().all(|length| (CHUNK..3 * CHUNK).contains(length)));
        body[6] = 1;
        body.truncate(8);
        let last = statement.rows(&header(30), &body).expect("the end of the statement");
        let text = String::from_utf8(last[1..].to_vec()).unwrap();
        let events: Vec<u8> =
            text["BINLOG '".len()..].lines().filter_map(|line| STANDARD.decode(line).ok()).flatten().collect();
        assert_eq!(&events[HEADER..HEADER + 5], b"table");
        assert_eq!(events.len(), HEADER + 5 + HEADER + 8);
        assert!(statement.tables.is_empty() && statement.rows.is_empty());
    }
}
