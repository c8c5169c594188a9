//! The command line's side of the Unix socket.

use std::path::{Path, PathBuf};
use std::time::Duration;

use http_body_util::{BodyExt, Full};
use hyper::body::Bytes;
use hyper::{Method, Request, StatusCode};
use hyper_util::rt::TokioIo;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::net::UnixStream;

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
        let driver = tokio::spawn(connection);
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header("host", "shunt")
            .header("content-type", "application/json")
            .body(Full::new(Bytes::from(body)))
            .map_err(|e| unknown(e.into()))?;
        let response = sender.send_request(request).await.map_err(|e| unknown(e.into()))?;
        let status = response.status();
        let bytes = response.into_body().collect().await.map_err(|e| unknown(e.into()))?.to_bytes();
        driver.abort();
        Ok((status, bytes))
    }
}
