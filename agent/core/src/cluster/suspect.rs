//! What traffic gives reason to ask about. Nothing is decided here: what a suspicion is worth, the servers say.

use std::net::SocketAddr;
use std::time::Duration;

use super::Cluster;
use super::event::{Action, Entry};
use crate::Mono;
use crate::signal::{Sign, Suspicion};

/// The same sign of the same server is put into the history again after this.
const TOLD_AGAIN: Duration = Duration::from_secs(10);

/// The last suspicion that was put into the history.
#[derive(Clone, Debug)]
pub(super) struct Suspected {
    at: Mono,
    sign: Sign,
    words: String,
}

impl Cluster {
    /// Has all servers asked: what the others say of one that is silent is needed as well. Not for one that is not healthy as
    /// it is, which is known, and asked about as often as there is need.
    pub(super) fn suspect(&mut self, suspicion: Suspicion, now: Mono, actions: &mut Vec<Action>) {
        let server = suspicion.backend;
        if self.servers.get(&server).is_none_or(|health| health.failure().is_some()) {
            return;
        }
        actions.push(Action::Hasten);
        let told = self.suspected.get(&server);
        if told.is_some_and(|told| told.sign == suspicion.sign && now.since(told.at) < TOLD_AGAIN) {
            return;
        }
        let words = suspicion.to_string();
        let mut data = vec![("server", server.to_string()), ("listener", suspicion.listener.to_string())];
        if let Some(awaited) = suspicion.awaited {
            data.push(("awaited_ms", awaited.as_millis().to_string()));
        }
        actions.push(Action::Record(Entry {
            kind: "suspected",
            message: format!("{words}: the servers are asked at once"),
            data,
        }));
        self.suspected.insert(server, Suspected { at: now, sign: suspicion.sign, words });
    }

    /// What a server is suspected of, in words, until it has answered a question that was asked after that.
    pub(super) fn suspicion(&self, server: SocketAddr) -> Option<String> {
        let told = self.suspected.get(&server)?;
        let answered = self.servers.get(&server)?.asked_at().is_some_and(|asked| asked > told.at);
        (!answered).then(|| told.words.clone())
    }
}
