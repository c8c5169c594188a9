//! A file that holds disk space in reserve. When the disk is full it is given up, so that an epoch or a pin can still be
//! written; when there is space again it is made anew.

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::sys::statvfs::statvfs;

#[derive(Debug)]
pub(super) struct Reserve {
    path: PathBuf,
    size: u64,
    kept: bool,
    /// When it was last tried to make it anew.
    tried: Option<Instant>,
}

/// A file system that says it has space and then does not give it is not asked more often.
const PATIENCE: Duration = Duration::from_secs(1);

const NAME: &str = "reserve";

impl Reserve {
    /// Makes the reserve unless it is there. That it cannot be made is no error: the disk is full, then.
    pub(super) fn keep(dir: &Path, size: u64) -> Self {
        let mut reserve = Self { path: dir.join(NAME), size, kept: false, tried: None };
        let whole = fs::metadata(&reserve.path).is_ok_and(|metadata| metadata.len() == size);
        reserve.kept = whole || reserve.fill().is_ok();
        reserve
    }

    /// Gives up the reserve of an earlier agent, before there is one of one's own. True if there was any.
    pub(super) fn discard(dir: &Path) -> bool {
        fs::remove_file(dir.join(NAME)).is_ok()
    }

    pub(super) fn is_kept(&self) -> bool {
        self.kept
    }

    /// Gives the space back to the disk. True if there was any.
    pub(super) fn give_up(&mut self) -> bool {
        std::mem::take(&mut self.kept) && fs::remove_file(&self.path).is_ok()
    }

    /// Makes the reserve anew if by now there is room for it. True if it is there.
    pub(super) fn renew(&mut self) -> bool {
        if !self.kept && self.has_room() && self.tried.is_none_or(|tried| tried.elapsed() >= PATIENCE) {
            self.tried = Some(Instant::now());
            self.kept = self.fill().is_ok();
        }
        self.kept
    }

    /// Whether the disk has space for the reserve four times over: whoever frees a few bytes shall not see them taken at
    /// once.
    pub(super) fn has_room(&self) -> bool {
        let free = statvfs(self.path.parent().unwrap_or(Path::new(".")))
            .map_or(0, |fs| fs.blocks_available().saturating_mul(fs.fragment_size()));
        free >= 4 * self.size
    }

    /// Writes the file with bytes that no file system can compress away or leave out as a hole.
    fn fill(&self) -> io::Result<()> {
        let write = || {
            let mut open = OpenOptions::new();
            let mut file = open.write(true).create(true).truncate(true).mode(0o600).open(&self.path)?;
            let mut state = 0x9e37_79b9_7f4a_7c15_u64;
            let mut left = self.size as usize;
            while left > 0 {
                let mut block = [0; 4096];
                for word in block.chunks_exact_mut(8) {
                    // xorshift64: noise is all that is asked of it.
                    state ^= state << 13;
                    state ^= state >> 7;
                    state ^= state << 17;
                    word.copy_from_slice(&state.to_le_bytes());
                }
                let now = left.min(block.len());
                file.write_all(&block[..now])?;
                left -= now;
            }
            file.sync_all()
        };
        write().inspect_err(|_| {
            let _ = fs::remove_file(&self.path);
        })
    }
}
