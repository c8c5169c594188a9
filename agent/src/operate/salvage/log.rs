//! Reading a kept file back: every event with its checksum verified, compressed transactions opened, and never more than a
//! piece of it in memory. What is told of the transactions, and what is applied, is read from the file: so it is known that
//! it can be read.

use std::fs::File;
use std::io::{self, BufReader, Read, Seek as _, SeekFrom};
use std::path::{Path, PathBuf};
use std::time::Instant;

use ruzstd::decoding::StreamingDecoder;

use super::event::{CHECKSUM, HEADER, Header, kind};
use super::keep::MAGIC;

/// Something whose parts can be read.
pub(super) trait Source {
    fn from(&self, offset: u64) -> io::Result<Box<dyn Read>>;
}

impl Source for PathBuf {
    fn from(&self, offset: u64) -> io::Result<Box<dyn Read>> {
        let mut file = File::open(self)?;
        file.seek(SeekFrom::Start(offset))?;
        Ok(Box::new(BufReader::with_capacity(64 << 10, file)))
    }
}

impl Source for Vec<u8> {
    fn from(&self, offset: u64) -> io::Result<Box<dyn Read>> {
        let rest = self.get(usize::try_from(offset).unwrap_or(usize::MAX)..).unwrap_or_default();
        Ok(Box::new(io::Cursor::new(rest.to_vec())))
    }
}

/// A log that is read event by event.
pub(super) struct Log {
    source: Box<dyn Source>,
    outer: Events,
    /// Of a compressed transaction.
    inner: Option<Events>,
    /// After which it is not read any more: a few bytes may be decompressed to any number.
    until: Instant,
}

impl Log {
    pub(super) fn open(path: &Path, until: Instant) -> io::Result<Self> {
        Self::of(Box::new(path.to_path_buf()), until)
    }

    pub(super) fn of(source: Box<dyn Source>, until: Instant) -> io::Result<Self> {
        let mut from = source.from(0)?;
        let mut magic = [0; MAGIC.len()];
        from.read_exact(&mut magic)?;
        if magic != MAGIC {
            return Err(wrong("it is no binary log"));
        }
        let outer = Events { from, checksummed: true, at: MAGIC.len() as u64, ..Events::default() };
        Ok(Self { source, outer, inner: None, until })
    }

    /// The next event; those of a compressed transaction follow upon the one that contains them. Its body is read with
    /// [`Read`].
    pub(super) fn next(&mut self) -> io::Result<Option<Header>> {
        if let Some(inner) = &mut self.inner {
            if let Some(header) = inner.next()? {
                return match header.kind {
                    kind::TRANSACTION_PAYLOAD => Err(wrong("a compressed transaction contains another")),
                    _ => Ok(Some(header)),
                };
            }
            self.inner = None;
        }
        let Some(header) = self.outer.next()? else { return Ok(None) };
        if header.kind == kind::TRANSACTION_PAYLOAD {
            let body = self.source.from(self.outer.at)?;
            self.inner = Some(unpack(body.take(self.outer.left))?);
        }
        Ok(Some(header))
    }

    /// How much of the current event's body has not been read.
    pub(super) fn left(&self) -> u64 {
        self.inner.as_ref().map_or(self.outer.left, |inner| if inner.begun { inner.left } else { self.outer.left })
    }

    /// The beginning of the current event's body, at most so much of it.
    pub(super) fn head(&mut self, most: usize) -> io::Result<Vec<u8>> {
        let mut head = Vec::new();
        self.take(most as u64).read_to_end(&mut head)?;
        Ok(head)
    }
}

impl Read for Log {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        if Instant::now() > self.until {
            return Err(io::Error::new(io::ErrorKind::TimedOut, "the time was up"));
        }
        match &mut self.inner {
            Some(inner) if inner.begun => inner.read(into),
            _ => self.outer.read(into),
        }
    }
}

/// Events one after another.
struct Events {
    from: Box<dyn Read>,
    checksummed: bool,
    /// Whether there was one.
    begun: bool,
    /// How much was read.
    at: u64,
    /// Of the current event's body.
    left: u64,
    sum: crc32fast::Hasher,
}

impl Default for Events {
    fn default() -> Self {
        let from = Box::new(io::empty());
        Self { from, checksummed: false, begun: false, at: 0, left: 0, sum: crc32fast::Hasher::new() }
    }
}

impl Events {
    fn next(&mut self) -> io::Result<Option<Header>> {
        self.finish()?;
        let mut bytes = [0; HEADER];
        let mut filled = 0;
        while filled < HEADER {
            match self.from.read(&mut bytes[filled..])? {
                0 if filled == 0 => return Ok(None),
                0 => return Err(wrong("it ends within an event")),
                read => filled += read,
            }
        }
        let header = Header::read(&bytes).ok_or_else(|| wrong("an event is shorter than its header"))?;
        let around = if self.checksummed { HEADER + CHECKSUM } else { HEADER };
        let left = (header.size as usize).checked_sub(around);
        self.left = left.ok_or_else(|| wrong("an event is too short for its checksum"))? as u64;
        self.at += HEADER as u64;
        self.begun = true;
        self.sum = crc32fast::Hasher::new();
        self.sum.update(&bytes);
        Ok(Some(header))
    }

    /// Reads the rest of the current event, and verifies it.
    fn finish(&mut self) -> io::Result<()> {
        if !self.begun {
            return Ok(());
        }
        io::copy(&mut self.by_ref(), &mut io::sink())?;
        self.begun = false;
        if self.checksummed {
            let mut sum = [0; CHECKSUM];
            self.from.read_exact(&mut sum)?;
            self.at += CHECKSUM as u64;
            if u32::from_le_bytes(sum) != std::mem::take(&mut self.sum).finalize() {
                return Err(wrong("a checksum does not match"));
            }
        }
        Ok(())
    }
}

impl Read for Events {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let most = usize::try_from(self.left).unwrap_or(usize::MAX).min(into.len());
        let read = self.from.read(&mut into[..most])?;
        if read == 0 && most > 0 {
            return Err(wrong("it ends within an event"));
        }
        self.left -= read as u64;
        self.at += read as u64;
        if self.checksummed {
            self.sum.update(&into[..read]);
        }
        Ok(read)
    }
}

/// The events in a compressed transaction. Its head are numbered fields: 1 the size, 2 the compression, 3 the size before,
/// and 0, after which the events come. (WL#3549)
fn unpack(mut body: io::Take<Box<dyn Read>>) -> io::Result<Events> {
    let mut compression = 0;
    loop {
        match packed(&mut body)? {
            0 => break,
            2 => {
                packed(&mut body)?;
                compression = packed(&mut body)?;
            }
            _ => {
                let length = packed(&mut body)?;
                io::copy(&mut body.by_ref().take(length), &mut io::sink())?;
            }
        }
    }
    let from: Box<dyn Read> = match compression {
        255 => Box::new(body),
        0 => Box::new(StreamingDecoder::new(body).map_err(|e| wrong(&format!("cannot decompress: {e}")))?),
        _ => return Err(wrong("a transaction is compressed in an unknown way")),
    };
    Ok(Events { from, ..Events::default() })
}

/// A number in the protocol's own packing.
pub(super) fn packed(from: &mut impl Read) -> io::Result<u64> {
    let mut wide = [0; 8];
    from.read_exact(&mut wide[..1])?;
    let bytes = match wide[0] {
        0..=250 => return Ok(wide[0].into()),
        252 => 2,
        253 => 3,
        254 => 8,
        _ => return Err(wrong("a number is none")),
    };
    from.read_exact(&mut wide[..bytes])?;
    if bytes < 8 {
        wide[bytes..].fill(0);
    }
    Ok(u64::from_le_bytes(wide))
}

pub(super) fn wrong(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what.to_owned())
}
