//! Whether this kernel runs the programs of the eBPF datapath, proved by loading them.

use super::Finding;

const CHECK: &str = "eBPF";

#[cfg(feature = "ebpf")]
pub fn check() -> Finding {
    use crate::driver::error_chain;

    match shunt_ebpf::try_out() {
        Ok(instructions) => Finding::ok(
            CHECK,
            format!("the kernel's verifier takes the programs ({instructions} instructions, attached to nothing)"),
        ),
        Err(error) => Finding::note(
            CHECK,
            error_chain(&error).lines().next().unwrap_or_default(),
            "nothing for now: the datapath is nftables; eBPF wants Linux 6.7 or newer, CAP_BPF and CAP_NET_ADMIN",
        ),
    }
}

#[cfg(not(feature = "ebpf"))]
pub fn check() -> Finding {
    Finding::note(CHECK, "this shunt is built without the eBPF datapath", "nothing for now: the datapath is nftables")
}
