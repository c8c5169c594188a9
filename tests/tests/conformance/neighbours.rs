//! Promise 13: what is not the datapath's own is not touched, and a purge leaves the host as it was.

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::net::UdpSocket;
use std::path::Path;

use shunt_core::config::Snat;
use shunt_core::mapping::{Admission, Mapping, Route};
use shunt_tests::Netns;
use shunt_tests::star::{CLIENT, Ip, PATIENCE, PROXY};

use crate::lab::{Lab, mapping, set, spread};

/// Tables, marks and a routing rule of somebody else's, which see the same packets. Their output of marks comes back in the
/// conntrack entries.
const THEIRS: &str = "table ip theirs {\n chain pre { type filter hook prerouting priority -150; ct mark set 0x42; }\n\
     chain post { type nat hook postrouting priority 90; ip saddr 10.99.0.0/16 masquerade; }\n }\n\
     table ip6 theirs {\n chain pre { type filter hook prerouting priority -150; ct mark set 0x42; }\n }\n\
     table inet their-filter {\n set hosts { type ipv4_addr; elements = { 10.1.2.3 } }\n\
     chain forward { type filter hook forward priority 10; ip saddr @hosts drop; }\n }\n";

/// Everything of a host that a datapath could leave changed.
fn state(host: &Netns) -> BTreeMap<String, String> {
    let mut state = BTreeMap::new();
    for command in [
        "nft -s list ruleset",
        "ip -o link show",
        "ip -o address show",
        "ip rule show",
        "ip -6 rule show",
        "ip route show table all",
        "ip -6 route show table all",
    ] {
        let words: Vec<&str> = command.split(' ').collect();
        state.insert(command.to_owned(), host.run(words[0], &words[1..]).unwrap());
    }
    let mut settings = BTreeMap::new();
    host.inside(|| read_settings(Path::new("/proc/sys/net"), &mut settings)).unwrap();
    state.extend(settings);
    state
}

/// Every setting that can be read and is not itself a measurement.
fn read_settings(folder: &Path, into: &mut BTreeMap<String, String>) {
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() {
            read_settings(&path, into);
        } else if !path.ends_with("nf_conntrack_count")
            && let Ok(value) = std::fs::read_to_string(&path)
        {
            into.insert(path.display().to_string(), value);
        }
    }
}

fn difference(before: &BTreeMap<String, String>, after: &BTreeMap<String, String>) -> Vec<String> {
    let names: std::collections::BTreeSet<_> = before.keys().chain(after.keys()).collect();
    let differs = names.into_iter().filter(|name| before.get(*name) != after.get(*name));
    differs.map(|name| format!("{name}: {:?} → {:?}", before.get(name), after.get(name))).collect()
}

pub fn p13_a_purge_leaves_the_host_as_it_was(lab: &Lab) {
    let proxy = lab.host(PROXY);
    proxy.nft(THEIRS).unwrap();
    proxy.ip("rule add fwmark 0x42 lookup 100 priority 50").unwrap();
    // What loads a module the first time shows its settings in every namespace.
    let mut datapath = lab.open();
    use_everything(lab, &mut *datapath);
    datapath.purge().unwrap();
    drop(datapath);
    let before = state(proxy);

    let mut datapath = lab.open();
    use_everything(lab, &mut *datapath);
    let settings = |state: &BTreeMap<String, String>| -> BTreeMap<String, String> {
        state.iter().filter(|(name, _)| name.starts_with("/proc/sys")).map(|(k, v)| (k.clone(), v.clone())).collect()
    };
    let during = settings(&state(proxy));
    // A link that is the datapath's own has settings of its own.
    let changed: Vec<_> =
        difference(&settings(&before), &during).into_iter().filter(|line| !line.contains("None")).collect();
    assert_eq!(changed, [""; 0], "settings of the host while the datapath works");
    datapath.purge().unwrap();
    drop(datapath);
    assert_eq!(difference(&before, &state(proxy)), [""; 0]);
}

/// A mapping of each kind, and traffic.
fn use_everything(lab: &Lab, datapath: &mut dyn shunt_core::datapath::Datapath) {
    let at = |port| lab.listener_at(port);
    set(datapath, lab.to(0));
    set(datapath, mapping(at(4001), spread([(lab.db(0), 1), (lab.db(1), 1)])));
    set(datapath, mapping(at(4002), Route::Hold(crate::holding::LONG)));
    set(datapath, mapping(at(4003), Route::Refuse));
    set(datapath, Mapping { snat: Snat::None, ..mapping(at(4004), Route::Single(lab.db(1))) });
    for port in [3306, 4001, 4004] {
        lab.dial(CLIENT, at(port)).unwrap().echo().unwrap();
    }
    let _waiting = lab.inside(CLIENT, || crate::holding::Knocking::at(at(4002))).unwrap();
    set(datapath, mapping(at(4002), Route::Single(lab.db(0))));
    set(datapath, lab.to(1));
    lab.call().echo().unwrap();
}

pub fn p13_a_purge_takes_limits_lists_leases_and_pools_with_it(lab: &Lab) {
    let proxy = lab.host(PROXY);
    let before = state(proxy);
    let mut datapath = lab.open();
    let allow = vec![ipnet::IpNet::new(lab.ip.client(), 24).unwrap()];
    let admission = Admission { allow, limit: Some(5), limit_per_source: Some(2) };
    let pool = Snat::Pool(vec![(lab.ip.address(200, 1), lab.ip.address(200, 4))]);
    let lease = Some(std::time::Duration::from_secs(60));
    set(&mut *datapath, Mapping { admission, snat: pool, lease, ..lab.to(0) });
    lab.call().echo().unwrap();
    datapath.purge().unwrap();
    drop(datapath);
    let rest: Vec<_> =
        difference(&before, &state(proxy)).into_iter().filter(|line| !line.starts_with("/proc/sys")).collect();
    assert_eq!(rest, [""; 0]);
}

pub fn p13_foreign_rules_and_marks_stay_in_force(lab: &Lab) {
    let proxy = lab.host(PROXY);
    proxy.nft(THEIRS).unwrap();
    let tables = [["ip", "theirs"], ["ip6", "theirs"], ["inet", "their-filter"]];
    let theirs = || tables.map(|table| proxy.run("nft", &[&["-s", "list", "table"], &table[..]].concat()).unwrap());
    let before = theirs();
    let mut datapath = lab.mapped();
    let conversation = lab.call();
    conversation.echo().unwrap();
    let family = if lab.ip == Ip::V4 { "ipv4" } else { "ipv6" };
    let port = conversation.local().unwrap().port().to_string();
    let entry = proxy.run("conntrack", &["-L", "-f", family, "-p", "tcp", "--orig-port-src", &port]).unwrap();
    // The datapath of a kernel without conntrack has no entry that could bear a mark.
    assert!(entry.is_empty() || entry.contains("mark=66"), "{entry}");
    set(&mut *datapath, lab.to(1));
    datapath.reconcile().unwrap();
    assert_eq!(theirs(), before);
    datapath.purge().unwrap();
    assert_eq!(theirs(), before);
}

pub fn p13_what_is_not_for_a_listener_passes_untouched(lab: &Lab) {
    let mut datapath = lab.open();
    set(&mut *datapath, lab.mapping(Route::Refuse));
    // Straight through the proxy to a database that is nobody's backend now.
    let conversation = lab.dial(CLIENT, lab.db(0)).unwrap();
    assert_eq!(conversation.seen_as, conversation.local().unwrap());
    conversation.echo().unwrap();
    set(&mut *datapath, lab.to(0));
    set(&mut *datapath, lab.to(1));
    conversation.echo().unwrap();
    // UDP to the listener's own port: the host says by ICMP that nobody is there.
    let unspecified = if lab.ip == Ip::V4 { "0.0.0.0:0" } else { "[::]:0" };
    let socket = lab.inside(CLIENT, || UdpSocket::bind(unspecified)).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket.connect(lab.listener()).unwrap();
    socket.send(b"anybody?").unwrap();
    assert_eq!(socket.recv(&mut [0; 1]).unwrap_err().kind(), ErrorKind::ConnectionRefused);
}
