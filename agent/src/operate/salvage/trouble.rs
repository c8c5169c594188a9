//! What may go wrong on the way, and what of it an operation is told.

use std::io;

use shunt_core::operation::{Cause, TaskError};

#[derive(Debug, thiserror::Error)]
pub(super) enum Trouble {
    #[error("cannot connect: {0}")]
    Connect(io::Error),
    #[error("cannot log in: {0}")]
    Login(String),
    /// The server's own words.
    #[error("{message} (error {code})")]
    Server { code: u16, message: String },
    #[error("the connection broke: {0}")]
    Broken(io::Error),
    /// It said something that cannot be.
    #[error("it sent what no server sends: {0}")]
    Nonsense(String),
    /// Not possible, and why.
    #[error("{0}")]
    Refused(String),
    /// Of our own disk.
    #[error("{0}: {1}")]
    File(String, io::Error),
    #[error("the time was up")]
    Late,
}

impl Trouble {
    pub(super) fn nonsense(what: impl Into<String>) -> Self {
        Self::Nonsense(what.into())
    }

    pub(super) const fn cause(&self) -> Cause {
        match self {
            Self::Connect(_) | Self::Login(_) => Cause::Unreachable,
            Self::Server { .. } | Self::Nonsense(_) | Self::Refused(_) | Self::File(..) => Cause::Refused,
            Self::Broken(_) | Self::Late => Cause::Unknown,
        }
    }

    /// For an operation: `doing` says what was tried, on whom.
    pub(super) fn told(&self, doing: &str) -> TaskError {
        TaskError { cause: self.cause(), message: format!("{doing}: {self}") }
    }
}
