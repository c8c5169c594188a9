//! QUERY events: a statement, its database, and the variables of the session that it ran in.

use super::bytes::Bytes;

/// All that is read of one for its list.
pub(super) const HEAD: usize = 70 << 10;

#[derive(Debug, PartialEq, Eq)]
pub(super) struct Query {
    pub thread: u32,
    pub database: String,
    pub variables: Variables,
    /// The statement, or its beginning. In the session's character set.
    pub sql: Vec<u8>,
}

/// What of the session a statement's effect hangs on.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Variables {
    /// Statements that set it, in the server's own words.
    pub set: Vec<String>,
    /// Of the second in which it ran.
    pub microseconds: u32,
    /// What is there and cannot be set; empty if everything can.
    pub unknown: Option<u8>,
}

impl Query {
    pub(super) fn read(body: &[u8]) -> Option<Self> {
        let mut bytes = Bytes(body);
        let thread = bytes.number(4)? as u32;
        bytes.take(4)?;
        let database = usize::from(bytes.byte()?);
        bytes.take(2)?;
        let length = bytes.number(2)? as usize;
        let variables = bytes.take(length)?;
        let database = String::from_utf8_lossy(bytes.take(database)?).into_owned();
        bytes.take(1)?;
        Some(Self { thread, database, variables: Variables::read(variables), sql: bytes.0.to_vec() })
    }

    /// The statement in capitals, as far as it says what it is.
    pub(super) fn verb(&self) -> String {
        self.sql.iter().take(16).map(|byte| char::from(byte.to_ascii_uppercase())).collect()
    }

    pub(super) fn is_begin(&self) -> bool {
        self.verb() == "BEGIN"
    }

    /// Whether a transaction ends with it: `COMMIT`, or `ROLLBACK` of what cannot be rolled back.
    pub(super) fn is_end(&self) -> bool {
        matches!(self.verb().as_str(), "COMMIT" | "ROLLBACK")
    }

    pub(super) fn is_xa(&self) -> bool {
        self.verb().starts_with("XA ")
    }

    /// The first words, for people.
    pub(super) fn words(&self) -> String {
        const LONGEST: usize = 100;
        let text = String::from_utf8_lossy(&self.sql[..self.sql.len().min(LONGEST * 4)]);
        let words = text.split_whitespace().collect::<Vec<_>>().join(" ");
        match words.char_indices().nth(LONGEST) {
            Some((end, _)) => format!("{}…", &words[..end]),
            None => words,
        }
    }
}

impl Variables {
    fn read(text: &[u8]) -> Self {
        let mut found = Self::default();
        let mut bytes = Bytes(text);
        while let Some(code) = bytes.byte() {
            if found.one(code, &mut bytes).is_none() {
                found.unknown = Some(code);
                break;
            }
        }
        found
    }

    /// As mysqlbinlog prints them. (MySQL's `Query_event`; from 128 on MariaDB's.)
    fn one(&mut self, code: u8, bytes: &mut Bytes<'_>) -> Option<()> {
        let set = &mut self.set;
        let mut set = |text: String| set.push(text);
        match code {
            // Q_FLAGS2: bits of what the session had switched.
            0 => {
                let flags = bytes.number(4)?;
                let bit = |bit: u32| u8::from(flags >> bit & 1 == 1);
                set(format!(
                    "sql_auto_is_null={}, foreign_key_checks={}, unique_checks={}",
                    bit(14),
                    1 - bit(26),
                    1 - bit(27)
                ));
            }
            1 => set(format!("sql_mode={}", bytes.number(8)?)),
            // Catalogs, which nobody has.
            2 => {
                let length = bytes.byte()?;
                bytes.take(usize::from(length) + 1)?;
            }
            6 => {
                let length = bytes.byte()?;
                bytes.take(length.into())?;
            }
            3 => {
                let (increment, offset) = (bytes.number(2)?, bytes.number(2)?);
                set(format!("auto_increment_increment={increment}, auto_increment_offset={offset}"));
            }
            4 => {
                let (client, connection, server) = (bytes.number(2)?, bytes.number(2)?, bytes.number(2)?);
                set(format!(
                    "character_set_client={client}, collation_connection={connection}, collation_server={server}"
                ));
            }
            5 => {
                let length = bytes.byte()?;
                let zone = std::str::from_utf8(bytes.take(length.into())?).ok()?;
                let plain = zone.bytes().all(|b| b.is_ascii_alphanumeric() || b"+-:/_".contains(&b));
                plain.then(|| set(format!("time_zone='{zone}'")))?;
            }
            7 => set(format!("lc_time_names={}", bytes.number(2)?)),
            8 => set(format!("collation_database={}", bytes.number(2)?)),
            // Q_TABLE_MAP_FOR_UPDATE, Q_MASTER_DATA_WRITTEN, Q_DDL_LOGGED_WITH_XID, MariaDB's Q_XID.
            9 | 17 | 129 => drop(bytes.take(8)?),
            10 => drop(bytes.take(4)?),
            // The definer, who is the one that applies unless the statement names one: then it matters to nobody.
            11 => {
                for _ in 0..2 {
                    let length = bytes.byte()?;
                    bytes.take(length.into())?;
                }
            }
            // Databases that a replica's workers have to know.
            12 => {
                let count = bytes.byte()?;
                for _ in 0..(if count == 254 { 0 } else { count }) {
                    bytes.text();
                }
            }
            13 | 128 => self.microseconds = bytes.number(3)? as u32,
            16 => set(format!("explicit_defaults_for_timestamp={}", bytes.byte()?)),
            18 => set(format!("default_collation_for_utf8mb4={}", bytes.number(2)?)),
            19 => set(format!("sql_require_primary_key={}", bytes.byte()?)),
            20 => set(format!("default_table_encryption={}", bytes.byte()?)),
            // Since 9.7.
            21 => set(format!("enable_cascade_triggers={}", bytes.byte()?)),
            // MariaDB's Q_GTID_FLAGS3: of an ALTER TABLE that runs in two steps, whose second would be missed.
            _ => return None,
        }
        Some(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn no_body_makes_it_panic(
            body in prop::collection::vec(any::<u8>(), 0..120),
            variables in prop::collection::vec(0..21_u8, 0..60),
        ) {
            if let Some(query) = Query::read(&body) {
                query.words();
            }
            let mut body = vec![0; 11];
            body.extend((variables.len() as u16).to_le_bytes());
            body.extend(&variables);
            body.extend(b"\0SELECT 1");
            prop_assert_eq!(Query::read(&body).map(|query| query.words()), Some("SELECT 1".to_owned()));
        }
    }
}
