//! Whose word counts in a group: Group Replication's, or Galera's.
//!
//! A server's own word is worth little. A primary that was cut off goes on seeing itself ONLINE and PRIMARY, takes
//! connections, and only its commits wait; and one that was expelled believes for seconds after it is back that nothing
//! happened. So a member has a voice only while it is ONLINE in a majority by its own view, and is not contradicted: it and
//! the others that have a voice must have each other in their views. Those that do not know it outweigh it.

use std::net::SocketAddr;

use super::health::Evidence;
use super::view::View;
use crate::config::Promotion;
use crate::observation::{GaleraNode, GaleraState, GroupView, MemberState, ReplicationGroup, ServerState};

/// The members of a cluster's group whose word counts, as last heard.
pub(super) struct Council<'a> {
    view: View<'a>,
    /// In the order of the configuration.
    voices: Vec<Voice<'a>>,
    /// Servers that have as much of a voice, and are in another group than those.
    torn: Vec<SocketAddr>,
    pub(super) galera: bool,
}

#[derive(Clone, Copy)]
struct Voice<'a> {
    server: SocketAddr,
    state: &'a ServerState,
    uuid: &'a str,
    group: &'a GroupView,
}

impl<'a> Council<'a> {
    /// `None`: these servers are in no group.
    pub(super) fn of(view: View<'a>) -> Option<Self> {
        let state = |server| view.servers.get(&server).and_then(|health| health.state());
        let is_member = |state: &ServerState| state.running_group().is_some();
        // A primary outside of any group is not deposed by somebody who founds one.
        if let Some(primary) = view.primary.and_then(state)
            && primary.is_writable()
            && !is_member(primary)
        {
            return None;
        }
        let members: Vec<_> =
            view.servers.values().filter_map(|health| health.state()).filter(|s| is_member(s)).collect();
        let first = members.first()?;
        let galera = matches!(first.group, Some(GroupView::Galera(_)));
        let mut council = Self { view, voices: voices(view), torn: Vec::new(), galera };
        council.agree();
        Some(council)
    }

    /// Leaves those who are the most to have each other in their views.
    fn agree(&mut self) {
        let all = std::mem::take(&mut self.voices);
        let all: Vec<_> = all.iter().filter(|v| !all.iter().any(|other| other.supersedes(v))).copied().collect();
        let weight = |voice: &Voice<'_>| all.iter().filter(|other| voice.agrees_with(other)).count();
        let heaviest = all.iter().map(weight).max().unwrap_or(0);
        let mut heads = all.iter().filter(|voice| weight(voice) == heaviest);
        let of_primary = heads.clone().find(|voice| Some(voice.server) == self.view.primary);
        let Some(head) = of_primary.or_else(|| heads.next()) else { return };
        self.voices = all.iter().filter(|voice| head.agrees_with(voice)).copied().collect();
        let is_apart =
            |voice: &&Voice<'_>| weight(voice) == heaviest && !self.voices.iter().any(|v| v.agrees_with(voice));
        self.torn = all.iter().filter(is_apart).map(|voice| voice.server).collect();
    }

    pub(super) fn has_voice(&self, server: SocketAddr) -> bool {
        self.voices.iter().any(|voice| voice.server == server)
    }

    pub(super) fn is_silent(&self) -> bool {
        self.voices.is_empty()
    }

    pub(super) fn size(&self) -> usize {
        self.voices.len()
    }

    /// Servers whose word would weigh as much, in another group.
    pub(super) fn torn(&self) -> &[SocketAddr] {
        &self.torn
    }

    /// Whether several members may take writes at once.
    pub(super) fn is_multi_primary(&self) -> bool {
        self.galera
            || self.voices.iter().any(|voice| {
                voice.members().is_some_and(|g| {
                    g.members.iter().filter(|m| m.primary && m.state == MemberState::Online).count() > 1
                })
            })
    }

    /// Whether somebody with a voice has that server ONLINE. Galera's nodes do not name each other.
    pub(super) fn has_online(&self, server: SocketAddr) -> bool {
        let Some(uuid) = self.view.uuid(server) else { return false };
        self.voices
            .iter()
            .filter_map(Voice::members)
            .any(|group| group.member(uuid).is_some_and(|member| member.state == MemberState::Online))
    }

    /// Whether somebody with a voice has that server as an ONLINE primary.
    pub(super) fn has_primary(&self, server: SocketAddr) -> bool {
        let Some(uuid) = self.view.uuid(server) else { return false };
        self.voices
            .iter()
            .filter_map(Voice::members)
            .any(|group| group.member(uuid).is_some_and(|m| m.state == MemberState::Online && m.primary))
    }

    /// The uuid of an ONLINE primary that somebody with a voice names, other than that server.
    pub(super) fn named_primary(&self, other_than: Option<SocketAddr>) -> Option<&'a str> {
        let old = other_than.and_then(|server| self.view.uuid(server));
        let mut members = self.voices.iter().filter_map(Voice::members).flat_map(|group| &group.members);
        members
            .find(|m| m.primary && m.state == MemberState::Online && Some(m.uuid.as_str()) != old)
            .map(|member| member.uuid.as_str())
    }

    /// The members that take writes by the group's word, their own, and their flags. With several primaries the preferred
    /// one comes first; the present one is among them as long as it can be kept.
    pub(super) fn elected(&self) -> Vec<SocketAddr> {
        let able = |voice: &&Voice<'_>| voice.state.is_writable() && voice.is_primary();
        let able: Vec<_> = self.voices.iter().filter(able).collect();
        if !self.is_multi_primary() {
            return able.iter().map(|voice| voice.server).collect();
        }
        let is_present = |voice: &Voice<'_>| Some(voice.server) == self.view.primary;
        let any_synced = able.iter().any(|voice| voice.is_synced());
        let mut elected: Vec<_> = able
            .into_iter()
            .filter(|voice| is_present(voice) || voice.is_synced() || !any_synced)
            .map(|voice| (self.promotion(voice.server), voice.server))
            .filter(|&(promotion, server)| promotion != Promotion::MustNot || Some(server) == self.view.primary)
            .collect();
        // Stable: among equals the configuration's order decides.
        elected.sort_by_key(|&(promotion, _)| promotion);
        elected.into_iter().map(|(_, server)| server).collect()
    }

    /// Those that could take writes and must not by the configuration.
    pub(super) fn barred(&self) -> Vec<SocketAddr> {
        let able = |voice: &&Voice<'_>| voice.state.is_writable() && voice.is_primary();
        let servers = self.voices.iter().filter(able).map(|voice| voice.server);
        if self.is_multi_primary() {
            servers.filter(|&server| self.promotion(server) == Promotion::MustNot).collect()
        } else {
            Vec::new()
        }
    }

    fn promotion(&self, server: SocketAddr) -> Promotion {
        let servers = &self.view.config.servers;
        servers.iter().find(|s| s.address == server).map_or(Promotion::Neutral, |s| s.promotion)
    }

    /// Writable servers that the group knows nothing of.
    pub(super) fn strays(&self) -> Vec<SocketAddr> {
        let is_stray = |state: &ServerState| state.running_group().is_none();
        self.view
            .answering()
            .filter(|&(server, _, state)| state.is_writable() && is_stray(state) && !self.view.replicates(server))
            .map(|(server, ..)| server)
            .collect()
    }
}

/// Members that answer and are ONLINE in a majority, or Synced in the primary component, by their own view.
fn voices(view: View<'_>) -> Vec<Voice<'_>> {
    let servers = view.config.servers.iter().map(|server| server.address);
    servers
        .filter_map(|server| {
            let health = view.servers.get(&server)?;
            let state = health.state().filter(|_| health.evidence(&view.config.probe) == Evidence::Answers)?;
            let voice = Voice {
                server,
                state,
                uuid: state.identity.uuid.as_deref().unwrap_or_default(),
                group: state.running_group()?,
            };
            voice.counts().then_some(voice)
        })
        .collect()
}

impl<'a> Voice<'a> {
    const fn members(&self) -> Option<&'a ReplicationGroup> {
        match self.group {
            GroupView::Replication(group) => Some(group),
            GroupView::Galera(_) => None,
        }
    }

    fn counts(&self) -> bool {
        match self.group {
            GroupView::Replication(group) => {
                group.has_majority() && group.member(self.uuid).is_some_and(|m| m.state == MemberState::Online)
            }
            GroupView::Galera(GaleraNode { in_primary_component, ready, state, .. }) => {
                *in_primary_component && *ready && *state != GaleraState::Joining
            }
        }
    }

    fn is_primary(&self) -> bool {
        match self.group {
            GroupView::Replication(group) => group.member(self.uuid).is_some_and(|member| member.primary),
            GroupView::Galera(_) => true,
        }
    }

    fn is_synced(&self) -> bool {
        match self.group {
            GroupView::Replication(_) => true,
            GroupView::Galera(node) => node.state == GaleraState::Synced,
        }
    }

    fn agrees_with(&self, other: &Self) -> bool {
        let has = |group: &ReplicationGroup, uuid| group.member(uuid).is_some_and(|member| member.state.counts());
        match (self.group, other.group) {
            (GroupView::Replication(mine), GroupView::Replication(theirs)) => {
                has(mine, other.uuid) && has(theirs, self.uuid)
            }
            (GroupView::Galera(mine), GroupView::Galera(theirs)) => mine.cluster == theirs.cluster,
            _ => false,
        }
    }

    /// Whether the group has gone on without the other one, which does not know it yet.
    fn supersedes(&self, other: &Self) -> bool {
        match (self.members(), other.members()) {
            (Some(mine), Some(theirs)) => mine.is_later_than(theirs) && mine.member(other.uuid).is_none(),
            _ => false,
        }
    }
}
