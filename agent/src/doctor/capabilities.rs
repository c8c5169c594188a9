//! Whether this process may do what the agent does: capabilities(7), and raw sockets in fact, which a security module or
//! a filter of system calls may forbid in spite of the capability.

use nix::sys::socket::{AddressFamily, SockFlag, SockProtocol, SockType, socket};

use super::{Finding, Level};

const CHECK: &str = "capabilities";
/// From linux/capability.h.
const NEEDED: [(u32, &str); 2] = [(12, "CAP_NET_ADMIN"), (13, "CAP_NET_RAW")];

pub fn check() -> Finding {
    let found = match std::fs::read_to_string("/proc/self/status") {
        Ok(status) => judge(&status),
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

fn judge(status: &str) -> Finding {
    let effective = status
        .lines()
        .find_map(|line| line.strip_prefix("CapEff:"))
        .and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok())
        .unwrap_or(0);
    let missing: Vec<_> = NEEDED.iter().filter(|(bit, _)| effective & (1 << bit) == 0).map(|(_, name)| *name).collect();
    if missing.is_empty() {
        return Finding::ok(CHECK, "CAP_NET_ADMIN and CAP_NET_RAW are there");
    }
    Finding::problem(
        CHECK,
        format!("{} missing", missing.join(" and ")),
        "run this as root; the agent gets them from shunt.service",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_capability_is_named() {
        assert_eq!(judge("Name:\tx\nCapEff:\t000001ffffffffff\n").level, Level::Ok);
        let found = judge("CapEff:\t0000000000001000\n");
        assert_eq!((found.level, found.what.as_str()), (Level::Problem, "CAP_NET_RAW missing"));
        assert_eq!(judge("").level, Level::Problem);
    }
}
