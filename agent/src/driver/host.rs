//! What the host must have and nobody but its operator can give it: the listeners' addresses, which may come and go, and
//! ports that no other NAT takes. Looked at again and again, off the threads that decide and commit.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use shunt_core::ClusterName;
use shunt_core::cluster::{Alarm, AlarmKind, Entry};
use shunt_core::config::ClusterConfig;

use super::agent::{Agent, read, write};
use crate::config::AgentConfig;
use crate::{datapath, route};

/// From one look at the addresses to the next.
const EVERY: Duration = Duration::from_secs(5);
/// Other tables are read when somebody has changed one, and this often for what gives no notice.
const RULES_EVERY: Duration = Duration::from_secs(60);
/// So many addresses are told of one by one.
const MOST: usize = 5;

/// What was seen when the host was last looked at.
#[derive(Default)]
pub(super) struct Sight {
    seen: std::sync::RwLock<Seen>,
    /// Somebody has changed what may stand before the datapath since.
    pub(super) rules_changed: AtomicBool,
}

/// What was amiss.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Seen {
    absent: BTreeSet<Need>,
    /// Other NAT that names a listener's port, in words.
    foreign: BTreeSet<String>,
}

/// Somebody who needs an address.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Need {
    cluster: ClusterName,
    what_for: WhatFor,
    address: IpAddr,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum WhatFor {
    Listener,
    Pool,
}

/// Starts the task that looks.
pub(super) fn start(agent: Arc<Agent>) {
    tokio::spawn(async move {
        let mut timer = tokio::time::interval(EVERY);
        timer.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut rules_at: Option<Instant> = None;
        loop {
            timer.tick().await;
            let changed = agent.sight.rules_changed.swap(false, Ordering::Relaxed);
            let examine_rules = changed || rules_at.is_none_or(|at| at.elapsed() >= RULES_EVERY);
            if examine_rules {
                rules_at = Some(Instant::now());
            }
            let configs: Vec<_> = read(&agent.clusters).values().map(|c| c.config.clone()).collect();
            let (settings, before) = (agent.settings.clone(), read(&agent.sight.seen).clone());
            let looked = tokio::task::spawn_blocking(move || {
                let needs = needs(&configs);
                let absent = absent(&needs);
                let foreign = examine_rules.then(|| foreign(&settings, &configs)).flatten();
                let after = Seen { absent, foreign: foreign.unwrap_or_else(|| before.foreign.clone()) };
                (news(&before, &after, &needs), after)
            });
            match looked.await {
                Ok((news, after)) => {
                    *write(&agent.sight.seen) = after;
                    for (cluster, entry) in news {
                        agent.shared.journal.record(cluster.as_ref(), entry);
                    }
                }
                Err(error) => tracing::error!(%error, "the host could not be looked at"),
            }
        }
    });
}

impl Sight {
    pub(super) fn alarms(&self) -> Vec<(Option<ClusterName>, Alarm)> {
        let seen = read(&self.seen);
        let absent = grouped(seen.absent.iter()).into_iter().map(|((cluster, what_for), addresses)| {
            let message = gone(what_for, &addresses);
            (Some(cluster), Alarm { kind: AlarmKind::AddressAbsent, message })
        });
        let foreign = seen.foreign.iter().map(|nat| {
            let message = format!("whichever rule sees a connection first wins: {nat}");
            (None, Alarm { kind: AlarmKind::ForeignNat, message })
        });
        absent.chain(foreign).collect()
    }
}

fn needs(clusters: &[ClusterConfig]) -> BTreeSet<Need> {
    let mut needs = BTreeSet::new();
    for config in clusters {
        for listener in &config.listeners {
            let need = |what_for, address| Need { cluster: config.name.clone(), what_for, address };
            needs.insert(need(WhatFor::Listener, listener.address.ip()));
            needs.extend(route::pool_addresses(&listener.snat).into_iter().map(|a| need(WhatFor::Pool, a)));
        }
    }
    needs
}

/// The needs that are not met.
fn absent(needs: &BTreeSet<Need>) -> BTreeSet<Need> {
    let mut local: BTreeMap<IpAddr, bool> = BTreeMap::new();
    let mut is_local = |address| {
        *local.entry(address).or_insert_with(|| {
            route::is_local(address).unwrap_or_else(|error| {
                // Not knowing is no reason for an alarm.
                tracing::warn!(%address, %error, "cannot ask the kernel whose address this is");
                true
            })
        })
    };
    needs.iter().filter(|need| !is_local(need.address)).cloned().collect()
}

/// `None`: it cannot be told.
fn foreign(settings: &AgentConfig, clusters: &[ClusterConfig]) -> Option<BTreeSet<String>> {
    let listeners: Vec<SocketAddr> = clusters.iter().flat_map(|c| c.listeners.iter().map(|l| l.address)).collect();
    match datapath::foreign_nat(settings, &listeners) {
        Ok(found) => Some(found.iter().filter(|nat| !nat.ports.is_empty()).map(ToString::to_string).collect()),
        Err(error) => {
            tracing::warn!(error = super::error_chain(&error), "other tables could not be read");
            None
        }
    }
}

/// What is different, for the history. That something is needed no more is no news.
fn news(before: &Seen, after: &Seen, needs: &BTreeSet<Need>) -> Vec<(Option<ClusterName>, Entry)> {
    let mut news = Vec::new();
    let went = after.absent.difference(&before.absent);
    for ((cluster, what_for), addresses) in grouped(went) {
        let data = vec![("addresses", addresses_in_full(&addresses))];
        news.push((Some(cluster), Entry { kind: "address_gone", message: gone(what_for, &addresses), data }));
    }
    let came = before.absent.difference(&after.absent).filter(|need| needs.contains(need));
    for ((cluster, _), addresses) in grouped(came) {
        let data = vec![("addresses", addresses_in_full(&addresses))];
        let message = format!("{} an address of this host again", is(&addresses));
        news.push((Some(cluster), Entry { kind: "address_back", message, data }));
    }
    let entry = |kind, message| (None, Entry { kind, message, data: Vec::new() });
    news.extend(
        after
            .foreign
            .difference(&before.foreign)
            .map(|nat| entry("foreign_nat", format!("somebody else's NAT names a listener's port: {nat}"))),
    );
    news.extend(
        before
            .foreign
            .difference(&after.foreign)
            .map(|nat| entry("foreign_nat_gone", format!("it names no listener's port any more, or is gone: {nat}"))),
    );
    news
}

fn grouped<'a>(needs: impl Iterator<Item = &'a Need>) -> BTreeMap<(ClusterName, WhatFor), Vec<IpAddr>> {
    let mut groups: BTreeMap<_, Vec<IpAddr>> = BTreeMap::new();
    for need in needs {
        groups.entry((need.cluster.clone(), need.what_for)).or_default().push(need.address);
    }
    groups
}

fn gone(what_for: WhatFor, addresses: &[IpAddr]) -> String {
    let follows = match what_for {
        WhatFor::Listener => "no client reaches a listener there until it is, unless it is routed here",
        WhatFor::Pool => "what servers answer to it gets lost until it is, unless it is routed here",
    };
    format!("{} not an address of this host: {follows}", is(addresses))
}

/// `10.0.0.2 is`, `10.0.0.2, 10.0.0.3 are each`.
fn is(addresses: &[IpAddr]) -> String {
    let named: Vec<_> = addresses.iter().take(MOST).map(ToString::to_string).collect();
    let named = named.join(", ");
    match addresses.len() {
        1 => format!("{named} is"),
        n if n <= MOST => format!("{named} are each"),
        n => format!("{named} and {} more are each", n - MOST),
    }
}

fn addresses_in_full(addresses: &[IpAddr]) -> String {
    addresses.iter().map(ToString::to_string).collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn need(what_for: WhatFor, last: u8) -> Need {
        Need { cluster: ClusterName::new("orders").unwrap(), what_for, address: IpAddr::from([10, 0, 0, last]) }
    }

    fn told(before: &Seen, after: &Seen, needs: &BTreeSet<Need>) -> Vec<String> {
        news(before, after, needs).into_iter().map(|(_, entry)| format!("{}: {}", entry.kind, entry.message)).collect()
    }

    #[test]
    fn an_address_is_told_of_once_when_it_goes_and_once_when_it_comes() {
        let wanted = BTreeSet::from([need(WhatFor::Listener, 2)]);
        let (well, absent) = (Seen::default(), Seen { absent: wanted.clone(), ..Seen::default() });
        assert_eq!(
            told(&well, &absent, &wanted),
            [
                "address_gone: 10.0.0.2 is not an address of this host: no client reaches a listener there until it is, unless it is routed here"
            ]
        );
        assert!(told(&absent, &absent, &wanted).is_empty());
        assert_eq!(told(&absent, &well, &wanted), ["address_back: 10.0.0.2 is an address of this host again"]);
        assert!(told(&absent, &well, &BTreeSet::new()).is_empty(), "its listener is gone");
    }

    #[test]
    fn a_pool_without_its_addresses_is_one_alarm() {
        let absent: BTreeSet<_> = (1..=8).map(|n| need(WhatFor::Pool, n)).collect();
        let sight = Sight { seen: Seen { absent, ..Seen::default() }.into(), ..Sight::default() };
        let alarms = sight.alarms();
        let [(Some(cluster), alarm)] = &alarms[..] else { panic!("{alarms:?}") };
        assert_eq!((cluster.as_str(), alarm.kind), ("orders", AlarmKind::AddressAbsent));
        assert!(
            alarm.message.starts_with("10.0.0.1, 10.0.0.2, 10.0.0.3, 10.0.0.4, 10.0.0.5 and 3 more are each not"),
            "{alarm:?}"
        );
    }

    #[test]
    fn foreign_nat_is_told_of_once_when_it_comes_and_once_when_it_goes() {
        let nat = BTreeSet::from(["table ip nat chain PREROUTING".to_owned()]);
        let (well, taken) = (Seen::default(), Seen { foreign: nat, ..Seen::default() });
        assert_eq!(told(&well, &taken, &BTreeSet::new()).len(), 1);
        assert!(told(&taken, &taken, &BTreeSet::new()).is_empty());
        assert_eq!(told(&taken, &well, &BTreeSet::new()).len(), 1);
    }
}
