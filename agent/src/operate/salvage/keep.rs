//! The file that transactions are kept in: a binary log of its own, which `mysqlbinlog` and `mariadb-binlog` read. It
//! contains the operator's data, every row that was changed: nobody but its owner may read it, nor its folder.
//!
//! Events get new positions and thereby new checksums, also those that came without. Beyond 4 GiB positions begin anew, as
//! their 32 bits have it; readers go by the sizes.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, BufWriter, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use super::event::{CHECKSUM, Format, HEADER, Header, kind};
use super::trouble::Trouble;

pub(super) const MAGIC: [u8; 4] = [0xfe, b'b', b'i', b'n'];

/// A file that is not complete; dropped, it is gone.
pub(super) struct Part {
    out: BufWriter<File>,
    /// Where it is until then.
    here: PathBuf,
    path: PathBuf,
    done: bool,
}

impl Part {
    pub(super) fn create(folder: &Path, name: &str) -> Result<Self, Trouble> {
        let made = DirBuilder::new().recursive(true).mode(0o700).create(folder);
        made.map_err(|e| Trouble::File(format!("cannot make the folder {}", folder.display()), e))?;
        let (path, here) = (folder.join(name), folder.join(format!("{name}.part")));
        // What an agent that was killed left.
        let _ = fs::remove_file(&here);
        let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&here);
        let file = file.map_err(|e| Trouble::File(format!("cannot make {}", here.display()), e))?;
        Ok(Self { out: BufWriter::with_capacity(64 << 10, file), here, path, done: false })
    }

    fn write_all_of(&mut self, bytes: &[u8]) -> Result<(), Trouble> {
        self.out.write_all(bytes).map_err(|e| Trouble::File(format!("cannot write {}", self.here.display()), e))
    }

    fn ensure_space(&self, spare: u64) -> Result<(), Trouble> {
        let failed =
            |e: nix::Error| Trouble::File(format!("cannot look at the disk of {}", self.here.display()), e.into());
        let disk = nix::sys::statvfs::fstatvfs(self.out.get_ref()).map_err(failed)?;
        if disk.blocks_available().saturating_mul(disk.fragment_size()) >= spare {
            return Ok(());
        }
        Err(Trouble::Refused(format!("{} would leave less than {} MiB of its disk", self.here.display(), spare >> 20)))
    }

    /// Where what is written so far can be read.
    pub(super) fn so_far(&mut self) -> Result<&Path, Trouble> {
        self.out.flush().map_err(|e| Trouble::File(format!("cannot write {}", self.here.display()), e))?;
        Ok(&self.here)
    }

    /// Gives it its name, for good.
    pub(super) fn finish(mut self) -> Result<PathBuf, Trouble> {
        let place = |()| -> io::Result<()> {
            self.out.flush()?;
            self.out.get_ref().sync_all()?;
            fs::rename(&self.here, &self.path)?;
            let folder = self.path.parent().unwrap_or(Path::new("."));
            File::open(folder)?.sync_all()
        };
        let path = self.path.clone();
        let placed = Ok(()).and_then(place);
        placed.map_err(|e| Trouble::File(format!("cannot keep {}", path.display()), e))?;
        self.done = true;
        Ok(path)
    }
}

impl io::Write for Part {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.out.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        if !self.done {
            let _ = fs::remove_file(&self.here);
        }
    }
}

/// So much of the disk is left to others: the agent's own state is on it.
const SPARE: u64 = 256 << 20;
/// How often that is looked after.
const LOOK: u64 = 16 << 20;

/// A log that is being written.
pub(super) struct Keep {
    part: Part,
    at: u64,
    written: u64,
    sum: crc32fast::Hasher,
    format: Option<Format>,
    /// Where the disk's free space is looked at next.
    look: u64,
}

impl Keep {
    pub(super) fn create(folder: &Path, name: &str) -> Result<Self, Trouble> {
        let mut part = Part::create(folder, name)?;
        part.write_all_of(&MAGIC)?;
        Ok(Self { part, at: MAGIC.len() as u64, written: 0, sum: crc32fast::Hasher::new(), format: None, look: 0 })
    }

    /// What all that follows is read by. Said again, it is not written again; the log of a server that was upgraded has
    /// more than one.
    pub(super) fn describe(&mut self, header: &Header, format: &Format) -> Result<(), Trouble> {
        if self.format.as_ref().is_some_and(|known| known.body == format.body) {
            return Ok(());
        }
        let first = self.format.replace(format.clone()).is_none();
        self.event(&Header { flags: 0, ..*header }, &format.body)?;
        // A log of MySQL says next what came before it: of this one, nothing.
        if first && !format.version().contains("MariaDB") {
            self.event(&Header { kind: kind::PREVIOUS_GTIDS, flags: 0, ..*header }, &[0; 8])?;
        }
        Ok(())
    }

    /// A whole event, its body without a checksum.
    pub(super) fn event(&mut self, header: &Header, body: &[u8]) -> Result<(), Trouble> {
        self.begin(header, body.len())?;
        self.piece(body)?;
        self.end()
    }

    /// Begins an event with a body of so many bytes, without a checksum.
    pub(super) fn begin(&mut self, header: &Header, body: usize) -> Result<(), Trouble> {
        let size = HEADER + body + CHECKSUM;
        self.at += size as u64;
        let size = u32::try_from(size).map_err(|_| Trouble::nonsense("an event of more than 4 GiB"))?;
        self.sum = crc32fast::Hasher::new();
        self.piece(&Header { size, end: self.at as u32, ..*header }.write())
    }

    pub(super) fn piece(&mut self, bytes: &[u8]) -> Result<(), Trouble> {
        self.sum.update(bytes);
        self.written += bytes.len() as u64;
        if self.written >= self.look {
            self.look = self.written + LOOK;
            self.part.ensure_space(SPARE)?;
        }
        self.part.write_all_of(bytes)
    }

    pub(super) fn end(&mut self) -> Result<(), Trouble> {
        let sum = std::mem::take(&mut self.sum).finalize();
        self.part.write_all_of(&sum.to_le_bytes())
    }

    pub(super) fn is_described(&self) -> bool {
        self.format.is_some()
    }

    pub(super) fn into_part(self) -> Part {
        self.part
    }
}
