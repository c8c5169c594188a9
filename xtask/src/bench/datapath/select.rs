//! The smallest MySQL client that can do prepared point selects: it logs in without a password, asks for rows by their
//! primary key, and reads past what it gets. A client library would cost more processor time than the way that is
//! measured.
//!
//! MySQL's protocol: <https://dev.mysql.com/doc/dev/mysql-server/latest/PAGE_PROTOCOL.html>

use std::io::{BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};

use anyhow::{Context as _, Result, bail, ensure};
use shunt_tests::Server;

use super::load::connect;

/// Rows of the table.
const ROWS: u32 = 10_000;

const USER: &str = "bench";

/// The table and a user without a password, who may read it.
pub fn prepare(server: &Server) -> Result<()> {
    for statement in [
        "CREATE DATABASE bench",
        "CREATE TABLE bench.t (id INT NOT NULL PRIMARY KEY, c CHAR(120) NOT NULL) ENGINE=InnoDB",
        &format!("SET SESSION cte_max_recursion_depth = {ROWS}"),
        &format!(
            "INSERT INTO bench.t WITH RECURSIVE n(id) AS (SELECT 1 UNION ALL SELECT id + 1 FROM n WHERE id < {ROWS}) \
             SELECT id, SHA2(id, 256) FROM n"
        ),
        &format!("CREATE USER {USER}@'%'"),
        &format!("GRANT SELECT ON bench.* TO {USER}@'%'"),
    ] {
        server.sql(statement)?;
    }
    Ok(())
}

// Capabilities
const PROTOCOL_41: u32 = 1 << 9;
const SECURE_CONNECTION: u32 = 1 << 15;
const PLUGIN_AUTH: u32 = 1 << 19;

// First bytes of an answer
const OK: u8 = 0x00;
const MORE_AUTHENTICATION: u8 = 0x01;
const END_OR_SWITCH: u8 = 0xfe;
const ERROR: u8 = 0xff;

const COM_STMT_PREPARE: u8 = 0x16;
const COM_STMT_EXECUTE: u8 = 0x17;
const TYPE_LONG: u16 = 3;

pub struct Selects {
    stream: BufReader<TcpStream>,
    packet: Vec<u8>,
    /// The command, complete but for its last four bytes: the id.
    execute: Vec<u8>,
    random: u32,
}

impl Selects {
    pub fn open(to: SocketAddr) -> Result<Self> {
        let stream = connect(to)?;
        let random = u32::from(stream.local_addr()?.port()) | 1 << 16;
        let mut this =
            Self { stream: BufReader::with_capacity(4096, stream), packet: Vec::new(), execute: Vec::new(), random };
        this.log_in().with_context(|| format!("cannot log in at {to}"))?;
        this.prepare().with_context(|| format!("cannot prepare a statement at {to}"))?;
        Ok(this)
    }

    /// Asks for one row, chosen at random, and reads it.
    pub fn next(&mut self) -> Result<()> {
        // xorshift
        self.random ^= self.random << 13;
        self.random ^= self.random >> 17;
        self.random ^= self.random << 5;
        let id = self.random % ROWS + 1;
        let at = self.execute.len() - 4;
        self.execute[at..].copy_from_slice(&id.to_le_bytes());
        self.stream.get_mut().write_all(&self.execute)?;
        // The number of columns, the column, an end, the row, an end.
        let mut packets = 0;
        let mut ends = 0;
        while ends < 2 {
            self.read()?;
            packets += 1;
            match self.packet[0] {
                ERROR => bail!("the server refused a select: {}", self.text()),
                END_OR_SWITCH if self.packet.len() < 9 => ends += 1,
                _ => {}
            }
        }
        ensure!(packets == 5, "a point select was answered with {packets} packets");
        Ok(())
    }

    fn log_in(&mut self) -> Result<()> {
        let mut number = self.read()?;
        if self.packet[0] == ERROR {
            bail!("{}", self.text());
        }
        let mut answer = (PROTOCOL_41 | SECURE_CONNECTION | PLUGIN_AUTH).to_le_bytes().to_vec();
        answer.extend((1_u32 << 24).to_le_bytes());
        // The character set, utf8mb4, and 23 bytes that mean nothing
        answer.push(45);
        answer.extend([0; 23]);
        answer.extend(USER.as_bytes());
        // The name ends; there is no password.
        answer.extend([0, 0]);
        answer.extend(b"caching_sha2_password\0");
        self.write(number + 1, &answer)?;
        loop {
            number = self.read()?;
            match self.packet[0] {
                OK => return Ok(()),
                MORE_AUTHENTICATION => {}
                END_OR_SWITCH => self.write(number + 1, &[])?,
                ERROR => bail!("{}", self.text()),
                other => bail!("the server answered {other:#04x}"),
            }
        }
    }

    fn prepare(&mut self) -> Result<()> {
        let mut command = vec![COM_STMT_PREPARE];
        command.extend(b"SELECT c FROM bench.t WHERE id = ?");
        self.write(0, &command)?;
        self.read()?;
        if self.packet[0] != OK || self.packet.len() < 9 {
            bail!("{}", self.text());
        }
        let statement = [self.packet[1], self.packet[2], self.packet[3], self.packet[4]];
        // The parameter and an end, the column and an end.
        for _ in 0..4 {
            self.read()?;
        }
        let mut execute = vec![COM_STMT_EXECUTE];
        execute.extend(statement);
        // No cursor; once; no NULL among the parameters; their types follow.
        execute.push(0);
        execute.extend(1_u32.to_le_bytes());
        execute.extend([0, 1]);
        execute.extend(TYPE_LONG.to_le_bytes());
        execute.extend([0; 4]);
        self.execute = framed(0, &execute);
        Ok(())
    }

    /// Reads one packet; its number.
    fn read(&mut self) -> Result<u8> {
        let mut head = [0; 4];
        self.stream.read_exact(&mut head)?;
        let length = u32::from_le_bytes([head[0], head[1], head[2], 0]);
        ensure!(length > 0, "the server sent an empty packet");
        self.packet.resize(length as usize, 0);
        self.stream.read_exact(&mut self.packet)?;
        Ok(head[3])
    }

    fn write(&mut self, number: u8, payload: &[u8]) -> Result<()> {
        Ok(self.stream.get_mut().write_all(&framed(number, payload))?)
    }

    /// An error's words: they follow a code of two bytes and a state of six.
    fn text(&self) -> String {
        String::from_utf8_lossy(self.packet.get(9..).unwrap_or(&self.packet)).into_owned()
    }
}

/// A packet: its length in three bytes, its number, what it carries.
fn framed(number: u8, payload: &[u8]) -> Vec<u8> {
    let mut packet = (payload.len() as u32).to_le_bytes()[..3].to_vec();
    packet.push(number);
    packet.extend(payload);
    packet
}
