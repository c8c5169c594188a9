//! Taking a changed configuration into force: all of it, or none of it.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::path::PathBuf;

use shunt_core::ClusterName;
use shunt_core::cluster::{Alarm, AlarmKind, Entry, on_removal};
use shunt_core::config::ClusterConfig;
use shunt_core::mapping::Leaving;
use tokio::sync::oneshot;

use super::agent::{Agent, broken_paths, load, read, write};
use super::cluster::{ClusterHandle, Request};
use super::operate::abandoned;
use crate::config::Loaded;
use crate::control::api::{ReloadAnswer, SCHEMA_VERSION};

/// A configuration that was not taken; what ran before still runs.
#[derive(Debug, thiserror::Error)]
#[error("the configuration is in error; what ran before still runs")]
pub struct ReloadError {
    /// The diagnostics, rendered.
    pub diagnostics: String,
}

impl Agent {
    /// Reads the configuration again. With any error in any file nothing changes.
    pub async fn reload(&self, by: &str) -> Result<ReloadAnswer, ReloadError> {
        let _one_at_a_time = self.reloading.lock().await;
        let loaded = load(&self.paths).await;
        if loaded.has_errors() {
            let diagnostics = loaded.render(false);
            self.record("reload_rejected", format!("a reload by {by} was rejected: what ran before still runs"));
            return Err(ReloadError { diagnostics });
        }
        let answer = self.take(loaded).await;
        self.record(
            "reloaded",
            format!(
                "reloaded by {by}: {} clusters added, {} changed, {} removed",
                answer.added.len(),
                answer.changed.len(),
                answer.removed.len()
            ),
        );
        Ok(answer)
    }

    /// Starts the clusters whose files were in error when the agent started and are good now: a name that the resolver
    /// did not know at boot, say.
    pub(super) async fn start_what_was_broken(&self) {
        if read(&self.broken).is_empty() {
            return;
        }
        let _one_at_a_time = self.reloading.lock().await;
        let loaded = load(&self.paths).await;
        let (was, mut still) = (read(&self.broken).clone(), broken_paths(&loaded));
        if was == still || loaded.agent.is_none() {
            return;
        }
        self.keep_leases(loaded.agent.as_ref().and_then(|agent| agent.lease));
        // Nothing but what was broken: a file that was edited or added since waits for a reload, like any other.
        let mended = |config: &ClusterConfig| {
            let path = path_of(&loaded, config);
            path.is_some_and(|path| was.contains(path) || was.iter().any(|folder| path.parent() == Some(folder)))
        };
        let (names, taken): (BTreeSet<_>, BTreeSet<_>) = {
            let running = read(&self.clusters);
            let listeners = running.values().flat_map(|c| c.config.listeners.iter().map(|l| l.address));
            (running.keys().cloned().collect(), listeners.collect())
        };
        let mut waiting = Vec::new();
        for config in loaded.clusters.iter().filter(|c| mended(c) && !names.contains(&c.name)) {
            if config.listeners.iter().any(|l| taken.contains(&l.address)) {
                still.extend(path_of(&loaded, config).cloned());
                waiting.push(config.name.clone());
                continue;
            }
            self.record("recovered", format!("the file of cluster {} is in order now: it starts", config.name));
            if !self.start_cluster(config.clone(), &loaded).await {
                still.extend(path_of(&loaded, config).cloned());
            }
        }
        *write(&self.broken) = still;
        self.keep_leases(None);
        self.note_diagnostics(&loaded);
        for name in waiting {
            let message =
                "its file is in order now, but names a listener that another cluster runs: see `shunt reload`";
            self.alarm(Some(name), AlarmKind::ConfigBroken, message);
        }
        self.drop_orphans().await;
    }

    async fn take(&self, loaded: Loaded) -> ReloadAnswer {
        // Before the first lease is in the kernel, and until the last is gone.
        self.keep_leases(loaded.agent.as_ref().and_then(|agent| agent.lease));
        if let Some(agent) = &loaded.agent {
            self.shared.tools.hooks.configure(agent.hooks.clone());
        }
        let before: BTreeMap<ClusterName, ClusterConfig> =
            read(&self.clusters).iter().map(|(name, handle)| (name.clone(), handle.config.clone())).collect();
        let wanted: BTreeSet<_> = loaded.clusters.iter().map(|c| c.name.clone()).collect();
        let removed: Vec<_> = before.keys().filter(|name| !wanted.contains(name)).cloned().collect();
        // A listener may have moved from one cluster to another: only those that no cluster has any more go.
        let kept: BTreeSet<SocketAddr> =
            loaded.clusters.iter().flat_map(|c| c.listeners.iter().map(|l| l.address)).collect();
        let gone: BTreeMap<SocketAddr, Leaving> = before
            .values()
            .flat_map(|c| &c.listeners)
            .filter(|l| !kept.contains(&l.address))
            .map(|l| (l.address, on_removal(l)))
            .collect();
        self.note_departures(&gone);
        for name in &removed {
            let handle = write(&self.clusters).remove(name);
            // What it is just sending to the kernel must not come after its listeners' removal.
            if let Some(handle) = handle {
                let (reply, stopped) = oneshot::channel();
                if handle.requests().send(Request::Stop(reply)).await.is_ok() {
                    let _ = stopped.await;
                }
            }
            self.forget_words(name).await;
        }

        self.remove_listeners(gone.into_iter().collect()).await;

        // Those that run first: one of them may give a listener up that a new one takes.
        let (mut added, mut changed, mut refused) = (Vec::new(), Vec::new(), Vec::new());
        for config in loaded.clusters.iter().filter(|c| before.contains_key(&c.name)) {
            if self.reconfigure(config.clone(), &loaded).await {
                changed.push(config.name.clone());
            }
        }
        for config in loaded.clusters.iter().filter(|c| !before.contains_key(&c.name)) {
            if self.start_cluster(config.clone(), &loaded).await {
                added.push(config.name.clone());
            } else {
                refused.push(config);
            }
        }
        // What could not be started is tried again, and until then its listeners are not taken for nobody's.
        *write(&self.broken) = refused.iter().filter_map(|config| path_of(&loaded, config).cloned()).collect();
        self.keep_leases(None);
        self.note_diagnostics(&loaded);
        for config in refused {
            let message = "it could not be started, see `shunt events`; it is tried again every 10 s";
            self.alarm(Some(config.name.clone()), AlarmKind::StateFailed, message);
        }
        // Of a file that was in error, nobody knew until now which listeners were its.
        self.drop_orphans().await;
        let mut diagnostics = loaded.render(false);
        if loaded.agent.as_ref().is_some_and(|new| !self.settings.runs_as(new)) {
            diagnostics
                .push_str("warning: what changed in [agent] of shunt.toml takes effect at the agent's next start\n");
        }
        ReloadAnswer { schema_version: SCHEMA_VERSION, added, changed, removed, diagnostics }
    }

    /// A removed cluster's pins and pause go with it, and nobody goes on with what was under way; its epoch and its outcasts
    /// stay, should it come back.
    async fn forget_words(&self, name: &ClusterName) {
        const WHY: &str = "its cluster was removed from the configuration; the servers stay as they were left";
        let (cluster, at_ms) = (name.clone(), self.shared.clock.unix_ms_now());
        let forgotten = self.shared.journal.with(move |store| {
            for pin in store.pins()?.into_iter().filter(|pin| pin.cluster == cluster) {
                store.unpin(&cluster, pin.listener)?;
            }
            store.resume(&cluster)?;
            store.abandon_unfinished(&cluster, WHY, at_ms)
        });
        match forgotten.await {
            Ok(None) => {}
            Ok(Some(op)) => self.shared.journal.record(Some(name), abandoned(op, WHY)),
            Err(error) => {
                let what = format!("what {name} was told and had begun could not be forgotten");
                self.record("refused", format!("{what}: {}", super::error_chain(&error)));
            }
        }
    }

    /// Whether the cluster runs now.
    async fn start_cluster(&self, config: ClusterConfig, loaded: &Loaded) -> bool {
        let Some(login) = self.login(loaded, &config) else { return false };
        let name = config.name.clone();
        let clock = self.shared.clock;
        let cluster = config.clone();
        let memory = self.shared.journal.with(move |store| {
            let mut memory = super::agent::remember(store, clock)?.remove(&cluster.name).unwrap_or_default();
            super::operate::remember_operations(store, clock, &cluster, &mut memory)?;
            Ok(memory)
        });
        let mut memory = match memory.await {
            Ok(memory) => memory,
            Err(error) => {
                // Without its epoch a cluster could go back in time, so it does not start.
                self.record("refused", format!("cluster {name} does not start: {}", super::error_chain(&error)));
                return false;
            }
        };
        if let Ok(held) = self.shared.datapath.run(|datapath| datapath.committed()).await {
            let held = held.into_iter().map(|h| (h.listener, h.backends)).collect();
            memory.held = super::agent::held_by(&config, &held);
        }
        let handle = ClusterHandle::start(config, login, memory, self.shared.clone()).await;
        self.adopt(handle);
        true
    }

    /// Hands a cluster its new configuration or password, if there is one. A cluster that does not change does not notice.
    async fn reconfigure(&self, config: ClusterConfig, loaded: &Loaded) -> bool {
        let Some(login) = self.login(loaded, &config) else { return false };
        let requests = match read(&self.clusters).get(&config.name) {
            Some(handle) if handle.config == config && handle.login == login => return false,
            Some(handle) => handle.requests(),
            None => return false,
        };
        let (reply, done) = oneshot::channel();
        let request = Request::Reconfigure { config: Box::new(config.clone()), login: login.clone(), reply };
        if requests.send(request).await.is_ok()
            && done.await.is_ok()
            && let Some(handle) = write(&self.clusters).get_mut(&config.name)
        {
            (handle.config, handle.login) = (config, login);
        }
        true
    }

    fn alarm(&self, cluster: Option<ClusterName>, kind: AlarmKind, message: &str) {
        write(&self.config_alarms).push((cluster, Alarm { kind, message: message.to_owned() }));
    }

    fn record(&self, kind: &'static str, message: String) {
        self.shared.journal.record(None, Entry { kind, message, data: Vec::new() });
    }
}

/// The file that a cluster was read from.
fn path_of<'a>(loaded: &'a Loaded, config: &ClusterConfig) -> Option<&'a PathBuf> {
    loaded.files.iter().find(|(_, name)| **name == config.name).map(|(path, _)| path)
}
