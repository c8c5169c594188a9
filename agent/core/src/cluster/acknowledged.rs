//! What semi-synchronous replication proves at the moment of a death.

use std::collections::BTreeSet;
use std::net::SocketAddr;

use super::health::Health;
use super::view::View;

/// Every commit that a client was told of was received by `wait_count` of these.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Proof {
    pub wait_count: u32,
    pub acknowledgers: BTreeSet<SocketAddr>,
}

/// The proof that the primary's last answers give, if they do.
pub fn acknowledged_by(view: View<'_>, primary: SocketAddr) -> Option<Proof> {
    let semi = view.servers.get(&primary).and_then(Health::state)?.semi_sync?;
    if !(semi.source_enabled && semi.source_active && semi.clients >= semi.wait_count) {
        return None;
    }
    let acknowledgers: BTreeSet<_> = view
        .servers
        .iter()
        .filter(|&(&s, _)| s != primary)
        .filter(|(_, h)| h.state().and_then(|s| s.semi_sync).is_some_and(|semi| semi.replica_enabled))
        .map(|(&s, _)| s)
        .collect();
    (acknowledgers.len() >= semi.clients as usize).then_some(Proof { wait_count: semi.wait_count, acknowledgers })
}
