//! Strict reverse-path filtering (RFC 3704) drops what comes in by another interface than the answer would leave by.

use super::{Finding, number};

const CHECK: &str = "rp_filter";

pub fn check() -> Vec<Finding> {
    let Ok(interfaces) = std::fs::read_dir("/proc/sys/net/ipv4/conf") else { return Vec::new() };
    let all = number("/proc/sys/net/ipv4/conf/all/rp_filter").unwrap_or(0);
    let mut strict: Vec<String> = interfaces
        .flatten()
        .filter(|entry| !matches!(entry.file_name().to_str(), Some("all" | "default" | "lo")))
        // The kernel takes the larger of the two (ip-sysctl).
        .filter(|entry| number(entry.path().join("rp_filter")).unwrap_or(0).max(all) == 1)
        .filter_map(|entry| entry.file_name().into_string().ok())
        .collect();
    strict.sort();
    if strict.is_empty() {
        return vec![Finding::ok(CHECK, "no interface filters reverse paths strictly")];
    }
    vec![Finding::note(
        CHECK,
        format!("reverse paths are filtered strictly on {}", strict.join(", ")),
        "fine as long as clients and servers are reached by the interface that their packets come in by; else set it to 2",
    )]
}
