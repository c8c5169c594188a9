//! What an agent of ABI 2 left: its maps, and its programs in the links.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use aya::EbpfLoader;
use aya::maps::lpm_trie::{Key, LpmTrie};
use aya::maps::{Array, HashMap, Map, MapData};
use aya::programs::links::FdLink;
use aya::programs::tc::TcAttachOptions;
use aya::programs::{LinkOrder, SchedClassifier, TcAttachType};
use nix::time::{ClockId, clock_gettime};
use shunt_ebpf::common::admission::Listed;
use shunt_ebpf::common::control::{Control, ports_beside};
use shunt_ebpf::common::flow::{Endpoint, Tuple};
use shunt_ebpf::common::mapping::{Choice, FOR_EVER, MAX_CHOICES, kind, source};
use shunt_ebpf::{Pins, Size, abi2, endpoint};
use shunt_tests::star::{Conversation, Ip, PROXY};
use shunt_tests::{Star, scratch, skip};

use crate::lab::{LISTENER, PAIRS, own_bpffs};

/// Programs as they were at ABI 2, built from `ebpf/programs` of that time and stripped of what debuggers want.
static PROGRAMS: &[u8] = aya::include_bytes_aligned!("../../fixtures/abi2.o");

const MAPS: [&str; 12] = [
    "FLOWS",
    "LISTENERS",
    "MAPPINGS",
    "PAIRS",
    "CONTROL",
    "COUNTERS",
    "TALLIES",
    "ALLOWED",
    "SOURCES",
    "HELD",
    "KEPT",
    "POOLS",
];

pub const SIZE: Size = Size { flows: 1000, mappings: 16, pairs: 16 };

pub struct Older<'a> {
    pub star: &'a Star,
    pub ip: Ip,
    pub folder: PathBuf,
}

pub fn on_both(test: &str, work: impl Fn(Older<'_>) -> Result<()> + Sync) -> Result<()> {
    for ip in Ip::BOTH {
        let done = skip::with_root(test, || {
            let star = Star::new()?;
            let mounted = scratch::Dir::new("bpf")?;
            star.inside(PROXY, || {
                own_bpffs(mounted.path())?;
                let folder = mounted.path().join("shunt");
                left_by_an_agent(&folder)?;
                work(Older { star: &star, ip, folder })
            })
        });
        done.with_context(|| format!("{ip:?}"))?;
    }
    Ok(())
}

/// Nanoseconds of boot time.
pub fn now() -> u64 {
    let time = clock_gettime(ClockId::CLOCK_BOOTTIME).expect("there is a clock");
    time.tv_sec() as u64 * 1_000_000_000 + time.tv_nsec() as u64
}

fn left_by_an_agent(folder: &Path) -> Result<()> {
    let pins = Pins::at(folder)?;
    let mut loader = EbpfLoader::new();
    loader.map_max_entries("FLOWS", SIZE.flows * 2);
    for name in ["LISTENERS", "MAPPINGS", "TALLIES"] {
        loader.map_max_entries(name, SIZE.mappings);
    }
    loader.map_max_entries("PAIRS", SIZE.pairs);
    for name in MAPS {
        loader.map_pin_path(name, pins.map(name));
    }
    let mut ebpf = loader.load(PROGRAMS)?;
    for (name, bytes, len) in [("NOTES", 216, SIZE.mappings), ("OWNERS", 24, SIZE.pairs)] {
        let kind = aya_obj::generated::bpf_map_type::BPF_MAP_TYPE_ARRAY as u32;
        const BPF_F_MMAPABLE: u32 = 1 << 10;
        let shape = aya_obj::Map::new_from_params(kind, 4, bytes, len, BPF_F_MMAPABLE);
        MapData::create(shape, name, None)?.pin(pins.map(name))?;
    }
    let program: &mut SchedClassifier = ebpf.program_mut("shunt_ingress").context("no program")?.try_into()?;
    program.load()?;
    for interface in ["lo", "to1", "to2", "to3"] {
        let options = TcAttachOptions::TcxOrder(LinkOrder::default());
        let id = program.attach_with_options(interface, TcAttachType::Ingress, options)?;
        let link: FdLink = program.take_link(id)?.try_into()?;
        link.pin(pins.link(nix::net::if_::if_nametoindex(interface)?))?;
    }
    let control = abi2::Control { abi: 2, log: 0, committed: 5, ports: ports_beside(32_768, 60_999) };
    Ok(array(&pins, "CONTROL")?.set(0, control, 0)?)
}

fn array<T: aya::Pod>(pins: &Pins, name: &str) -> Result<Array<MapData, T>> {
    Ok(Array::try_from(Map::Array(MapData::from_pin(pins.map(name))?))?)
}

/// A way of then to the first pair, masqueraded.
pub fn to_the_first() -> abi2::Way {
    let mut choices = [Choice::default(); MAX_CHOICES];
    choices[0] = Choice { pair: PAIRS[0], upto: 1 };
    abi2::Way {
        kind: kind::LEADS,
        source: source::MASQUERADE,
        backends: 1,
        weight: 1,
        allow: 0,
        limit: 0,
        limit_per_source: 0,
        pool: 0,
        until: 0,
        choices,
    }
}

impl Older<'_> {
    fn pins(&self) -> Result<Pins> {
        Ok(Pins::at(&self.folder)?)
    }

    /// Lets the listener be led like that; its pair lives.
    pub fn lead(&self, way: abi2::Way) -> Result<()> {
        let pins = self.pins()?;
        array(&pins, "MAPPINGS")?.set(LISTENER, abi2::Versioned { transaction: 5, new: way, old: way }, 0)?;
        let listener = endpoint(self.ip.listener());
        let mut listeners: HashMap<_, Endpoint, u32> =
            HashMap::try_from(Map::HashMap(MapData::from_pin(pins.map("LISTENERS"))?))?;
        listeners.insert(listener, LISTENER, 0)?;
        array(&pins, "OWNERS")?.set(PAIRS[0], abi2::Owner { listener, zero: 0 }, 0)?;
        self.live(FOR_EVER)
    }

    /// Lets the pair live until then, of which an agent that died was about to say something else.
    pub fn live(&self, until: u64) -> Result<()> {
        let live_until = abi2::Versioned { transaction: 6, new: 1, old: until };
        let pair = abi2::Pair { live_until, generation: 9, backend: endpoint(self.ip.db(0)) };
        Ok(array(&self.pins()?, "PAIRS")?.set(PAIRS[0], pair, 0)?)
    }

    /// Puts the first client on a list, and nobody else.
    pub fn allow(&self, list: u32) -> Result<()> {
        let map = Map::LpmTrie(MapData::from_pin(self.pins()?.map("ALLOWED"))?);
        let mut allowed: LpmTrie<_, Listed, u32> = LpmTrie::try_from(map)?;
        let address = endpoint((self.ip.client(), 0).into()).address;
        Ok(allowed.insert(&Key::new(Listed::WHOLE, Listed { list, address }), 1, 0)?)
    }

    pub fn dial(&self) -> io::Result<Conversation> {
        self.star.dial_from(self.ip.client(), self.ip.listener())
    }

    /// Of the old maps, which have changed places with the new ones.
    pub fn flows(&self) -> Result<Vec<(Tuple, abi2::Flow)>> {
        let beside = Pins::at(&self.folder.join("beside"))?;
        let flows: HashMap<_, Tuple, abi2::Flow> =
            HashMap::try_from(Map::HashMap(MapData::from_pin(beside.map("FLOWS"))?))?;
        Ok(flows.iter().collect::<Result<_, _>>()?)
    }

    /// As an agent says that has copied them.
    pub fn was_copied(&self) -> Result<()> {
        let mut map = array::<Control>(&self.pins()?, "CONTROL")?;
        let control = map.get(&0, 0)?;
        Ok(map.set(0, Control { copied: now(), ..control }, 0)?)
    }

    pub fn call_itself(&self, version: u32) -> Result<()> {
        let mut map = array::<abi2::Control>(&self.pins()?, "CONTROL")?;
        let control = map.get(&0, 0)?;
        Ok(map.set(0, abi2::Control { abi: version, ..control }, 0)?)
    }

    /// Names and numbers of all that is pinned.
    pub fn pinned(&self) -> Result<Vec<(PathBuf, Option<u32>)>> {
        let mut found = Vec::new();
        for entry in fs::read_dir(&self.folder)? {
            for entry in fs::read_dir(entry?.path())? {
                let path = entry?.path();
                let number = MapData::from_pin(&path).ok().map(|map| map.info().map(|info| info.id())).transpose()?;
                found.push((path, number));
            }
        }
        found.sort_unstable();
        Ok(found)
    }
}
