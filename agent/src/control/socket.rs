//! The Unix socket itself: who may connect, and what is done about something that is already there.

use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use nix::unistd::{Group, chown};
use tokio::net::{UnixListener, UnixStream};

/// Members of this group may talk to the agent, as may root and the agent's own user.
pub const GROUP: &str = "shunt";

#[derive(Debug, thiserror::Error)]
pub enum SocketError {
    #[error("another agent already answers on {}", .0.display())]
    InUse(PathBuf),
    #[error("{} exists and is not a socket; it is left alone", .0.display())]
    NotASocket(PathBuf),
    #[error("cannot {what} {}", path.display())]
    Io {
        what: &'static str,
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
}

/// The socket's file, which goes when the agent does.
#[derive(Debug)]
pub struct SocketFile {
    path: PathBuf,
    /// The file that was made, so that a successor's is not taken for it.
    inode: u64,
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        let is_ours = std::fs::symlink_metadata(&self.path).is_ok_and(|found| found.ino() == self.inode);
        if is_ours && let Err(error) = std::fs::remove_file(&self.path) {
            tracing::warn!(%error, path = %self.path.display(), "the socket could not be removed");
        }
    }
}

/// Binds the API's socket with mode 0660 and, if there is one, the group `shunt`. A socket that nobody answers on is a dead
/// agent's and is replaced; anything else at that place is left alone.
pub async fn bind(path: &Path) -> Result<(UnixListener, SocketFile), SocketError> {
    let io = |what| move |source| SocketError::Io { what, path: path.to_owned(), source };
    match std::fs::symlink_metadata(path) {
        Ok(found) if !found.file_type().is_socket() => return Err(SocketError::NotASocket(path.to_owned())),
        Ok(_) => {
            // Only a refusal says that nobody is there; a live agent's full backlog is another error.
            match UnixStream::connect(path).await {
                Err(error) if error.kind() == std::io::ErrorKind::ConnectionRefused => {}
                _ => return Err(SocketError::InUse(path.to_owned())),
            }
            std::fs::remove_file(path).map_err(io("remove the dead agent's socket"))?;
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            if let Some(folder) = path.parent() {
                std::fs::create_dir_all(folder).map_err(io("create the folder of"))?;
            }
        }
        Err(error) => return Err(io("look at")(error)),
    }
    let listener = UnixListener::bind(path).map_err(io("listen on"))?;
    let inode = std::fs::symlink_metadata(path).map_err(io("look at"))?.ino();
    let file = SocketFile { path: path.to_owned(), inode };
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o660)).map_err(io("set the mode of"))?;
    if let Ok(Some(group)) = Group::from_name(GROUP) {
        // As an unprivileged user outside the group this fails, and the socket stays the agent's own user's.
        if let Err(error) = chown(path, None, Some(group.gid)) {
            tracing::warn!(%error, path = %path.display(), "cannot give the socket to group {GROUP}");
        }
    }
    Ok((listener, file))
}
