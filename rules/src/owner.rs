//! Whose table it is: the lock that keeps other agents off, and the comment that tells ours from foreign ones.

use std::io;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr as UnixAddr, UnixListener};
use std::time::{Duration, Instant};

use shunt_core::datapath::DatapathError;

use crate::schema::{SIGNATURE, table_comment};
use crate::transaction::kernel;

/// Held for as long as the datapath is open, and let go by the kernel when its process dies. Abstract sockets belong to
/// the network namespace, as the table does.
pub fn lock(table: &str) -> Result<UnixListener, DatapathError> {
    let tried = || kernel(format!("take the lock of table inet {table}"));
    let name = UnixAddr::from_abstract_name(format!("shunt/nft/{table}")).map_err(tried())?;
    let patience = Instant::now() + Duration::from_millis(300);
    loop {
        match UnixListener::bind_addr(&name) {
            Ok(lock) => return Ok(lock),
            // A child that its former holder has forked holds the lock, too, until it executes its program.
            Err(error) if error.kind() == io::ErrorKind::AddrInUse && Instant::now() < patience => {
                std::thread::sleep(Duration::from_millis(20));
            }
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
                return Err(DatapathError::InUse { table: table.to_owned() });
            }
            Err(error) => return Err(tried()(error)),
        }
    }
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
