//! Servers that must not take writes any more, and that are not trusted until they have been compared.

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

use super::task::Salvaged;
use crate::Epoch;

/// A former primary, or one that was almost made one: when it comes back it is made read-only before anything else.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outcast {
    pub server: SocketAddr,
    /// The epoch in which it was succeeded.
    pub epoch: Epoch,
    /// `None`: not yet compared with the primary.
    pub quarantine: Option<Quarantine>,
}

/// It was compared, and may not rejoin by itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Quarantine {
    pub reason: String,
    /// What it has and the primary lacks; empty if nothing.
    pub errant: String,
    pub salvaged: Option<Salvaged>,
}
