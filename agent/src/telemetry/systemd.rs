//! sd_notify(3): READY, STATUS and the watchdog. Without NOTIFY_SOCKET all of it does nothing.

use std::sync::Arc;
use std::time::Duration;

use sd_notify::NotifyState;
use shunt_core::cluster::ListenerState;

use crate::driver::Agent;

/// STATUS= is renewed this often even where there is no watchdog.
const STATUS_EVERY: Duration = Duration::from_secs(5);

/// The first reconcile is done.
pub async fn ready(agent: &Agent) {
    notify(&[NotifyState::Ready, NotifyState::Status(&status_line(agent).await)]);
}

pub fn reloading() {
    notify(&[NotifyState::Status("reloading")]);
}

pub fn stopping() {
    notify(&[NotifyState::Stopping, NotifyState::Status("stopping; the mappings stay in the kernel")]);
}

/// Renews STATUS=, and feeds the watchdog for as long as every part of the agent gets round to its work.
pub async fn watch(agent: Arc<Agent>) {
    let mut limit = 0;
    let has_watchdog = sd_notify::watchdog_enabled(false, &mut limit);
    let every = if has_watchdog { (Duration::from_micros(limit) / 3).min(STATUS_EVERY) } else { STATUS_EVERY };
    let mut timer = tokio::time::interval(every);
    loop {
        timer.tick().await;
        if agent.is_alive(every).await {
            notify(&[NotifyState::Watchdog, NotifyState::Status(&status_line(&agent).await)]);
        } else {
            tracing::error!("a part of the agent does not get round to its work: the watchdog is not fed");
            notify(&[NotifyState::Status("a part of the agent does not answer")]);
        }
    }
}

/// `3 clusters, 4 listeners open, 1 fenced, 2 alarms`.
async fn status_line(agent: &Agent) -> String {
    let statuses = agent.statuses().await;
    let listeners = || statuses.iter().flat_map(|s| &s.listeners);
    let open = listeners().filter(|l| l.state == ListenerState::Open).count();
    let fenced = listeners().count() - open;
    let alarms = statuses.iter().map(|s| s.alarms.len()).sum::<usize>() + agent.alarms().len();
    format!("{} clusters, {open} listeners open, {fenced} fenced, {alarms} alarms", statuses.len())
}

fn notify(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(false, states) {
        tracing::warn!(%error, "systemd could not be notified");
    }
}
