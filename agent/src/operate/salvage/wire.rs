//! A connection that streams. The client library that everything else uses holds every event as a whole in memory, and
//! unpacks compressed ones to whatever size they claim; it cannot ask for tagged transactions either. So a binary log is
//! fetched by the few lines of protocol that this takes: log in, ask a question, pass packets on piece by piece.
//! (Reference: MySQL's “Client/Server Protocol”; the login is in `login`.)

use std::io;

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, BufReader};

use super::bytes::Bytes;
use super::trouble::Trouble;

/// A packet that is longer goes on in the next one.
const FULL: usize = 0xff_ffff;
/// What is read at once.
const PIECE: usize = 16 << 10;
/// No answer but an event is longer.
const ANSWER: usize = 4 << 20;
/// No rows that are asked for here are more, all together.
const ROWS: usize = 16 << 20;

pub(super) const OK: u8 = 0;
pub(super) const ERR: u8 = 0xff;
pub(super) const EOF: u8 = 0xfe;

pub(super) const COM_QUERY: u8 = 3;

pub(super) trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Stream for T {}

/// Dropping it ends the connection.
pub(super) struct Wire {
    stream: BufReader<Box<dyn Stream>>,
    sequence: u8,
    /// Bytes of the current packet that have not been read.
    left: usize,
    /// Whether the current packet goes on in the next one.
    more: bool,
    /// What was read last, for answers.
    answer: Vec<u8>,
}

/// Rows of a question, as text; `None` is NULL.
pub(super) type Table = Vec<Vec<Option<String>>>;

impl Wire {
    pub(super) fn new(stream: Box<dyn Stream>, sequence: u8) -> Self {
        Self { stream: BufReader::with_capacity(64 << 10, stream), sequence, left: 0, more: false, answer: Vec::new() }
    }

    pub(super) async fn send(&mut self, payload: &[u8]) -> Result<(), Trouble> {
        let mut chunks = payload.chunks(FULL).peekable();
        let mut last_is_full = true;
        while chunks.peek().is_some() || last_is_full {
            let chunk = chunks.next().unwrap_or_default();
            last_is_full = chunk.len() == FULL;
            let length = (chunk.len() as u32).to_le_bytes();
            let header = [length[0], length[1], length[2], self.sequence];
            self.sequence = self.sequence.wrapping_add(1);
            self.stream.write_all(&header).await.map_err(Trouble::Broken)?;
            self.stream.write_all(chunk).await.map_err(Trouble::Broken)?;
        }
        self.stream.flush().await.map_err(Trouble::Broken)
    }

    /// Begins a command.
    pub(super) async fn command(&mut self, payload: &[u8]) -> Result<(), Trouble> {
        self.sequence = 0;
        self.send(payload).await
    }

    /// Goes to the next packet, over what is left of this one.
    pub(super) async fn next(&mut self) -> Result<(), Trouble> {
        let mut nowhere = std::mem::take(&mut self.answer);
        nowhere.resize(PIECE, 0);
        while self.read(&mut nowhere).await? > 0 {}
        self.answer = nowhere;
        self.header().await
    }

    async fn header(&mut self) -> Result<(), Trouble> {
        let mut header = [0; 4];
        self.stream.read_exact(&mut header).await.map_err(Trouble::Broken)?;
        if header[3] != self.sequence {
            return Err(Trouble::nonsense(format!("packet {} where {} was due", header[3], self.sequence)));
        }
        self.sequence = self.sequence.wrapping_add(1);
        self.left = u32::from_le_bytes([header[0], header[1], header[2], 0]) as usize;
        self.more = self.left == FULL;
        Ok(())
    }

    /// Reads some of the current packet; 0 at its end.
    pub(super) async fn read(&mut self, into: &mut [u8]) -> Result<usize, Trouble> {
        while self.left == 0 {
            if !self.more {
                return Ok(0);
            }
            self.header().await?;
        }
        let wanted = into.len().min(self.left);
        let read = self.stream.read(&mut into[..wanted]).await.map_err(Trouble::Broken)?;
        if read == 0 && wanted > 0 {
            return Err(Trouble::Broken(io::ErrorKind::UnexpectedEof.into()));
        }
        self.left -= read;
        Ok(read)
    }

    /// Reads until `into` is full, or less at the packet's end.
    pub(super) async fn fill(&mut self, into: &mut [u8]) -> Result<usize, Trouble> {
        let mut filled = 0;
        while filled < into.len() {
            match self.read(&mut into[filled..]).await? {
                0 => break,
                read => filled += read,
            }
        }
        Ok(filled)
    }

    /// The rest of the current packet, if it is not longer than `most`.
    pub(super) async fn rest(&mut self, most: usize) -> Result<Vec<u8>, Trouble> {
        let mut rest = Vec::new();
        loop {
            let filled = rest.len();
            // No more than was announced, and no more at once than is there soon.
            rest.resize(filled + self.left.clamp(1, PIECE), 0);
            let read = self.read(&mut rest[filled..]).await?;
            rest.truncate(filled + read);
            if read == 0 {
                return Ok(rest);
            }
            if rest.len() > most {
                return Err(Trouble::nonsense(format!("more than {most} bytes where few are due")));
            }
        }
    }

    /// The next packet as a whole; an error of the server's is an error.
    pub(super) async fn answer(&mut self) -> Result<&[u8], Trouble> {
        self.next().await?;
        self.answer = self.rest(ANSWER).await?;
        match self.answer.first() {
            Some(&ERR) => Err(error(&self.answer)),
            Some(_) => Ok(&self.answer),
            None => Err(Trouble::nonsense("an empty answer")),
        }
    }

    /// Runs a statement that has no rows, or throws its rows away.
    pub(super) async fn run(&mut self, sql: &[u8]) -> Result<(), Trouble> {
        self.query(sql).await.map(drop)
    }

    pub(super) async fn query(&mut self, sql: &[u8]) -> Result<Table, Trouble> {
        self.ask(&[&[COM_QUERY], sql].concat()).await
    }

    /// The same of a whole command, which begins with [`COM_QUERY`].
    pub(super) async fn ask(&mut self, command: &[u8]) -> Result<Table, Trouble> {
        self.command(command).await?;
        let head = self.answer().await?;
        if head[0] == OK {
            return Ok(Table::new());
        }
        let columns = Bytes(head).packed().filter(|count| *count <= 4096);
        let columns = columns.ok_or_else(|| Trouble::nonsense("an answer without columns"))?;
        // Their definitions, and what ends these: positions and the asked names are enough here.
        for _ in 0..columns {
            self.answer().await?;
        }
        if !is_end(self.answer().await?) {
            return Err(Trouble::nonsense("definitions of columns without an end"));
        }
        let mut table = Table::new();
        let mut read = 0;
        loop {
            let row = self.answer().await?;
            if is_end(row) {
                return Ok(table);
            }
            // A cell takes some bytes even where it is NULL, and so does a row.
            read += row.len() + 64 * (columns as usize + 1);
            if read > ROWS {
                return Err(Trouble::nonsense("an answer without an end"));
            }
            table.push(read_row(row, columns).ok_or_else(|| Trouble::nonsense("a row that ends too early"))?);
        }
    }

    /// The first column of the first row; nothing for NULL.
    pub(super) async fn value(&mut self, sql: &str) -> Result<String, Trouble> {
        let table = self.query(sql.as_bytes()).await?;
        Ok(table.into_iter().next().and_then(|row| row.into_iter().next().flatten()).unwrap_or_default())
    }
}

/// The packet that ends rows, or a binary log.
pub(super) fn is_end(packet: &[u8]) -> bool {
    packet.first() == Some(&EOF) && packet.len() < 9
}

fn read_row(row: &[u8], columns: u64) -> Option<Vec<Option<String>>> {
    let mut bytes = Bytes(row);
    let mut cell = || {
        if bytes.0.first() == Some(&251) {
            bytes.take(1)?;
            return Some(None);
        }
        Some(Some(String::from_utf8_lossy(bytes.packed_text()?).into_owned()))
    };
    (0..columns).map(|_| cell()).collect()
}

/// What an error packet says.
pub(super) fn error(packet: &[u8]) -> Trouble {
    let mut bytes = Bytes(packet.get(1..).unwrap_or_default());
    let code = bytes.number(2).unwrap_or(0) as u16;
    if bytes.0.first() == Some(&b'#') {
        bytes.take(6);
    }
    let mut message = String::from_utf8_lossy(bytes.0).into_owned();
    message.retain(|c| !c.is_control());
    Trouble::Server { code, message }
}
