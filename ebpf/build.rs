//! Builds the programs and hands their object to the crate, which carries it within; and that of the benchmark's floor to
//! the example `drive`.

use std::path::{Path, PathBuf};
use std::{env, fs};

use shunt_ebpf_build::Toolchain;

fn main() {
    let here = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").unwrap_or_default());
    let out = PathBuf::from(env::var_os("OUT_DIR").unwrap_or_default());
    for path in ["programs/src", "programs/Cargo.toml", "programs/Cargo.lock", "common/src", "common/Cargo.toml"] {
        println!("cargo::rerun-if-changed={}", here.join(path).display());
    }
    if let Err(error) = embed(&here, &out) {
        println!("cargo::error=the eBPF programs cannot be built: {}", error.replace('\n', "\ncargo::error="));
        println!("cargo::error=`cargo xtask setup` gets what it takes; `--no-default-features` builds shunt without");
    }
}

fn embed(here: &Path, out: &Path) -> Result<(), String> {
    let toolchain = Toolchain::find().map_err(|missing| missing.to_string())?;
    // target/debug/build/shunt-ebpf-…/out: beside the profiles, so that all of them share one core library. Cargo holds
    // no lock on it.
    let target = out.ancestors().nth(4).ok_or_else(|| format!("{} is in no target folder", out.display()))?;
    let objects = shunt_ebpf_build::build(&toolchain, &here.join("programs"), &target.join("bpf"))?;
    for (object, name) in [("shunt-ebpf-programs", "programs"), ("floor", "floor")] {
        let object = objects.join(object);
        fs::copy(&object, out.join(name)).map_err(|error| format!("{}: {error}", object.display()))?;
    }
    Ok(())
}
