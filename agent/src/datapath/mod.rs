//! The datapath that the configuration names, and never another one in its place. Whoever drives it sees
//! [`Datapath`] and [`Notices`]; what differs between the kinds beyond that is here.

mod change;
#[cfg(feature = "ebpf")]
pub mod ebpf;
#[cfg(not(feature = "ebpf"))]
#[path = "without_ebpf.rs"]
mod ebpf;
mod nft;
mod place;

use std::io;
use std::net::SocketAddr;
use std::path::Path;

use shunt_core::cluster::{Alarm, AlarmKind};
use shunt_core::datapath::{Datapath, DatapathError, Usage};
use shunt_rules::ForeignNat;
use tokio::io::unix::AsyncFd;

pub use change::{Change, everywhere};
pub use place::Place;

use crate::config::{AgentConfig, DatapathKind};

/// A datapath that is open.
pub struct Opened {
    pub datapath: Box<dyn Datapath>,
    pub notices: Notices,
    /// The datapaths that were taken out of the kernel for it.
    pub changes: Vec<Change>,
}

/// Why a datapath could not be opened.
#[derive(Debug, thiserror::Error)]
#[error("{what}")]
pub struct OpenError {
    /// Such as `the eBPF datapath cannot be opened`.
    what: String,
    #[source]
    source: DatapathError,
    /// What to do about it.
    pub hint: String,
}

impl OpenError {
    /// Whether another agent has it open.
    pub const fn is_in_use(&self) -> bool {
        matches!(self.source, DatapathError::InUse { .. })
    }

    /// Whether another version of shunt made what is there, and this one cannot read it.
    pub const fn is_of_another_version(&self) -> bool {
        matches!(self.source, DatapathError::OtherVersion(_))
    }
}

/// Says when somebody else has changed what the datapath lives in.
pub enum Notices {
    Nft(AsyncFd<shunt_rules::Notices>),
    /// Nothing says so: who looks again and again finds it.
    None,
}

impl Notices {
    /// Waits for the kernel's notices and reads them: whether any is of somebody else's change.
    pub async fn others_changed(&mut self) -> io::Result<bool> {
        match self {
            Self::Nft(notices) => {
                let mut ready = notices.readable_mut().await?;
                let changed = ready.get_inner_mut().others_changed();
                ready.clear_ready();
                changed
            }
            Self::None => std::future::pending().await,
        }
    }
}

/// Opens the datapath that the configuration names and adopts what it holds. Another one of this agent's or of this network
/// namespace's goes first, with its connections. `state` is where it is remembered which one is in use.
pub async fn open(settings: &AgentConfig, state: &Path) -> Result<Opened, OpenError> {
    let (settings, state) = (settings.clone(), state.to_path_buf());
    let opening = tokio::task::spawn_blocking(move || {
        let place = Place::of(&settings);
        if matches!(place, Place::Ebpf { .. }) {
            ebpf::check(&settings)?;
        }
        let open = || match &place {
            Place::Nft { table } => nft::open(table),
            Place::Ebpf { .. } => Ok((ebpf::open(&settings)?, Notices::None)),
        };
        let changes = change::settle(&settings, &state, || open().map(drop))?;
        let (datapath, notices) = open()?;
        Ok(Opened { datapath, notices, changes })
    });
    match opening.await {
        Ok(opened) => opened,
        Err(panicked) => std::panic::resume_unwind(panicked.into_panic()),
    }
}

/// What the datapath of that place holds for this network namespace, to take it away; `None`: nothing.
pub fn leftover(place: &Place) -> Result<Option<Box<dyn Datapath>>, OpenError> {
    match place {
        Place::Nft { table } => nft::leftover(table),
        Place::Ebpf { pins } => ebpf::leftover(pins),
    }
}

/// Takes away what another version of the programs has pinned there, which this one cannot read: as it is, without telling
/// the ends of connections.
pub fn purge_unread(place: &Place) -> Result<(), DatapathError> {
    match place {
        Place::Nft { .. } => Ok(()),
        Place::Ebpf { pins } => ebpf::purge_unread(pins),
    }
}

/// Rules of somebody else's that may take a listener's connections before the datapath sees them.
pub fn foreign_nat(settings: &AgentConfig, listeners: &[SocketAddr]) -> Result<Vec<ForeignNat>, DatapathError> {
    match settings.datapath {
        DatapathKind::Nft => shunt_rules::foreign_nat(&settings.table, listeners),
        // Its programs run before any hook of netfilter.
        DatapathKind::Ebpf => Ok(Vec::new()),
    }
}

/// The alarm that the table of connections fills up.
pub fn filling(kind: DatapathKind, usage: &Usage) -> Alarm {
    let Usage { flows, flows_max, .. } = *usage;
    let (kind, table, cure) = match kind {
        DatapathKind::Nft => (
            AlarmKind::ConntrackFilling,
            "conntrack",
            "dropped: raise net.netfilter.nf_conntrack_max (see `shunt doctor`)",
        ),
        DatapathKind::Ebpf => (
            AlarmKind::FlowTableFilling,
            "the flow table",
            "refused: raise `max_flows` in [agent] of shunt.toml, which takes a `shunt purge`",
        ),
    };
    let message = format!(
        "{table} is {} % full: {} of {} entries; once it is full, new connections are {cure}",
        flows * 100 / flows_max.max(1),
        thousands(flows),
        thousands(flows_max),
    );
    Alarm { kind, message }
}

/// What to say of a table that has another size than is configured: it was made by an earlier configuration.
pub fn other_size(settings: &AgentConfig, usage: &Usage) -> Option<String> {
    let (is, wanted) = (usage.flows_max, u64::from(settings.max_flows));
    let differs = settings.datapath == DatapathKind::Ebpf && is > 0 && is != wanted;
    differs.then(|| {
        let (is, wanted) = (thousands(is), thousands(wanted));
        format!("the flow table has room for {is} connections, not for max_flows = {wanted}, until it is purged and made anew")
    })
}

/// `262144` as `262,144`.
pub fn thousands(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}
