//! bpf-linker: turns the compiler's bitcode into a BPF object.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::Compiler;

/// The version that is known to work with the programs.
pub const VERSION: &str = "0.13.0";

/// The LLVMs that it can be linked with.
pub const LLVMS: [u32; 3] = [21, 22, 23];

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Linker {
    pub program: PathBuf,
    /// The LLVM that it is linked with, as far as that can be told.
    pub llvm: Option<u32>,
}

impl Linker {
    /// The one on the PATH, or where `cargo install` puts it.
    pub fn find() -> Option<Self> {
        let path = std::env::var_os("PATH").unwrap_or_default();
        let home = std::env::var_os("CARGO_HOME").map(PathBuf::from);
        let home = home.or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".cargo")));
        let folders = std::env::split_paths(&path).chain(home.map(|home| home.join("bin")));
        folders.map(|folder| folder.join("bpf-linker")).filter(|program| program.is_file()).find_map(|p| Self::ask(&p))
    }

    fn ask(program: &Path) -> Option<Self> {
        let output = Command::new(program).arg("--version").output().ok().filter(|output| output.status.success())?;
        let llvm = llvm_of(program);
        String::from_utf8_lossy(&output.stdout).contains("bpf-linker").then(|| Self { program: program.into(), llvm })
    }

    /// LLVM reads the bitcode of its own version and of older ones.
    pub fn reads(&self, compiler: &Compiler) -> bool {
        self.llvm.is_none_or(|llvm| compiler.llvm <= llvm)
    }
}

/// It does not tell; the dynamic linker does.
fn llvm_of(program: &Path) -> Option<u32> {
    let output = Command::new("ldd").arg(program).output().ok()?;
    parse(&String::from_utf8_lossy(&output.stdout))
}

/// From `libLLVM.so.22.1 => /usr/lib/…` or, of older packages, `libLLVM-22.so.1 => …`.
fn parse(text: &str) -> Option<u32> {
    let name = text.split_whitespace().find_map(|word| word.strip_prefix("libLLVM"))?;
    let digits = name.trim_start_matches(|c: char| !c.is_ascii_digit());
    digits.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_linker_is_of_the_llvm_that_it_loads() {
        assert_eq!(parse("\tlibLLVM.so.22.1 => /lib/x86_64-linux-gnu/libLLVM.so.22.1 (0x00)\n"), Some(22));
        assert_eq!(parse("\tlibLLVM-19.so.1 => /lib/x86_64-linux-gnu/libLLVM-19.so.1 (0x00)\n"), Some(19));
        assert_eq!(parse("\tstatically linked\n"), None);
    }
}
