//! The UUID of the server, or of the group, that a transaction comes from.

use std::fmt;
use std::str::FromStr;

use super::{GtidError, excerpt};

/// 128 bits. Read with dashes, without, or in braces, as the server does; written with dashes and in lower case.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Uuid(pub u128);

/// The dashes' places in the written form.
const DASHES: [usize; 4] = [8, 13, 18, 23];

impl FromStr for Uuid {
    type Err = GtidError;

    fn from_str(text: &str) -> Result<Self, GtidError> {
        let bad = || GtidError::Uuid(excerpt(text));
        let bare = match text.strip_prefix('{') {
            Some(rest) => rest.strip_suffix('}').ok_or_else(bad)?,
            None => text,
        };
        let digits: String = match bare.len() {
            32 => bare.to_owned(),
            36 if DASHES.iter().all(|at| bare.as_bytes()[*at] == b'-') => {
                bare.char_indices().filter(|(at, _)| !DASHES.contains(at)).map(|(_, c)| c).collect()
            }
            _ => return Err(bad()),
        };
        // `from_str_radix` alone would take a sign.
        if digits.len() != 32 || !digits.bytes().all(|b| b.is_ascii_hexdigit()) {
            return Err(bad());
        }
        u128::from_str_radix(&digits, 16).map(Self).map_err(|_| bad())
    }
}

impl fmt::Display for Uuid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let hex = format!("{:032x}", self.0);
        write!(f, "{}-{}-{}-{}-{}", &hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..])
    }
}
