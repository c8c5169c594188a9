//! A star of hosts with the datapath under test on its proxy.

use std::io;
use std::net::SocketAddr;
use std::ops::Deref;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Result;
use shunt_core::ClusterName;
use shunt_core::config::Snat;
use shunt_core::datapath::{Change, Datapath, DatapathError, Meter, Severed};
use shunt_core::mapping::{Admission, Leaving, Mapping, Route, Weighted};
use shunt_tests::star::{CLIENT, Conversation, Ip, PATIENCE, PROXY};
use shunt_tests::{Star, skip};

use crate::ledger::Ledger;

/// A datapath that is held to the contract.
pub trait Subject {
    /// Makes ready what it needs of the test's own, before there is a star. Threads of the calling one have it, too.
    fn prepare() -> Result<()> {
        Ok(())
    }

    /// Opens it in the network namespace of the calling thread, which is the proxy's, and adopts what is there.
    fn open() -> Result<Box<dyn Datapath>, DatapathError>;

    /// Lets every flow that it has blocked go on, as somebody does who knows the kernel and asks nobody.
    fn unblock_by_hand(lab: &Lab);

    /// What the kernel holds of flows that are spared or blocked; empty: nothing.
    fn remains_of_sparing(lab: &Lab) -> String;

    /// Why it cannot be held to a test, of which this is the name; `None`: it can, and is.
    fn excuse(_test: &str) -> Option<&'static str> {
        None
    }
}

pub struct Lab {
    star: Star,
    pub ip: Ip,
    open: fn() -> Result<Box<dyn Datapath>, DatapathError>,
    unblock_by_hand: fn(&Self),
    remains_of_sparing: fn(&Self) -> String,
}

/// Runs a test of the contract, or skips it by name.
pub fn prove<S: Subject>(test: &str, ip: Ip, promise: fn(&Lab)) -> Result<()> {
    if let Some(reason) = S::excuse(test) {
        skip::skip(test, reason);
        return Ok(());
    }
    skip::with_root(test, || {
        S::prepare()?;
        promise(&Lab::new::<S>(ip)?);
        Ok(())
    })
}

/// The same for what needs no packets.
pub fn prove_ledger<S: Subject>(test: &str, ip: Ip, promise: fn(&mut dyn Ledger, Ip)) -> Result<()> {
    if let Some(reason) = S::excuse(test) {
        skip::skip(test, reason);
        return Ok(());
    }
    skip::with_root(test, || {
        S::prepare()?;
        let lab = Lab::new::<S>(ip)?;
        let datapath = Some(lab.open());
        promise(&mut InKernel { lab, datapath }, ip);
        Ok(())
    })
}

impl Deref for Lab {
    type Target = Star;
    fn deref(&self) -> &Star {
        &self.star
    }
}

impl Lab {
    fn new<S: Subject>(ip: Ip) -> Result<Self> {
        let star = Star::new()?;
        let (unblock_by_hand, remains_of_sparing) = (S::unblock_by_hand, S::remains_of_sparing);
        Ok(Self { star, ip, open: S::open, unblock_by_hand, remains_of_sparing })
    }

    /// See [`Subject::unblock_by_hand`].
    pub fn unblock_by_hand(&self) {
        (self.unblock_by_hand)(self);
    }

    /// See [`Subject::remains_of_sparing`].
    pub fn remains_of_sparing(&self) -> String {
        (self.remains_of_sparing)(self)
    }

    pub fn open(&self) -> Box<dyn Datapath> {
        self.inside(PROXY, self.open).unwrap()
    }

    /// Opens the datapath with one listener that leads to the first database.
    pub fn mapped(&self) -> Box<dyn Datapath> {
        let mut datapath = self.open();
        set(&mut *datapath, self.to(0));
        datapath
    }

    pub fn meter(&self, datapath: &mut dyn Datapath) -> Box<dyn Meter> {
        self.inside(PROXY, move || datapath.meter()).unwrap()
    }

    pub fn listener(&self) -> SocketAddr {
        self.ip.listener()
    }

    /// Another listener at the same address.
    pub fn listener_at(&self, port: u16) -> SocketAddr {
        (self.listener().ip(), port).into()
    }

    pub fn db(&self, number: u8) -> SocketAddr {
        self.ip.db(number)
    }

    /// The listener with that route; everything else as it is by default.
    pub fn mapping(&self, route: Route) -> Mapping {
        mapping(self.listener(), route)
    }

    /// The listener, leading to the database of that number.
    pub fn to(&self, db: u8) -> Mapping {
        self.mapping(Route::Single(self.db(db)))
    }

    /// The client's connection to the listener.
    pub fn call(&self) -> Conversation {
        self.dial(CLIENT, self.listener()).unwrap()
    }

    pub fn calls(&self, number: usize) -> Vec<Conversation> {
        self.inside(CLIENT, || {
            (0..number).map(|_| Conversation::open(self.listener(), PATIENCE)).collect::<io::Result<_>>()
        })
        .unwrap()
    }
}

pub fn mapping(listener: SocketAddr, route: Route) -> Mapping {
    Mapping {
        listener,
        cluster: ClusterName::new("orders").unwrap(),
        route,
        snat: Snat::Masquerade,
        leaving: Leaving::Sever,
        admission: Admission::default(),
        lease: None,
        spared: None,
    }
}

pub fn spread(weights: impl IntoIterator<Item = (SocketAddr, u32)>) -> Route {
    Route::Spread(weights.into_iter().map(|(address, weight)| Weighted { address, weight }).collect())
}

/// A mapping that is to be a change.
pub fn set(datapath: &mut dyn Datapath, mapping: Mapping) {
    let applied = datapath.apply(&Change { set: vec![mapping], remove: Vec::new() }).unwrap();
    assert_eq!(applied.changed, 1);
}

pub fn set_all(datapath: &mut dyn Datapath, set: Vec<Mapping>) {
    datapath.apply(&Change { set, remove: Vec::new() }).unwrap();
}

pub fn remove(datapath: &mut dyn Datapath, listener: SocketAddr, leaving: Leaving) {
    let applied = datapath.apply(&Change { set: Vec::new(), remove: vec![(listener, leaving)] }).unwrap();
    assert_eq!(applied.changed, 1);
}

/// Waits until that many flows were reported as severed; what was reported.
pub fn severed(datapath: &mut dyn Datapath, flows: u64) -> Vec<Severed> {
    let mut all = Vec::new();
    eventually(&format!("the report of {flows} severed flows"), || {
        all.extend(datapath.severed());
        all.iter().map(|severed: &Severed| severed.flows).sum::<u64>() >= flows
    });
    all
}

/// Polls until `done` says so.
pub fn eventually(what: &str, mut done: impl FnMut() -> bool) {
    let begin = Instant::now();
    while !done() {
        assert!(begin.elapsed() < PATIENCE, "{what} did not come about");
        thread::sleep(Duration::from_millis(10));
    }
}

/// Speaks until the conversation ends or it is told to.
pub fn talk(conversation: &Conversation, done: &AtomicBool) {
    while conversation.echo().is_ok() {
        if done.load(Ordering::Relaxed) {
            break;
        }
    }
}

/// Tells other threads of a test to end, also when this one panics: a scope waits for all of them.
pub struct SetOnDrop<'a>(pub &'a AtomicBool);

impl Drop for SetOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

/// A kernel's datapath, asked for what it holds. Its clock is the real one.
struct InKernel {
    lab: Lab,
    datapath: Option<Box<dyn Datapath>>,
}

impl Ledger for InKernel {
    fn datapath(&mut self) -> &mut dyn Datapath {
        let lab = &self.lab;
        &mut **self.datapath.get_or_insert_with(|| lab.open())
    }

    fn reopen(&mut self) {
        self.datapath = None;
    }

    fn pass(&mut self, span: Duration) {
        thread::sleep(span);
    }
}
