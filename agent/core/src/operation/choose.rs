//! Who becomes the next primary.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::net::SocketAddr;

use super::record::Origin;
use super::standing::Standing;
use crate::config::{ClusterConfig, Promotion, ServerConfig};
use crate::gtid::History;

/// Who may be chosen from, and what is known of them.
#[derive(Clone, Copy, Debug)]
pub struct Candidates<'a> {
    pub config: &'a ClusterConfig,
    /// Those that answered, from after they stopped receiving (or, in a switchover, as they are).
    pub standings: &'a BTreeMap<SocketAddr, Standing>,
    pub old: SocketAddr,
    /// What the old primary was last known to have, and how it numbers what it commits since.
    pub old_executed: Option<&'a History>,
    pub old_origin: &'a Origin,
    /// Servers that turned out to be unfit, and why.
    pub excluded: &'a BTreeMap<SocketAddr, String>,
    /// The one that an operator named: that or nobody.
    pub asked: Option<SocketAddr>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Choice {
    pub server: SocketAddr,
    /// Everything that any of them has received.
    pub goal: History,
    /// Who has what the chosen one lacks of it, the most advanced first; empty if it lacks nothing.
    pub sources: Vec<SocketAddr>,
}

/// Chooses by the promotion rule first, then by who has received most, so that nobody has to catch up without need; then
/// by version (a replica must not be older than its source), data centre, binary log format, address. What a less advanced
/// one lacks it gets from the others before it is promoted.
///
/// An error says of each server why it is unfit.
pub fn choose(from: Candidates<'_>) -> Result<Choice, Vec<(SocketAddr, String)>> {
    let mut unfit = Vec::new();
    // Errant transactions must not spread: neither from the chosen one nor to it.
    let mut sound: BTreeMap<SocketAddr, &Standing> = BTreeMap::new();
    for server in from.config.servers.iter().filter(|s| s.address != from.old) {
        match from.standings.get(&server.address) {
            None => unfit.push((server.address, "it did not answer".to_owned())),
            Some(standing) => match from.errant(server.address, standing) {
                Some(errant) => unfit.push((server.address, format!("it has transactions of its own: {errant}"))),
                None => drop(sound.insert(server.address, standing)),
            },
        }
    }
    let Some(goal) = sound.values().map(|s| s.received.clone()).reduce(|a, b| a.union(&b)) else { return Err(unfit) };
    let mut ranked: Vec<_> = Vec::new();
    for (&address, &standing) in &sound {
        let Some(server) = from.config.servers.iter().find(|s| s.address == address) else { continue };
        match from.unfitness(server, standing) {
            Some(why) => unfit.push((address, why)),
            None => ranked.push((from.rank(server, standing, &goal, &sound), address, standing)),
        }
    }
    ranked.sort_by(|a, b| (&a.0, a.1).cmp(&(&b.0, b.1)));
    let Some(&(_, server, standing)) = ranked.first() else { return Err(unfit) };
    let lacking = goal.minus(&standing.received);
    let mut sources: Vec<_> = sound
        .iter()
        .filter(|&(&s, other)| s != server && !lacking.is_empty() && has_some(&other.received, &lacking))
        .map(|(&s, other)| (goal.missing_from(&other.received).count, s))
        .collect();
    sources.sort_unstable();
    Ok(Choice { server, goal, sources: sources.into_iter().map(|(_, s)| s).collect() })
}

fn has_some(received: &History, lacking: &History) -> bool {
    lacking.minus(received) != *lacking
}

impl Candidates<'_> {
    /// What a replica has that the old primary never had. What the old primary committed after it was last asked is its own.
    pub fn errant(&self, server: SocketAddr, standing: &Standing) -> Option<String> {
        let origin =
            |history: &History| history.without_origin(self.old_origin.uuid.as_deref(), self.old_origin.server_id);
        let extra = if let Some(old) = self.old_executed {
            origin(&standing.executed.minus(old))
        } else {
            // Nobody asked the old primary in time: what no other replica has either is doubtful.
            let others = self.standings.iter().filter(|&(&s, _)| s != server && s != self.old);
            let others = others.map(|(_, s)| s.received.clone()).reduce(|a, b| a.union(&b))?;
            origin(&standing.executed.minus(&others))
        };
        (!extra.is_empty()).then(|| extra.to_string())
    }

    fn unfitness(&self, server: &ServerConfig, standing: &Standing) -> Option<String> {
        if let Some(why) = self.excluded.get(&server.address) {
            return Some(why.clone());
        }
        if let Some(asked) = self.asked
            && asked != server.address
        {
            return Some("another one was asked for".to_owned());
        }
        if !standing.obstacles.is_empty() {
            return Some(standing.obstacles.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "));
        }
        if standing.in_group {
            return Some("it is a member of a group, which decides by itself".to_owned());
        }
        let behind = !standing.received.is_subset(&standing.executed);
        if behind && !standing.replication.apply_error.is_empty() {
            return Some(format!("it cannot apply what it has received: {}", standing.replication.apply_error));
        }
        if server.promotion == Promotion::MustNot && self.asked.is_none() {
            return Some("its promotion rule is must_not".to_owned());
        }
        None
    }

    fn rank(
        &self,
        server: &ServerConfig,
        standing: &Standing,
        goal: &History,
        all: &BTreeMap<SocketAddr, &Standing>,
    ) -> impl Ord + use<> {
        let dc_of = |address| self.config.servers.iter().find(|s| s.address == address).and_then(|s| s.dc.as_deref());
        let lacking = goal.missing_from(&standing.received).count;
        // MySQL 8.0 does not replicate from 8.4: who is older than none of the others makes the fewest unable to follow.
        let older = all.values().filter(|other| release(&other.version) < release(&standing.version)).count();
        let elsewhere = server.dc.as_deref() != dc_of(self.old);
        let unusual_format = standing.binlog_format != "ROW";
        (server.promotion, lacking, older, elsewhere, unusual_format, Reverse(standing.semi_sync.is_some()))
    }
}

/// Major and minor number of a version.
fn release(version: &str) -> (u32, u32) {
    let mut numbers = version.split(|c: char| !c.is_ascii_digit()).map(|n| n.parse().unwrap_or(0));
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0))
}

#[cfg(test)]
#[path = "choose_tests.rs"]
mod tests;
