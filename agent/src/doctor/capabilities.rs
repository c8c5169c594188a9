//! Whether this process may do what the agent does: capabilities(7).

use super::Finding;

const CHECK: &str = "capabilities";
/// From linux/capability.h.
const NEEDED: [(u32, &str); 2] = [(12, "CAP_NET_ADMIN"), (13, "CAP_NET_RAW")];

pub fn check() -> Finding {
    match std::fs::read_to_string("/proc/self/status") {
        Ok(status) => judge(&status),
        Err(error) => Finding::warning(CHECK, format!("cannot read /proc/self/status: {error}"), "mount /proc"),
    }
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
    use crate::doctor::Level;

    #[test]
    fn a_missing_capability_is_named() {
        assert_eq!(judge("Name:\tx\nCapEff:\t000001ffffffffff\n").level, Level::Ok);
        let found = judge("CapEff:\t0000000000001000\n");
        assert_eq!((found.level, found.what.as_str()), (Level::Problem, "CAP_NET_RAW missing"));
        assert_eq!(judge("").level, Level::Problem);
    }
}
