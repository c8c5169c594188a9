//! Where a datapath keeps what it holds in the kernel, by which it is found again.

use std::fmt;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::config::{AgentConfig, DatapathKind};

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "datapath", rename_all = "snake_case")]
pub enum Place {
    /// The private table's name.
    Nft { table: String },
    /// The folder of a bpf file system that holds the folders of network namespaces.
    Ebpf { pins: PathBuf },
}

impl Place {
    /// That of the datapath that the configuration names.
    pub fn of(settings: &AgentConfig) -> Self {
        match settings.datapath {
            DatapathKind::Nft => Self::Nft { table: settings.table.clone() },
            DatapathKind::Ebpf => Self::Ebpf { pins: settings.pins.clone() },
        }
    }

    /// Where a datapath of either kind is by this configuration, or by default.
    pub fn all(settings: &AgentConfig) -> [Self; 2] {
        [Self::Nft { table: settings.table.clone() }, Self::Ebpf { pins: settings.pins.clone() }]
    }

    pub const fn kind(&self) -> DatapathKind {
        match self {
            Self::Nft { .. } => DatapathKind::Nft,
            Self::Ebpf { .. } => DatapathKind::Ebpf,
        }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Nft { table } => write!(f, "table inet {table}"),
            Self::Ebpf { pins } => write!(f, "the eBPF datapath pinned in {}", pins.display()),
        }
    }
}
