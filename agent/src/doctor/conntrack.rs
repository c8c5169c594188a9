//! Every connection through a listener is an entry of conntrack's table; when that is full, new ones are dropped.

use super::{Finding, number};

const CHECK: &str = "conntrack";
const MAX: &str = "/proc/sys/net/netfilter/nf_conntrack_max";
const COUNT: &str = "/proc/sys/net/netfilter/nf_conntrack_count";
const LOOSE: &str = "/proc/sys/net/netfilter/nf_conntrack_tcp_loose";
const ACCT: &str = "/proc/sys/net/netfilter/nf_conntrack_acct";
const TIMESTAMP: &str = "/proc/sys/net/netfilter/nf_conntrack_timestamp";
const BUCKETS: &str = "/proc/sys/net/netfilter/nf_conntrack_buckets";
/// Below this a few hundred busy application hosts are enough to fill it.
const ROOMY: u64 = 65_536;

pub fn check() -> Vec<Finding> {
    let (Some(max), Some(count)) = (number(MAX), number(COUNT)) else {
        return vec![Finding::problem(
            CHECK,
            "conntrack is not there (no nf_conntrack_max)",
            "load the module nf_conntrack; a container needs a network namespace of its own or the host's",
        )];
    };
    // Namespaces other than the first show no buckets of their own.
    let mut found = judge(max, count, number(BUCKETS));
    if number(LOOSE) == Some(0) {
        found.push(Finding::warning(
            CHECK,
            "nf_conntrack_tcp_loose is 0",
            "a connection that conntrack has forgotten then hangs instead of being reset: set net.netfilter.nf_conntrack_tcp_loose = 1",
        ));
    }
    found.extend(bookkeeping(number(ACCT), number(TIMESTAMP)));
    found
}

/// What `shunt flows` cannot show because the kernel does not keep it.
fn bookkeeping(acct: Option<u64>, timestamp: Option<u64>) -> Option<Finding> {
    let off = |setting: Option<u64>| setting != Some(1);
    let (settings, columns) = match (off(acct), off(timestamp)) {
        (false, false) => return None,
        (true, false) => ("nf_conntrack_acct is", "bytes"),
        (false, true) => ("nf_conntrack_timestamp is", "age"),
        (true, true) => ("nf_conntrack_acct and nf_conntrack_timestamp are", "bytes and age"),
    };
    Some(Finding::note(
        CHECK,
        format!("{settings} off: `shunt flows` cannot show a connection's {columns}"),
        "set them to 1 under net.netfilter (sysctl.d/50-shunt.conf); it counts for connections from then on",
    ))
}

fn judge(max: u64, count: u64, buckets: Option<u64>) -> Vec<Finding> {
    let mut found = Vec::new();
    let room = "raise net.netfilter.nf_conntrack_max (sysctl.d/50-shunt.conf); an entry takes about 300 bytes";
    if count * 10 >= max * 7 {
        found.push(Finding::problem(
            CHECK,
            format!("{count} of {max} entries are taken; when it is full, new connections are dropped"),
            room,
        ));
    } else if max < ROOMY {
        found.push(Finding::warning(CHECK, format!("nf_conntrack_max is only {max}"), room));
    } else {
        found.push(Finding::ok(CHECK, format!("{count} of {max} entries are taken")));
    }
    if let Some(buckets) = buckets
        && max > buckets * 8
    {
        found.push(Finding::warning(
            CHECK,
            format!("{max} entries share {buckets} buckets, so look-ups get slow when it fills"),
            "raise net.netfilter.nf_conntrack_buckets to a quarter of nf_conntrack_max",
        ));
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::Level;

    #[test]
    fn a_table_that_is_small_filling_or_crowded_is_said_to_be_so() {
        let levels = |max, count, buckets| judge(max, count, buckets).iter().map(|f| f.level).collect::<Vec<_>>();
        assert_eq!(levels(262_144, 100, Some(65_536)), [Level::Ok]);
        assert_eq!(levels(262_144, 200_000, None), [Level::Problem]);
        assert_eq!(levels(8_192, 100, None), [Level::Warning]);
        assert_eq!(levels(1_000_000, 100, Some(16_384)), [Level::Ok, Level::Warning]);
    }

    #[test]
    fn what_flows_cannot_show_is_a_note_that_names_the_setting() {
        assert_eq!(bookkeeping(Some(1), Some(1)), None);
        let note = bookkeeping(Some(0), Some(1)).unwrap();
        assert_eq!(note.level, Level::Note);
        assert!(note.what.starts_with("nf_conntrack_acct is off") && note.what.ends_with("bytes"), "{}", note.what);
        let note = bookkeeping(Some(1), None).unwrap();
        assert!(note.what.starts_with("nf_conntrack_timestamp is off") && note.what.ends_with("age"), "{}", note.what);
        let note = bookkeeping(Some(0), Some(0)).unwrap();
        assert!(note.what.contains("bytes and age"), "{}", note.what);
    }
}
