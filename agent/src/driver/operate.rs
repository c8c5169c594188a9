//! A cluster's operations: written down, started, ended, and what an operator asks of them.

use shunt_core::cluster::{Action, Entry, Event, Refusal, Remembered};
use shunt_core::config::ClusterConfig;
use shunt_core::operation::{Ending, Intent, OpId, Operation, Order, Outcast, Outcome};

use super::cluster::{ClusterTask, Reply, Served, error_chain};
use super::journal::JournalError;
use crate::clock::Clock;
use crate::control::api::{Problem, ProblemCode, SCHEMA_VERSION};
use crate::store::{Pause, Store, StoreError};

/// What could not be written down yet. It is tried again before anything else is written.
#[derive(Default)]
pub(super) struct Owed {
    end: Option<(Box<Operation>, Ending)>,
    outcasts: Option<Vec<Outcast>>,
    /// Why nobody goes on with what cannot be read.
    abandon: Option<String>,
}

impl Owed {
    pub(super) const fn is_some(&self) -> bool {
        self.end.is_some() || self.outcasts.is_some() || self.abandon.is_some()
    }
}

impl ClusterTask {
    /// The journal first, the tasks second.
    pub(super) async fn begin(&mut self, operation: Box<Operation>, orders: Vec<Order>) -> Event {
        let serial = operation.serial;
        if let Err(error) = self.pay_debts().await {
            return Event::NotBegun { serial, error };
        }
        let (name, at_ms) = (self.name.clone(), self.shared.clock.unix_ms_now());
        super::crash::point("journal", operation.step.word());
        let word = operation.step.word();
        let written = self.shared.journal.with(move |store| store.begin_step(&name, &operation, at_ms)).await;
        if let Err(error) = written {
            return Event::NotBegun { serial, error: error_chain(&error) };
        }
        super::crash::point("step", word);
        self.start(orders);
        Event::Begun { serial }
    }

    pub(super) fn start(&mut self, orders: Vec<Order>) {
        self.tasks.start(orders, self.machine.epoch().0);
    }

    pub(super) async fn end(&mut self, operation: Box<Operation>, ending: Ending) {
        self.shared.counters.operated(self.name.as_str(), operation.kind, ending.outcome);
        self.owed.end = Some((operation, ending));
        self.pay().await;
    }

    pub(super) async fn keep_outcasts(&mut self, outcasts: Vec<Outcast>) {
        self.owed.outcasts = Some(outcasts);
        self.pay().await;
    }

    /// Tries to write down what is owed; a disk that is full is tried again with the next step.
    pub(super) async fn pay(&mut self) {
        if let Err(error) = self.pay_debts().await {
            tracing::error!(cluster = %self.name, error, "an operation could not be written down; it is tried again");
        }
    }

    async fn pay_debts(&mut self) -> Result<(), String> {
        if let Some(outcasts) = self.owed.outcasts.clone() {
            let name = self.name.clone();
            let written = self.shared.journal.with(move |store| store.keep_outcasts(&name, &outcasts)).await;
            written.map_err(|error| error_chain(&error))?;
            self.owed.outcasts = None;
        }
        if let Some(why) = self.owed.abandon.clone() {
            let (name, message, at_ms) = (self.name.clone(), why.clone(), self.shared.clock.unix_ms_now());
            let ended = self.shared.journal.with(move |store| store.abandon_unfinished(&name, &message, at_ms)).await;
            if let Some(op) = ended.map_err(|error| error_chain(&error))? {
                self.shared.journal.record(Some(&self.name), abandoned(op, &why));
            }
            self.owed.abandon = None;
        }
        if let Some((operation, ending)) = self.owed.end.clone() {
            let (name, at_ms) = (self.name.clone(), self.shared.clock.unix_ms_now());
            let written =
                self.shared.journal.with(move |store| store.end_operation(&name, &operation, &ending, at_ms)).await;
            match written {
                // It was written before, or is not the journal's: there is nothing more to write.
                Ok(()) | Err(JournalError::Store(StoreError::Stale { .. })) => {}
                Err(error) => return Err(error_chain(&error)),
            }
            self.owed.end = None;
        }
        Ok(())
    }

    /// What an operator asks for: refused, or begun and under way.
    pub(super) fn operate(&mut self, intent: Intent) -> (Vec<Action>, Result<OpId, Problem>) {
        if let Some(refusal) = self.machine.refusal(&intent, self.now()) {
            return (Vec::new(), Err(problem(refusal)));
        }
        let actions = self.handle(Event::Operate(intent));
        (actions, Ok(self.machine.last_operation()))
    }

    /// Why a pin has to wait.
    pub(super) fn busy(&self) -> Option<Problem> {
        self.machine.busy(self.now()).map(problem)
    }

    /// Takes back what is under way. That no verdict begins it anew is written down before anything is done.
    pub(super) async fn abort(&mut self, by: String, reply: Reply) -> Served {
        if let Some(refusal) = self.machine.abort_refusal() {
            return Served { actions: Vec::new(), answer: Some((reply, Err(problem(refusal)))), done: None };
        }
        let (pauses, was_sealed) = (self.machine.pauses_on_abort(), self.machine.is_sealed());
        let saved = if pauses { self.keep_from_beginning_anew(&by).await } else { Ok(()) };
        if saved.is_ok() {
            self.put_aside_unreadable(format!("aborted by {by}")).await;
        }
        let what = match self.machine.status(self.now()).operation {
            Some(operation) => format!("{} {} of {}", operation.kind.word(), operation.id, self.name),
            None => format!("the operation of {} that cannot be read", self.name),
        };
        let how = if was_sealed { "is put aside" } else { "is taken back, as far as the old primary can be reached" };
        let mut done = format!("{what} {how}: aborted by {by}; `shunt events {}` tells how it ends", self.name);
        if pauses {
            let name = &self.name;
            done.push_str(&format!(
                "\n{name} is paused, or the next one would begin at once: `shunt resume {name}` ends that"
            ));
        }
        self.answer(saved, done, reply, Event::Abort { by })
    }

    async fn keep_from_beginning_anew(&self, by: &str) -> Result<(), JournalError> {
        let (since_ms, reason) = (self.shared.clock.unix_ms_now(), format!("aborted by {by}"));
        let pause = Pause { cluster: self.name.clone(), until_ms: None, reason, since_ms, by: by.to_owned() };
        self.shared.journal.with(move |store| store.pause(&pause)).await
    }

    /// Ends, in the journal, the operation that nobody can read, if there is one. Until that is written, it is owed: a
    /// restarted agent would find the operation, and stay fenced.
    pub(super) async fn put_aside_unreadable(&mut self, why: String) {
        if self.machine.is_sealed() {
            self.owed.abandon = Some(why);
            self.pay().await;
        }
    }
}

fn problem(refusal: Refusal) -> Problem {
    let code = if refusal.is_misuse { ProblemCode::BadRequest } else { ProblemCode::RefusedByRule };
    Problem { schema_version: SCHEMA_VERSION, code, error: refusal.error, hint: refusal.hint, details: None }
}

/// A line of history: nobody goes on with it, and whether all of it was done is not known.
pub(super) fn abandoned(op: OpId, why: &str) -> Entry {
    let (state, outcome) = ("ended".to_owned(), Outcome::Failed.word().to_owned());
    let data = vec![("op", op.to_string()), ("state", state), ("outcome", outcome)];
    Entry { kind: "operation", message: format!("operation {op} was abandoned: {why}"), data }
}

/// Adds to what is remembered of a cluster what its operations left.
pub(super) fn remember_operations(
    store: &Store,
    clock: Clock,
    config: &ClusterConfig,
    memory: &mut Remembered,
) -> Result<(), StoreError> {
    memory.last_operation = store.last_operation(&config.name)?;
    memory.outcasts = store.outcasts(&config.name)?;
    match store.unfinished(&config.name) {
        Ok(operation) => memory.operation = operation,
        Err(error @ StoreError::UnreadableOperation { .. }) => memory.unreadable = Some(error_chain(&error)),
        Err(error) => return Err(error),
    }
    memory.cooldown_until = store.last_failover_ended_ms(&config.name)?.map(|ended| {
        let cooldown = i64::try_from(config.cooldown.as_millis()).unwrap_or(i64::MAX);
        // Whatever the machine's clock did meanwhile: never longer than a whole cooldown from now.
        clock.at_unix_ms(ended.saturating_add(cooldown)).min(clock.now() + config.cooldown)
    });
    Ok(())
}
