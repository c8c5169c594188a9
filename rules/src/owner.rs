//! Whose table it is: the lock that keeps other agents off, and the comment that tells ours from foreign ones.

use std::os::unix::net::UnixListener;

use shunt_core::datapath::DatapathError;

use crate::schema::{SIGNATURE, table_comment};

pub fn lock(table: &str) -> Result<UnixListener, DatapathError> {
    shunt_wire::owner::lock(&format!("shunt/nft/{table}"), &format!("table {table}"))
}

/// Is a table with this comment ours?
pub fn own(table: &str, comment: Option<&str>) -> Result<(), DatapathError> {
    if comment.is_some_and(|comment| comment.starts_with(SIGNATURE)) {
        return Ok(());
    }
    let found =
        comment.map_or_else(|| "it has no comment".to_owned(), |comment| format!("its comment is \"{comment}\""));
    let detail = format!("{found}, not \"{}\"", table_comment());
    Err(DatapathError::Foreign { table: format!("inet {table}"), detail })
}
