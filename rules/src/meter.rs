//! Reads what the datapath carries, over a socket of its own: nothing here makes a commit wait.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::ops::ControlFlow;

use shunt_core::datapath::{DatapathError, Meter, Refused, Usage};
use shunt_core::flow::{Flow, FlowFilter};

use crate::conntrack::Conntrack;
use crate::transaction::kernel;

/// The meter of one network namespace: that of the thread that opened it.
pub struct NftMeter {
    conntrack: Conntrack,
}

impl NftMeter {
    pub fn open() -> io::Result<Self> {
        Ok(Self { conntrack: Conntrack::open()? })
    }
}

impl Meter for NftMeter {
    fn connections(&mut self, listeners: &[SocketAddr]) -> Result<BTreeMap<SocketAddr, u64>, DatapathError> {
        self.conntrack.count(listeners.iter().copied()).map_err(kernel("count conntrack's entries"))
    }

    fn flows(
        &mut self,
        _filter: &FlowFilter,
        _each: &mut dyn FnMut(Flow) -> ControlFlow<()>,
    ) -> Result<(), DatapathError> {
        Err(DatapathError::Unsupported("flows cannot be listed yet".to_owned()))
    }

    fn usage(&mut self, _listeners: &[SocketAddr]) -> Result<Usage, DatapathError> {
        Err(DatapathError::Unsupported("usage cannot be told yet".to_owned()))
    }

    fn refused(&mut self) -> Result<BTreeMap<SocketAddr, Refused>, DatapathError> {
        Err(DatapathError::Unsupported("refused connections are not counted yet".to_owned()))
    }
}
