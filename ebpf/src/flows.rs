//! The flow table as the agent sees it: read, walked through, and cleared by the programs at its word. Whoever has a clone has it for itself: a walk
//! through a million flows makes no commit wait.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use shunt_ebpf_common::flow::{Flow, Tuple, state};
use shunt_ebpf_common::manage::{Command, MAX_COMMANDS};

use crate::orders::packet;
use crate::sys::{self, Place};
use crate::walk::Walk;

#[derive(Clone)]
pub struct FlowTable {
    map: Arc<OwnedFd>,
    entries: u32,
    manage: Arc<OwnedFd>,
}

/// Both directions of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Both {
    /// The key of the client's direction.
    pub tuple: Tuple,
    pub client: Flow,
    /// `None`: it is being made, or taken away.
    pub server: Option<Flow>,
}

impl FlowTable {
    /// The map must be one of tuples and flows, with room for `entries`; the program is that which takes orders.
    pub(crate) fn new(map: OwnedFd, entries: u32, manage: OwnedFd) -> Self {
        Self { map: Arc::new(map), entries, manage: Arc::new(manage) }
    }

    /// How many flows fit.
    pub fn room(&self) -> u64 {
        u64::from(self.entries / 2)
    }

    pub fn get(&self, key: &Tuple) -> io::Result<Option<Flow>> {
        sys::get(self.map.as_fd(), key)
    }

    /// The connection of which this is the client's direction.
    pub fn both(&self, tuple: Tuple, client: Flow) -> io::Result<Both> {
        Ok(Both { tuple, client, server: self.get(&client.rewritten.reversed())? })
    }

    /// Has commands carried out; how many were. A flow that is not, or no more, what a command says is left alone: a client
    /// can have begun anew from the same port.
    pub fn manage(&self, commands: &[Command]) -> io::Result<u64> {
        let mut done = 0;
        for commands in commands.chunks(MAX_COMMANDS) {
            done += u64::from(sys::run(self.manage.as_fd(), &packet(commands))?);
        }
        Ok(done)
    }

    /// A walk from the beginning.
    pub fn walk(&self) -> Walk<Tuple, Flow> {
        self.walk_from(None)
    }

    pub fn walk_from(&self, place: Option<Place>) -> Walk<Tuple, Flow> {
        Walk::new(Arc::clone(&self.map), self.entries, place)
    }
}

/// Whether these are a client's packets.
pub const fn is_clients(flow: &Flow) -> bool {
    flow.state & state::FROM_CLIENT != 0
}
