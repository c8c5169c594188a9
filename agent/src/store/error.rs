//! What can go wrong with the state folder. Every message names the file, and every cause that an operator can remove has
//! its hint.

use std::io;
use std::path::PathBuf;

use rusqlite::ErrorCode;
use rusqlite::ffi;
use shunt_core::operation::OpId;
use shunt_core::{ClusterName, Epoch};

use super::operations::Stale;

/// Why the state could not be opened, read or written.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    #[error("another shunt agent{} uses the state folder {}", of_pid(*.pid), .dir.display())]
    InUse { dir: PathBuf, pid: Option<i32> },
    #[error("cannot {what} {}", .path.display())]
    Io {
        /// What was tried: `create the state folder`.
        what: &'static str,
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("the state database {} is damaged: {detail}", .path.display())]
    Corrupt { path: PathBuf, detail: String },
    #[error("the state database {} was written by a newer shunt: its schema is {found}, this one knows {known}", .path.display())]
    Newer { path: PathBuf, found: usize, known: usize },
    #[error("{what}: no space left for {}", .path.display())]
    DiskFull {
        /// What was lost: `record an event`.
        what: &'static str,
        path: PathBuf,
    },
    #[error("the epoch of cluster {cluster} is {stored} and cannot go back to {asked}")]
    EpochWentBack { cluster: ClusterName, stored: Epoch, asked: Epoch },
    #[error("epoch {epoch} of cluster {cluster} already has a primary, and it is another one")]
    EpochTaken { cluster: ClusterName, epoch: Epoch },
    #[error("nothing is written down of operation {cluster}/{op}: {why}")]
    Stale { cluster: ClusterName, op: OpId, why: Stale },
    /// Nobody knows how far it went.
    #[error("operation {cluster}/{op} was not finished, and its record in {} cannot be read (it was at its step `{}`): {detail}", .path.display(), .step.escape_debug())]
    UnreadableOperation { path: PathBuf, cluster: ClusterName, op: OpId, step: String, detail: String },
    #[error("{what}: {} failed", .path.display())]
    Sqlite {
        /// What was tried: `advance an epoch`.
        what: &'static str,
        path: PathBuf,
        #[source]
        source: rusqlite::Error,
    },
}

fn of_pid(pid: Option<i32>) -> String {
    pid.map_or(String::new(), |pid| format!(" (pid {pid})"))
}

impl StoreError {
    /// What to do about it.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::InUse { .. } => Some("stop it first, or give this one another folder: --state DIR".into()),
            Self::Io { source, .. } if source.kind() == io::ErrorKind::PermissionDenied => {
                Some("the agent runs as user `shunt`: the folder must belong to that user".into())
            }
            Self::Io { .. } => Some("--state DIR names another folder".into()),
            Self::Corrupt { path, .. } => Some(format!(
                "stop the agent and restore {} from a backup. Without one, move it and its `-wal` file away: pins, pauses \
                 and history are then lost and epochs begin anew, so check with `shunt show` that every mapping is right",
                path.display()
            )),
            Self::Newer { .. } => {
                Some("run the newer shunt, or restore the state folder from before the upgrade".into())
            }
            Self::DiskFull { .. } => Some("free some space there; the agent goes on by itself".into()),
            Self::UnreadableOperation { .. } => Some(
                "a newer shunt may have written it: run that one, and it goes on by itself. Otherwise see to it that one \
                 server is writable and that the others replicate from it"
                    .into(),
            ),
            Self::EpochWentBack { .. } | Self::EpochTaken { .. } | Self::Stale { .. } | Self::Sqlite { .. } => None,
        }
    }

    /// From SQLite's words to ours.
    pub(super) fn sqlite(what: &'static str, path: &std::path::Path, source: rusqlite::Error) -> Self {
        let path = path.to_owned();
        if is_full(&source) {
            return Self::DiskFull { what, path };
        }
        match source.sqlite_error_code() {
            Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => {
                Self::Corrupt { path, detail: source.to_string() }
            }
            _ => Self::Sqlite { what, path, source },
        }
    }
}

/// Whether SQLite could not write for want of space. It says so itself for ENOSPC only; a quota (EDQUOT) or a limit on
/// the size of files (EFBIG) look like any failed write.
pub(super) fn is_full(error: &rusqlite::Error) -> bool {
    let Some(error) = error.sqlite_error() else { return false };
    let failed_write = [ffi::SQLITE_IOERR_WRITE, ffi::SQLITE_IOERR_TRUNCATE, ffi::SQLITE_IOERR_SHMSIZE];
    error.code == ErrorCode::DiskFull || failed_write.contains(&error.extended_code)
}
