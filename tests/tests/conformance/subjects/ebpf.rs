//! The eBPF datapath.

use std::fs;

use anyhow::{Context as _, Result};
use aya::Pod;
use aya::maps::{Array, HashMap, Map, MapData};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use shunt_core::datapath::{Datapath, DatapathError};
use shunt_ebpf::common::control::Control;
use shunt_ebpf::common::flow::{Endpoint, Flow, Tuple, mark};
use shunt_ebpf::common::kept::{Frame, PACKET, Piece};
use shunt_ebpf::common::note::Noted;
use shunt_ebpf::{EbpfDatapath, Options, Size};

use crate::lab::{Lab, Subject};

pub struct Ebpf;

/// Where the datapath pins its maps, in a folder for each network namespace.
const PINS: &str = "/sys/fs/bpf/shunt";

impl Subject for Ebpf {
    /// A bpf file system that only the test sees, in a mount namespace of its thread's: it goes with the thread, however
    /// the test ends.
    fn prepare() -> Result<()> {
        unshare(CloneFlags::CLONE_NEWNS).context("cannot make a mount namespace")?;
        let none: Option<&str> = None;
        mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none)?;
        mount(Some("bpf"), "/sys/fs/bpf", Some("bpf"), MsFlags::empty(), none).context("cannot mount a bpf file system")
    }

    fn open() -> Result<Box<dyn Datapath>, DatapathError> {
        // More than any test has; a million would take as many megabytes as there are tests at a time.
        let size = Size { flows: 50_000, mappings: 1024, pairs: 4096 };
        Ok(Box::new(EbpfDatapath::open(Options { size, ..Options::default() })?))
    }

    fn unblock_by_hand(_lab: &Lab) {
        let mut flows: HashMap<_, Tuple, Flow> = table("FLOWS");
        for (key, flow) in entries(&flows) {
            flows.insert(key, Flow { marks: flow.marks & !mark::BLOCKED, ..flow }, 0).unwrap();
        }
    }

    fn remains_of_sparing(_lab: &Lab) -> String {
        let blocked = entries(&table::<Tuple, Flow>("FLOWS"));
        let blocked = blocked.into_iter().filter(|(_, flow)| flow.marks & mark::BLOCKED != 0).count();
        let kept = entries(&table::<Piece, Frame<PACKET>>("KEPT")).len();
        let committed = array::<Control>("CONTROL").get(&0, 0).unwrap().committed;
        let notes = array::<Noted>("NOTES");
        let spared = notes.iter().filter(|noted| {
            let noted = noted.as_ref().unwrap();
            let note = if noted.transaction <= committed { noted.new } else { noted.old };
            note.spared != Endpoint::default()
        });
        let remains = [("blocked", blocked), ("kept", kept), ("spared", spared.count())];
        let told: Vec<String> =
            remains.iter().filter(|(_, number)| *number > 0).map(|(what, number)| format!("{number} {what}")).collect();
        told.join(", ")
    }
}

/// A map of the one datapath that there is in this test's bpf file system.
fn pinned(name: &str) -> MapData {
    let folder = fs::read_dir(PINS).unwrap().next().expect("nothing is pinned").unwrap().path();
    MapData::from_pin(folder.join("maps").join(name)).unwrap()
}

fn table<K: Pod, V: Pod>(name: &str) -> HashMap<MapData, K, V> {
    Map::HashMap(pinned(name)).try_into().unwrap()
}

fn array<V: Pod>(name: &str) -> Array<MapData, V> {
    Map::Array(pinned(name)).try_into().unwrap()
}

fn entries<K: Pod, V: Pod>(table: &HashMap<MapData, K, V>) -> Vec<(K, V)> {
    table.iter().collect::<Result<_, _>>().unwrap()
}
