//! Hosts made of network namespaces: a client, a proxy and two databases, each on a link of its own to the proxy.
//!
//! A thread that enters a namespace makes its sockets there; a socket stays where it was made, so tests take sockets out
//! and use them like any other. Namespaces go when the [`Lab`] is dropped, also in a panic.
#![allow(dead_code, reason = "each test file uses its own part")]

use std::fs::File;
use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsRawFd as _;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use nix::sched::{CloneFlags, setns};
use shunt_core::ClusterName;
use shunt_core::config::Snat;
use shunt_core::datapath::{Change, Datapath as _};
use shunt_core::mapping::{Admission, Leaving, Mapping, Route};
use shunt_rules::{NftDatapath, Options};

pub const PATIENCE: Duration = Duration::from_secs(20);
pub const PORT: u16 = 3306;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ip {
    V4,
    V6,
}

pub const BOTH: [Ip; 2] = [Ip::V4, Ip::V6];

pub struct Lab {
    prefix: String,
    pub servers: Vec<Server>,
}

pub const CLIENT: &str = "client";
pub const PROXY: &str = "proxy";
pub const DBS: [&str; 2] = ["db1", "db2"];

impl Lab {
    /// `None`, said aloud, when this machine or user cannot have namespaces.
    pub fn new(test: &str) -> Option<Self> {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        if !nix::unistd::geteuid().is_root() {
            skipped(test, "network namespaces need root");
            return None;
        }
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let mut lab = Self { prefix: format!("shunt-rules-{}-{number}", std::process::id()), servers: Vec::new() };
        for host in [CLIENT, PROXY, DBS[0], DBS[1]] {
            run("ip", &["netns", "add", &lab.name(host)], "");
            run("ip", &["-n", &lab.name(host), "link", "set", "lo", "up"], "");
        }
        for (net, host) in (1..).zip([CLIENT, DBS[0], DBS[1]]) {
            lab.link(net, host);
        }
        lab.in_host(PROXY, || {
            std::fs::write("/proc/sys/net/ipv4/ip_forward", "1").unwrap();
            std::fs::write("/proc/sys/net/ipv6/conf/all/forwarding", "1").unwrap();
        });
        lab.servers = DBS.map(|host| lab.in_host(host, || Server::start(host))).into();
        Some(lab)
    }

    fn link(&self, net: u8, host: &str) {
        let (proxy, host) = (self.name(PROXY), self.name(host));
        let batch = format!(
            "link add to{net} type veth peer name eth0 netns {host}\n\
             addr add 10.77.{net}.1/24 dev to{net}\naddr add fd77:{net}::1/64 dev to{net} nodad\nlink set to{net} up\n"
        );
        run("ip", &["-n", &proxy, "-batch", "-"], &batch);
        let batch = format!(
            "addr add 10.77.{net}.2/24 dev eth0\naddr add fd77:{net}::2/64 dev eth0 nodad\nlink set eth0 up\n\
             route add default via 10.77.{net}.1\nroute add default via fd77:{net}::1\n"
        );
        run("ip", &["-n", &host, "-batch", "-"], &batch);
    }

    pub fn name(&self, host: &str) -> String {
        format!("{}-{host}", self.prefix)
    }

    /// Runs `work` on a thread of its own in the host's namespace.
    pub fn in_host<T: Send>(&self, host: &str, work: impl FnOnce() -> T + Send) -> T {
        let namespace = File::open(format!("/run/netns/{}", self.name(host))).unwrap();
        let worked = thread::scope(|scope| {
            let entered = || {
                setns(&namespace, CloneFlags::CLONE_NEWNET).unwrap();
                work()
            };
            scope.spawn(entered).join()
        });
        worked.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }

    pub fn open(&self) -> NftDatapath {
        self.in_host(PROXY, || NftDatapath::open(Options::default())).unwrap()
    }

    /// A command in the proxy's namespace; its output.
    pub fn on_proxy(&self, command: &[&str]) -> String {
        self.on(PROXY, command)
    }

    pub fn on(&self, host: &str, command: &[&str]) -> String {
        let name = self.name(host);
        run("ip", &[&["netns", "exec", &name], command].concat(), "")
    }

    /// Connects to the listener from a host. The server's greeting is its name and whom it sees.
    pub fn dial(&self, host: &str, listener: SocketAddr) -> io::Result<Conversation> {
        self.in_host(host, || TcpStream::connect_timeout(&listener, PATIENCE)).and_then(Conversation::begin)
    }

    /// The same with a limit, for connections that should not come about.
    pub fn dial_for(&self, host: &str, listener: SocketAddr, limit: Duration) -> io::Result<Conversation> {
        self.in_host(host, || TcpStream::connect_timeout(&listener, limit)).and_then(Conversation::begin)
    }

    /// Counts the packets to the database's port on that host, resets apart.
    pub fn count_packets(&self, db: usize) {
        let rules = format!(
            "table inet counting {{\n chain in {{\n type filter hook input priority -300;\n\
             tcp dport {PORT} tcp flags & rst == 0x0 counter\n }}\n }}\n"
        );
        run("ip", &["netns", "exec", &self.name(DBS[db]), "nft", "-f", "-"], &rules);
    }

    pub fn packets_at(&self, db: usize) -> u64 {
        let listed = self.on(DBS[db], &["nft", "list", "table", "inet", "counting"]);
        let after = listed.split("packets ").nth(1).unwrap();
        after.split(' ').next().unwrap().parse().unwrap()
    }

    /// Puts a database's link up again, with the address and routes that went with it.
    pub fn revive(&self, db: usize) {
        let net = db + 2;
        let batch = format!(
            "link set eth0 up\naddr replace fd77:{net}::2/64 dev eth0 nodad\n\
             route replace default via 10.77.{net}.1\nroute replace default via fd77:{net}::1\n"
        );
        run("ip", &["-n", &self.name(DBS[db]), "-batch", "-"], &batch);
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

impl Drop for Lab {
    fn drop(&mut self) {
        self.servers.clear();
        for host in [CLIENT, PROXY, DBS[0], DBS[1]] {
            let _ = Command::new("ip").args(["netns", "del", &self.name(host)]).stderr(Stdio::null()).status();
        }
    }
}

/// Says aloud that a test could not be made.
pub fn skipped(test: &str, reason: &str) {
    // Not through the macros, whose output the test harness swallows; in one piece, as tests run side by side.
    let _ = io::stderr().write_all(format!("\nskipped: {test}: {reason}\n").as_bytes());
}

/// The proxy's listener.
pub fn listener(ip: Ip) -> SocketAddr {
    (host_ip(ip, 1, 1), PORT).into()
}

/// The database of a number, from 0.
pub fn db(ip: Ip, number: u8) -> SocketAddr {
    (host_ip(ip, number + 2, 2), PORT).into()
}

fn host_ip(ip: Ip, net: u8, host: u8) -> IpAddr {
    match ip {
        Ip::V4 => Ipv4Addr::new(10, 77, net, host).into(),
        Ip::V6 => Ipv6Addr::new(0xfd77, net.into(), 0, 0, 0, 0, 0, host.into()).into(),
    }
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
        thread::sleep(Duration::from_millis(20));
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
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {arguments:?}: {errors}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// A client's connection.
#[derive(Debug)]
pub struct Conversation {
    pub stream: TcpStream,
    /// Name of the server that answered.
    pub server: String,
    /// The client's address as the server sees it.
    pub seen_as: SocketAddr,
}

impl Conversation {
    fn begin(stream: TcpStream) -> io::Result<Self> {
        stream.set_read_timeout(Some(PATIENCE))?;
        let mut greeting = String::new();
        // The server says no more until it is spoken to, so nothing is lost with the buffer.
        BufReader::new(&stream).read_line(&mut greeting)?;
        let (server, seen_as) = greeting.split_once(' ').ok_or(io::ErrorKind::UnexpectedEof)?;
        Ok(Self { server: server.to_owned(), seen_as: seen_as.trim().parse().unwrap(), stream })
    }

    /// Sends a line and waits for its echo.
    pub fn echo(&self) -> io::Result<()> {
        (&self.stream).write_all(b"ping\n")?;
        let mut back = [0; 5];
        (&self.stream).read_exact(&mut back)
    }
}

/// A database, as far as TCP can tell: it greets and echoes.
pub struct Server {
    listener: Arc<TcpListener>,
    streams: Arc<Mutex<Vec<TcpStream>>>,
}

impl Server {
    fn start(name: &'static str) -> Self {
        let listener = Arc::new(TcpListener::bind((Ipv6Addr::UNSPECIFIED, PORT)).unwrap());
        let streams = Arc::new(Mutex::new(Vec::new()));
        let (ours, kept) = (Arc::clone(&listener), Arc::clone(&streams));
        thread::spawn(move || {
            while let Ok((stream, peer)) = ours.accept() {
                let peer = SocketAddr::new(peer.ip().to_canonical(), peer.port());
                kept.lock().unwrap().push(stream.try_clone().unwrap());
                thread::spawn(move || {
                    let _ = writeln!(&stream, "{name} {peer}");
                    for line in BufReader::new(&stream).lines().map_while(Result::ok) {
                        let _ = writeln!(&stream, "{line}");
                    }
                });
            }
        });
        Self { listener, streams }
    }

    /// The server's end of its latest connection.
    pub fn latest(&self) -> TcpStream {
        self.streams.lock().unwrap().last().unwrap().try_clone().unwrap()
    }

    pub fn accepted(&self) -> usize {
        self.streams.lock().unwrap().len()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Ends the accepting thread; there is nothing to do about an error.
        let _ = nix::sys::socket::shutdown(self.listener.as_raw_fd(), nix::sys::socket::Shutdown::Both);
        for stream in self.streams.lock().unwrap().iter() {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }
}
