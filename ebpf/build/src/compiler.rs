//! Compilers that can build a core library of their own.

use std::path::{Path, PathBuf};
use std::process::Command;

/// What aya's crates and edition 2024 ask for.
pub const OLDEST: (u32, u32) = (1, 88);

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Compiler {
    pub rustc: PathBuf,
    pub version: (u32, u32),
    /// The number of the LLVM that it writes bitcode with.
    pub llvm: u32,
}

impl Compiler {
    /// Those that will do, the best first: the one that builds the rest, the user's other toolchains, the distribution's.
    pub fn all() -> Vec<Self> {
        let mut programs: Vec<PathBuf> = std::env::var_os("RUSTC").into_iter().map(PathBuf::from).collect();
        programs.push("rustc".into());
        programs.extend(rustups());
        programs.push("/usr/bin/rustc".into());
        let mut found: Vec<Self> = Vec::new();
        for compiler in programs.iter().filter_map(|program| Self::ask(program)) {
            if !found.contains(&compiler) {
                found.push(compiler);
            }
        }
        found
    }

    /// `None` if it is not there, too old, or has no source of its library.
    fn ask(rustc: &Path) -> Option<Self> {
        let said = |args: &[&str]| -> Option<String> {
            let output = Command::new(rustc).args(args).output().ok().filter(|output| output.status.success())?;
            String::from_utf8(output.stdout).ok()
        };
        let sysroot = PathBuf::from(said(&["--print", "sysroot"])?.trim());
        if !sysroot.join("lib/rustlib/src/rust/library/core/Cargo.toml").is_file() {
            return None;
        }
        let (version, llvm) = parse(&said(&["--version", "--verbose"])?)?;
        // Not the name that rustup answers to: it would choose anew by the folder it is run in.
        let own = sysroot.join("bin/rustc");
        let rustc = if own.is_file() { own } else { rustc.to_path_buf() };
        (version >= OLDEST).then_some(Self { rustc, version, llvm })
    }
}

/// The compilers of all toolchains that rustup has installed.
fn rustups() -> Vec<PathBuf> {
    let home = std::env::var_os("RUSTUP_HOME")
        .map(PathBuf::from)
        .or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".rustup")));
    let entries = home.and_then(|home| std::fs::read_dir(home.join("toolchains")).ok()).into_iter().flatten().flatten();
    let mut programs: Vec<PathBuf> = entries.map(|entry| entry.path().join("bin/rustc")).collect();
    programs.sort();
    programs
}

/// From `rustc --version --verbose`: `release: 1.96.0`, `LLVM version: 22.1.8`.
fn parse(text: &str) -> Option<((u32, u32), u32)> {
    let field = |name: &str| text.lines().find_map(|line| line.strip_prefix(name));
    let mut release = field("release: ")?.split(['.', '-']);
    let version = (release.next()?.parse().ok()?, release.next()?.parse().ok()?);
    let llvm = field("LLVM version: ")?.split('.').next()?.parse().ok()?;
    Some((version, llvm))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_compiler_tells_its_version_and_its_llvms() {
        let text = "rustc 1.98.0-nightly (d595fce93 2026-06-11)\nbinary: rustc\nhost: x86_64-unknown-linux-gnu\n\
                    release: 1.98.0-nightly\nLLVM version: 22.1.6\n";
        assert_eq!(parse(text), Some(((1, 98), 22)));
    }
}
