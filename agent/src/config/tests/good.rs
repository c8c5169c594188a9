//! Good files, and what they mean.

use std::time::Duration;

use shunt_core::config::{
    DataLoss, Established, FailoverMode, Fallback, Fenced, ListenerRole, ProbeConfig, Promoting, Promotion, Salvage,
    Snat,
};

use super::{cluster, folder, load};
use crate::config::{Call, DatapathKind, Hook, Severity, load_with};

/// The agent's file as the documentation shows it.
const SAMPLE_AGENT: &str = r#"
[agent]
datapath = "nft"              # or "ebpf"; never falls back by itself
# interfaces = ["eth0"]       # ebpf: where clients and servers are; default: those that route to them
# table = "shunt"             # nft: the private table's name
http = "127.0.0.1:9306"       # read-only: /metrics, /healthz, status page; "" turns it off
lease = "5s"                  # the kernel stops forwarding when the agent is silent for so long; default: it never does
dc = "east"                   # where this host is: replicas there take readers first

[probe]                       # defaults for every cluster
interval = "500ms"
timeout  = "1s"
failures = 3

[credentials.default]
user = "shunt"
password_file = "password"
"#;

/// A cluster's file as the documentation shows it.
const SAMPLE_CLUSTER: &str = r#"
name = "orders"
servers = ["10.0.0.11:3306", "10.0.0.12:3306", { address = "10.0.0.13:3306", dc = "east", promotion = "prefer", weight = 2 }]
failover = "promote"          # "follow" | "promote" | "off"
data_loss = "forbid"          # | "allow"
cooldown = "10m"
salvage = "keep"              # | "apply"
rejoin = true
catch_up = "60s"
# replication_credentials = "replication"

[[listen]]
role = "primary"
address = "10.0.0.2:3306"
allow = ["10.0.0.0/8"]        # default: anyone
snat = ["10.0.0.240-10.0.0.247"]  # | "masquerade", the default | "none" (servers route back through the proxy)
established = "reset"         # | "drain" | "keep": flows of a backend that leaves
drain = "30s"
fenced = "hold"               # | "refuse"
hold = "30s"                  # a held connection is refused after that
max_connections = 10000
max_connections_per_source = 1000

[[listen]]
role = "replica"
address = "10.0.0.2:3307"
max_lag = "5s"
fallback = "primary"          # | "none": when no replica is fit
"#;

#[cfg(feature = "ebpf")]
#[test]
fn the_ebpf_datapath_is_told_where_and_how_large_it_is_and_how_much_it_says() {
    use crate::config::EbpfLog;

    let read = |more: &str| load(&[("shunt.toml", &format!("[agent]\ndatapath = \"ebpf\"\n{more}"))]);
    let usual = read("table = \"shunt_two\"\n");
    assert_eq!(usual.render(false), "", "a table's name stays: it says what was there before");
    let usual = usual.agent.expect("the agent's file");
    assert_eq!((usual.datapath, usual.max_flows, usual.interfaces.len()), (DatapathKind::Ebpf, 1_000_000, 0));
    assert_eq!((usual.pins.to_str(), usual.ebpf_log), (Some("/sys/fs/bpf/shunt"), EbpfLog::Off));
    let told =
        read("interfaces = [\"eth0\"]\npins = \"/run/bpf/x\"\nmax_flows = 5_000\n").agent.expect("the agent's file");
    assert_eq!((told.max_flows, told.interfaces), (5_000, vec!["eth0".to_owned()]));
    assert_eq!(told.pins.to_str(), Some("/run/bpf/x"));
    let silent = read("").agent.expect("the agent's file");
    for (word, log) in
        [("off", EbpfLog::Off), ("error", EbpfLog::Error), ("info", EbpfLog::Info), ("debug", EbpfLog::Debug)]
    {
        let told = read(&format!("ebpf_log = \"{word}\"\n")).agent.expect("the agent's file");
        assert_eq!(told.ebpf_log, log);
        assert_eq!(told.runs_as(&silent), log == EbpfLog::Off, "it takes effect at the next start");
    }
}

#[test]
fn the_documented_samples_load_without_a_word() {
    let loaded = load(&[("shunt.toml", SAMPLE_AGENT), ("clusters.d/orders.toml", SAMPLE_CLUSTER)]);
    assert_eq!(loaded.render(false), "");

    let agent = loaded.agent.expect("the agent's file");
    assert_eq!(agent.datapath, DatapathKind::Nft);
    assert_eq!(agent.table, "shunt");
    assert_eq!((agent.lease, agent.dc.as_deref()), (Some(Duration::from_secs(5)), Some("east")));
    assert_eq!(agent.http, Some("127.0.0.1:9306".parse().unwrap()));
    assert_eq!(agent.probe, ProbeConfig::default());
    let credentials = &agent.credentials["default"];
    assert_eq!((credentials.user.as_str(), credentials.password.reveal()), ("shunt", "swordfish"));

    let [orders] = &*loaded.clusters else { panic!("one cluster") };
    assert_eq!(orders.name.as_str(), "orders");
    assert_eq!((orders.failover, orders.data_loss), (FailoverMode::Promote, DataLoss::Forbid));
    assert_eq!(orders.cooldown, Duration::from_secs(600));
    assert_eq!(orders.promoting, Promoting::default(), "the sample writes the defaults down");
    assert_eq!(orders.servers[0].label, "10.0.0.11:3306");
    let east = &orders.servers[2];
    assert_eq!((east.dc.as_deref(), east.promotion, east.weight), (Some("east"), Promotion::Prefer, 2));
    let [primary, replica] = &*orders.listeners else { panic!("two listeners") };
    assert_eq!(primary.role, ListenerRole::Primary);
    let pool = ("10.0.0.240".parse().unwrap(), "10.0.0.247".parse().unwrap());
    assert_eq!(primary.snat, Snat::Pool(vec![pool]));
    assert_eq!((orders.lease, orders.near.as_deref()), (Some(Duration::from_secs(5)), Some("east")));
    assert_eq!(primary.allow, ["10.0.0.0/8".parse().unwrap()]);
    assert_eq!((primary.max_connections, primary.max_connections_per_source), (Some(10_000), Some(1000)));
    assert_eq!((replica.role, replica.max_lag), (ListenerRole::Replica, Duration::from_secs(5)));
}

#[test]
fn what_a_file_leaves_out_is_as_documented() {
    let loaded = load(&[("clusters.d/a.toml", &cluster("a", "10.0.0.2:3306", "10.0.0.11"))]);
    assert_eq!(loaded.render(false), "");
    let agent = loaded.agent.expect("an absent file is an empty one");
    assert_eq!(agent.http, Some("127.0.0.1:9306".parse().unwrap()));
    assert_eq!(agent.credentials["default"].user, "shunt");
    assert_eq!((agent.lease, agent.dc), (None, None));
    let a = &loaded.clusters[0];
    assert_eq!(a.promoting, Promoting::default());
    assert_eq!(a.servers[0].address, "10.0.0.11:3306".parse().unwrap());
    assert_eq!((a.lease, &a.near), (None, &None));
    assert_eq!((a.data_loss, a.cooldown), (DataLoss::Forbid, Duration::from_secs(600)));
    assert_eq!((a.credentials.as_str(), a.probe), ("default", ProbeConfig::default()));
    let listener = &a.listeners[0];
    assert_eq!((listener.established, listener.fenced), (Established::Reset, Fenced::Hold));
    assert_eq!((listener.drain, listener.hold), (Duration::from_secs(30), Duration::from_secs(30)));
    assert_eq!((&listener.snat, listener.fallback), (&Snat::Masquerade, Fallback::Primary));
    assert_eq!((listener.max_connections, listener.allow.len()), (None, 0));
}

#[test]
fn promotion_without_anybody_to_promote_is_warned_about() {
    let of = |failover: &str, servers: &str| {
        let text = cluster("a", "10.0.0.2:3306", "10.0.0.11")
            .replace("failover = \"follow\"\n", failover)
            .replace("[\"10.0.0.11\"]", servers);
        let loaded = load(&[("clusters.d/a.toml", &text)]);
        assert_eq!(loaded.clusters.len(), 1, "{}", loaded.render(false));
        loaded.diagnostics.into_iter().map(|d| (d.severity, d.message)).collect::<Vec<_>>()
    };
    let check = |failover: &str, servers: &str, words: &str| {
        let [(Severity::Warning, message)] = &*of(failover, servers) else { panic!("one warning") };
        assert!(message.contains(words), "{message}");
    };
    check("failover = \"promote\"\n", "[\"10.0.0.11\"]", "cannot be done: there is one server");
    check("", "[\"10.0.0.11\"]", ", the default, cannot be done: there is one server");
    let one = "[\"10.0.0.11\", { address = \"10.0.0.12\", promotion = \"must_not\" }]";
    check("", one, "all servers but one are `must_not`");
    assert_eq!(of("", "[\"10.0.0.11\", \"10.0.0.12\"]"), []);
    assert_eq!(of("failover = \"off\"\n", one), []);
}

#[test]
fn a_cluster_says_how_it_is_promoted() {
    let text = cluster("a", "10.0.0.2:3306", "10.0.0.11");
    let text =
        format!("salvage = \"apply\"\nrejoin = false\ncatch_up = \"5m\"\nreplication_credentials = \"repl\"\n{text}");
    let agent = "[credentials.repl]\nuser = \"r\"\npassword_file = \"repl\"\n\
                 [hooks]\nfence = { command = \"/usr/bin/fence\", timeout = \"2m\" }\nnotify = { command = \"x\", timeout = \"3m\" }\n";
    let loaded = load(&[("shunt.toml", agent), ("repl", "pw"), ("clusters.d/a.toml", &text)]);
    assert_eq!(loaded.render(false), "");
    assert_eq!(
        loaded.clusters[0].promoting,
        Promoting {
            replication_credentials: "repl".into(),
            salvage: Salvage::Apply,
            rejoin: false,
            catch_up: Duration::from_secs(300),
            fence_hook: true,
            before_promote_hook: false,
            hook_time: Duration::from_secs(120),
        }
    );
}

#[test]
fn replicas_log_in_as_replication_if_there_is_such_a_user_and_else_as_the_cluster_does() {
    let text = format!("credentials = \"west\"\n{}", cluster("a", "10.0.0.2:3306", "10.0.0.11"));
    let west = "[credentials.west]\npassword_file = \"west\"\n";
    let own = format!("{west}[credentials.replication]\nuser = \"repl\"\npassword_file = \"west\"\n");
    for (agent, name) in [(west, "west"), (&*own, "replication")] {
        let loaded = load(&[("shunt.toml", agent), ("west", "pw"), ("clusters.d/a.toml", &text)]);
        assert_eq!(loaded.render(false), "");
        assert_eq!(loaded.clusters[0].promoting.replication_credentials, name);
    }
}

#[test]
fn a_cluster_may_probe_and_log_in_its_own_way() {
    let text = format!(
        "probe = {{ interval = \"100ms\" }}\ncredentials = \"west\"\n{}",
        cluster("a", "10.0.0.2:3306", "10.0.0.11:3307")
    );
    let agent = "[probe]\nfailures = 5\n[credentials.west]\nuser = \"w\"\npassword_file = \"west\"\n";
    let loaded = load(&[("shunt.toml", agent), ("west", "pw"), ("clusters.d/a.toml", &text)]);
    assert_eq!(loaded.render(false), "");
    let a = &loaded.clusters[0];
    assert_eq!((a.probe.interval, a.probe.failures), (Duration::from_millis(100), 5));
    assert_eq!(a.probe.timeout, Duration::from_secs(1));
    assert_eq!(loaded.agent.unwrap().credentials[&a.credentials].user, "w");
}

#[test]
fn names_resolve_to_the_family_of_the_listeners() {
    for (listener, server) in [("10.0.0.2:3306", "10.0.0.12:3306"), ("[fd00::2]:3306", "[fd00::12]:3306")] {
        let loaded = load(&[("clusters.d/a.toml", &cluster("a", listener, "both.example:3306"))]);
        assert_eq!(loaded.render(false), "");
        let found = &loaded.clusters[0].servers[0];
        assert_eq!((found.address, found.label.as_str()), (server.parse().unwrap(), "both.example:3306"));
    }
}

#[test]
fn every_name_is_asked_for_once() {
    let asked = std::sync::Mutex::new(Vec::new());
    let resolver = |host: &str| {
        asked.lock().unwrap().push(host.to_owned());
        Ok(vec!["10.0.0.11".parse().unwrap()])
    };
    let a = cluster("a", "10.0.0.2:3306", "db1.example:3306");
    let b = cluster("b", "10.0.0.2:3307", "db1.example:3307");
    let dir = folder(&[("clusters.d/a.toml", &a), ("clusters.d/b.toml", &b)]);
    assert_eq!(load_with(dir.path(), None, &resolver).clusters.len(), 2);
    assert_eq!(*asked.lock().unwrap(), ["db1.example"]);
}

#[test]
fn no_translation_and_a_pool_of_addresses_are_understood() {
    let with = |snat: &str| {
        load(&[("clusters.d/a.toml", &format!("{}snat = {snat}\n", cluster("a", "10.0.0.2:3306", "10.0.0.11")))])
    };
    let none = with("\"none\"");
    assert_eq!(none.render(false), "");
    assert_eq!(none.clusters[0].listeners[0].snat, Snat::None);
    let pool = with("[\"10.0.0.240-10.0.0.247\", \"10.0.0.9\"]");
    assert_eq!(pool.render(false), "");
    let ranges = [("10.0.0.240", "10.0.0.247"), ("10.0.0.9", "10.0.0.9")];
    let ranges = ranges.map(|(first, last)| (first.parse().unwrap(), last.parse().unwrap()));
    assert_eq!(pool.clusters[0].listeners[0].snat, Snat::Pool(ranges.to_vec()));
    let largest = with("[\"10.0.0.100-10.0.0.218\", \"10.0.0.9\"]");
    assert_eq!(largest.render(false), "", "119 addresses and one");
}

#[test]
fn hooks_are_commands_or_webhooks_and_the_http_socket_can_be_turned_off() {
    let text = "[agent]\nhttp = \"\"\ntable = \"mine\"\n\
                [hooks]\nfence = \"/usr/bin/fence now\"\nnotify = \"https://chat.example/x\"\n";
    let loaded = load(&[("shunt.toml", text)]);
    assert!(!loaded.has_errors(), "{}", loaded.render(false));
    assert_eq!(loaded.render(false), "");
    let agent = loaded.agent.unwrap();
    assert_eq!((agent.http, agent.table.as_str()), (None, "mine"));
    let fence = Hook { call: Call::Command("/usr/bin/fence now".into()), timeout: Duration::from_secs(30) };
    assert_eq!(agent.hooks.fence, Some(fence));
    let Some(Hook { call: Call::Webhook(webhook), .. }) = agent.hooks.notify else { panic!("a webhook") };
    assert_eq!((webhook.url.to_string().as_str(), webhook.secret), ("https://chat.example/x", None));
}

#[test]
fn a_hook_may_say_how_long_it_takes_and_what_its_body_is_signed_with() {
    let text = "[hooks]\nfence = { command = \"/usr/bin/fence\", timeout = \"2m\" }\n\
                notify = { url = \"https://chat.example/secret?x\", secret_file = \"chat.key\" }\n";
    let loaded = load(&[("shunt.toml", text), ("chat.key", "hush\n")]);
    assert_eq!(loaded.render(false), "");
    let hooks = loaded.agent.unwrap().hooks;
    let fence = Hook { call: Call::Command("/usr/bin/fence".into()), timeout: Duration::from_secs(120) };
    assert_eq!(hooks.fence, Some(fence));
    let shown = format!("{:?}", hooks.notify);
    assert!(!shown.contains("secret") && !shown.contains("hush"), "{shown}");
    let Some(Hook { call: Call::Webhook(webhook), timeout }) = hooks.notify else { panic!("a webhook") };
    assert_eq!((webhook.secret.unwrap().key.reveal(), timeout), ("hush", Duration::from_secs(30)));
}

#[test]
fn files_that_are_hidden_or_not_toml_are_left_alone() {
    let a = cluster("a", "10.0.0.2:3306", "10.0.0.11");
    let loaded = load(&[
        ("clusters.d/a.toml", &a),
        ("clusters.d/a.toml~", "?"),
        ("clusters.d/.b.toml", "?"),
        ("clusters.d/README", "?"),
    ]);
    assert_eq!(loaded.render(false), "");
    assert_eq!(loaded.clusters.len(), 1);
}
