//! Builds the BPF programs of `ebpf/programs`, and knows what that takes: a compiler with the source of the core library
//! (nobody ships a compiled one for BPF) and bpf-linker, linked with an LLVM that reads what the compiler writes.
//!
//! Used by the build script of `shunt-ebpf` and by `cargo xtask setup`, so that both look in the same places.

mod compiler;
mod linker;

use std::fmt;
use std::path::{Path, PathBuf};
use std::process::Command;

pub use compiler::Compiler;
pub use linker::{LLVMS, Linker, VERSION as LINKER_VERSION};

/// A pair that builds BPF programs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Toolchain {
    pub compiler: Compiler,
    pub linker: Linker,
}

impl Toolchain {
    /// The first compiler that has a linker to match: the user's own before the distribution's.
    pub fn find() -> Result<Self, Missing> {
        let compilers = Compiler::all();
        let linker = Linker::find();
        let Some(first) = compilers.first() else { return Err(Missing::Compiler) };
        let Some(linker) = linker else { return Err(Missing::Linker { llvm: first.llvm }) };
        match compilers.iter().find(|compiler| linker.reads(compiler)) {
            Some(compiler) => Ok(Self { compiler: compiler.clone(), linker }),
            None => Err(Missing::Linker { llvm: first.llvm }),
        }
    }
}

/// What a machine lacks to build BPF programs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Missing {
    /// No compiler with the source of its library.
    Compiler,
    /// No bpf-linker that reads what this LLVM writes.
    Linker { llvm: u32 },
}

impl fmt::Display for Missing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (major, minor) = compiler::OLDEST;
        match self {
            Self::Compiler => write!(
                f,
                "there is no rustc from {major}.{minor} on with the source of its library \
                 (rustup component add rust-src, or Debian's rustc-web and rust-web-src)"
            ),
            Self::Linker { llvm } => write!(
                f,
                "there is no bpf-linker {VERSION} for LLVM {llvm} (install llvm-{llvm}-dev, then: \
                 LLVM_PREFIX=/usr/lib/llvm-{llvm} cargo install bpf-linker --version {VERSION} \
                 --no-default-features --features llvm-{llvm})",
                VERSION = linker::VERSION,
            ),
        }
    }
}

/// Builds the programs; the folder of their objects. `target` is a folder that is kept: the core library is compiled into it
/// once, which takes most of a minute. Cargo itself rebuilds only what has changed.
pub fn build(toolchain: &Toolchain, programs: &Path, target: &Path) -> Result<PathBuf, String> {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(programs).args(["build", "--release", "--locked", "-Z", "build-std=core"]);
    command.args(["--target", TRIPLE, "--target-dir"]).arg(target);
    // Within a build script cargo has set these for the host's compiler, and for its own flags.
    for name in ["RUSTC_WORKSPACE_WRAPPER", "RUSTC_WRAPPER", "RUSTFLAGS", "CARGO_ENCODED_RUSTFLAGS", "RUSTDOC"] {
        command.env_remove(name);
    }
    // Without it neither cargo nor a stable compiler builds a library of its own.
    command.env("RUSTC", &toolchain.compiler.rustc).env("RUSTC_BOOTSTRAP", "1");
    command.env("CARGO_TARGET_BPFEL_UNKNOWN_NONE_LINKER", &toolchain.linker.program);
    let output = command.output().map_err(|error| format!("cannot run cargo: {error}"))?;
    if !output.status.success() {
        return Err(format!(
            "{} in {} failed ({}):\n{}",
            "cargo build",
            programs.display(),
            output.status,
            String::from_utf8_lossy(&output.stderr)
        ));
    }
    Ok(target.join(TRIPLE).join("release"))
}

/// Little-endian BPF, as all machines are that shunt is built for.
const TRIPLE: &str = "bpfel-unknown-none";
