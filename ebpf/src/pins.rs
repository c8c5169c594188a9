//! The folder of a bpf file system where maps and links live on without the agent.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use crate::{Error, sys};

/// `statfs(2)`: BPF_FS_MAGIC.
const BPF_FS: i64 = 0xcafe_4a11;

/// The loopback's number, in every network namespace (net/core/dev.h: LOOPBACK_IFINDEX).
const LOOPBACK: u32 = 1;

/// One datapath's folder. There is one a network namespace.
#[derive(Clone, Debug)]
pub struct Pins(PathBuf);

impl Pins {
    /// Whether there are maps of ours.
    pub fn hold_maps(path: &Path) -> bool {
        Self(path.to_path_buf()).map("CONTROL").exists()
    }

    /// Makes the folder if it is not there.
    pub fn at(path: &Path) -> Result<Self, Error> {
        let pins = Self(path.to_path_buf());
        for folder in [pins.maps(), pins.links()] {
            fs::create_dir_all(&folder).map_err(|error| Error::kernel(format!("make {}", folder.display()), error))?;
        }
        let kind = nix::sys::statfs::statfs(path)
            .map_err(|error| Error::kernel(format!("look at {}", path.display()), error))?;
        if kind.filesystem_type().0 as i64 != BPF_FS {
            let _ = fs::remove_dir_all(path);
            return Err(Error::NoBpffs { path: pins.0 });
        }
        Ok(pins)
    }

    pub fn path(&self) -> &Path {
        &self.0
    }

    pub fn map(&self, name: &str) -> PathBuf {
        self.maps().join(name)
    }

    /// Of the program that is attached to the interface of that number.
    pub fn link(&self, interface: u32) -> PathBuf {
        self.links().join(interface.to_string())
    }

    /// The interfaces that have a link.
    pub fn linked(&self) -> Result<Vec<u32>, Error> {
        let failed = |error| Error::kernel(format!("list {}", self.links().display()), error);
        let mut interfaces = Vec::new();
        for entry in fs::read_dir(self.links()).map_err(failed)? {
            interfaces.extend(entry.map_err(failed)?.file_name().to_str().and_then(|name| name.parse::<u32>().ok()));
        }
        interfaces.sort_unstable();
        Ok(interfaces)
    }

    /// Ends the link of an interface: when this returns, its program does not run there any more.
    pub fn unlink(&self, interface: u32) -> Result<(), Error> {
        let path = self.link(interface);
        match sys::detach(&path) {
            // Its interface is gone, or somebody has detached it.
            Err(error) if matches!(error.raw_os_error(), Some(libc::ENOLINK | libc::ENOENT | libc::ENODEV)) => {}
            detached => detached.map_err(|error| Error::kernel(format!("detach {}", path.display()), error))?,
        }
        match fs::remove_file(&path) {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                Err(Error::kernel(format!("remove {}", path.display()), error))
            }
            _ => Ok(()),
        }
    }

    /// Takes everything away: links first, so that no program runs on maps that are going.
    pub fn purge(&self) -> Result<(), Error> {
        if self.links().exists() {
            for interface in self.linked()? {
                self.unlink(interface)?;
            }
        }
        for path in [self.links(), self.0.clone()] {
            match fs::remove_dir_all(&path) {
                Err(error) if error.kind() != ErrorKind::NotFound => {
                    return Err(Error::kernel(format!("remove {}", path.display()), error));
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// Takes away what is pinned in `folder` for network namespaces that are no more, which no agent will come back for.
    /// What it took.
    pub fn sweep(folder: &Path) -> Result<Vec<PathBuf>, Error> {
        let failed = |error| Error::kernel(format!("list {}", folder.display()), error);
        let entries = match fs::read_dir(folder) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries.map_err(failed)?,
        };
        let mut gone = Vec::new();
        for entry in entries {
            let entry = entry.map_err(failed)?;
            let is_cookie = entry.file_name().to_str().is_some_and(|name| name.parse::<u64>().is_ok());
            let pins = Self(entry.path());
            if is_cookie && pins.is_orphaned() {
                pins.purge()?;
                gone.push(pins.0);
            }
        }
        Ok(gone)
    }

    /// Whether its network namespace is gone for certain. A loopback lives as long as its namespace, and any other interface
    /// may go and come back; so there must be a link of the loopback, and no link may run anywhere. In doubt, it is not.
    fn is_orphaned(&self) -> bool {
        let Ok(linked) = self.linked() else { return false };
        let runs_nowhere =
            |interface: &u32| sys::linked(&self.link(*interface)).is_ok_and(|linked| linked.interface == 0);
        linked.contains(&LOOPBACK) && linked.iter().all(runs_nowhere)
    }

    /// Where maps are made while others are converted.
    pub(crate) fn beside(&self) -> Self {
        Self(self.0.join("beside"))
    }

    pub(crate) fn maps(&self) -> PathBuf {
        self.0.join("maps")
    }

    fn links(&self) -> PathBuf {
        self.0.join("links")
    }
}
