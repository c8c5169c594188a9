//! What the BPF programs are built with. A compiler of the user's own with the source of its library is preferred; else
//! Debian's pair of packages comes by apt. The linker is built by cargo, with the LLVM of that compiler.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};
use shunt_ebpf_build::{Compiler, LINKER_VERSION, LLVMS, Missing, Toolchain};

use super::apt;
use crate::{cargo, talk};

/// What is to be got.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Wanted {
    pub packages: Vec<String>,
    /// Whether bpf-linker is to be built.
    pub linker: bool,
    /// Why it cannot be had here, and what would help.
    pub unavailable: Option<String>,
}

impl Wanted {
    pub fn find() -> Self {
        let Err(missing) = Toolchain::find() else { return Self::default() };
        // A compiler without a library for its LLVM is no better than none.
        if let Missing::Linker { .. } = missing
            && let Some(llvm) = usable_llvm()
        {
            let package = llvm_config(llvm).is_none().then(|| llvm_package(llvm));
            return Self { packages: package.into_iter().collect(), linker: true, unavailable: None };
        }
        match debians_pair() {
            Some((names, llvm)) => {
                let mut packages = names;
                packages.extend(llvm_config(llvm).is_none().then(|| llvm_package(llvm)));
                Self { packages, linker: true, unavailable: None }
            }
            None => Self { unavailable: Some(missing.to_string()), ..Self::default() },
        }
    }

    /// Whether apt's lists are so old that it may be had after all: the pair of a stable release comes with its updates.
    pub fn asks_anew(&self) -> bool {
        self.unavailable.is_some() && apt::lists_are_old()
    }

    /// What is to be got by lists that are not old; as root.
    pub fn asked_anew(self) -> Result<Self> {
        if !self.asks_anew() {
            return Ok(self);
        }
        apt::refresh()?;
        Ok(Self::find())
    }
}

/// The LLVM of the first compiler that a linker can be built for.
fn usable_llvm() -> Option<u32> {
    let can =
        |llvm: &u32| LLVMS.contains(llvm) && (llvm_config(*llvm).is_some() || apt::has_candidate(&llvm_package(*llvm)));
    Compiler::all().iter().map(|compiler| compiler.llvm).find(can)
}

fn llvm_package(llvm: u32) -> String {
    format!("llvm-{llvm}-dev")
}

/// Where Debian keeps that LLVM's library and headers.
fn llvm_config(llvm: u32) -> Option<PathBuf> {
    let prefix = PathBuf::from(format!("/usr/lib/llvm-{llvm}"));
    let headers = prefix.join("include/llvm-c/Core.h");
    (prefix.join("bin/llvm-config").is_file() && headers.is_file()).then_some(prefix)
}

/// A compiler with its source, as Debian has them, and the LLVM that it comes with: the newer pair is the one that
/// browsers are built with.
fn debians_pair() -> Option<(Vec<String>, u32)> {
    for [compiler, source] in [["rustc-web", "rust-web-src"], ["rustc", "rust-src"]] {
        let llvm = apt::dependencies(compiler).iter().filter_map(|name| libllvm(name)).max();
        if let Some(llvm) = llvm
            && LLVMS.contains(&llvm)
            && apt::has_candidate(source)
            && (llvm_config(llvm).is_some() || apt::has_candidate(&llvm_package(llvm)))
        {
            return Some((vec![compiler.to_owned(), source.to_owned()], llvm));
        }
    }
    None
}

/// `libllvm22` is LLVM 22, `libllvm19t64` 19.
fn libllvm(package: &str) -> Option<u32> {
    package.strip_prefix("libllvm")?.trim_end_matches("t64").parse().ok()
}

/// Builds the linker, when the compiler is there.
pub fn get_linker() -> Result<()> {
    let llvm = match Toolchain::find() {
        Ok(_) => return Ok(()),
        Err(Missing::Linker { .. }) => usable_llvm().context("no compiler here writes what a bpf-linker could read")?,
        Err(missing) => bail!("{missing}"),
    };
    let prefix = llvm_config(llvm).with_context(|| format!("{} is not installed", llvm_package(llvm)))?;
    build_linker(llvm, &prefix)?;
    Toolchain::find().map(drop).map_err(|missing| anyhow::anyhow!("bpf-linker is built, and yet {missing}"))
}

fn build_linker(llvm: u32, prefix: &Path) -> Result<()> {
    let feature = format!("llvm-{llvm}");
    let mut command: Command = cargo::command(&["install", "--locked", "--force", "bpf-linker"]);
    command.args(["--version", LINKER_VERSION, "--no-default-features", "--features", &feature]);
    command.env("LLVM_PREFIX", prefix);
    talk::step(&format!("building bpf-linker for LLVM {llvm}"), || talk::quietly(&mut command).map(drop))
}

/// What there is, in a line.
pub fn status() -> String {
    match Toolchain::find() {
        Ok(Toolchain { compiler, linker }) => format!(
            "BPF      {} {}.{}, {}",
            compiler.rustc.display(),
            compiler.version.0,
            compiler.version.1,
            linker.program.display()
        ),
        Err(missing) => format!("BPF      cannot be built here: {missing}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_number_of_an_llvm_is_in_its_packages_name() {
        assert_eq!(libllvm("libllvm22"), Some(22));
        assert_eq!(libllvm("libllvm19t64"), Some(19));
        assert_eq!(libllvm("libllvm-22-ocaml-dev"), None);
        assert_eq!(libllvm("libc6"), None);
    }
}
