//! How full the kernel's tables are, looked at every ten seconds: alarms before they are full, and figures for the metrics.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use shunt_core::ClusterName;
use shunt_core::cluster::{Alarm, AlarmKind, Entry};
use shunt_core::datapath::{DatapathError, PortUse, Refused, Usage};

use super::agent::{Agent, read, write};
use crate::config::DatapathKind;
use crate::datapath::{filling, other_size, thousands};

const EVERY: Duration = Duration::from_secs(10);
/// A look at very many flows takes its time: at most this part of it is spent with looking.
const SHARE: u32 = 10;

/// An alarm rises when so many percent are taken …
const HIGH: u64 = 70;
/// … and is over when fewer than these are, so that it does not come and go.
const LOW: u64 = 65;

/// The last look, and what follows from it.
#[derive(Debug, Default)]
pub struct Watched {
    /// `None`: there was no look yet, or the last one failed.
    usage: Option<Usage>,
    alarms: Vec<(Option<ClusterName>, Alarm)>,
    raised: Raised,
    size_was_told: bool,
}

/// What is too full: since it rose above the one mark, and until it falls below the other.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Raised {
    table: bool,
    ports: BTreeSet<(IpAddr, SocketAddr)>,
}

pub fn start(agent: Arc<Agent>) {
    tokio::spawn(async move {
        let mut reason = None;
        loop {
            let begin = tokio::time::Instant::now();
            let failed = agent.look_at_usage().await.err();
            if failed != reason {
                reason = failed;
                if let Some(error) = &reason {
                    tracing::warn!(error, "how full the kernel's tables are cannot be told");
                }
            }
            tokio::time::sleep_until(begin + EVERY.max(begin.elapsed() * SHARE)).await;
        }
    });
}

impl Agent {
    /// The last look at how full the kernel's tables are.
    pub fn usage(&self) -> Option<Usage> {
        read(&self.watched).usage.clone()
    }

    pub(super) fn usage_alarms(&self) -> Vec<(Option<ClusterName>, Alarm)> {
        read(&self.watched).alarms.clone()
    }

    /// The new connections that each listener refused, with its cluster; `None` when that cannot be told.
    pub async fn refused(&self) -> Option<Vec<(ClusterName, SocketAddr, Refused)>> {
        let refused = match self.meter.run(|meter| meter.refused()).await {
            Ok(Ok(refused)) => refused,
            Ok(Err(error @ DatapathError::Unsupported(_))) => {
                tracing::debug!(%error, "refused connections are not counted");
                return None;
            }
            Ok(Err(error)) => {
                tracing::warn!(error = super::error_chain(&error), "refused connections could not be counted");
                return None;
            }
            Err(_) => return None,
        };
        let clusters = self.listeners();
        let named = |(listener, refused)| clusters.get(&listener).map(|cluster| (cluster.clone(), listener, refused));
        Some(refused.into_iter().filter_map(named).collect())
    }

    /// What became of packets, by a word for each; empty when the datapath does not count it, or cannot tell.
    pub async fn datapath_events(&self) -> BTreeMap<&'static str, u64> {
        match self.meter.run(|meter| meter.events()).await {
            Ok(Ok(events)) => events,
            Ok(Err(error)) => {
                tracing::warn!(error = super::error_chain(&error), "what became of packets cannot be told");
                BTreeMap::new()
            }
            Err(_) => BTreeMap::new(),
        }
    }

    /// Every listener and its cluster.
    pub fn listeners(&self) -> BTreeMap<SocketAddr, ClusterName> {
        let of = |config: &shunt_core::config::ClusterConfig| {
            let name = config.name.clone();
            config.listeners.iter().map(|l| (l.address, name.clone())).collect::<Vec<_>>()
        };
        read(&self.clusters).values().flat_map(|handle| of(&handle.config)).collect()
    }

    async fn look_at_usage(&self) -> Result<(), String> {
        let listeners: Vec<_> = self.listeners().into_keys().collect();
        let usage = match self.meter.run(move |meter| meter.usage(&listeners)).await {
            Ok(Ok(usage)) => usage,
            Ok(Err(error)) => {
                // Alarms stay: nothing says that they are over.
                write(&self.watched).usage = None;
                return Err(super::error_chain(&error));
            }
            Err(error) => return Err(error.to_string()),
        };
        let servers: BTreeMap<_, _> = read(&self.clusters)
            .values()
            .flat_map(|handle| handle.config.servers.iter().map(|server| (server.address, handle.config.name.clone())))
            .collect();
        let datapath = self.settings.datapath;
        let mut watched = write(&self.watched);
        let before = std::mem::take(&mut watched.raised);
        let raised = before.clone().after(&usage);
        for (cluster, kind, message) in raised.news(&before, datapath, &usage) {
            let cluster = cluster.and_then(|backend| servers.get(&backend));
            let message = format!("{}: {message}", kind.word());
            tracing::warn!("{message}");
            let data = vec![("alarm", kind.word().to_owned())];
            self.shared.journal.record(cluster, Entry { kind: "alarm", message, data });
        }
        watched.alarms = raised
            .alarms(datapath, &usage)
            .map(|(backend, alarm)| (backend.and_then(|backend| servers.get(&backend).cloned()), alarm))
            .collect();
        watched.raised = raised;
        if let Some(message) = other_size(&self.settings, &usage).filter(|_| !watched.size_was_told) {
            watched.size_was_told = true;
            tracing::warn!("{message}");
            self.shared.journal.record(None, Entry { kind: "flow_table_size", message, data: Vec::new() });
        }
        watched.usage = Some(usage);
        Ok(())
    }
}

impl Raised {
    fn after(self, usage: &Usage) -> Self {
        let high = |was, taken, of| taken * 100 >= of * if was { LOW } else { HIGH };
        Self {
            // No limit at all is what nought means.
            table: usage.flows_max > 0 && high(self.table, usage.flows, usage.flows_max),
            ports: usage
                .ports
                .iter()
                .filter(|port| high(self.ports.contains(&key(port)), port.taken, PortUse::PORTS))
                .map(key)
                .collect(),
        }
    }

    /// What was not raised before.
    fn news(
        &self,
        before: &Self,
        datapath: DatapathKind,
        usage: &Usage,
    ) -> Vec<(Option<SocketAddr>, AlarmKind, String)> {
        let new =
            Self { table: self.table && !before.table, ports: self.ports.difference(&before.ports).copied().collect() };
        new.alarms(datapath, usage).map(|(backend, alarm)| (backend, alarm.kind, alarm.message)).collect()
    }

    /// The alarms, and the backend that each is about.
    fn alarms<'a>(
        &'a self,
        datapath: DatapathKind,
        usage: &'a Usage,
    ) -> impl Iterator<Item = (Option<SocketAddr>, Alarm)> + 'a {
        let table = self.table.then(|| (None, filling(datapath, usage)));
        let ports = usage.ports.iter().filter(|port| self.ports.contains(&key(port)));
        table.into_iter().chain(
            ports.map(|port| {
                (Some(port.backend), Alarm { kind: AlarmKind::PortsRunningOut, message: ports_message(port) })
            }),
        )
    }
}

const fn key(port: &PortUse) -> (IpAddr, SocketAddr) {
    (port.source, port.backend)
}

fn ports_message(port: &PortUse) -> String {
    format!(
        "{} has {} of {} source ports towards {} taken; once all are, new connections are dropped: give the listener a \
         larger pool of addresses with snat = [\"FIRST-LAST\"]",
        port.source,
        thousands(port.taken),
        thousands(PortUse::PORTS),
        port.backend,
    )
}

#[cfg(test)]
mod tests {
    use DatapathKind::{Ebpf, Nft};

    use super::*;

    fn usage(flows: u64, ports: &[(&str, u64)]) -> Usage {
        let port = |&(backend, taken): &(&str, u64)| PortUse {
            source: "10.0.0.2".parse().unwrap(),
            backend: backend.parse().unwrap(),
            taken,
        };
        Usage { flows, flows_max: 1_000, turned_away: 0, ports: ports.iter().map(port).collect() }
    }

    #[test]
    fn an_alarm_rises_at_70_percent_and_is_over_below_65() {
        let mut raised = Raised::default();
        for (flows, is_high, is_news) in [
            (699, false, false),
            (700, true, true),
            (900, true, false),
            (650, true, false),
            (649, false, false),
            (699, false, false),
            (700, true, true),
        ] {
            let usage = usage(flows, &[]);
            let after = raised.clone().after(&usage);
            assert_eq!(after.table, is_high, "{flows}");
            assert_eq!(!after.news(&raised, Nft, &usage).is_empty(), is_news, "{flows}");
            raised = after;
        }
    }

    #[test]
    fn ports_are_watched_for_each_backend_on_its_own() {
        let (one, two) = ("10.0.0.11:3306", "10.0.0.12:3306");
        let first = usage(0, &[(one, 47_000), (two, 45_000)]);
        let raised = Raised::default().after(&first);
        let alarms: Vec<_> = raised.alarms(Nft, &first).map(|(backend, _)| backend.unwrap().to_string()).collect();
        assert_eq!(alarms, [one]);
        let second = usage(0, &[(one, 42_000), (two, 60_000)]);
        let later = raised.clone().after(&second);
        let news: Vec<_> =
            later.news(&raised, Nft, &second).into_iter().map(|(backend, ..)| backend.unwrap()).collect();
        assert_eq!(news, [two.parse().unwrap()], "the first is still above the lower mark, which is no news");
        assert_eq!(later.alarms(Nft, &second).count(), 2);
        assert_eq!(later.after(&usage(0, &[])), Raised::default(), "flows that are gone take no ports");
    }

    #[test]
    fn the_alarms_name_the_numbers_and_what_to_do() {
        let full = Usage { flows: 186_123, flows_max: 262_144, ..usage(0, &[("10.0.0.11:3306", 47_000)]) };
        let raised = Raised::default().after(&full);
        let table = raised.alarms(Ebpf, &full).next().map(|(_, alarm)| alarm.message);
        let messages: Vec<_> = raised.alarms(Nft, &full).map(|(_, alarm)| alarm.message).chain(table).collect();
        insta::assert_snapshot!(messages.join("\n"), @r#"
        conntrack is 71 % full: 186,123 of 262,144 entries; once it is full, new connections are dropped: raise net.netfilter.nf_conntrack_max (see `shunt doctor`)
        10.0.0.2 has 47,000 of 64,512 source ports towards 10.0.0.11:3306 taken; once all are, new connections are dropped: give the listener a larger pool of addresses with snat = ["FIRST-LAST"]
        the flow table is 71 % full: 186,123 of 262,144 entries; once it is full, new connections are refused: raise `max_flows` in [agent] of shunt.toml, which takes a `shunt purge`
        "#);
    }

    #[test]
    fn a_table_without_a_limit_is_never_full() {
        let limitless = Usage { flows: 10, flows_max: 0, ..Usage::default() };
        assert_eq!(Raised::default().after(&limitless), Raised::default());
    }
}
