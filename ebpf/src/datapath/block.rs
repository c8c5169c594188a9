//! Flows that are stopped for a moment, and packets that come in once more: what blocked clients have sent, and the SYNs of
//! held ones. The programs keep both; when they may go on is the agent's to say.

use std::collections::HashSet;
use std::fmt::Display;
use std::net::SocketAddr;

use shunt_core::datapath::DatapathError;
use shunt_core::flow::Tuple;
use shunt_ebpf_common::flow::{Flow, mark};
use shunt_ebpf_common::kept::Frame;
use shunt_ebpf_common::manage::{Command, what};
use shunt_wire::kernel;

use super::{EbpfDatapath, Loaded};
use crate::flows::is_clients;
use crate::{ends, grace};

impl EbpfDatapath {
    pub(super) fn stop(&mut self, flows: &[Tuple]) -> Result<(), DatapathError> {
        let spares = |flow: &&Tuple| self.state.listeners.get(&flow.listener).is_some_and(|one| one.spared.is_some());
        if let Some(Tuple { client, listener }) = flows.iter().find(|flow| !spares(flow)) {
            let why = "its listener spares no backend";
            return Err(DatapathError::Unsupported(format!("the flow {client} → {listener} cannot be blocked: {why}")));
        }
        let Some(loaded) = &self.loaded else { return Ok(()) };
        loaded.order(flows, what::BLOCK)?;
        self.blocked.extend(flows);
        grace::wait();
        Ok(())
    }

    pub(super) fn let_go(&mut self, flows: &[Tuple]) -> Result<(), DatapathError> {
        let blocked: Vec<Tuple> = flows.iter().filter(|flow| self.blocked.remove(flow)).copied().collect();
        let Some(loaded) = self.loaded.as_mut().filter(|_| !blocked.is_empty()) else { return Ok(()) };
        loaded.order(&blocked, what::UNBLOCK)?;
        let keys = blocked.iter().map(ends::key).collect();
        let played =
            self.namespace.inside(|| loaded.play(&"flows that were blocked", |loaded| loaded.tables.take_kept(&keys)));
        played.map_err(kernel("enter the datapath's network namespace"))
    }

    /// Lets those flows go on whose listener spares nobody any more. The programs say whether they live.
    pub(super) fn let_unspared_go(&mut self) -> Result<(), DatapathError> {
        let spares = |flow: &&Tuple| self.state.listeners.get(&flow.listener).is_some_and(|one| one.spared.is_some());
        let unspared: Vec<Tuple> = self.blocked.iter().filter(|flow| !spares(flow)).copied().collect();
        self.let_go(&unspared)
    }

    /// These flows end: what they have sent is of no use to anybody.
    pub(super) fn forget_kept(&mut self, flows: &[Tuple]) -> Result<(), DatapathError> {
        let Some(loaded) = &mut self.loaded else { return Ok(()) };
        let ended: HashSet<_> = flows.iter().filter(|flow| self.blocked.remove(flow)).map(ends::key).collect();
        if !ended.is_empty() {
            loaded.tables.take_kept(&ended)?;
        }
        Ok(())
    }

    /// Stops those again that somebody let go on. What was amiss.
    pub(super) fn restore_blocked(&self) -> Result<Vec<String>, DatapathError> {
        let Some(loaded) = &self.loaded else { return Ok(Vec::new()) };
        let mut gone_on = Vec::new();
        for flow in &self.blocked {
            if loaded.client(flow)?.is_some_and(|entry| entry.marks & mark::BLOCKED == 0) {
                gone_on.push(*flow);
            }
        }
        if gone_on.is_empty() {
            return Ok(Vec::new());
        }
        loaded.order(&gone_on, what::BLOCK)?;
        grace::wait();
        let told =
            |Tuple { client, listener }: &Tuple| format!("the flow {client} → {listener} was not stopped any more");
        Ok(gone_on.iter().map(told).collect())
    }

    /// Takes over what a former agent has stopped.
    pub(super) fn adopt_blocked(&mut self) -> Result<(), DatapathError> {
        let Some(loaded) = &self.loaded else { return Ok(()) };
        let blocked = &mut self.blocked;
        let walked = loaded.tables.flow_table().walk().each(|key, flow| {
            if is_clients(flow) && flow.marks & mark::BLOCKED != 0 {
                blocked.insert(ends::flow(key));
            }
        });
        walked.map_err(kernel("read the flow table"))
    }

    /// Lets the SYNs come in once more that wait for these listeners.
    pub(super) fn let_in(&mut self, listeners: &[SocketAddr]) -> Result<(), DatapathError> {
        let Some(loaded) = self.loaded.as_mut().filter(|_| !listeners.is_empty()) else { return Ok(()) };
        let played = self.namespace.inside(|| {
            for listener in listeners {
                if let Some(seat) = loaded.slots.listener(*listener) {
                    loaded.play(listener, |loaded| loaded.tables.take_held(seat));
                }
            }
        });
        played.map_err(kernel("enter the datapath's network namespace"))
    }
}

impl Loaded {
    pub(super) fn order(&self, flows: &[Tuple], what: u32) -> Result<(), DatapathError> {
        let command = |flow: &Tuple| Command { flow: ends::key(flow), what, ..Command::default() };
        let commands: Vec<Command> = flows.iter().map(command).collect();
        // A flow that is not there has ended meanwhile.
        self.tables.flow_table().manage(&commands).map(drop).map_err(kernel("stop flows, end them or let them go on"))
    }

    /// The client's entry of a flow, if it may pass.
    pub(super) fn client(&self, flow: &Tuple) -> Result<Option<Flow>, DatapathError> {
        let found = self.tables.flow_table().get(&ends::key(flow)).map_err(kernel("read the flow table"))?;
        Ok(found.filter(|entry| is_clients(entry) && self.live.is_live(entry)))
    }

    /// To be called in the datapath's network namespace. Whatever fails, TCP sends it again.
    fn play<const N: usize>(
        &mut self,
        of: &dyn Display,
        take: impl FnOnce(&mut Self) -> Result<Vec<Frame<N>>, crate::Error>,
    ) {
        let frames = match take(self) {
            Ok(frames) => frames,
            Err(error) => {
                tracing::warn!(%error, %of, "cannot take out what was kept to be played again");
                return;
            }
        };
        for frame in frames {
            match self.object.replay(&frame) {
                Ok(true) => {}
                Ok(false) => tracing::debug!(%of, "the interface of a packet that was kept is gone"),
                Err(error) => tracing::warn!(%error, %of, "a packet that was kept cannot be played again"),
            }
        }
    }
}
