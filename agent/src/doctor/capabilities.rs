//! Whether this process may do what the agent does: capabilities(7), and raw sockets in fact, which a security module or
//! a filter of system calls may forbid in spite of the capability.

use nix::sys::socket::{AddressFamily, SockFlag, SockProtocol, SockType, socket};

use super::{Finding, Level};
use crate::config::DatapathKind;

const CHECK: &str = "capabilities";
/// From linux/capability.h; those that only the eBPF datapath needs come last. PERFMON lets programs compute with pointers,
/// which the verifier refuses to others.
const NEEDED: [(u32, &str); 4] = [(12, "CAP_NET_ADMIN"), (13, "CAP_NET_RAW"), (39, "CAP_BPF"), (38, "CAP_PERFMON")];

pub fn check(datapath: DatapathKind) -> Finding {
    let needed = match datapath {
        DatapathKind::Nft => &NEEDED[..2],
        DatapathKind::Ebpf => &NEEDED[..],
    };
    let found = match std::fs::read_to_string("/proc/self/status") {
        Ok(status) => judge(&status, needed),
        Err(error) => Finding::warning(CHECK, format!("cannot read /proc/self/status: {error}"), "mount /proc"),
    };
    if found.level == Level::Problem {
        return found;
    }
    match open_raw_sockets() {
        Ok(()) => found,
        Err(error) => Finding::problem(
            CHECK,
            format!("no raw socket can be opened, though CAP_NET_RAW is there: {error}"),
            "idle connections to an old primary could not be ended: look for a security module, or a filter of system calls, that forbids it",
        ),
    }
}

fn open_raw_sockets() -> nix::Result<()> {
    for family in [AddressFamily::Inet, AddressFamily::Inet6] {
        socket(family, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::Raw)?;
    }
    Ok(())
}

fn judge(status: &str, needed: &[(u32, &str)]) -> Finding {
    let effective = status
        .lines()
        .find_map(|line| line.strip_prefix("CapEff:"))
        .and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok())
        .unwrap_or(0);
    let (there, missing): (Vec<_>, Vec<_>) = needed.iter().partition(|(bit, _)| effective & (1 << bit) != 0);
    let named = |some: Vec<(u32, &str)>| some.into_iter().map(|(_, name)| name).collect::<Vec<_>>().join(" and ");
    if missing.is_empty() {
        return Finding::ok(CHECK, format!("{} are there", named(there)));
    }
    Finding::problem(
        CHECK,
        format!("{} missing", named(missing)),
        "run this as root; the agent gets them from shunt.service",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_capability_is_named() {
        let (nft, ebpf) = (&NEEDED[..2], &NEEDED[..]);
        assert_eq!(judge("Name:\tx\nCapEff:\t000001ffffffffff\n", ebpf).level, Level::Ok);
        let found = judge("CapEff:\t0000000000001000\n", nft);
        assert_eq!((found.level, found.what.as_str()), (Level::Problem, "CAP_NET_RAW missing"));
        assert_eq!(judge("CapEff:\t0000000000003000\n", nft).level, Level::Ok);
        assert_eq!(judge("CapEff:\t0000000000003000\n", ebpf).what, "CAP_BPF and CAP_PERFMON missing");
        assert_eq!(judge("", nft).level, Level::Problem);
    }
}
