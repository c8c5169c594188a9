//! The command line's side of the Unix socket.

use std::path::{Path, PathBuf};
use std::time::Duration;

use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::net::UnixStream;
use tokio::task::JoinHandle;

use super::api::Problem;

/// Why a call to the agent came to nothing.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    #[error("no agent answers on {}", socket.display())]
    NotRunning {
        socket: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("not allowed to talk to the agent on {}", socket.display())]
    Forbidden {
        socket: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("{}", .0.error)]
    Refused(Problem),
    /// The request may or may not have had its effect.
    #[error("the agent did not answer {what}, so its outcome is unknown")]
    Unknown {
        what: String,
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    #[error("the answer to {what} broke off before its end")]
    BrokenOff {
        what: String,
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    #[error("the agent's answer to {what} is not understood: is it another version of shunt?")]
    Garbled {
        what: String,
        #[source]
        source: serde_json::Error,
    },
}

/// Calls one agent; a connection a call.
#[derive(Clone, Debug)]
pub struct Client {
    socket: PathBuf,
    timeout: Duration,
}

impl Client {
    pub fn new(socket: &Path) -> Self {
        Self { socket: socket.to_owned(), timeout: Duration::from_secs(60) }
    }

    pub async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, ClientError> {
        self.call(Method::GET, path, Vec::new()).await
    }

    pub async fn post<T: DeserializeOwned>(&self, path: &str, body: &impl Serialize) -> Result<T, ClientError> {
        let what = format!("POST {path}");
        let body = serde_json::to_vec(body).map_err(|source| ClientError::Garbled { what, source })?;
        self.call(Method::POST, path, body).await
    }

    /// Asks for an answer of JSON lines.
    pub async fn lines(&self, path: &str) -> Result<Lines, ClientError> {
        let what = format!("GET {path}");
        let begun = tokio::time::timeout(self.timeout, self.begin(Method::GET, path, Vec::new())).await;
        let (response, driver) =
            begun.map_err(|elapsed| ClientError::Unknown { what: what.clone(), source: elapsed.into() })??;
        let status = response.status();
        let lines =
            Lines { what, body: response.into_body(), bytes: Vec::new(), read: 0, timeout: self.timeout, driver };
        if status.is_success() { Ok(lines) } else { Err(lines.problem().await) }
    }

    async fn call<T: DeserializeOwned>(&self, method: Method, path: &str, body: Vec<u8>) -> Result<T, ClientError> {
        let what = format!("{method} {path}");
        let (status, bytes) = tokio::time::timeout(self.timeout, self.exchange(method, path, body))
            .await
            .map_err(|elapsed| ClientError::Unknown { what: what.clone(), source: elapsed.into() })??;
        let garbled = |source| ClientError::Garbled { what: what.clone(), source };
        if status.is_success() {
            serde_json::from_slice(&bytes).map_err(garbled)
        } else {
            Err(ClientError::Refused(serde_json::from_slice(&bytes).map_err(garbled)?))
        }
    }

    async fn exchange(&self, method: Method, path: &str, body: Vec<u8>) -> Result<(StatusCode, Bytes), ClientError> {
        let what = format!("{method} {path}");
        let (response, driver) = self.begin(method, path, body).await?;
        let status = response.status();
        let collected = response.into_body().collect().await;
        let bytes = collected.map_err(|e| ClientError::Unknown { what, source: e.into() })?.to_bytes();
        driver.abort();
        Ok((status, bytes))
    }

    /// Sends a request and waits for the head of its answer. The task carries the connection.
    async fn begin(
        &self,
        method: Method,
        path: &str,
        body: Vec<u8>,
    ) -> Result<(Response<Incoming>, JoinHandle<()>), ClientError> {
        let stream = UnixStream::connect(&self.socket).await.map_err(|source| {
            let socket = self.socket.clone();
            if source.kind() == std::io::ErrorKind::PermissionDenied {
                ClientError::Forbidden { socket, source }
            } else {
                ClientError::NotRunning { socket, source }
            }
        })?;
        let what = format!("{method} {path}");
        let unknown =
            |source: Box<dyn std::error::Error + Send + Sync>| ClientError::Unknown { what: what.clone(), source };
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(|e| unknown(e.into()))?;
        let driver = tokio::spawn(async move {
            // What goes wrong with the connection is told by the answer's own reading.
            let _ = connection.await;
        });
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header("host", "shunt")
            .header("content-type", "application/json")
            .body(Full::new(Bytes::from(body)))
            .map_err(|e| unknown(e.into()))?;
        let response = sender.send_request(request).await.map_err(|e| unknown(e.into()))?;
        Ok((response, driver))
    }
}

/// An answer that is read line by line as it comes; what was read is forgotten.
pub struct Lines {
    what: String,
    body: Incoming,
    bytes: Vec<u8>,
    /// How much of `bytes` has been handed out.
    read: usize,
    /// For each piece.
    timeout: Duration,
    driver: JoinHandle<()>,
}

impl Lines {
    /// The next line without its end; `None` at the end of the answer.
    pub async fn next(&mut self) -> Result<Option<&[u8]>, ClientError> {
        loop {
            if let Some(len) = self.bytes[self.read..].iter().position(|&byte| byte == b'\n') {
                let begin = self.read;
                self.read += len + 1;
                return Ok(Some(&self.bytes[begin..begin + len]));
            }
            self.bytes.drain(..self.read);
            self.read = 0;
            if !self.receive().await? {
                return Ok(None);
            }
        }
    }

    /// Whether another piece came.
    async fn receive(&mut self) -> Result<bool, ClientError> {
        let broken = |what: &str, source| ClientError::BrokenOff { what: what.to_owned(), source };
        match tokio::time::timeout(self.timeout, self.body.frame()).await {
            Ok(Some(Ok(frame))) => {
                self.bytes.extend_from_slice(frame.data_ref().map_or(&[], |data| data));
                Ok(true)
            }
            Ok(None) => Ok(false),
            Ok(Some(Err(error))) => Err(broken(&self.what, error.into())),
            Err(elapsed) => Err(broken(&self.what, elapsed.into())),
        }
    }

    /// The answer is none of lines but says why there are none.
    async fn problem(mut self) -> ClientError {
        loop {
            match self.receive().await {
                Ok(true) => {}
                Ok(false) => break,
                Err(error) => return error,
            }
        }
        match serde_json::from_slice(&self.bytes) {
            Ok(problem) => ClientError::Refused(problem),
            Err(source) => ClientError::Garbled { what: std::mem::take(&mut self.what), source },
        }
    }
}

impl Drop for Lines {
    fn drop(&mut self) {
        self.driver.abort();
    }
}
