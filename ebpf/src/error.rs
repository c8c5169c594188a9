//! Why the programs could not be loaded, attached or adopted.

use std::io;
use std::path::PathBuf;

use aya::EbpfError;
use aya::maps::MapError;
use aya::programs::ProgramError;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("cannot load the eBPF programs")]
    Load(#[source] Box<EbpfError>),
    #[error("cannot {what}")]
    Program {
        /// Such as `attach shunt_ingress to eth0`.
        what: String,
        #[source]
        source: Box<ProgramError>,
    },
    #[error("cannot {what}")]
    Map {
        what: String,
        #[source]
        source: Box<MapError>,
    },
    #[error("cannot {what}")]
    Kernel {
        what: String,
        #[source]
        source: io::Error,
    },
    #[error(
        "{path} holds maps of ABI version {found}; this shunt speaks version {ours} and converts version 2: run the version \
         that made them, or `shunt purge`, which ends the connections"
    )]
    Abi { path: PathBuf, found: u32, ours: u32 },
    #[error("{path} is not in a bpf file system (mount -t bpf bpf /sys/fs/bpf)")]
    NoBpffs { path: PathBuf },
    #[error("this kernel is older than {oldest}")]
    OldKernel { oldest: &'static str },
    #[error("the object has no {0}")]
    Missing(&'static str),
}

impl Error {
    pub(crate) fn program(what: impl Into<String>, source: impl Into<ProgramError>) -> Self {
        Self::Program { what: what.into(), source: Box::new(source.into()) }
    }

    pub(crate) fn map(what: impl Into<String>, source: impl Into<MapError>) -> Self {
        Self::Map { what: what.into(), source: Box::new(source.into()) }
    }

    pub(crate) fn kernel(what: impl Into<String>, source: impl Into<io::Error>) -> Self {
        Self::Kernel { what: what.into(), source: source.into() }
    }
}
