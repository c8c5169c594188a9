//! A hook that is a URL: a POST of the notice as JSON. Whoever receives it can tell by a signature that it is ours, and by
//! the number of the delivery that it was there before.

use std::io;
use std::time::Duration;

use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::{Request, Response, StatusCode, Uri};
use hyper_util::rt::TokioIo;
use ring::hmac;
use ring::rand::{SecureRandom, SystemRandom};
use serde::Serialize;
use shunt_core::operation::{Cause, Notice};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::pki_types::ServerName;

use super::{HookError, trust};
use crate::config::Webhook;

/// So much of an answer is kept.
const MOST_ANSWER: usize = 1024;
/// For the words of a server that refuses.
const PATIENCE: Duration = Duration::from_secs(1);
const SCHEMA_VERSION: u32 = 1;

#[derive(Serialize)]
struct Body<'a> {
    schema_version: u32,
    #[serde(flatten)]
    notice: &'a Notice,
}

/// One notice for one web server; each try posts the same.
pub(super) struct Delivery {
    body: Bytes,
    id: String,
    signature: Option<String>,
}

impl Delivery {
    pub(super) fn new(webhook: &Webhook, notice: &Notice) -> Result<Self, HookError> {
        let failed = |what: &str| HookError::new(Cause::Unreachable, format!("{what}, so nothing was sent"));
        let body = serde_json::to_vec(&Body { schema_version: SCHEMA_VERSION, notice })
            .map_err(|error| failed(&format!("the notice has no JSON form ({error})")))?;
        let mut id = [0; 16];
        SystemRandom::new().fill(&mut id).map_err(|_| failed("the kernel gave no random number"))?;
        let signature = webhook.secret.as_ref().map(|secret| sign(secret.key.reveal().as_bytes(), &body));
        Ok(Self { body: body.into(), id: hex(&id), signature })
    }
}

/// The value of `X-Shunt-Signature`: HMAC-SHA-256 of the body (RFC 2104), in hexadecimal.
pub(super) fn sign(key: &[u8], body: &[u8]) -> String {
    let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key), body);
    format!("sha256={}", hex(tag.as_ref()))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |text, byte| text + &format!("{byte:02x}"))
}

/// Posts it once, within that time.
pub(super) async fn post(webhook: &Webhook, delivery: &Delivery, within: Duration) -> Result<(), HookError> {
    let deadline = Instant::now() + within;
    let late = |_| io::Error::new(io::ErrorKind::TimedOut, format!("no answer within {} s", within.as_secs_f64()));
    let connected = tokio::time::timeout_at(deadline, connect(&webhook.url)).await.map_err(late).and_then(|done| done);
    let stream = connected
        .map_err(|error| HookError::new(Cause::Unreachable, format!("no connection to {webhook}: {error}")))?;
    let exchanged = tokio::time::timeout_at(deadline, exchange(stream, &webhook.url, delivery)).await;
    let exchanged = exchanged.map_err(late).and_then(|exchanged| exchanged.map_err(io::Error::other));
    let (status, answer) =
        exchanged.map_err(|error| HookError::new(Cause::Unknown, format!("{webhook} did not answer: {error}")))?;
    if status.is_success() {
        return Ok(());
    }
    let passing =
        status.is_server_error() || [StatusCode::REQUEST_TIMEOUT, StatusCode::TOO_MANY_REQUESTS].contains(&status);
    let message = format!("{webhook} answered {status}");
    Err(HookError { output: answer, passing, ..HookError::new(Cause::Refused, message) })
}

trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}
impl<S: AsyncRead + AsyncWrite + Unpin + Send> Stream for S {}

async fn connect(url: &Uri) -> io::Result<Box<dyn Stream>> {
    // IPv6 stands in brackets in a URL, and nowhere else.
    let host = url.host().unwrap_or_default().trim_start_matches('[').trim_end_matches(']');
    let secure = url.scheme_str() == Some("https");
    let port = url.port_u16().unwrap_or(if secure { 443 } else { 80 });
    let stream = TcpStream::connect((host, port)).await?;
    if !secure {
        return Ok(Box::new(stream));
    }
    let name = ServerName::try_from(host.to_owned()).map_err(io::Error::other)?;
    let tls = TlsConnector::from(trust::client()?).connect(name, stream).await?;
    Ok(Box::new(tls))
}

async fn exchange(
    stream: Box<dyn Stream>,
    url: &Uri,
    delivery: &Delivery,
) -> Result<(StatusCode, String), Box<dyn std::error::Error + Send + Sync>> {
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    let _driver = Driver(tokio::spawn(async move {
        // What goes wrong with the connection is told by the answer's own reading.
        let _ = connection.await;
    }));
    let path = url.path_and_query().map_or("/", |path| path.as_str());
    let mut request = Request::post(path)
        .header("host", url.authority().map_or("", |authority| authority.as_str()))
        .header("user-agent", concat!("shunt/", env!("CARGO_PKG_VERSION")))
        .header("content-type", "application/json")
        .header("x-shunt-delivery", &delivery.id);
    if let Some(signature) = &delivery.signature {
        request = request.header("x-shunt-signature", signature);
    }
    let response = sender.send_request(request.body(Full::new(delivery.body.clone()))?).await?;
    let status = response.status();
    if status.is_success() {
        return Ok((status, String::new()));
    }
    // The status has said what matters: out of time, it goes without words.
    let answer = tokio::time::timeout(PATIENCE, excerpt(response)).await.unwrap_or_default();
    Ok((status, answer))
}

/// The beginning of an answer's body, as far as it can be had.
async fn excerpt(response: Response<Incoming>) -> String {
    let mut body = response.into_body();
    let mut bytes = Vec::new();
    while let Some(Ok(frame)) = body.frame().await
        && bytes.len() < MOST_ANSWER
    {
        bytes.extend_from_slice(frame.data_ref().map_or(&[][..], |data| data));
    }
    bytes.truncate(MOST_ANSWER);
    String::from_utf8_lossy(&bytes).trim().to_owned()
}

/// The task that carries a connection; it ends with the exchange, also with one that is given up.
struct Driver(JoinHandle<()>);

impl Drop for Driver {
    fn drop(&mut self) {
        self.0.abort();
    }
}
