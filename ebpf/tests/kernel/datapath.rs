//! The datapath against what others do to its maps and links, and against time. What it promises for packets is in the
//! conformance suite.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use aya::maps::{HashMap, Map, MapData};
use aya::programs::{SchedClassifier, TcAttachType};
use shunt_core::ClusterName;
use shunt_core::config::Snat;
use shunt_core::datapath::{Change, Datapath as _, DatapathError, Meter};
use shunt_core::mapping::{Admission, Leaving, Mapping, Route};
use shunt_core::signal::{SILENCE, Signals};
use shunt_ebpf::common::flow::{Endpoint, Flow, Tuple, state};
use shunt_ebpf::{EbpfDatapath, Options, Size, endpoint};
use shunt_tests::star::{CLIENT, Ip, PATIENCE, PROXY};
use shunt_tests::{Star, eventually, scratch, skip};

use crate::lab::own_bpffs;

pub struct Lab<'a> {
    pub star: &'a Star,
    pub options: Options,
}

/// Runs a test on the proxy.
pub fn on_the_proxy(test: &str, work: impl FnOnce(&Lab<'_>) -> Result<()> + Send) -> Result<()> {
    skip::with_root(test, || {
        let star = Star::new()?;
        let mounted = scratch::Dir::new("bpf")?;
        star.inside(PROXY, || {
            own_bpffs(mounted.path())?;
            let size = Size { flows: 20_000, mappings: 16, pairs: 64 };
            let options = Options { pins: mounted.path().join("shunt"), size, ..Options::default() };
            work(&Lab { star: &star, options })
        })
    })
}

impl Lab<'_> {
    pub fn open(&self) -> EbpfDatapath {
        EbpfDatapath::open(self.options.clone()).unwrap()
    }

    pub fn mapped(&self) -> EbpfDatapath {
        let mut datapath = self.open();
        set(&mut datapath, to(0));
        datapath
    }

    /// What is pinned for this namespace.
    pub fn folder(&self) -> Result<PathBuf> {
        let found = fs::read_dir(&self.options.pins)?.next().context("nothing is pinned")?;
        Ok(found?.path())
    }
}

pub fn to(db: u8) -> Mapping {
    at(Ip::V4.listener(), db)
}

pub fn at(listener: SocketAddr, db: u8) -> Mapping {
    Mapping {
        listener,
        cluster: ClusterName::new("orders").unwrap(),
        route: Route::Single(Ip::V4.db(db)),
        snat: Snat::Masquerade,
        leaving: Leaving::Sever,
        admission: Admission::default(),
        lease: None,
        spared: None,
    }
}

pub fn set(datapath: &mut EbpfDatapath, mapping: Mapping) {
    datapath.apply(&Change { set: vec![mapping], remove: Vec::new() }).unwrap();
}

pub fn amiss(datapath: &mut EbpfDatapath) -> Vec<String> {
    datapath.reconcile().unwrap().into_iter().map(|drift| drift.what).collect()
}

pub fn table<K: aya::Pod, V: aya::Pod>(folder: &Path, name: &str) -> Result<HashMap<MapData, K, V>> {
    Ok(HashMap::try_from(Map::HashMap(MapData::from_pin(folder.join("maps").join(name))?))?)
}

#[test]
fn what_somebody_did_to_the_maps_is_undone_and_told() -> Result<()> {
    on_the_proxy("datapath::what_somebody_did_to_the_maps", |lab| {
        let mut datapath = lab.mapped();
        let call = lab.star.dial(CLIENT, Ip::V4.listener())?;
        assert_eq!(amiss(&mut datapath), [""; 0]);
        let folder = lab.folder()?;
        let mut listeners: HashMap<_, Endpoint, u32> = table(&folder, "LISTENERS")?;
        listeners.remove(&endpoint(Ip::V4.listener()))?;
        listeners.insert(endpoint("10.77.1.1:9999".parse()?), 7, 0)?;
        fs::remove_file(folder.join("maps/PAIRS"))?;
        fs::rename(folder.join("maps/NOTES"), folder.join("maps/FLOWS")).context("pins can be renamed")?;
        let told = amiss(&mut datapath);
        assert_eq!(told.len(), 5, "{told:?}");
        assert_eq!(amiss(&mut datapath), [""; 0]);
        call.echo()?;
        lab.star.dial(CLIENT, Ip::V4.listener())?.echo()?;
        // And the next agent finds all of it.
        drop(datapath);
        let mut datapath = lab.open();
        assert_eq!(amiss(&mut datapath), [""; 0]);
        call.echo()?;
        Ok(())
    })
}

#[test]
fn a_link_that_is_gone_and_an_interface_that_is_new_are_attached_to() -> Result<()> {
    on_the_proxy("datapath::a_link_that_is_gone", |lab| {
        let mut datapath = lab.mapped();
        let proxy = lab.star.host(PROXY);
        let attached = |interface: &str| -> Result<bool> {
            Ok(!SchedClassifier::query_tcx(interface, TcAttachType::Ingress)?.1.is_empty())
        };
        for link in fs::read_dir(lab.folder()?.join("links"))? {
            fs::remove_file(link?.path())?;
        }
        for interface in ["lo", "to1", "to2", "to3"] {
            eventually("the end of the links", PATIENCE, || Ok((!attached(interface)?).then_some(())))?;
        }
        assert_eq!(amiss(&mut datapath).len(), 4, "to1, to2, to3 and lo");
        assert_eq!(amiss(&mut datapath), [""; 0]);
        lab.star.dial(CLIENT, Ip::V4.listener())?.echo()?;
        proxy.ip("link add new0 type veth peer name new1\naddress add 10.99.0.1/24 dev new0\nlink set new0 up")?;
        // As the agent does every second; the peer has no address and is nobody's way.
        datapath.upkeep().unwrap();
        ensure!(attached("new0")? && !attached("new1")?);
        proxy.ip("link delete new0")?;
        assert_eq!(amiss(&mut datapath), [""; 0]);
        assert_eq!(fs::read_dir(lab.folder()?.join("links"))?.count(), 4);
        datapath.purge().unwrap();
        ensure!(!attached("to1")? && !lab.options.pins.exists());
        Ok(())
    })
}

#[test]
fn there_is_one_agent_a_namespace() -> Result<()> {
    on_the_proxy("datapath::there_is_one_agent", |lab| {
        let datapath = lab.open();
        ensure!(!datapath.found_maps() && !lab.options.pins.exists(), "opening it made something");
        let second = EbpfDatapath::open(lab.options.clone());
        ensure!(matches!(second, Err(DatapathError::InUse { .. })));
        drop(datapath);
        lab.mapped();
        ensure!(lab.open().found_maps());
        Ok(())
    })
}

#[test]
fn connections_that_are_over_are_cleared_and_others_are_not() -> Result<()> {
    on_the_proxy("datapath::connections_that_are_over", |lab| {
        let mut datapath = lab.mapped();
        let listener = Ip::V4.listener();
        let (idle, _closed) = (lab.star.dial(CLIENT, listener)?, lab.star.dial(CLIENT, listener)?.abort()?);
        let mut flows: HashMap<_, Tuple, Flow> = table(&lab.folder()?, "FLOWS")?;
        let all = |flows: &HashMap<_, Tuple, Flow>| flows.iter().collect::<Result<Vec<_>, _>>();
        eventually("the end of one", PATIENCE, || {
            let closed = all(&flows)?.into_iter().filter(|(_, flow)| flow.state & state::CLOSED != 0).count();
            Ok((closed == 2).then_some(()))
        })?;
        datapath.upkeep().unwrap();
        assert_eq!(all(&flows)?.len(), 4, "it was over a moment ago");
        // As if all of that had been eleven seconds ago.
        for (key, flow) in all(&flows)? {
            flows.insert(key, Flow { seen: flow.seen - 11_000_000_000, ..flow }, 0)?;
        }
        // And of a flow that somebody was taking away, one direction is left.
        let (key, flow) = all(&flows)?[0];
        let lone = Tuple { source_port: 1, ..key };
        flows.insert(lone, Flow { state: 0, rewritten: Tuple { source_port: 1, ..flow.rewritten }, ..flow }, 0)?;
        datapath.upkeep().unwrap();
        let left = all(&flows)?;
        assert_eq!(left.len(), 2, "{left:?}");
        ensure!(left.iter().all(|(_, flow)| flow.state & state::CLOSED == 0));
        idle.echo()?;
        Ok(())
    })
}

#[test]
fn flows_that_died_while_nobody_was_there_are_ended_by_the_next_agent() -> Result<()> {
    on_the_proxy("datapath::flows_that_died", |lab| {
        let mut datapath = lab.open();
        set(&mut datapath, Mapping { lease: Some(std::time::Duration::from_secs(1)), ..to(0) });
        let idle = lab.star.dial(CLIENT, Ip::V4.listener())?;
        drop(datapath);
        std::thread::sleep(std::time::Duration::from_millis(1200));
        let mut datapath = lab.open();
        assert_eq!(datapath.committed()[0].backends, []);
        eventually("the client's end", PATIENCE, || Ok(idle.has_ended().then_some(())))?;
        eventually("the server's end", PATIENCE, || Ok(lab.star.server(0).end_of(idle.seen_as)))?;
        assert_eq!(datapath.renew().unwrap(), [Ip::V4.listener()]);
        assert_eq!(datapath.renew().unwrap(), []);
        Ok(())
    })
}

#[test]
fn thousands_of_flows_end_at_both_ends() -> Result<()> {
    on_the_proxy("datapath::thousands_of_flows", |lab| {
        const FLOWS: usize = 2000;
        let mut datapath = lab.mapped();
        let calls: Vec<_> =
            (0..FLOWS).map(|_| lab.star.dial(CLIENT, Ip::V4.listener())).collect::<std::io::Result<_>>()?;
        set(&mut datapath, to(1));
        let told = eventually("the report", PATIENCE, || Ok(datapath.severed().first().copied()))?;
        assert_eq!((told.flows, told.unanswered), (FLOWS as u64, 0));
        for call in &calls {
            ensure!(call.has_ended() && lab.star.server(0).end_of(call.seen_as).is_some());
        }
        let mut flows: HashMap<_, Tuple, Flow> = table(&lab.folder()?, "FLOWS")?;
        assert_eq!(flows.iter().count(), 0, "their places are free");
        let _ = flows.remove(&Tuple::default());
        Ok(())
    })
}

#[test]
fn there_is_no_room_for_more_than_fits_and_the_refusal_changes_nothing() -> Result<()> {
    on_the_proxy("datapath::there_is_no_room", |lab| {
        let mut datapath = lab.mapped();
        let many = (1..=16).map(|port| at((Ip::V4.listener().ip(), port).into(), 0)).collect();
        let refused = datapath.apply(&Change { set: many, remove: Vec::new() });
        ensure!(matches!(refused, Err(DatapathError::Unsupported(_))), "{refused:?}");
        assert_eq!(datapath.committed().len(), 1);
        assert_eq!(amiss(&mut datapath), [""; 0]);
        // Slots come back, however often.
        for turn in 0..200 {
            set(&mut datapath, to(turn % 2));
            let listener = SocketAddr::from((Ip::V4.listener().ip(), 1));
            set(&mut datapath, at(listener, 0));
            datapath.apply(&Change { set: Vec::new(), remove: vec![(listener, Leaving::Sever)] }).unwrap();
        }
        lab.star.dial(CLIENT, Ip::V4.listener())?.echo()?;
        Ok(())
    })
}

#[test]
fn a_meter_tells_what_traffic_says_of_every_live_pair() -> Result<()> {
    on_the_proxy("datapath::a_meter_tells", |lab| {
        let mut datapath = lab.open();
        let mut meter = datapath.meter()?;
        let told = |meter: &mut dyn Meter| -> Result<Vec<Signals>> {
            let mut told = Vec::new();
            meter.signals(&mut |signals| told.push(signals.clone()))?;
            Ok(told)
        };
        assert_eq!(told(&mut *meter)?, [], "nothing is loaded");
        set(&mut datapath, to(0));
        let call = lab.star.dial(CLIENT, Ip::V4.listener())?;
        call.echo()?;
        let first = told(&mut *meter)?;
        let [signals] = &first[..] else { anyhow::bail!("{first:?}") };
        assert_eq!((signals.listener, signals.backend), (Ip::V4.listener(), Ip::V4.db(0)));
        assert_eq!((signals.counts.syns, signals.counts.syn_acks, signals.awaited), (1, 1, None));
        let times = meter.connect_times()?;
        let [time] = &times[..] else { anyhow::bail!("{times:?}") };
        assert_eq!(time.buckets.iter().map(|(_, count)| count).sum::<u64>(), 1);
        let (at_most, _) = time.buckets.iter().find(|(_, count)| *count > 0).context("no bucket")?;
        ensure!(!time.total.is_zero() && time.total < *at_most, "{time:?}");
        // One backend goes, another comes, the first returns: a pair that returns is another one, and begins anew.
        set(&mut datapath, to(1));
        set(&mut datapath, to(0));
        let second = told(&mut *meter)?;
        let [signals] = &second[..] else { anyhow::bail!("{second:?}") };
        assert_eq!((signals.backend, signals.counts.syns), (Ip::V4.db(0), 0));
        ensure!((signals.place, signals.life) != (first[0].place, first[0].life));
        // And the next agent reads on.
        lab.star.dial(CLIENT, Ip::V4.listener())?.echo()?;
        drop(datapath);
        let datapath = lab.open();
        let mut meter = datapath.meter()?;
        assert_eq!(told(&mut *meter)?[0].counts.syns, 1);
        datapath_is_silent(lab, &mut *meter)
    })
}

/// The backend goes without a word; what clients ask it is awaited longer and longer.
fn datapath_is_silent(lab: &Lab<'_>, meter: &mut dyn Meter) -> Result<()> {
    let call = lab.star.dial(CLIENT, Ip::V4.listener())?;
    lab.star.unplug(0)?;
    call.order("ping")?;
    eventually("silence", PATIENCE, || {
        let mut awaited = None;
        meter.signals(&mut |signals| awaited = signals.awaited)?;
        Ok(awaited.filter(|time| *time >= SILENCE).map(drop))
    })
}
