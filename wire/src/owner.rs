//! The lock that keeps other agents off.

use std::io;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr as UnixAddr, UnixListener};
use std::time::{Duration, Instant};

use shunt_core::datapath::DatapathError;

use crate::kernel;

/// Held for as long as the datapath is open, and let go by the kernel when its process dies. Abstract sockets belong to
/// the network namespace, as `what` the lock is for does: `table inet shunt`. `name` names the lock.
pub fn lock(name: &str, what: &str) -> Result<UnixListener, DatapathError> {
    let tried = || kernel(format!("take the lock of {what}"));
    let name = UnixAddr::from_abstract_name(name).map_err(tried())?;
    let patience = Instant::now() + Duration::from_millis(300);
    loop {
        match UnixListener::bind_addr(&name) {
            Ok(lock) => return Ok(lock),
            // A child that its former holder has forked holds the lock, too, until it executes its program.
            Err(error) if error.kind() == io::ErrorKind::AddrInUse && Instant::now() < patience => {
                std::thread::sleep(Duration::from_millis(20));
            }
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
                return Err(DatapathError::InUse { what: what.to_owned() });
            }
            Err(error) => return Err(tried()(error)),
        }
    }
}
