//! Whether this kernel runs the programs of the eBPF datapath, proved by loading them, and what else it takes. A problem only
//! if it is the datapath that the configuration names.

use super::Finding;
use crate::config::{AgentConfig, DatapathKind};

const CHECK: &str = "eBPF";
#[cfg(feature = "ebpf")]
const PINS: &str = "eBPF pins";
#[cfg(feature = "ebpf")]
const INTERFACES: &str = "interfaces";

#[cfg(feature = "ebpf")]
pub fn check(agent: &AgentConfig) -> Vec<Finding> {
    use shunt_core::datapath::DatapathError;

    use crate::datapath::ebpf;
    use crate::driver::error_chain;

    let is_wanted = agent.datapath == DatapathKind::Ebpf;
    let lacking = |check, what: String, advice: &str| {
        if is_wanted {
            return Finding::problem(check, what, advice);
        }
        Finding::note(check, what, format!("nothing: the datapath is nftables. For `datapath = \"ebpf\"`: {advice}"))
    };
    let first_line = |error: &dyn std::error::Error| error_chain(error).lines().next().unwrap_or_default().to_owned();
    let mut found = vec![match shunt_ebpf::try_out() {
        Ok(instructions) => Finding::ok(
            CHECK,
            format!("the kernel's verifier takes the programs ({instructions} instructions, attached to nothing)"),
        ),
        Err(error @ shunt_ebpf::Error::OldKernel { .. }) => lacking(
            CHECK,
            error.to_string(),
            "a kernel of Linux 6.7 or newer: TCX came with 6.6, source addresses from the host's routing with 6.7",
        ),
        Err(error) => lacking(
            CHECK,
            first_line(&error),
            "Linux 6.7 or newer, CAP_BPF, CAP_NET_ADMIN and CAP_PERFMON, and no security module that forbids bpf(2)",
        ),
    }];
    let pins = agent.pins.display();
    found.push(match ebpf::in_bpf_file_system(&agent.pins) {
        Ok(()) => Finding::ok(PINS, format!("{pins} is in a bpf file system")),
        Err(error @ DatapathError::Unsupported(_)) => lacking(
            PINS,
            first_line(&error),
            "mount it (systemd does so by itself; a container needs it from its host), or name another folder with `pins`",
        ),
        Err(error) => lacking(PINS, first_line(&error), "run this as root"),
    });
    match ebpf::interfaces() {
        Ok(there) => found.extend(ebpf::absent(&agent.interfaces, &there).map(|what| {
            lacking(
                INTERFACES,
                what,
                "correct `interfaces` in [agent] of shunt.toml: the agent does not start until they are there",
            )
        })),
        Err(error) => {
            found.push(lacking(INTERFACES, first_line(&error), "allow this user a netlink socket (AF_NETLINK)"));
        }
    }
    found
}

#[cfg(not(feature = "ebpf"))]
pub fn check(agent: &AgentConfig) -> Vec<Finding> {
    debug_assert!(agent.datapath == DatapathKind::Nft, "the configuration refuses the other one");
    vec![Finding::note(CHECK, "this shunt is built without the eBPF datapath", "nothing: the datapath is nftables")]
}
