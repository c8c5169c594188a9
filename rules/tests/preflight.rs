//! What is said about a host before anything is installed on it.

mod lab;

use lab::{Ip, Lab, PROXY, listener, run};
use shunt_core::datapath::DatapathError;
use shunt_rules::{foreign_nat, scratch_transaction};

#[test]
fn the_scratch_transaction_succeeds_and_leaves_nothing_behind() {
    let Some(lab) = Lab::new("the_scratch_transaction_succeeds_and_leaves_nothing_behind") else { return };
    lab.in_host(PROXY, || scratch_transaction("shunt-scratch")).unwrap();
    assert_eq!(lab.on_proxy(&["nft", "list", "ruleset"]), "");
}

#[test]
fn the_scratch_transaction_spares_a_table_that_has_its_name() {
    let Some(lab) = Lab::new("the_scratch_transaction_spares_a_table_that_has_its_name") else { return };
    lab.on_proxy(&["nft", "add", "table", "inet", "shunt-scratch"]);
    let refused = lab.in_host(PROXY, || scratch_transaction("shunt-scratch"));
    assert!(matches!(&refused, Err(DatapathError::Rejected { what, .. }) if what == "table inet shunt-scratch"));
    assert!(lab.on_proxy(&["nft", "list", "tables"]).contains("shunt-scratch"));
}

#[test]
fn other_tables_that_rewrite_destinations_are_named_with_the_ports_they_mention() {
    let Some(lab) = Lab::new("other_tables_that_rewrite_destinations_are_named_with_the_ports_they_mention") else {
        return;
    };
    let theirs = "table ip docker {\n chain pre {\n type nat hook prerouting priority -100;\n\
                  tcp dport 3306 dnat to 10.0.0.1\n }\n chain post {\n type nat hook postrouting priority 100;\n }\n }\n\
                  table ip6 other {\n chain out {\n type nat hook output priority -150;\n }\n }\n\
                  table inet filter {\n chain in {\n type filter hook input priority 0;\n tcp dport 3306 accept\n }\n }\n";
    run("ip", &["netns", "exec", &lab.name(PROXY), "nft", "-f", "-"], theirs);
    let _ours = lab.mapped(Ip::V4);
    let found = lab.in_host(PROXY, || foreign_nat("shunt", &[listener(Ip::V4)])).unwrap();
    let named: Vec<_> =
        found.iter().map(ToString::to_string).filter(|line| !line.starts_with("iptables-legacy")).collect();
    assert_eq!(
        named,
        [
            "table ip docker chain pre: nat at prerouting, priority -100, beside ours, in the order of their creation; \
             a rule of that table takes port 3306",
            "table ip6 other chain out: nat at output, priority -150, before ours"
        ]
    );
}

#[test]
fn a_rule_counts_if_it_could_take_a_listeners_packets_and_only_then() {
    let Some(lab) = Lab::new("a_rule_counts_if_it_could_take_a_listeners_packets_and_only_then") else { return };
    let _ours = lab.mapped(Ip::V4);
    let address = listener(Ip::V4).ip();
    let takes = |rule: &str| {
        let table = format!(
            "table ip theirs {{\n chain led {{\n dnat to 10.0.0.1\n }}\n\
             chain pre {{\n type nat hook prerouting priority -150;\n {rule}\n }}\n \
             chain in {{\n type filter hook input priority 0;\n tcp dport 3306 accept\n }}\n }}\n"
        );
        run("ip", &["netns", "exec", &lab.name(PROXY), "nft", "-f", "-"], &table);
        let found = lab.in_host(PROXY, || foreign_nat("shunt", &[listener(Ip::V4)])).unwrap();
        lab.on_proxy(&["nft", "delete", "table", "ip", "theirs"]);
        found.iter().any(|nat| nat.place.contains("theirs") && nat.ports == [3306])
    };
    for rule in [
        "tcp dport 3306 dnat to 10.0.0.1",
        "tcp dport { 80, 3306 } dnat to 10.0.0.1",
        "tcp dport 3000-4000 redirect to :1",
        &format!("ip daddr {address} dnat to 10.0.0.1"),
        "dnat to 10.0.0.1",
    ] {
        assert!(takes(rule), "{rule}");
    }
    for rule in [
        "tcp dport 80 dnat to 10.0.0.1",
        "tcp sport 3306 tcp dport 80 dnat to 10.0.0.1",
        "tcp dport 4000-5000 redirect to :1",
        "ip daddr 10.200.0.1 tcp dport 3306 dnat to 10.0.0.1",
        "tcp dport 80 jump led",
        "tcp dport 3306 accept",
    ] {
        assert!(!takes(rule), "{rule}");
    }
}
