//! Logging in, with TLS if the server has it, as the probe does. Passwords go by `caching_sha2_password` (over TLS, or
//! encrypted with the server's key), or by `mysql_native_password`.

use std::net::SocketAddr;

use mysql_common::scramble::{scramble_native, scramble_sha256};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::bytes::{Bytes, put_packed};
use super::tls;
use super::trouble::Trouble;
use super::wire::{EOF, OK, Wire};
use crate::config::Password;

/// Whom to ask, and as whom.
#[derive(Clone, Debug)]
pub struct Login {
    pub server: SocketAddr,
    pub user: String,
    pub password: Password,
}

// Capabilities of the protocol (mysql_com.h).
const LONG_PASSWORD: u32 = 1;
const LONG_FLAG: u32 = 1 << 2;
const PROTOCOL_41: u32 = 1 << 9;
const SSL: u32 = 1 << 11;
const TRANSACTIONS: u32 = 1 << 13;
const SECURE_CONNECTION: u32 = 1 << 15;
const PLUGIN_AUTH: u32 = 1 << 19;
const PLUGIN_AUTH_LENENC: u32 = 1 << 21;
const OURS: u32 =
    LONG_PASSWORD | LONG_FLAG | PROTOCOL_41 | TRANSACTIONS | SECURE_CONNECTION | PLUGIN_AUTH | PLUGIN_AUTH_LENENC;

/// utf8mb4_general_ci, which every version of both flavours knows.
const CHARSET: u8 = 45;
const NATIVE: &[u8] = b"mysql_native_password";
const SHA2: &[u8] = b"caching_sha2_password";
/// After which the login has turned in circles.
const ROUNDS: usize = 8;

struct Greeting {
    capabilities: u32,
    nonce: Vec<u8>,
    plugin: Vec<u8>,
}

impl Login {
    /// Connects and logs in. Without a deadline of its own.
    pub(super) async fn open(&self) -> Result<Wire, Trouble> {
        let stream = TcpStream::connect(self.server).await.map_err(Trouble::Connect)?;
        stream.set_nodelay(true).map_err(Trouble::Connect)?;
        // The library that encrypts a password with the server's key panics on a malformed key: in a task of its own that is
        // an error like others. The task ends with this future.
        let login = self.clone();
        let mut task = tokio::task::JoinSet::new();
        task.spawn(async move { login.enter(stream).await });
        match task.join_next().await {
            Some(Ok(done)) => done,
            _ => Err(Trouble::nonsense("a login that nobody can read")),
        }
    }

    async fn enter(&self, mut stream: TcpStream) -> Result<Wire, Trouble> {
        // The greeting is read without a buffer, so that nothing of TLS is lost in one.
        let (greeting, sequence) = greet(&mut stream).await?;
        let secret = greeting.capabilities & SSL != 0;
        let capabilities = OURS & (greeting.capabilities | PROTOCOL_41) | if secret { SSL } else { 0 };
        let mut head = capabilities.to_le_bytes().to_vec();
        head.extend((1_u32 << 30).to_le_bytes());
        head.push(CHARSET);
        head.extend([0; 23]);
        let mut wire = if secret {
            let mut request = vec![head.len() as u8, 0, 0, sequence];
            request.extend(&head);
            stream.write_all(&request).await.map_err(Trouble::Connect)?;
            let encrypted = tls::wrap(stream, self.server.ip()).await;
            let encrypted = encrypted.map_err(|e| Trouble::Login(format!("TLS: {e}")))?;
            Wire::new(Box::new(encrypted), sequence.wrapping_add(1))
        } else {
            Wire::new(Box::new(stream), sequence)
        };
        let mut reply = head;
        reply.extend(self.user.bytes().filter(|byte| *byte != 0));
        reply.push(0);
        let plugin = if greeting.plugin == NATIVE { NATIVE } else { SHA2 };
        let proof = self.proof(plugin, &greeting.nonce);
        put_packed(&mut reply, proof.len() as u64);
        reply.extend(proof);
        reply.extend(plugin);
        reply.push(0);
        wire.send(&reply).await?;
        self.prove(&mut wire, greeting.nonce, secret).await.map_err(|trouble| match trouble {
            Trouble::Server { code, message } => Trouble::Login(format!("{message} (error {code})")),
            other => other,
        })?;
        Ok(wire)
    }

    /// The exchange up to the server's word that we are in.
    async fn prove(&self, wire: &mut Wire, mut nonce: Vec<u8>, secret: bool) -> Result<(), Trouble> {
        let unknown = |plugin: &[u8]| Trouble::Login(format!("it wants {}", String::from_utf8_lossy(plugin)));
        for _ in 0..ROUNDS {
            let packet = wire.answer().await?;
            match (packet[0], packet.get(1)) {
                (OK, _) => return Ok(()),
                (EOF, Some(_)) => {
                    let mut bytes = Bytes(&packet[1..]);
                    let plugin = bytes.text().to_vec();
                    if plugin != NATIVE && plugin != SHA2 {
                        return Err(unknown(&plugin));
                    }
                    nonce = bytes.0.strip_suffix(&[0]).unwrap_or(bytes.0).to_vec();
                    let proof = self.proof(&plugin, &nonce);
                    wire.send(&proof).await?;
                }
                // caching_sha2_password: the server remembers us, or wants the password itself.
                (1, Some(3)) => {}
                (1, Some(4)) if secret => {
                    let mut password = self.password.reveal().as_bytes().to_vec();
                    password.push(0);
                    wire.send(&password).await?;
                }
                (1, Some(4)) => {
                    wire.send(&[2]).await?;
                    let key = wire.answer().await?[1..].to_vec();
                    let mut password = self.password.reveal().as_bytes().to_vec();
                    password.push(0);
                    for (byte, mask) in password.iter_mut().zip(nonce.iter().cycle()) {
                        *byte ^= mask;
                    }
                    let locked = mysql_common::crypto::encrypt(&password, &key);
                    wire.send(&locked).await?;
                }
                (first, _) => return Err(Trouble::nonsense(format!("{first} in a login"))),
            }
        }
        Err(Trouble::nonsense("a login without an end"))
    }

    fn proof(&self, plugin: &[u8], nonce: &[u8]) -> Vec<u8> {
        let password = self.password.reveal().as_bytes();
        let proof = if plugin == NATIVE {
            scramble_native(nonce, password).map(|proof| proof.to_vec())
        } else {
            scramble_sha256(nonce, password).map(|proof| proof.to_vec())
        };
        proof.unwrap_or_default()
    }
}

async fn greet(stream: &mut TcpStream) -> Result<(Greeting, u8), Trouble> {
    let mut header = [0; 4];
    stream.read_exact(&mut header).await.map_err(Trouble::Connect)?;
    let length = usize::from(u16::from_le_bytes([header[0], header[1]]));
    let mut packet = vec![0; length];
    stream.read_exact(&mut packet).await.map_err(Trouble::Connect)?;
    if packet.first() == Some(&super::wire::ERR) {
        return Err(match super::wire::error(&packet) {
            Trouble::Server { code, message } => Trouble::Login(format!("{message} (error {code})")),
            other => other,
        });
    }
    let greeting = read_greeting(&packet).ok_or_else(|| Trouble::nonsense("a greeting of another protocol"))?;
    Ok((greeting, header[3].wrapping_add(1)))
}

fn read_greeting(packet: &[u8]) -> Option<Greeting> {
    let mut bytes = Bytes(packet);
    if bytes.byte()? != 10 {
        return None;
    }
    bytes.text();
    bytes.take(4)?;
    let mut nonce = bytes.take(8)?.to_vec();
    bytes.take(1)?;
    let low = bytes.number(2)? as u32;
    bytes.take(3)?;
    let high = bytes.number(2)? as u32;
    let length = usize::from(bytes.byte()?);
    bytes.take(10)?;
    let second = bytes.take(length.saturating_sub(8).max(13).min(bytes.0.len()))?;
    nonce.extend(second.strip_suffix(&[0]).unwrap_or(second));
    Some(Greeting { capabilities: low | high << 16, nonce, plugin: bytes.text().to_vec() })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn no_greeting_makes_it_panic(packet in prop::collection::vec(any::<u8>(), 0..120)) {
            let mut packet = packet;
            read_greeting(&packet);
            if let Some(first) = packet.first_mut() {
                *first = 10;
            }
            read_greeting(&packet);
        }
    }
}
