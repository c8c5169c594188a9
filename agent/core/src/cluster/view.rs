//! The cluster as observed: who answers, who is writable, who replicates from whom.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use super::health::{Evidence, Health};
use crate::Mono;
use crate::config::{ClusterConfig, FailoverMode};
use crate::observation::{Channel, IoThread, ServerState};
use crate::operation::Outcast;

/// The cluster as observed; what a verdict is made from.
#[derive(Clone, Copy, Debug)]
pub struct View<'a> {
    pub config: &'a ClusterConfig,
    pub servers: &'a BTreeMap<SocketAddr, Health>,
    /// The primary of the current epoch.
    pub primary: Option<SocketAddr>,
    /// Whether the primary listeners lead to it.
    pub open: bool,
    /// Servers that were succeeded and have not been compared since: nobody can vouch for them.
    pub outcasts: &'a BTreeMap<SocketAddr, Outcast>,
    pub now: Mono,
}

impl<'a> View<'a> {
    pub fn answering(self) -> impl Iterator<Item = (SocketAddr, &'a Health, &'a ServerState)> {
        let probe = &self.config.probe;
        self.servers
            .iter()
            .filter(move |(_, h)| h.evidence(probe) == Evidence::Answers)
            .filter_map(|(&s, h)| h.state().map(|state| (s, h, state)))
    }

    /// Servers that answer and take writes.
    pub fn writable(self) -> impl Iterator<Item = SocketAddr> {
        self.answering().filter(|(_, _, state)| state.is_writable()).map(|(s, _, _)| s)
    }

    /// Whether the channel's source is that server, by who it is if that is known, else by where it is.
    pub fn is_source(self, channel: &Channel, server: SocketAddr) -> bool {
        let identity = self.servers.get(&server).and_then(Health::state).map(|s| &s.identity);
        let named = channel.source_uuid.as_deref().filter(|uuid| !uuid.is_empty());
        if let (Some(is), Some(named)) = (identity.and_then(|i| i.uuid.as_deref()), named) {
            return is.eq_ignore_ascii_case(named);
        }
        if let Some(identity) = identity
            && channel.source_server_id != 0
        {
            return identity.server_id == channel.source_server_id;
        }
        channel.source_port == server.port()
            && channel.source_host.parse().is_ok_and(|ip: std::net::IpAddr| ip == server.ip())
    }

    /// Whether it is running as a replica of some server of the cluster. A channel that is configured but stopped does
    /// not make a replica.
    pub fn replicates(self, server: SocketAddr) -> bool {
        let Some(state) = self.servers.get(&server).and_then(Health::state) else { return false };
        state.channels.iter().filter(|c| c.io != IoThread::Stopped).any(|c| self.source_within(c, server))
    }

    pub fn source_within(self, channel: &Channel, replica: SocketAddr) -> bool {
        self.servers.keys().any(|&s| s != replica && self.is_source(channel, s))
    }

    /// Servers that are known to receive from it now.
    pub fn receivers_of(self, source: SocketAddr) -> Vec<SocketAddr> {
        self.answering()
            .filter(|&(s, h, state)| {
                s != source && state.channels.iter().any(|c| self.is_source(c, source) && h.receives(c, self.now))
            })
            .map(|(s, _, _)| s)
            .collect()
    }

    pub fn is_configured_source(self, source: SocketAddr) -> bool {
        self.answering().any(|(s, _, state)| s != source && state.channels.iter().any(|c| self.is_source(c, source)))
    }

    /// Why a server that was the primary, and that no listener leads to now, may have been succeeded while nobody looked:
    /// the others replicate from somebody else. Once it leads, a chain through a dead replica is no reason to stop it.
    pub fn looks_deposed(self, primary: SocketAddr) -> Option<String> {
        if self.open || self.is_configured_source(primary) {
            return None;
        }
        let disloyal: Vec<_> =
            self.answering().map(|(s, ..)| s).filter(|&s| s != primary && self.replicates(s)).collect();
        (!disloyal.is_empty()).then(|| {
            format!(
                "{} was the primary and is writable, but {} replicate from another server: not trusted (pin it if it is the primary)",
                self.label(primary),
                self.labels(&disloyal)
            )
        })
    }

    /// `@@server_uuid`, as last told.
    pub fn uuid(self, server: SocketAddr) -> Option<&'a str> {
        self.servers.get(&server).and_then(Health::state).and_then(|state| state.identity.uuid.as_deref())
    }

    /// Whether somebody stands for its being the primary.
    pub fn is_vouched(self, server: SocketAddr) -> bool {
        if self.outcasts.contains_key(&server) {
            return false;
        }
        !self.receivers_of(server).is_empty() || self.was_seen_being_promoted(server)
    }

    /// It was a read-only replica and is writable now. Where we promote ourselves, a channel that only stopped tells
    /// nothing: we may have stopped it, and a restart without `super_read_only` have made it writable.
    fn was_seen_being_promoted(self, server: SocketAddr) -> bool {
        let was_replica = self.servers.get(&server).is_some_and(Health::was_replica);
        was_replica && (self.config.failover != FailoverMode::Promote || !self.is_attached(server))
    }

    /// Whether a source within the cluster is configured there, running or not.
    pub fn is_attached(self, server: SocketAddr) -> bool {
        let state = self.servers.get(&server).and_then(Health::state);
        state.is_some_and(|state| state.channels.iter().any(|c| self.source_within(c, server)))
    }

    /// Who stands for it, in words that follow its name.
    pub fn voucher(self, server: SocketAddr) -> String {
        let receivers = self.receivers_of(server);
        if !receivers.is_empty() {
            format!("is the source of {}", self.labels(&receivers))
        } else if self.was_seen_being_promoted(server) {
            "was seen being promoted: a read-only replica before, writable and without a source now".to_owned()
        } else {
            "is named as their source by the others".to_owned()
        }
    }

    pub fn label(self, server: SocketAddr) -> String {
        self.config.servers.iter().find(|s| s.address == server).map_or_else(|| server.to_string(), |s| s.label.clone())
    }

    pub fn labels(self, servers: &[SocketAddr]) -> String {
        servers.iter().map(|&s| self.label(s)).collect::<Vec<_>>().join(", ")
    }
}
