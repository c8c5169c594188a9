//! Blocking single flows of a spared backend, and letting them go on.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Instant;

use shunt_core::flow::Tuple;

use super::plan::Plan;
use super::{Listener, State};

impl State {
    /// Blocks these flows. The error names the first whose listener spares no backend: there is no rule that could stop it.
    pub fn block(&self, flows: &[Tuple], now: Instant) -> Result<Plan, String> {
        let mut after: BTreeMap<SocketAddr, Option<Listener>> = BTreeMap::new();
        for flow in flows {
            let spares = |listener: &&Listener| listener.spared.is_some();
            let Some(listener) = self.listeners.get(&flow.listener).filter(spares) else {
                let Tuple { client, listener } = flow;
                return Err(format!(
                    "the flow {client} → {listener} cannot be blocked: its listener spares no backend"
                ));
            };
            let next = after.entry(flow.listener).or_insert_with(|| Some(listener.clone()));
            if let Some(next) = next {
                next.blocked.insert(flow.client);
            }
        }
        Ok(self.changed(after, now))
    }

    /// Lets these flows go on, as far as they are blocked.
    pub fn unblock(&self, flows: &[Tuple], now: Instant) -> Plan {
        let mut after: BTreeMap<SocketAddr, Option<Listener>> = BTreeMap::new();
        for flow in flows {
            let Some(listener) = self.listeners.get(&flow.listener) else { continue };
            let next = after.entry(flow.listener).or_insert_with(|| Some(listener.clone()));
            if let Some(next) = next {
                next.blocked.remove(&flow.client);
            }
        }
        self.changed(after, now)
    }

    /// The way to `after`, as far as it is another state.
    fn changed(&self, mut after: BTreeMap<SocketAddr, Option<Listener>>, now: Instant) -> Plan {
        after.retain(|address, listener| self.listeners.get(address) != listener.as_ref());
        self.transition(after, now)
    }
}
