//! Counting the rows of an event. It does not say how many it has: they can only be counted by knowing how long each of their
//! columns is. Only that is read of them.

use std::io::{self, Read};

use super::bytes::Bytes;
use super::event::kind;
use super::log::{packed, wrong};

/// What is needed of a TABLE_MAP event: names, and the columns' types, which its beginning has.
pub(super) const TABLE_HEAD: usize = 32 << 10;

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Table {
    /// `database.table`.
    pub name: String,
    columns: Vec<Column>,
}

/// How long a value is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Column {
    Fixed(u32),
    /// A length of so many bytes comes before it.
    Prefixed(u8),
    /// The same, and an update may contain a part of it only.
    Json(u8),
    Unknown,
}

impl Table {
    /// Its number in the log, and itself.
    pub(super) fn read(body: &[u8]) -> Option<(u64, Self)> {
        let mut bytes = Bytes(body);
        let number = bytes.number(6)?;
        bytes.take(2)?;
        let mut text = || {
            let length = bytes.byte()?;
            let text = String::from_utf8_lossy(bytes.take(length.into())?).into_owned();
            bytes.take(1)?;
            Some(text)
        };
        let name = format!("{}.{}", text()?, text()?);
        let count = usize::try_from(bytes.packed()?).ok()?;
        let types = bytes.take(count)?;
        let metadata = bytes.packed_text()?;
        let mut metadata = Bytes(metadata);
        let columns: Option<Vec<Column>> = types.iter().map(|kind| Column::read(*kind, &mut metadata)).collect();
        Some((number, Self { name, columns: columns? }))
    }
}

impl Column {
    fn read(kind: u8, metadata: &mut Bytes<'_>) -> Option<Self> {
        let fraction = |digits: u8| u32::from(digits).div_ceil(2);
        Some(match kind {
            // NULL; TINY, YEAR; SHORT; INT24, DATE, TIME, NEWDATE; LONG, TIMESTAMP; LONGLONG, DATETIME.
            6 => Self::Fixed(0),
            1 | 13 => Self::Fixed(1),
            2 => Self::Fixed(2),
            9..=11 | 14 => Self::Fixed(3),
            3 | 7 => Self::Fixed(4),
            8 | 12 => Self::Fixed(8),
            // FLOAT, DOUBLE.
            4 | 5 => Self::Fixed(metadata.byte()?.into()),
            // TIMESTAMP2, DATETIME2, TIME2.
            17 => Self::Fixed(4 + fraction(metadata.byte()?)),
            18 => Self::Fixed(5 + fraction(metadata.byte()?)),
            19 => Self::Fixed(3 + fraction(metadata.byte()?)),
            // VARCHAR, VAR_STRING, MariaDB's compressed VARCHAR.
            15 | 253 | 141 => Self::Prefixed(if metadata.number(2)? > 255 { 2 } else { 1 }),
            // BIT: bits beyond whole bytes, then bytes.
            16 => {
                let bits = metadata.byte()?;
                Self::Fixed(u32::from(metadata.byte()?) + u32::from(bits > 0))
            }
            // NEWDECIMAL.
            246 => {
                let (precision, scale) = (metadata.byte()?, metadata.byte()?);
                Self::Fixed(decimal(precision.checked_sub(scale)?) + decimal(scale))
            }
            // ENUM, SET, and STRING, which may be one of them, or has two more bits of its length in its type.
            247 | 248 | 254 => {
                let (real, length) = (metadata.byte()?, metadata.byte()?);
                match real {
                    247 | 248 => Self::Fixed(length.into()),
                    _ => {
                        let high = u32::from(real & 0x30 ^ 0x30) << 4;
                        Self::Prefixed(if high | u32::from(length) > 255 { 2 } else { 1 })
                    }
                }
            }
            245 => Self::Json(prefix(metadata.byte()?)?),
            // VECTOR, BLOBs, GEOMETRY, MariaDB's compressed BLOB.
            242 | 249..=252 | 255 | 140 => Self::Prefixed(prefix(metadata.byte()?)?),
            _ => Self::Unknown,
        })
    }
}

fn prefix(bytes: u8) -> Option<u8> {
    (1..=8).contains(&bytes).then_some(bytes)
}

/// Bytes of so many decimal digits.
fn decimal(digits: u8) -> u32 {
    const PARTS: [u32; 9] = [0, 1, 1, 2, 2, 3, 3, 4, 4];
    u32::from(digits / 9) * 4 + PARTS[usize::from(digits % 9)]
}

/// What a rows event does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Change {
    Insert,
    Update,
    Delete,
}

impl Change {
    /// What it takes on the table.
    pub(super) const fn privilege(self) -> &'static str {
        match self {
            Self::Insert => "INSERT",
            Self::Update => "UPDATE",
            Self::Delete => "DELETE",
        }
    }

    pub(super) const fn of(kind: u8) -> Option<Self> {
        match kind {
            kind::WRITE_ROWS | kind::WRITE_ROWS_V1 | kind::WRITE_ROWS_COMPRESSED | kind::WRITE_ROWS_COMPRESSED_V1 => {
                Some(Self::Insert)
            }
            kind::UPDATE_ROWS
            | kind::UPDATE_ROWS_V1
            | kind::PARTIAL_UPDATE_ROWS
            | kind::UPDATE_ROWS_COMPRESSED
            | kind::UPDATE_ROWS_COMPRESSED_V1 => Some(Self::Update),
            kind::DELETE_ROWS
            | kind::DELETE_ROWS_V1
            | kind::DELETE_ROWS_COMPRESSED
            | kind::DELETE_ROWS_COMPRESSED_V1 => Some(Self::Delete),
            _ => None,
        }
    }
}

/// Whether the event is the last of its statement: its tables are then closed.
pub(super) const STATEMENT_END: u16 = 1;

/// The head of a rows event: of which table, and its flags.
pub(super) fn head(from: &mut impl Read) -> io::Result<(u64, u16)> {
    let mut bytes = [0; 8];
    from.read_exact(&mut bytes)?;
    let number = u64::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3], bytes[4], bytes[5], 0, 0]);
    Ok((number, u16::from_le_bytes([bytes[6], bytes[7]])))
}

/// How many rows follow upon the [`head`]; `None` if there is a column of an unknown kind.
pub(super) fn count(kind: u8, table: &Table, from: &mut impl Read) -> io::Result<Option<u64>> {
    let change = Change::of(kind).ok_or_else(|| wrong("it has no rows"))?;
    if table.columns.contains(&Column::Unknown) {
        return Ok(None);
    }
    let has_more_head = matches!(
        kind,
        kind::WRITE_ROWS
            | kind::UPDATE_ROWS
            | kind::DELETE_ROWS
            | kind::PARTIAL_UPDATE_ROWS
            | kind::WRITE_ROWS_COMPRESSED
            | kind::UPDATE_ROWS_COMPRESSED
            | kind::DELETE_ROWS_COMPRESSED
    );
    if has_more_head {
        let mut length = [0; 2];
        from.read_exact(&mut length)?;
        skip(from, u64::from(u16::from_le_bytes(length)).saturating_sub(2))?;
    }
    if packed(from)? != table.columns.len() as u64 {
        return Err(wrong("a row has other columns than its table"));
    }
    let first = bitmap(from, table.columns.len())?;
    let second = if change == Change::Update { Some(bitmap(from, table.columns.len())?) } else { None };
    let images = Images { table, first, second, partial: kind == kind::PARTIAL_UPDATE_ROWS };
    if (kind::WRITE_ROWS_COMPRESSED_V1..=kind::DELETE_ROWS_COMPRESSED).contains(&kind) {
        images.count(&mut inflated(from)?).map(Some)
    } else {
        images.count(from).map(Some)
    }
}

/// MariaDB's compression: a byte that says how (the low three bits: bytes of the length that follows), then zlib's.
pub(super) fn inflated<R: Read>(mut from: R) -> io::Result<flate2::read::ZlibDecoder<R>> {
    let mut how = [0; 1];
    from.read_exact(&mut how)?;
    if how[0] & 0x70 != 0 {
        return Err(wrong("an event is compressed in an unknown way"));
    }
    skip(&mut from, u64::from(how[0] & 7))?;
    Ok(flate2::read::ZlibDecoder::new(from))
}

struct Images<'a> {
    table: &'a Table,
    /// Which columns are there: in an update before and after it.
    first: Vec<bool>,
    second: Option<Vec<bool>>,
    partial: bool,
}

impl Images<'_> {
    fn count(&self, from: &mut impl Read) -> io::Result<u64> {
        let mut rows = 0;
        let mut byte = [0; 1];
        // A row of nothing takes no byte, and nothing would ever end.
        if !self.first.contains(&true) && !self.second.as_ref().is_some_and(|columns| columns.contains(&true)) {
            return Err(wrong("rows without columns"));
        }
        loop {
            if from.read(&mut byte)? == 0 {
                return Ok(rows);
            }
            let from = &mut byte.as_slice().chain(&mut *from);
            self.image(from, &self.first)?;
            if let Some(second) = &self.second {
                if self.partial {
                    self.skip_parts(from)?;
                }
                self.image(from, second)?;
            }
            rows += 1;
        }
    }

    /// Which JSON columns of an update's second image are a part only: a part's length is told as a whole one's.
    fn skip_parts(&self, from: &mut impl Read) -> io::Result<()> {
        const PARTIAL_JSON: u64 = 1;
        if packed(from)? & PARTIAL_JSON == 0 {
            return Ok(());
        }
        let documents = self.table.columns.iter().filter(|column| matches!(column, Column::Json(_))).count();
        bitmap(from, documents).map(drop)
    }

    fn image(&self, from: &mut impl Read, there: &[bool]) -> io::Result<()> {
        let columns = || self.table.columns.iter().zip(there).filter(|(_, there)| **there).map(|(column, _)| *column);
        let null = bitmap(from, columns().count())?;
        for (column, _) in columns().zip(null).filter(|(_, null)| !null) {
            let length = match column {
                Column::Fixed(length) => length.into(),
                Column::Prefixed(bytes) | Column::Json(bytes) => {
                    let mut wide = [0; 8];
                    from.read_exact(&mut wide[..usize::from(bytes)])?;
                    u64::from_le_bytes(wide)
                }
                Column::Unknown => return Err(wrong("a column of an unknown kind")),
            };
            skip(from, length)?;
        }
        Ok(())
    }
}

fn bitmap(from: &mut impl Read, bits: usize) -> io::Result<Vec<bool>> {
    // As many as a table may have columns, which is what its own event was read with.
    let mut bytes = vec![0; bits.div_ceil(8)];
    from.read_exact(&mut bytes)?;
    Ok((0..bits).map(|bit| bytes[bit / 8] >> (bit % 8) & 1 == 1).collect())
}

fn skip(from: &mut impl Read, bytes: u64) -> io::Result<()> {
    if io::copy(&mut from.by_ref().take(bytes), &mut io::sink())? == bytes {
        Ok(())
    } else {
        Err(wrong("a row ends too early"))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn decimals_have_the_servers_length() {
        for (precision, scale, bytes) in [(10, 0, 5), (10, 2, 5), (65, 30, 30), (18, 9, 8), (1, 1, 1)] {
            let column = Column::read(246, &mut Bytes(&[precision, scale]));
            assert_eq!(column, Some(Column::Fixed(bytes)), "{precision}, {scale}");
        }
    }

    proptest! {
        #[test]
        fn no_table_and_no_rows_make_it_panic(
            table in prop::collection::vec(any::<u8>(), 0..60),
            types in prop::collection::vec(any::<u8>(), 1..6),
            rows in prop::collection::vec(any::<u8>(), 0..80),
            kind in prop::sample::select(vec![23, 24, 25, 30, 31, 32, 39, 166, 167, 168, 169_u8]),
        ) {
            Table::read(&table);
            let columns: Vec<Column> = types.iter().filter_map(|kind| Column::read(*kind, &mut Bytes(&rows))).collect();
            let table = Table { name: "a.b".into(), columns };
            let _ = count(kind, &table, &mut rows.as_slice());
            let mut begun = vec![2, 0, table.columns.len() as u8];
            begun.extend(&rows);
            let _ = count(kind, &table, &mut begun.as_slice());
            let _ = count(kind, &table, &mut &begun[2..]);
        }
    }
}
