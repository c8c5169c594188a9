//! The operator's hooks: programs and URLs that an operation asks (`fence`, `before_promote`: their failure stops it) and
//! that are told what happened (`after_failover`, `notify`: their failure is reported, and that is all).
//!
//! Who is told waits in a queue of its own hook, in order, and stands in nobody's way.

mod run;
mod trust;
mod webhook;

#[cfg(test)]
mod tests;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use shunt_core::cluster::Entry;
use shunt_core::operation::{Cause, Hook as Ordered, Notice, Report, TaskError};
use tokio::sync::mpsc;
use tokio::time::Instant;

use crate::config::{Call, Hook, Hooks as Configured, Webhook};
use webhook::Delivery;

/// The four hooks there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Which {
    Fence,
    BeforePromote,
    AfterFailover,
    Notify,
}

impl Which {
    pub const ALL: [Self; 4] = [Self::Fence, Self::BeforePromote, Self::AfterFailover, Self::Notify];

    /// As the configuration names it.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Fence => "fence",
            Self::BeforePromote => "before_promote",
            Self::AfterFailover => "after_failover",
            Self::Notify => "notify",
        }
    }

    const fn of(self, configured: &Configured) -> Option<&Hook> {
        match self {
            Self::Fence => configured.fence.as_ref(),
            Self::BeforePromote => configured.before_promote.as_ref(),
            Self::AfterFailover => configured.after_failover.as_ref(),
            Self::Notify => configured.notify.as_ref(),
        }
    }

    /// Whether a hook that is told, not asked, hears of that.
    fn hears(self, notice: &Notice) -> bool {
        match self {
            Self::Fence | Self::BeforePromote => false,
            Self::AfterFailover => matches!(notice.event.as_str(), "failover_done" | "switchover_done"),
            Self::Notify => true,
        }
    }
}

impl From<Ordered> for Which {
    fn from(hook: Ordered) -> Self {
        match hook {
            Ordered::Fence => Self::Fence,
            Ordered::BeforePromote => Self::BeforePromote,
        }
    }
}

/// A hook that did not do its work.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failed {
    pub which: Which,
    pub notice: Notice,
    pub error: HookError,
}

impl Failed {
    /// As a line of history of the notice's cluster.
    pub fn entry(&self) -> Entry {
        let mut data = vec![("hook", self.which.word().to_owned()), ("event", self.notice.event.clone())];
        if !self.notice.op.is_empty() {
            data.push(("operation", self.notice.op.clone()));
        }
        if !self.error.output.is_empty() {
            data.push(("output", self.error.output.clone()));
        }
        let message =
            format!("the hook `{}` failed on {}: {}", self.which.word(), self.notice.event, self.error.message);
        Entry { kind: "hook_failed", message, data }
    }
}

/// Why a hook did not do its work.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct HookError {
    pub cause: Cause,
    pub message: String,
    /// The last that the program said, or what a web server answered.
    pub output: String,
    /// Asked again later, it might well do it.
    passing: bool,
}

impl HookError {
    fn new(cause: Cause, message: impl Into<String>) -> Self {
        Self { cause, message: message.into(), output: String::new(), passing: cause != Cause::Refused }
    }
}

/// How often each hook was run since the agent started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Count {
    pub done: u64,
    pub failed: u64,
}

/// A notice that is to be given to a web server that does not take it is tried again after these pauses.
const PAUSES: [Duration; 3] = [Duration::from_secs(1), Duration::from_secs(5), Duration::from_secs(25)];
/// So many notices may wait for one hook. What comes on top is not told, and that is reported.
const QUEUE: usize = 1024;

/// The way to the hooks. Clones share everything.
#[derive(Clone)]
pub struct Hooks {
    shared: Arc<Shared>,
    after_failover: mpsc::Sender<Notice>,
    notify: mpsc::Sender<Notice>,
}

struct Shared {
    configured: RwLock<Configured>,
    pauses: [Duration; 3],
    failed: Box<dyn Fn(Failed) + Send + Sync>,
    counts: [[AtomicU64; 2]; 4],
}

impl Hooks {
    /// Begins, within a tokio runtime. `failed` hears of every hook that fails, and must not block.
    pub fn start(configured: Configured, failed: impl Fn(Failed) + Send + Sync + 'static) -> Self {
        Self::start_with(configured, PAUSES, failed)
    }

    fn start_with(
        configured: Configured,
        pauses: [Duration; 3],
        failed: impl Fn(Failed) + Send + Sync + 'static,
    ) -> Self {
        let configured = RwLock::new(configured);
        let shared = Arc::new(Shared { configured, pauses, failed: Box::new(failed), counts: Default::default() });
        let queue = |which| {
            let (sender, inbox) = mpsc::channel(QUEUE);
            tokio::spawn(tell_all(shared.clone(), which, inbox));
            sender
        };
        Self { after_failover: queue(Which::AfterFailover), notify: queue(Which::Notify), shared }
    }

    /// Takes a changed configuration; what runs goes on as it was.
    pub fn configure(&self, configured: Configured) {
        *self.shared.configured.write().unwrap_or_else(PoisonError::into_inner) = configured;
    }

    /// Asks a hook whose success an operation needs, for `within` at most. That there is none by now is a failure: the
    /// operation counts on it.
    pub async fn run(&self, hook: Ordered, notice: &Notice, within: Duration) -> Result<Report, TaskError> {
        let which = Which::from(hook);
        let result = match self.shared.configured(which) {
            Some(configured) => self.shared.ask(&configured, notice, within).await,
            None => Err(HookError::new(Cause::Refused, "it is not in the configuration any more")),
        };
        self.shared.settle(which, notice, result).map(|()| Report::Done).map_err(|error| {
            let said = error.output.trim();
            let said = if said.is_empty() { String::new() } else { format!(" (it said: {})", last_line(said)) };
            TaskError { cause: error.cause, message: format!("the {} failed: {}{said}", hook.word(), error.message) }
        })
    }

    /// Tells those hooks that are only told, when it is their turn.
    pub fn tell(&self, notice: Notice) {
        for (which, queue) in [(Which::AfterFailover, &self.after_failover), (Which::Notify, &self.notify)] {
            if !which.hears(&notice) || self.shared.configured(which).is_none() {
                continue;
            }
            if let Err(error) = queue.try_send(notice.clone()) {
                let why = match error {
                    mpsc::error::TrySendError::Full(_) => format!("{QUEUE} notices wait for it already"),
                    mpsc::error::TrySendError::Closed(_) => "the agent is about to end".to_owned(),
                };
                let failure = Err(HookError::new(Cause::Unreachable, format!("it was not told: {why}")));
                // Settled, which reports and counts it.
                let _ = self.shared.settle(which, &notice, failure);
            }
        }
    }

    pub fn counts(&self) -> [(Which, Count); 4] {
        Which::ALL.map(|which| {
            let [done, failed] = &self.shared.counts[which as usize];
            (which, Count { done: done.load(Ordering::Relaxed), failed: failed.load(Ordering::Relaxed) })
        })
    }
}

/// Gives a hook its notices, one after the other, until nobody can send any more.
async fn tell_all(shared: Arc<Shared>, which: Which, mut inbox: mpsc::Receiver<Notice>) {
    while let Some(notice) = inbox.recv().await {
        // It may have gone from the configuration while the notice waited.
        let Some(hook) = shared.configured(which) else { continue };
        let result = match &hook.call {
            Call::Command(line) => run::command(line, &notice, hook.timeout).await,
            Call::Webhook(webhook) => shared.post(webhook, &notice, hook.timeout, None).await,
        };
        // Settled, which reports and counts it.
        let _ = shared.settle(which, &notice, result);
    }
}

impl Shared {
    fn configured(&self, which: Which) -> Option<Hook> {
        which.of(&self.configured.read().unwrap_or_else(PoisonError::into_inner)).cloned()
    }

    async fn ask(&self, hook: &Hook, notice: &Notice, within: Duration) -> Result<(), HookError> {
        match &hook.call {
            Call::Command(line) => run::command(line, notice, hook.timeout.min(within)).await,
            Call::Webhook(webhook) => {
                self.post(webhook, notice, hook.timeout.min(within), Some(Instant::now() + within)).await
            }
        }
    }

    /// Posts until it is taken: as often as there are pauses, and not beyond `until`.
    async fn post(
        &self,
        webhook: &Webhook,
        notice: &Notice,
        timeout: Duration,
        until: Option<Instant>,
    ) -> Result<(), HookError> {
        let delivery = Delivery::new(webhook, notice)?;
        let mut tries = 1;
        let mut pauses = self.pauses.iter();
        loop {
            let left = until.map_or(timeout, |until| timeout.min(until.saturating_duration_since(Instant::now())));
            let Err(error) = webhook::post(webhook, &delivery, left).await else { return Ok(()) };
            let next = pauses.next().map(|pause| Instant::now() + *pause);
            match next.filter(|next| error.passing && until.is_none_or(|until| *next < until)) {
                Some(next) => tokio::time::sleep_until(next).await,
                None if tries == 1 => return Err(error),
                None => {
                    return Err(HookError { message: format!("{}, after {tries} tries", error.message), ..error });
                }
            }
            tries += 1;
        }
    }

    fn settle(&self, which: Which, notice: &Notice, result: Result<(), HookError>) -> Result<(), HookError> {
        let failed = usize::from(result.is_err());
        self.counts[which as usize][failed].fetch_add(1, Ordering::Relaxed);
        result.inspect_err(|error| (self.failed)(Failed { which, notice: notice.clone(), error: error.clone() }))
    }
}

fn last_line(text: &str) -> &str {
    text.lines().next_back().unwrap_or(text)
}
