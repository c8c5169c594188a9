//! How far a connection has come, and how long its entries may stay when nothing is said. Pure.

use std::time::Duration;

use shunt_core::flow::Phase;
use shunt_ebpf_common::flow::state;

use crate::clock::nanoseconds;
use crate::flows::Both;

/// `None`: it is over, and its ports may be used again.
pub fn phase(flow: &Both) -> Option<Phase> {
    let server = flow.server.map_or(0, |server| server.state);
    if flow.client.state & state::CLOSED != 0 {
        None
    } else if (flow.client.state | server) & state::FINISHED != 0 {
        Some(Phase::Closing)
    } else if flow.client.state & state::ACKNOWLEDGED != 0 {
        Some(Phase::Established)
    } else {
        Some(Phase::Opening)
    }
}

/// When one of its ends last said something, in nanoseconds of boot time.
pub fn seen(flow: &Both) -> u64 {
    flow.server.map_or(0, |server| server.seen).max(flow.client.seen)
}

/// How long nothing is said before the flow is forgotten, in nanoseconds: as long as conntrack waits by default
/// (nf_conntrack_tcp_timeout_*), but for flows that are over (`closed`): their ports are needed again.
pub fn patience(flow: &Both, closed: Duration) -> u64 {
    nanoseconds(match phase(flow) {
        None => closed,
        Some(Phase::Opening) => Duration::from_secs(60),
        Some(Phase::Closing) => Duration::from_secs(120),
        Some(Phase::Established) => Duration::from_secs(5 * 86_400),
    })
}
