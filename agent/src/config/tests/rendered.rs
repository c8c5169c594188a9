//! Errors as an operator sees them.

use shunt_core::ClusterName;

use super::{cluster, load, messages, rendered};

#[test]
fn every_error_of_every_file_shows_at_once_with_its_place_and_a_hint() {
    let agent = "[agent]\ndatapth = \"nft\"\nhttp = \"localhost:9306\"\n\n[probe]\ninterval = \"10ms\"\nfailures = 0\n";
    let orders = r#"name = "orders"
servers = ["10.0.0.11:3306", "10.0.0.12:0", { adress = "10.0.0.13", weight = 2000 }]
failver = "follow"
data_loss = "forbidden"

[[listen]]
role = "master"
address = "0.0.0.0:3306"
drain = 30

cooldown = "10m"
"#;
    let pay = "name = \"pay\"\nservers = [\"10.0.0.300:3306\"]\n\n[[listen]]\naddress = \"10.0.0.3:3306\"\n";
    insta::assert_snapshot!(rendered(&[
        ("shunt.toml", agent),
        ("clusters.d/orders.toml", orders),
        ("clusters.d/pay.toml", pay)
    ]));
}

#[test]
fn files_at_odds_show_both_places() {
    let texts = [
        cluster("a", "10.0.0.2:3306", "10.0.0.11:3306"),
        cluster("b", "10.0.0.2:3306", "10.0.0.12:3306"),
        cluster("a", "10.0.0.3:3306", "10.0.0.2:3306"),
        cluster("d", "10.0.0.12:3306", "10.0.0.13:3306"),
        cluster("e", "10.0.0.5:3306", "10.0.0.5:3306"),
    ];
    let paths = ["a", "b", "c", "d", "e"].map(|name| format!("clusters.d/{name}.toml"));
    let files: Vec<_> = paths.iter().zip(&texts).map(|(path, text)| (&**path, &**text)).collect();
    let loaded = load(&files);
    assert_eq!(loaded.clusters.len(), 1, "the first by file name is served");
    assert_eq!(loaded.clusters[0].name.as_str(), "a");
    let b = &loaded.broken[0];
    assert_eq!(b.cluster.as_ref().map(ClusterName::as_str), Some("b"));
    assert_eq!(b.listeners, ["10.0.0.2:3306".parse().unwrap()]);
    insta::assert_snapshot!(rendered(&files));
}

#[test]
fn within_a_file_the_second_of_two_equals_shows_with_the_first() {
    let text = r#"name = "a"
servers = ["10.0.0.11:3306", "db1.example:3306", "10.0.0.12"]
failover = "off"
[[listen]]
role = "primary"
address = "10.0.0.2:3306"
[[listen]]
role = "replica"
address = "10.0.0.2:3306"
"#;
    insta::assert_snapshot!(rendered(&[("clusters.d/a.toml", text)]));
}

#[test]
fn a_syntax_error_does_not_hide_the_other_errors_of_its_file() {
    let text = r#"name = orders
servers = ["10.0.0.11:0"]
failover = "folow"
cooldown = 10m
[[listen]
role = "x"
"#;
    insta::assert_snapshot!(rendered(&[("clusters.d/a.toml", text)]));
}

#[test]
fn a_list_that_is_never_closed_is_one_error_not_one_a_line() {
    let text = "name = \"a\"\nservers = [\"10.0.0.11:3306\"\n\n[[listen]]\nrole = \"primary\"\n";
    insta::assert_snapshot!(rendered(&[("clusters.d/a.toml", text)]));
}

#[test]
fn hooks_that_cannot_be_run_are_errors_each_with_its_place() {
    let agent = r#"[hooks]
fence = " "
before_promote = { url = "https://user:pw@fence.example/", command = "/bin/fence", timeout = "1h" }
after_failover = { urll = "https://chat.example/" }
notify = { url = "ftp://chat.example/", secret_file = "gone.key" }
fense = "/bin/fence"
"#;
    let shown = rendered(&[("shunt.toml", agent)]);
    insta::assert_snapshot!(shown);
    let agent = "secret_file = \"x\"\n[hooks]\nnotify = { command = \"/bin/tell\", secret_file = \"key\" }\nfence = 7\n\
                 before_promote = \"http:///x\"\nafter_failover = { url = \"chat.example/x\" }\n";
    insta::assert_snapshot!("hooks_that_cannot_be_run_more", rendered(&[("shunt.toml", agent)]));
}

#[test]
fn a_cluster_that_nobody_can_be_promoted_in_is_warned_about() {
    let text = cluster("a", "10.0.0.2:3306", "10.0.0.11").replace("follow", "promote") + "allow = [\"10.0.0.0/8\"]\n";
    insta::assert_snapshot!(rendered(&[("clusters.d/a.toml", &text)]));
}

#[cfg(not(feature = "ebpf"))]
#[test]
fn without_ebpf_it_is_refused_with_the_reason() {
    let said = rendered(&[("shunt.toml", "[agent]\ndatapath = \"ebpf\"\n")]);
    assert!(said.contains("this shunt is built without the eBPF datapath"), "{said}");
}

#[test]
fn what_is_for_ebpf_alone_is_an_error_beside_nftables() {
    let agent =
        "[agent]\ninterfaces = [\"eth0\"]\npins = \"/sys/fs/bpf/shunt\"\nmax_flows = 1000\nebpf_log = \"off\"\n";
    insta::assert_snapshot!(rendered(&[("shunt.toml", agent)]));
}

#[cfg(feature = "ebpf")]
#[test]
fn what_the_ebpf_datapath_is_told_wrongly_shows_with_its_place() {
    let agent = "[agent]\ndatapath = \"ebpf\"\ninterfaces = [\"eth 0\", 1]\npins = \"bpf\"\nmax_flows = 10\nebpf_log = \"degub\"\n";
    insta::assert_snapshot!(rendered(&[("shunt.toml", agent)]));
}

#[test]
fn windows_line_ends_tabs_and_wide_characters_keep_the_caret_in_its_place() {
    let text = "# Bestellungen für Köln 東京\r\n\tname = \"Köln\"\r\n";
    insta::assert_snapshot!(rendered(&[("clusters.d/a.toml", text)]));
}

/// A cluster's file with one line more or other, and the one error that this must make.
#[track_caller]
fn check(edit: Edit, expected: &str) {
    let good = cluster("a", "10.0.0.2:3306", "10.0.0.11:3306");
    let text = match edit {
        Top(line) => format!("{line}\n{good}"),
        Listen(line) => format!("{good}{line}\n"),
        Replace(from, to) => {
            assert!(good.contains(from), "{from} is not in the file");
            good.replace(from, to)
        }
    };
    assert_eq!(messages(&text), [expected], "of\n{text}");
}

enum Edit {
    /// At the top of the file.
    Top(&'static str),
    /// In its listener.
    Listen(&'static str),
    /// In place of a piece of it.
    Replace(&'static str, &'static str),
}
use Edit::{Listen, Replace, Top};

const SERVER: &str = "\"10.0.0.11:3306\"";
const LISTENER: &str = "\"10.0.0.2:3306\"";

#[test]
fn bad_addresses_are_refused_each_with_its_reason() {
    let server = |to, expected| check(Replace(SERVER, to), expected);
    server("\"10.0.0.11:0\"", "port 0 is no port | 1 to 65535; MySQL's own is 3306");
    server("\"10.0.0.11:65536\"", "`65536` is not a port | 1 to 65535; MySQL's own is 3306");
    server("\"10.0.0.11:+33\"", "`+33` is not a port | 1 to 65535; MySQL's own is 3306");
    server("\"10.0.0.11:\"", "`` is not a port | 1 to 65535; MySQL's own is 3306");
    server("\"10.0.0.256\"", "`10.0.0.256` is not an address: IPv4 is four numbers from 0 to 255");
    server("\"\"", "the address is empty | such as \"10.0.0.11:3306\"");
    server("\":3306\"", "`:3306` is not an address: the host is missing");
    server("\"db 1\"", "`db 1` is not an address: ` ` cannot be in a host's name");
    server("\"fd00::1:3306\"", "`fd00::1:3306` is IPv6 without brackets | such as \"[fd00::1:3306]:3306\"");
    server("\"[fd00::1\"", "`[fd00::1` is not an address: `]` is missing");
    server(
        "\"mysql://10.0.0.1\"",
        "`mysql://10.0.0.1` is not an address: it is a URL | only host and port, such as \"10.0.0.11:3306\"",
    );
    server("\"224.0.0.1\"", "224.0.0.1 is a multicast address");
    server("\"gone.example\"", "`gone.example` does not resolve: Name or service not known");
    server("\"empty.example\"", "`empty.example` does not resolve: it has no address");
    server(
        "\"many.example\"",
        "`many.example` has 2 addresses; shunt takes 10.0.0.21, the lowest | a server is one address: write it",
    );
    server(
        "\"[fd00::1]:3306\"",
        "[fd00::1]:3306 is IPv6, the cluster's listeners are IPv4 | NAT does not cross address families",
    );
    server(
        "7",
        "`servers` must be a server, not an integer | a string such as \"10.0.0.11:3306\", or { address = \"10.0.0.11:3306\", weight = 2 }",
    );
    let listener = |to, expected| check(Replace(LISTENER, to), expected);
    listener("\"10.0.0.2\"", "`10.0.0.2` has no port | such as \"10.0.0.2:3306\"");
    listener(
        "\"proxy:3306\"",
        "`proxy` is not an IP address | an address of this host is needed here, such as \"10.0.0.2:3306\"; a name may change",
    );
    listener(
        "\"0.0.0.0:3306\"",
        "0.0.0.0 is every address at once: NAT needs a single one | write the address that clients connect to",
    );
    listener(
        "\"[::]:3306\"",
        ":: is every address at once: NAT needs a single one | write the address that clients connect to",
    );
    listener(
        "\"[::ffff:10.0.0.2]:3306\"",
        "::ffff:10.0.0.2 is an IPv4 address in IPv6's clothes | write it as 10.0.0.2",
    );
    listener("\"[fe80::1]:3306\"", "fe80::1 is a link-local address, which means nothing without its interface");
    listener(
        "\"127.0.0.1:9306\"",
        "the listener 127.0.0.1:9306 takes the place of the agent's own `http` at 127.0.0.1:9306 | give one of them another port",
    );
}

#[test]
fn bad_values_are_refused_each_with_its_reason() {
    check(Top("cooldown = \"10\""), "`10` is not a duration | which unit? \"10ms\", \"10s\" or \"10m\"");
    check(
        Top("cooldown = 10"),
        "`cooldown` must be a duration, not an integer | with its unit, in quotes: \"10ms\", \"10s\" or \"10m\"",
    );
    check(Top("cooldown = \"soon\""), "`soon` is not a duration | write it as \"500ms\", \"30s\", \"10m\" or \"1h\"");
    check(Top("probe = { timeout = \"1ms\" }"), "`timeout` must be at least 50ms, not 1ms");
    check(Top("probe = { failures = \"3\" }"), "`failures` must be a whole number, not a string | without quotes: 3");
    check(Top("probe = { failures = 0 }"), "`failures` must be between 1 and 1000");
    check(Top("probe = { intervall = \"1s\" }"), "unknown key `intervall` in `[probe]` | did you mean `interval`?");
    check(Top("credentials = \"defualt\""), "shunt.toml has no credentials `defualt` | did you mean `default`?");
    check(
        Top("replication_credentials = \"replica\""),
        "shunt.toml has no credentials `replica` | add `[credentials.replica]` to it",
    );
    check(
        Top("salvage = \"aply\""),
        "`aply` is not a value of `salvage` | did you mean `apply`? one of: \"keep\", \"apply\"",
    );
    check(Top("rejoin = \"true\""), "`rejoin` must be true or false, not a string | without quotes: true");
    check(Top("rejoin = 1"), "`rejoin` must be true or false, not an integer | true or false");
    check(Top("catch_up = \"0s\""), "`catch_up` must be at least 1s, not 0s");
    check(
        Listen("salvage = \"keep\""),
        "unknown key `salvage` in `[[listen]]` | `salvage` belongs to the whole file: write it before the first `[[listen]]`",
    );
    check(Top("hold = \"1s\""), "unknown key `hold` in the file | `hold` belongs in a `[[listen]]`");
    check(
        Listen("cooldown = \"1s\""),
        "unknown key `cooldown` in `[[listen]]` | `cooldown` belongs to the whole file: write it before the first `[[listen]]`",
    );
    check(Listen("hold = \"0s\""), "`hold` must be at least 100ms, not 0s");
    check(
        Listen("fenced = \"reject\""),
        "`reject` is not a value of `fenced` | did you mean `refuse`? one of: \"hold\", \"refuse\"",
    );
    check(
        Listen("established = \"keep\""),
        "`established = \"keep\"` on a primary listener: a primary that was replaced could still be written to | \"reset\" ends its connections at once, \"drain\" after `drain`",
    );
    check(Listen("max-lag = \"1s\""), "unknown key `max-lag` in `[[listen]]` | did you mean `max_lag`?");
    check(Listen("max_lag = \"1s\""), "`max_lag` means nothing on a primary listener | it is for `role = \"replica\"`");
    check(Listen("snat = \"10.0.0.240\""), "`snat` must be a list of addresses | in brackets: [\"10.0.0.240\"]");
    check(
        Listen("snat = []"),
        "`snat` has no address | \"masquerade\" takes the address of the interface that the packet leaves by",
    );
    check(
        Listen("snat = [\"10.0.0.9-10.0.0.1\"]"),
        "`10.0.0.9-10.0.0.1` ends before it begins | did you mean \"10.0.0.1-10.0.0.9\"?",
    );
    check(
        Listen("snat = [\"10.0.0.9-fd00::1\"]"),
        "`10.0.0.9-fd00::1` begins in one address family and ends in the other",
    );
    check(Listen("snat = [\"fd00::9\"]"), "`fd00::9` is IPv6, its listener IPv4 | NAT does not cross address families");
    check(Listen("snat = true"), "`snat` must be a list, not a boolean");
    check(
        Listen("snat = [\"10.0.0.100-10.0.0.219\", \"10.0.0.9\"]"),
        "the pool in `snat` has 121 addresses, at most 120 are possible | each address takes some 64,000 connections to each server: few are enough",
    );
    check(
        Listen("snat = [\"10.0.0.20-10.0.0.29\", \"10.0.0.25\"]"),
        "`10.0.0.25` and `10.0.0.20-10.0.0.29` have addresses in common | every address once: an address that is there twice would not take more connections",
    );
    check(
        Listen("snat = [\"10.0.0.10-10.0.0.19\"]"),
        "the server 10.0.0.11:3306 is in the pool of source addresses | a pool is made of addresses of this host",
    );
    check(Listen("max_connections = 0"), "`max_connections` must be between 1 and 4294967295");
    check(
        Listen("max_connections_per_source = \"10\""),
        "`max_connections_per_source` must be a whole number, not a string | without quotes: 10",
    );
    check(Top("lease = \"5s\""), "unknown key `lease` in the file | `lease` belongs in `[agent]` of shunt.toml");
    check(
        Listen("dc = \"east\""),
        "unknown key `dc` in `[[listen]]` | `dc` belongs to a server: `{ address = \"10.0.0.13:3306\", dc = \"east\" }`",
    );
    check(Replace("name = \"a\"\n", ""), "`name` is missing from the file | add `name = \"orders\"`");
    check(
        Replace("name = \"a\"", "name = \"a b\""),
        "`a b` cannot be the name of a cluster | a cluster's name is 1 to 63 letters, digits, `.`, `_` or `-`, and begins with a letter or a digit",
    );
    check(Replace("[\"10.0.0.11:3306\"]", "[]"), "`servers` has no server | such as [\"10.0.0.11:3306\"]");
    check(
        Replace("[\"10.0.0.11:3306\"]", "\"10.0.0.11:3306\""),
        "`servers` must be a list, not a string | in brackets: [\"10.0.0.11:3306\"]",
    );
    check(
        Replace("[[listen]]", "[listen]"),
        "`listen` must be a list of tables, not a table | with two brackets: `[[listen]]`",
    );
    check(Replace("role = \"primary\"\n", ""), "`role` is missing from `[[listen]]` | add `role = \"primary\"`");
}

#[test]
fn a_lease_is_a_second_to_an_hour_and_a_data_centre_has_a_name() {
    let refused = |line: &str, expected: &str| {
        let loaded = load(&[("shunt.toml", &format!("[agent]\n{line}\n"))]);
        let [found] = &*loaded.diagnostics else { panic!("{}", loaded.render(false)) };
        assert_eq!(found.message, expected);
    };
    refused("lease = \"500ms\"", "`lease` must be at least 1s, not 500ms");
    refused("lease = \"2h\"", "`lease` must be at most 1h, not 2h");
    refused("lease = 5", "`lease` must be a duration, not an integer");
    refused("lease = \"off\"", "`off` is not a duration");
    refused("dc = \"\"", "`dc` is empty");
    refused("dc = 1", "`dc` must be a string, not an integer");
}

#[test]
fn a_bad_allow_list_is_refused() {
    let refused = |line: &'static str, expected: &str| check(Listen(line), expected);
    refused("allow = []", "`allow` lets nobody in | leave it out to let anyone in");
    refused(
        "allow = [\"10.0.0.5/8\"]",
        "`10.0.0.5/8` has bits beyond its prefix | did you mean \"10.0.0.0/8\" or \"10.0.0.5/32\"?",
    );
    refused("allow = [\"fd00::/8\"]", "`fd00::/8` is IPv6, its listener IPv4 | NAT does not cross address families");
    refused("allow = [\"office\"]", "`office` is not a network | such as \"10.0.0.0/8\" or \"fd00::/8\"");
}

#[test]
fn listeners_of_two_address_families_are_refused() {
    let text = cluster("a", "10.0.0.2:3306", "10.0.0.11:3306")
        + "[[listen]]\nrole = \"replica\"\naddress = \"[fd00::2]:3306\"\n";
    assert_eq!(
        messages(&text),
        ["the cluster's listeners are of two address families | NAT does not cross them: one file for each"]
    );
}
