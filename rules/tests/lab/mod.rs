//! A star of hosts with the nftables datapath on its proxy. What any datapath promises is proved by the conformance suite
//! of crate `shunt-tests`; here is what only nftables has.
#![allow(dead_code, unused_imports, reason = "each test file uses its own part")]

use std::io;
use std::net::SocketAddr;
use std::ops::Deref;
use std::process::{Command, Stdio};
use std::thread;
use std::time::Instant;

use shunt_core::ClusterName;
use shunt_core::config::Snat;
use shunt_core::datapath::{Change, Datapath as _};
use shunt_core::mapping::{Admission, Leaving, Mapping, Route};
use shunt_rules::{NftDatapath, Options};
pub use shunt_tests::star::{CLIENT, Ip, PATIENCE, PROXY};
use shunt_tests::{Star, skip};

pub const BOTH: [Ip; 2] = Ip::BOTH;

pub struct Lab(Star);

impl Deref for Lab {
    type Target = Star;
    fn deref(&self) -> &Star {
        &self.0
    }
}

impl Lab {
    /// `None`, said aloud, when this user cannot have namespaces.
    pub fn new(test: &str) -> Option<Self> {
        if !nix::unistd::geteuid().is_root() {
            skipped(test, "network namespaces need root");
            return None;
        }
        Some(Self(Star::new().unwrap()))
    }

    pub fn name(&self, host: &str) -> String {
        self.host(host).name().to_owned()
    }

    /// Runs `work` on a thread of its own in the host's namespace.
    pub fn in_host<T: Send>(&self, host: &str, work: impl FnOnce() -> T + Send) -> T {
        self.inside(host, work)
    }

    pub fn open(&self) -> NftDatapath {
        self.in_host(PROXY, || NftDatapath::open(Options::default())).unwrap()
    }

    /// A command in the proxy's namespace; its output.
    pub fn on_proxy(&self, command: &[&str]) -> String {
        self.host(PROXY).run(command[0], &command[1..]).unwrap()
    }

    /// Sets the data path up with one listener that leads to the first database.
    pub fn mapped(&self, ip: Ip) -> NftDatapath {
        let mut datapath = self.open();
        set(&mut datapath, mapping(ip, Route::Single(db(ip, 0))));
        datapath
    }

    /// The conntrack entries of the proxy that go to a listener.
    pub fn entries(&self, listener: SocketAddr) -> Vec<String> {
        let family = if listener.is_ipv4() { "ipv4" } else { "ipv6" };
        let address = listener.ip().to_string();
        let listed = self.on_proxy(&["conntrack", "-L", "-f", family, "-p", "tcp", "-d", &address]);
        listed.lines().filter(|line| line.contains("dport=3306")).map(str::to_owned).collect()
    }
}

/// Says aloud that a test could not be made.
pub fn skipped(test: &str, reason: &str) {
    skip::skip(test, reason);
}

/// The proxy's listener.
pub fn listener(ip: Ip) -> SocketAddr {
    ip.listener()
}

/// The database of a number, from 0.
pub fn db(ip: Ip, number: u8) -> SocketAddr {
    ip.db(number)
}

pub fn mapping(ip: Ip, route: Route) -> Mapping {
    Mapping {
        listener: listener(ip),
        cluster: ClusterName::new("orders").unwrap(),
        route,
        snat: Snat::Masquerade,
        leaving: Leaving::Sever,
        admission: Admission::default(),
        lease: None,
        spared: None,
    }
}

pub fn set(datapath: &mut NftDatapath, mapping: Mapping) {
    let applied = datapath.apply(&Change { set: vec![mapping], remove: Vec::new() }).unwrap();
    assert_eq!(applied.changed, 1);
}

/// Polls until `done` says so.
pub fn eventually(what: &str, mut done: impl FnMut() -> bool) {
    let begin = Instant::now();
    while !done() {
        assert!(begin.elapsed() < PATIENCE, "{what} did not come about");
        thread::sleep(std::time::Duration::from_millis(20));
    }
}

pub fn run(program: &str, arguments: &[&str], input: &str) -> String {
    let mut child = Command::new(program)
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    io::Write::write_all(&mut child.stdin.take().unwrap(), input.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {arguments:?}: {errors}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}
