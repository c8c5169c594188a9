//! `cargo xtask clean`: removes namespaces, processes and files of runs whose process is dead.

use shunt_tests::scratch;

pub fn run() {
    let swept = scratch::sweep();
    for name in &swept.namespaces {
        println!("removed namespace {name}");
    }
    for folder in &swept.folders {
        println!("removed {}", folder.display());
    }
    if swept.namespaces.is_empty() && swept.folders.is_empty() {
        println!("nothing is left of earlier runs");
    }
}
