//! Any frame, read by the programs' code, by the agent's and by etherparse: they must agree.

#![no_main]

#[path = "../../common/tests/agreement/mod.rs"]
mod agreement;

use libfuzzer_sys::fuzz_target;

fuzz_target!(|frame: &[u8]| agreement::agree(frame));
