//! The answer to a round: the rows of every statement, read by column name. A column that a server does not have reads
//! as empty; names differ between versions, so callers give every name that a column has had.

use std::collections::BTreeMap;
use std::time::Duration;

use mysql_async::prelude::Queryable as _;
use mysql_async::{Conn, Error, Row, Value};

/// The rows of one statement.
pub type Rows = Vec<Row>;

/// The rows of every statement up to the first that was refused, and that one's error.
pub async fn answers(conn: &mut Conn, sql: &str) -> (Vec<Rows>, Result<(), Error>) {
    let mut answers = Vec::new();
    let mut result = match conn.query_iter(sql).await {
        Ok(result) => result,
        Err(error) => return (answers, Err(error)),
    };
    loop {
        match result.collect::<Row>().await {
            Ok(rows) => answers.push(rows),
            Err(error) => return (answers, Err(error)),
        }
        if result.is_empty() {
            // A later statement's error waits with the library, whose next query it would be taken for.
            return (answers, result.drop_result().await);
        }
    }
}

/// Named columns of a row.
pub trait Columns {
    /// Whether there is such a column, NULL or not.
    fn has(&self, name: &str) -> bool;

    /// The column's bytes; `None`: there is no such column, or it is NULL.
    fn bytes(&self, names: &[&str]) -> Option<&[u8]>;

    /// The column as text; empty when there is none.
    fn text(&self, names: &[&str]) -> String {
        self.bytes(names).map(|b| String::from_utf8_lossy(b).into_owned()).unwrap_or_default()
    }

    /// The column as a number.
    fn number(&self, names: &[&str]) -> Option<u64> {
        std::str::from_utf8(self.bytes(names)?).ok()?.trim().parse().ok()
    }

    /// Seconds, with or without a fraction, greater than zero or not.
    fn seconds(&self, names: &[&str]) -> Option<Duration> {
        let seconds: f64 = std::str::from_utf8(self.bytes(names)?).ok()?.trim().parse().ok()?;
        Duration::try_from_secs_f64(seconds).ok()
    }

    /// Whether the column says yes.
    fn is_on(&self, names: &[&str]) -> bool {
        self.bytes(names).is_some_and(says_yes)
    }
}

impl Columns for Row {
    fn has(&self, name: &str) -> bool {
        self.columns_ref().iter().any(|c| c.name_ref().eq_ignore_ascii_case(name.as_bytes()))
    }

    fn bytes(&self, names: &[&str]) -> Option<&[u8]> {
        let wanted = |name: &[u8]| names.iter().any(|n| n.as_bytes().eq_ignore_ascii_case(name));
        let index = self.columns_ref().iter().position(|c| wanted(c.name_ref()))?;
        match self.as_ref(index)? {
            Value::Bytes(bytes) => Some(bytes),
            _ => None,
        }
    }
}

/// `1`, `ON`, `YES`. A value that is not known as a no is none: see MariaDB's `read_only`.
pub fn says_yes(value: &[u8]) -> bool {
    [&b"1"[..], b"ON", b"YES"].iter().any(|yes| value.eq_ignore_ascii_case(yes))
}

/// A GTID set in one line: MySQL breaks it after every comma.
pub fn without_blanks(text: &str) -> String {
    text.chars().filter(|c| !c.is_ascii_whitespace()).collect()
}

/// The two columns of SHOW VARIABLES and SHOW STATUS, names in lower case.
pub fn name_values(rows: &[Row]) -> BTreeMap<String, String> {
    rows.iter()
        .map(|row| (row.text(&["variable_name"]).to_ascii_lowercase(), row.text(&["value", "variable_value"])))
        .collect()
}
