//! The datapath on the proxy of a star, with a bpf file system of the test's own.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use shunt_ebpf::common::control::ports_beside;
use shunt_ebpf::common::counter::Counter;
use shunt_ebpf::common::flow::{Flow, Tuple};
use shunt_ebpf::common::mapping::{Choice, FOR_EVER, MAX_CHOICES, Way, kind, source};
use shunt_ebpf::{Object, Pins, Size, Tables, endpoint};
use shunt_tests::star::{Ip, PROXY};
use shunt_tests::{Star, scratch, skip};

pub const LISTENER: u32 = 3;
pub const PAIRS: [u32; 2] = [5, 6];

pub struct Lab<'a> {
    pub star: &'a Star,
    pub ip: Ip,
    pub folder: PathBuf,
    pub object: Object,
    pub tables: Tables,
}

/// Runs a test on the proxy with IPv4 and with IPv6, or skips it by name.
pub fn on_both(test: &str, work: impl Fn(Lab<'_>) -> Result<()> + Sync) -> Result<()> {
    for ip in Ip::BOTH {
        on(ip, test, &work).with_context(|| format!("{ip:?}"))?;
    }
    Ok(())
}

/// The same where the family is the packets' matter.
pub fn on_the_proxy(test: &str, work: impl FnOnce(Lab<'_>) -> Result<()> + Send) -> Result<()> {
    on(Ip::V4, test, work)
}

fn on(ip: Ip, test: &str, work: impl FnOnce(Lab<'_>) -> Result<()> + Send) -> Result<()> {
    skip::with_root(test, || {
        let star = Star::new()?;
        let mounted = scratch::Dir::new("bpf")?;
        star.inside(PROXY, || {
            own_bpffs(mounted.path())?;
            let folder = mounted.path().join("shunt");
            let (object, tables) = open(&folder)?;
            work(Lab { star: &star, ip, folder, object, tables })
        })
    })
}

/// Loads the programs, or adopts what is there.
pub fn open(folder: &Path) -> Result<(Object, Tables)> {
    let size = Size { flows: 1000, mappings: 16, pairs: 16 };
    let mut object = Object::load(Pins::at(folder)?, size)?;
    let mut tables = object.tables()?;
    tables.set_ports(ports_beside(32_768, 60_999));
    Ok((object, tables))
}

/// In a mount namespace of the calling thread's, so that nobody else sees it and it goes with the thread.
pub fn own_bpffs(at: &Path) -> Result<()> {
    unshare(CloneFlags::CLONE_NEWNS).context("cannot make a mount namespace")?;
    let none: Option<&str> = None;
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none)?;
    mount(Some("bpf"), at, Some("bpf"), MsFlags::empty(), none).context("cannot mount a bpf file system")
}

impl Lab<'_> {
    /// Attaches to all interfaces of the proxy: `lo` for its own clients.
    pub fn attach(&mut self) -> Result<()> {
        for interface in ["lo", "to1", "to2", "to3"] {
            self.object.attach(interface)?;
        }
        Ok(())
    }

    pub fn listener(&self) -> SocketAddr {
        self.ip.listener()
    }

    /// Lets the listener lead to a database, and to it only.
    pub fn lead(&mut self, db: u8) -> Result<()> {
        self.lead_from(self.listener(), db)
    }

    /// The same with a listener elsewhere.
    pub fn lead_from(&mut self, listener: SocketAddr, db: u8) -> Result<()> {
        let mut change = self.tables.begin();
        let slot = PAIRS[usize::from(db)];
        change.assign(slot, endpoint(listener), endpoint(self.ip.db(db)));
        change.live(slot, FOR_EVER);
        change.live(PAIRS[usize::from(1 - db)], 0);
        change.lead(LISTENER, to(slot));
        change.listen(endpoint(listener), LISTENER)?;
        change.commit();
        Ok(())
    }

    pub fn count(&self, counter: Counter) -> u64 {
        self.tables.count(counter).unwrap_or_default()
    }

    pub fn flows(&self) -> Result<Vec<(Tuple, Flow)>> {
        self.tables.flows().map(|flow| Ok(flow?)).collect()
    }

    /// What a failed expectation wants to show.
    pub fn counts(&self) -> String {
        let counts = Counter::ALL.iter().map(|&counter| (counter.name(), self.count(counter)));
        format!("{:?}", counts.filter(|(_, number)| *number > 0).collect::<Vec<_>>())
    }
}

/// A way to one pair, masqueraded.
pub fn to(pair: u32) -> Way {
    let mut choices = [Choice::default(); MAX_CHOICES];
    choices[0] = Choice { pair, upto: 1 };
    Way { kind: kind::LEADS, source: source::MASQUERADE, backends: 1, weight: 1, choices, ..Way::default() }
}

/// A way that leads nowhere.
pub fn fence(kind: u32) -> Way {
    Way { kind, until: FOR_EVER, ..Way::default() }
}
